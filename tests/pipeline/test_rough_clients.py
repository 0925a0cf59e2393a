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

#: Seconds within which others are answered all the same: one, and as many again for a busy machine.
AT_ONCE = 2


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


def trickle(
    found: Pipeline, service: str, slow: list[socket.socket], start: bytes, then: bytes, seconds: float
) -> None:
    """Send a byte each half second, while others are answered."""
    began = time.monotonic()
    for connection in slow:
        connection.sendall(start)
    while time.monotonic() - began < seconds:
        for connection in slow:
            with suppress(OSError):
                connection.send(then)
        answers(found, service)
        time.sleep(0.5)


def status(connection: socket.socket) -> int:
    """The status of the answer; 0 where the connection was closed without one."""
    try:
        line = connection.recv(4096)
    except ConnectionResetError:
        return 0
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("count", [500])
def test_a_connection_costs_nobody_anything_until_its_request_is_complete(
    running: Pipeline, service: str, count: int
) -> None:
    """Far more of them than threads: silent ones, ones with a byte of a head, and ones with two bytes of a body."""
    body = head(running, service, "Content-Length: 1000") + b"{}"
    with (
        connections(running, service, count) as in_head,
        connections(running, service, count // 5) as silent,
        connections(running, service, 2 * count // 5) as in_body,
    ):
        for connection in in_head:
            connection.sendall(b"P")
        for connection in in_body:
            connection.sendall(body)
        for _ in range(5):
            answers(running, service)
            time.sleep(0.5)
        for connection in silent[:20]:  # they are served as soon as they speak
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        assert [status(connection) for connection in silent[:20]] == [200] * 20


@pytest.mark.parametrize("service", SERVICES)
def test_a_head_that_trickles_in_is_given_up(running: Pipeline, service: str) -> None:
    with connections(running, service, 8) as slow:
        trickle(running, service, slow, b"G", b"E", 13)
        assert all(status(connection) in (0, 400, 408) for connection in slow)


def test_a_body_that_trickles_in_is_given_up(running: Pipeline) -> None:
    with connections(running, "webhook", 24) as slow:
        start = head(running, "webhook", "Content-Length: 100000")
        trickle(running, "webhook", slow, start, b" ", 18)
        assert all(status(connection) in (0, 400, 408) for connection in slow)


def test_no_more_bytes_are_under_way_than_fit(running: Pipeline) -> None:
    """What is too much is told to come back, before it was sent."""
    size = 1_000_000
    with connections(running, "webhook", 80) as greedy:
        for connection in greedy[:70]:
            connection.sendall(head(running, "webhook", f"Content-Length: {size}"))
        time.sleep(1)
        late = greedy[70]
        late.sendall(head(running, "webhook", f"Content-Length: {size}") + b" " * size)
        assert status(late) == 503
        answers(running, "webhook")
    last = running.call("POST", "webhook/webhook/minio", {"Records": []}, **running.token())
    assert last[0] == 200, "what a client that went away had reserved is not given back"


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
        assert status(connection) in (0, 400, 414, 431, 505)
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
