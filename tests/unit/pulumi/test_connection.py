"""How MinIO is spoken to while it may not be up yet."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lookingglass.connection import client


class Starting(BaseHTTPRequestHandler):
    """A MinIO that waits for others: it says so a few times, and to come back in a minute."""

    left = 0

    def do_HEAD(self) -> None:
        Starting.left -= 1
        self.send_response(503 if Starting.left >= 0 else 200)
        self.send_header("Retry-After", "60")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def starting() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Starting)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_minio_that_waits_for_its_other_nodes_is_asked_again_soon(starting: str) -> None:
    Starting.left = 3
    props = {"endpoint": starting, "user": "u", "password": "p", "region": "us-east-1", "ca_bundle": ""}
    began = time.monotonic()
    assert client(props).bucket_exists("images")
    assert time.monotonic() - began < 10
