"""Slow, greedy and broken clients of both services do not keep others waiting."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from tests.fixtures import Pipeline

SERVICES = ("webhook", "gpu_worker")

#: Requests that carry a body.
TAKES_A_BODY = {"webhook": "POST /webhook/minio", "gpu_worker": "POST /faces"}

#: Seconds within which others are answered all the same.
AT_ONCE = 5


@contextmanager
def connections(found: Pipeline, service: str, count: int) -> Iterator[list[socket.socket]]:
    """Connections to a service, nothing sent yet."""
    url = urlsplit(str(found.outputs[f"{service}_url"]))
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=60))
            for _ in range(count)
        ]


def head(found: Pipeline, service: str, *headers: str) -> bytes:
    token = found.outputs["webhook_token"]
    lines = [f"{TAKES_A_BODY[service]} HTTP/1.1", "Host: here", f"Authorization: Bearer {token}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def answers(found: Pipeline, service: str) -> None:
    """The service answers others at once."""
    started = time.monotonic()
    assert found.call("GET", f"{service}/health")[0] == 200
    assert time.monotonic() - started < AT_ONCE


def status(connection: socket.socket) -> int:
    """The status of the answer; 0 where the connection was closed without one."""
    try:
        line = connection.recv(4096)
    except ConnectionResetError:
        return 0
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize("service", SERVICES)
def test_two_hundred_connections_that_say_nothing_cost_nothing(running: Pipeline, service: str) -> None:
    with connections(running, service, 200):
        answers(running, service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_head_that_trickles_in_is_given_up(running: Pipeline, service: str) -> None:
    with connections(running, service, 8) as slow:
        started = time.monotonic()
        while time.monotonic() - started < 14:
            for connection in slow:
                try:
                    connection.send(b"G" if time.monotonic() - started < 1 else b"E")
                except OSError:
                    continue
            answers(running, service)
            time.sleep(0.5)
        assert all(status(connection) in (0, 400, 408) for connection in slow)


def test_a_body_that_trickles_in_is_given_up(running: Pipeline) -> None:
    with connections(running, "webhook", 8) as slow:
        for connection in slow:
            connection.sendall(head(running, "webhook", "Content-Length: 100000"))
        started = time.monotonic()
        while time.monotonic() - started < 18:
            for connection in slow:
                try:
                    connection.send(b" ")
                except OSError:
                    continue
            answers(running, "webhook")
            time.sleep(0.5)
        assert all(status(connection) in (0, 400, 408) for connection in slow)


@pytest.mark.parametrize("service", SERVICES)
def test_a_body_that_says_it_is_too_large_is_refused_unread(running: Pipeline, service: str) -> None:
    with connections(running, service, 1) as [connection]:
        connection.sendall(head(running, service, f"Content-Length: {10 * 2**40}"))
        connection.shutdown(socket.SHUT_WR)
        assert status(connection) == 413
    answers(running, service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_body_without_an_end_is_cut_off(running: Pipeline, service: str) -> None:
    """Sent in chunks, so that its size is nowhere said."""
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    sent = 0
    with connections(running, service, 1) as [connection]:
        connection.sendall(head(running, service, "Transfer-Encoding: chunked"))
        try:
            while sent < 400 * 2**20:
                connection.sendall(chunk)
                sent += 2**16
        except OSError:
            pass
        assert sent < 300 * 2**20
    answers(running, service)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "nonsense",
    [b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b"\x16\x03\x01"],
    ids=["zeroes", "half a request", "a version of its own", "a line without an end", "TLS"],
)
def test_what_is_no_request_harms_nobody(running: Pipeline, service: str, nonsense: bytes) -> None:
    with connections(running, service, 1) as [connection]:
        with suppress(OSError):  # it may have been closed by then
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
        assert status(connection) in (0, 400, 414, 505)
    answers(running, service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_that_goes_away_in_the_middle_harms_nobody(running: Pipeline, service: str) -> None:
    for _ in range(20):
        with connections(running, service, 1) as [connection]:
            connection.sendall(head(running, service, "Content-Length: 1000") + b"half")
    answers(running, service)


def test_a_picture_whose_sender_goes_away_gets_no_verdict(running: Pipeline, photos: dict[str, bytes]) -> None:
    picture = photos["group.jpg"]
    lines = ["PUT /items/images/cut-off.jpg?etag=v1 HTTP/1.1", "Host: here", f"Content-Length: {len(picture)}"]
    with connections(running, "gpu_worker", 1) as [sender]:
        sender.sendall("\r\n".join([*lines, "", ""]).encode() + picture[: len(picture) // 2])
        sender.shutdown(socket.SHUT_WR)
        assert status(sender) in (0, 503)
    assert running.item("images", "cut-off.jpg")["code"] == "not_found"
