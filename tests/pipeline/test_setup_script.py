"""`scripts/setup-minio-notifications.sh`, with a real `mc` against a real MinIO."""

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import urllib3
from minio import Minio
from minio.notificationconfig import QueueConfig

from infra.local import tools
from infra.local.processes import ChildProcess
from tests.fixtures import eventually, free_port

SCRIPT = tools.ROOT / "scripts" / "setup-minio-notifications.sh"
PASSWORD = "p:a/s@s w%rd"
OTHER_EVENT = "arn:minio:sqs::other:webhook"


class Receiver(ThreadingHTTPServer):
    """Stands in for the webhook: remembers what it is sent, and with which token."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/webhook/minio"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.received.append((body.decode(), self.headers["Authorization"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def mc() -> Path:
    try:
        return tools.mc()
    except tools.ToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path: Path, receiver: Receiver) -> Iterator[tuple[Minio, dict[str, str]]]:
    """A MinIO of its own, with a target that somebody else configured; and the script's environment."""
    port = free_port()
    process = ChildProcess(
        "minio",
        [
            *(str(tools.minio()), "server", "--quiet", "--address", f"127.0.0.1:{port}"),
            *("--console-address", f"127.0.0.1:{free_port()}", str(tmp_path / "data")),
        ],
        {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "MINIO_ROOT_USER": "operator",
            "MINIO_ROOT_PASSWORD": PASSWORD,
            "MINIO_NOTIFY_WEBHOOK_ENABLE_other": "on",
            "MINIO_NOTIFY_WEBHOOK_ENDPOINT_other": receiver.url() + "/other",
        },
        tmp_path / "minio.log",
    )
    process.start()
    with urllib3.PoolManager(retries=False, timeout=2) as http:

        def ready() -> bool:
            try:
                return http.request("GET", f"http://127.0.0.1:{port}/minio/health/cluster").status == 200
            except urllib3.exceptions.HTTPError:
                return False

        process.wait_until(ready, 30)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MINIO_ENDPOINT": f"http://127.0.0.1:{port}",
        "MINIO_USER": "operator",
        "MINIO_PASSWORD": PASSWORD,
        "WEBHOOK_ENDPOINT": receiver.url(),
        "QUEUE_DIR": str(tmp_path / "queue"),
    }
    yield Minio(f"127.0.0.1:{port}", "operator", PASSWORD, secure=False), environment
    process.stop()


def run(mc: Path, environment: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={"MC": str(mc), **environment, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def arns(client: Minio, bucket: str) -> list[str]:
    return [str(entry.queue) for entry in client.get_bucket_notification(bucket).queue_config_list or []]


def test_it_sets_up_shows_and_cleans_and_nothing_else(
    mc: Path, server: tuple[Minio, dict[str, str]], receiver: Receiver
) -> None:
    client, environment = server
    client.make_bucket("photos")
    first = run(mc, environment, "setup", IMAGE_BUCKET="photos", WEBHOOK_TOKEN="a-token")
    assert first.returncode == 0, first.stderr
    document = client.get_bucket_notification("photos")
    document.queue_config_list.append(QueueConfig(queue=OTHER_EVENT, events=["s3:ObjectCreated:*"]))
    client.set_bucket_notification("photos", document)

    again = run(mc, environment, "setup", IMAGE_BUCKET="photos", WEBHOOK_TOKEN="a-token")
    assert again.returncode == 0, again.stderr
    assert sorted(arns(client, "photos")) == ["arn:minio:sqs::lookingglass:webhook", OTHER_EVENT]
    assert arns(client, "videos") == ["arn:minio:sqs::lookingglass:webhook"]

    receiver.received.clear()
    client.put_object("videos", "a.mp4", BytesIO(b"x"), 1)
    eventually(lambda: bool(receiver.received), "the event arrived")
    body, token = receiver.received[0]
    assert '"videos/a.mp4"' in body
    assert token == "Bearer a-token"

    shown = run(mc, environment, "show", IMAGE_BUCKET="photos").stdout
    assert "notify_webhook:lookingglass" in shown
    assert receiver.url() in shown
    assert "a-token" not in shown

    cleaned = run(mc, environment, "clean", IMAGE_BUCKET="photos")
    assert cleaned.returncode == 0, cleaned.stderr
    assert (arns(client, "photos"), arns(client, "videos")) == ([OTHER_EVENT], [])
    assert run(mc, environment, "clean", IMAGE_BUCKET="photos").returncode == 0


def test_it_says_what_is_wrong(mc: Path, server: tuple[Minio, dict[str, str]]) -> None:
    _, environment = server
    assert "does not let us in" in run(mc, environment, "setup", MINIO_PASSWORD="wrong password").stderr
    assert "does not let us in" in run(mc, environment, "show", MINIO_ENDPOINT="http://127.0.0.1:1").stderr
    assert "not on PATH" in run(mc, environment, "setup", MC="/nowhere/mc").stderr
    assert "must be an absolute path" in run(mc, environment, "setup", QUEUE_DIR="queue").stderr
    assert run(mc, environment, "sweep").returncode == 2
    assert "WEBHOOK_ENDPOINT" in run(mc, environment, "help").stdout
