"""A service listens on addresses of either kind, and ends when what it has in hand is done."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import urllib3

from infra.local.processes import ChildProcess
from tests.fixtures import free_port

SERVICE = """
import sys, time
from flask import Response, jsonify, send_file
from app.common.server import Channel, serve
from app.common.web import Service, Token
app = Service("service", token_of=lambda path: Token("TOKEN", None), max_body_bytes=1000)
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
