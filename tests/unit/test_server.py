"""A service listens on addresses of either kind, and ends when what it has in hand is done."""

import os
import signal
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from infra.local.processes import ChildProcess
from tests.fixtures import eventually, free_port

SERVICE = """
import sys, time
from flask import Response, jsonify, request, send_file
from app.common.server import Channel, Server, serve
from app.common.web import Service, Token
app = Service("service", token_of=lambda path: Token("TOKEN", None), max_body_bytes=1000)
turns, turn = 0, Server._turn
def counted(server):
    global turns
    turns += 1
    turn(server)
Server._turn = counted
@app.get("/turns")
def of_the_loop():
    return jsonify(turns)
@app.post("/size")
def size():
    return jsonify(len(request.get_data()))
@app.get("/slow")
def slow():
    time.sleep(2)
    return jsonify(status="success")
@app.get("/pieces")
def pieces():
    return Response(iter([b"a", b"b"]))
@app.get("/nothing")
def nothing():
    return Response(status=204)
@app.get("/file")
def file():
    return send_file(sys.argv[3], mimetype="text/plain")
sending = Channel.send
def send(channel, data, **options):
    print("sent", len(data), flush=True)
    return sending(channel, data, **options)
Channel.send = send
serve(app, sys.argv[1], int(sys.argv[2]), threads=4, max_body_bytes=1000, bodies_bytes=4000, body_seconds=5, grace=10)
"""


def started(directory: Path, host: str) -> tuple[ChildProcess, int]:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = ChildProcess(
        "service", [sys.executable, "-c", SERVICE, host, str(port), __file__], environment, directory / "service.log"
    )
    process.start()

    def ready() -> bool:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            return probe.connect_ex(("::1" if ":" in host else "127.0.0.1", port)) == 0

    process.wait_until(ready, 30)
    return process, port


@pytest.mark.parametrize(
    ("host", "reached"), [("127.0.0.1", ["127.0.0.1"]), ("::1", ["[::1]"]), ("::", ["[::1]", "127.0.0.1"])]
)
def test_it_listens_on_addresses_of_either_kind(tmp_path: Path, host: str, reached: list[str]) -> None:
    process, port = started(tmp_path, host)
    try:
        with urllib3.PoolManager(retries=False) as http:
            for address in reached:
                assert http.request("GET", f"http://{address}:{port}/health/live").status == 200
    finally:
        process.stop()


def test_told_to_stop_it_finishes_what_it_has_in_hand_and_takes_nothing_new(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    answered: list[int] = []
    try:
        with urllib3.PoolManager(retries=False) as http:
            url = f"http://127.0.0.1:{port}/slow"
            asking = threading.Thread(target=lambda: answered.append(http.request("GET", url).status))
            asking.start()
            time.sleep(0.7)
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(urllib3.exceptions.HTTPError):
                urllib3.request("GET", url, retries=False)
            asking.join()
        assert answered == [200]
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("path", "body", "sent"), [("/health/live", b"{", 1), ("/pieces", b"ab", 3), ("/nothing", b"", 1)]
)
def test_the_head_of_an_answer_is_sent_with_its_first_bytes(
    tmp_path: Path, path: str, body: bytes, sent: int
) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with urllib3.PoolManager(retries=False) as http:
            answers = [http.request("GET", f"http://127.0.0.1:{port}{path}") for _ in range(2)]
        assert all(answer.status < 300 and answer.data.startswith(body) for answer in answers)
    finally:
        process.stop()
    assert (tmp_path / "service.log").read_text().count("sent") == 2 * sent


def test_a_file_is_sent_whole_and_the_connection_goes_on(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with urllib3.PoolManager(retries=False, maxsize=1) as http:
            for _ in range(2):
                answer = http.request("GET", f"http://127.0.0.1:{port}/file")
                assert (answer.status, answer.data) == (200, Path(__file__).read_bytes())
                assert answer.headers["Content-Type"].startswith("text/plain")
            assert http.request("GET", f"http://127.0.0.1:{port}/health/live").status == 200
    finally:
        process.stop()


def test_who_asks_again_at_once_is_answered_without_the_loop(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with urllib3.PoolManager(retries=False, maxsize=1) as http:
            turns = [http.request("GET", f"http://127.0.0.1:{port}/turns").json() for _ in range(30)]
        assert turns[-1] - turns[0] < 10
    finally:
        process.stop()


def test_threads_that_stay_leave_enough_for_others(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    url, done = f"http://127.0.0.1:{port}/health/live", threading.Event()

    def ask_on() -> int:
        with urllib3.PoolManager(retries=False, maxsize=1) as http:
            return sum(http.request("GET", url).status == 200 for _ in iter(done.is_set, True))

    try:
        with ThreadPoolExecutor(12) as crowd:
            answered = [crowd.submit(ask_on) for _ in range(12)]
            time.sleep(0.5)
            waits = []
            for _ in range(20):
                began = time.monotonic()
                assert urllib3.request("GET", url, retries=False).status == 200
                waits.append(time.monotonic() - began)
            done.set()
            counts = [one.result() for one in answered]
        assert max(waits) < 2
        assert min(counts) > max(counts) / 20  # nobody is kept waiting for long by who stays
    finally:
        done.set()
        process.stop()


PUT = b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
EXPECTING = b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
CHUNKED = b"POST /size HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ([PUT + b"12345", PUT + b"12345"], 2),
        ([PUT + b"12345" + PUT + b"12345" + PUT + b"12345"], 3),
        ([PUT + b"12345" + PUT[:20], PUT[20:] + b"12", b"345"], 2),
        ([PUT + b"12345", PUT, b"12", b"345"], 2),
        ([PUT + b"12345", EXPECTING, b"12345" + PUT + b"12345"], 3),
    ],
)
def test_requests_of_one_connection_are_answered_however_they_come(
    tmp_path: Path, pieces: list[bytes], answers: int, pause: float
) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            client.shutdown(socket.SHUT_WR)
            came = b"".join(iter(lambda: client.recv(4096), b""))
        assert came.count(b"HTTP/1.1 200 OK") == answers
        assert came.count(b"\r\n\r\n5\n") == answers
    finally:
        process.stop()


def test_told_to_stop_it_ends_though_a_thread_stays_with_a_client(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(PUT + b"12345")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            os.kill(process.pid, signal.SIGTERM)
            assert client.recv(4096) == b""
    finally:
        process.stop()


def test_a_slow_body_is_ended_though_a_thread_stayed_for_its_head(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(PUT + b"12345" + PUT + b"1")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            assert client.recv(4096) == b""  # after body_seconds
            assert process.running()
    finally:
        process.stop()


def test_a_client_that_is_lost_while_it_is_told_to_go_on_harms_nobody(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(PUT + b"12345")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(EXPECTING)
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/health/live", retries=False).status == 200
        assert "Traceback" not in (tmp_path / "service.log").read_text()
    finally:
        process.stop()


@pytest.mark.parametrize("framing", [b"5;a=" + b"a" * 2**17, b"0\r\nx: " + b"a" * 2**17, b"1\r\na\r\n" * 2**15])
def test_a_body_that_is_mostly_framing_is_refused_before_all_of_it_has_come(tmp_path: Path, framing: bytes) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=4) as client:
            client.sendall(CHUNKED + framing[:20000])
            time.sleep(0.2)
            client.sendall(framing[20000:40000])  # less than what a socket holds: all of it is read
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", b"200"),
        (b"POST /size HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", b"200"),
        (b"POST //size HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345", b"200"),
        (b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST /size HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST /size HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: a\r\n\r\n", b"400"),
    ],
)
def test_odd_requests_are_answered(tmp_path: Path, request_: bytes, status: bytes) -> None:
    process, port = started(tmp_path, "127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=4) as client:
            client.sendall(request_)
            assert client.recv(4096).startswith(b"HTTP/1.1 " + status)
        assert "Traceback" not in (tmp_path / "service.log").read_text()
    finally:
        process.stop()


def test_bodies_of_clients_that_are_lost_while_they_are_answered_take_no_room_for_good(tmp_path: Path) -> None:
    process, port = started(tmp_path, "127.0.0.1")

    def leave(_: int) -> None:
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall((PUT + b"12345") * 6)
                client.recv(4096)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    try:
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(leave, range(8)))
        # Of those who left last, some may be here for a moment more.
        eventually(lambda: _all_have_room(port), "room for as many bodies as may be under way", 10)
    finally:
        process.stop()


def _all_have_room(port: int) -> bool:
    """Whether four clients have all of `bodies_bytes` among them."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=4)) for _ in range(4)]
        for client in held:
            client.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 999)
        time.sleep(0.3)  # now each has its room, if there is any
        for client in held:
            client.sendall(b"x")
        return [client.recv(4096)[:12] for client in held] == [b"HTTP/1.1 200"] * 4
