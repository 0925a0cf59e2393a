"""`python -m infra.local serve`, as a person runs it: started, looked at, ended in every way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from infra.contract import OUTPUTS, SECRET_OUTPUTS
from infra.local import tools
from tests import media
from tests.fixtures import Pipeline, eventually, free_port, local_settings

COMMAND = [sys.executable, "-m", "infra.local", "serve"]


def environment(directory: Path, **more: str) -> dict[str, str]:
    ports = local_settings(directory).ports()
    return {
        **os.environ,
        **{name: str(port) for name, port in ports.items()},
        "LOOKINGGLASS_DIR": str(directory),
        "WORKERS": "1",
        **more,
    }


@pytest.fixture
def serve(tmp_path: Path) -> Iterator["Serve"]:
    served = Serve(tmp_path)
    yield served
    served.end(signal.SIGKILL)


class Serve:
    """A `serve` of its own, in a process of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "state"
        self.environment = environment(self.directory)
        self.process: subprocess.Popen[str] | None = None
        self.family: list[psutil.Process] = []

    def start(self) -> dict[str, str]:
        """Start it, wait until it runs, and return its outputs."""
        self.process = subprocess.Popen(
            COMMAND, cwd=tools.ROOT, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr
        shown = ""
        for line in self.process.stderr:
            shown += line
            if line.strip().startswith("logs"):
                break
        assert self.process.poll() is None, shown
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        outputs = json.loads((self.directory / "outputs.json").read_text())
        assert isinstance(outputs, dict)
        return outputs

    def end(self, number: signal.Signals) -> int:
        """End it with a signal; return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        assert self.process.stderr
        self.process.stderr.read()
        status = self.process.wait(120)
        self.process.stderr.close()
        self.process = None
        return status

    def survivors(self) -> list[psutil.Process]:
        return [process for process in self.family if process.is_running() and process.status() != "zombie"]


def test_it_publishes_the_outputs_and_keeps_its_data(serve: Serve, photos: dict[str, bytes]) -> None:
    outputs = serve.start()
    assert set(outputs) == {*OUTPUTS, *SECRET_OUTPUTS}
    assert (serve.directory / "outputs.json").stat().st_mode & 0o077 == 0
    http = urllib3.PoolManager(retries=False)
    photo = media.jpeg(media.portrait(photos))
    item = f"{outputs['gpu_worker_url']}/items/images/kept.jpg"
    http.request("PUT", item, body=photo, headers={"Content-Type": "application/octet-stream"})
    began = time.monotonic()
    assert serve.end(signal.SIGINT) == 0
    assert time.monotonic() - began < 60
    assert serve.survivors() == []
    serve.start()
    assert http.request("GET", item).json()["points"] == 1
    http.clear()
    assert serve.end(signal.SIGTERM) == 0
    assert serve.survivors() == []


def test_nothing_is_left_when_it_is_killed(serve: Serve) -> None:
    serve.start()
    assert len(serve.family) >= 6
    serve.end(signal.SIGKILL)
    eventually(lambda: serve.survivors() == [], "every process ended", timeout=40)


def test_a_process_that_ends_unasked_ends_it_and_is_named(serve: Serve) -> None:
    serve.start()
    [redis] = [process for process in serve.family if process.name().startswith("redis-server")]
    redis.kill()
    assert serve.process
    assert serve.process.stderr
    shown = serve.process.stderr.read()
    assert serve.process.wait(90) == 1
    assert "redis ended unasked" in shown
    assert serve.survivors() == []


def test_two_copies_run_side_by_side(serve: Serve, running: Pipeline) -> None:
    outputs = serve.start()
    assert outputs["webhook_url"] != running.stack.outputs["webhook_url"]
    assert running.call("GET", "webhook/health")[0] == 200


def refusal(settings: dict[str, str]) -> str:
    done = subprocess.run(
        COMMAND, cwd=tools.ROOT, env=settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_busy_port_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        shown = refusal(environment(tmp_path, MINIO_PORT=str(port)))
    assert re.fullmatch(rf"Port {port} is taken .* MINIO_PORT .*\n", shown)


def test_a_directory_in_use_is_one_line_with_the_remedy(running: Pipeline) -> None:
    shown = refusal(environment(running.stack.directory))
    assert re.fullmatch(r"Another stack is running .* LOOKINGGLASS_DIR\.\n", shown)


def test_a_missing_program_that_cannot_be_had_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    shown = refusal(
        environment(tmp_path, PATH="", XDG_CACHE_HOME=str(tmp_path / "cache"), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    )
    assert "redis-server" in shown or "pip" in shown
    assert "install" in shown.lower()


def test_a_wrong_setting_is_named_with_its_value(tmp_path: Path) -> None:
    shown = refusal(environment(tmp_path, WEBHOOK_PORT="many"))
    assert "WEBHOOK_PORT='many'" in shown


def test_help_helps() -> None:
    done = subprocess.run([*COMMAND[:-1], "--help"], cwd=tools.ROOT, capture_output=True, text=True, check=True)
    assert "serve" in done.stdout
    assert "demo" in done.stdout
