"""A wrong environment ends a service with one message that names every wrong variable."""

import tomllib
from pathlib import Path

import pytest

from app.common.settings import is_loopback, load
from app.common.version import VERSION
from app.gpu.settings import FaceSettings
from app.webhook.settings import WebhookSettings
from app.worker.settings import WorkerSettings


def test_every_wrong_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "magic")
    monkeypatch.setenv("GPU_WORKER_PORT", "99999")
    with pytest.raises(SystemExit) as stopped:
        load(FaceSettings)
    message = str(stopped.value)
    assert "ENGINE='magic'" in message
    assert "GPU_WORKER_PORT='99999'" in message


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://:s3cret@redis")
    with pytest.raises(SystemExit) as stopped:
        load(WorkerSettings)
    assert "REDIS_URL" in str(stopped.value)
    assert "s3cret" not in str(stopped.value)


@pytest.mark.parametrize(
    ("settings", "variable", "token"),
    [(WebhookSettings, "WEBHOOK_HOST", "WEBHOOK_TOKEN"), (FaceSettings, "GPU_WORKER_HOST", "GPU_WORKER_TOKEN")],
)
def test_without_a_token_a_service_listens_on_loopback_only(
    monkeypatch: pytest.MonkeyPatch, settings: type[WebhookSettings] | type[FaceSettings], variable: str, token: str
) -> None:
    monkeypatch.setenv(variable, "0.0.0.0")
    with pytest.raises(SystemExit, match=token):
        load(settings)
    monkeypatch.setenv(token, "secret")
    monkeypatch.setenv("API_TOKEN", "other")
    assert load(settings)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db", False)],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_queue_names_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_NAMES", "facial_recognition, video_processing,cleanup")
    assert load(WorkerSettings).queue_names == ("facial_recognition", "video_processing", "cleanup")


def test_the_original_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "MINIO_ENDPOINT", "MINIO_USER", "QUEUE_NAMES", "GPU_WORKER_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = load(WorkerSettings)
    assert settings.queue_names == ("facial_recognition",)
    assert settings.minio_endpoint == "localhost:9000"
    assert settings.gpu_worker_url == "http://localhost:5001"


def test_the_version_reported_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
