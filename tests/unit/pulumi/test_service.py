"""A health check, as the program of a container's that it is, against a service."""

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from lookingglass import service
from lookingglass.service import Health, http_health


class Double(ThreadingHTTPServer):
    """A service that answers these paths with 200 and the others with 503."""

    well: frozenset[str] = frozenset()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Double)
        self.send_response(200 if self.path in self.server.well else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def double() -> Iterator[Double]:
    with Double(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def healthy(health: Health) -> bool:
    return subprocess.run(health.command[1:], capture_output=True, check=False).returncode == 0


def test_a_service_is_healthy_while_its_path_answers_with_200(double: Double) -> None:
    health = http_health(double.server_port, "/health")
    assert not healthy(health)
    double.well = frozenset({"/health"})
    assert healthy(health)
    double.well = frozenset()
    assert not healthy(health)


def test_once_ready_a_service_need_only_live(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WAS_READY", str(tmp_path / "ready"))
    health = http_health(double.server_port, "/health", "/health/live")
    double.well = frozenset({"/health/live"})
    assert not healthy(health)
    double.well = frozenset({"/health"})
    assert healthy(health)
    double.well = frozenset({"/health/live"})
    assert healthy(health)
    double.well = frozenset()
    assert not healthy(health)
