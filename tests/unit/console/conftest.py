"""A console over a stand-in pipeline, and a browser's and a program's way to it."""

import html
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from app.common.jobs import queue
from app.console.pages import create_app
from app.console.parts import Parts
from app.console.session import Guarded
from app.console.settings import ConsoleSettings
from app.webhook.api import create_app as webhook_app
from app.webhook.settings import WebhookSettings
from tests.redis_server import redis_server
from tests.unit.console import standin


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@dataclass
class Console:
    """A console, and what stands behind it."""

    app: Guarded
    parts: Parts
    redis: "Redis"
    faces: standin.Faces
    bucket: standin.Bucket

    def program(self) -> FlaskClient:
        """A client with the operator's token."""
        client = self.app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = standin.BEARER["Authorization"]
        return client

    def browser(self) -> FlaskClient:
        """A browser that signed in."""
        client = self.app.test_client()
        answer = client.post("/sign-in", data={"token": standin.TOKEN})
        assert answer.status_code == 303
        return client

    def press(self, client: FlaskClient, action: str, **given: str) -> TestResponse:
        """Press a button, answer its question with yes, and follow to the page with what was done."""
        asked = client.get(f"/do/{action}", query_string=given)
        assert asked.status_code == 200, asked.text
        fields = {name: _field(asked.text, name) for name in ("csrf", "back", "given")}
        return client.post(f"/do/{action}", data=fields, follow_redirects=True)

    def do(self, action: str, **given: str) -> Any:
        """Do an action as a program does; return the answer."""
        return self.program().post(f"/do/{action}", json=given).get_json()

    def audited(self) -> list[tuple[str, str]]:
        """What the audit log has, oldest first."""
        return [(entry["what"], entry["about"]) for entry in reversed(self.parts.audit.page(0, 1000)[1])]

    def enqueue(self, key: str, job_id: str, bucket: str = "images") -> Any:
        """A job on the queue."""
        return standin.enqueue(self.redis, key, job_id, bucket)

    def fail(self, key: str, job_id: str, error: str, bucket: str = "images") -> None:
        """A job that failed for good."""
        standin.fail(self.redis, key, job_id, error, bucket)

    def waiting(self) -> list[str]:
        """The objects of the jobs on the queue."""
        jobs = queue("facial_recognition", self.redis).get_jobs()
        return [f"{job.kwargs['bucket']}/{job.kwargs['object']}" for job in jobs]


def settings(**more: Any) -> ConsoleSettings:
    """Settings of a console with the stand-ins' token."""
    return ConsoleSettings.model_validate({"console_token": standin.TOKEN, **more})


@pytest.fixture
def console(redis_port: int) -> Iterator[Console]:
    """A console over a pipeline that is empty and well."""
    with console_on(redis_port) as found:
        yield found


@contextmanager
def console_on(redis_port: int) -> Iterator[Console]:
    """The same, for as long as the context lasts; what was in Redis is gone."""
    url = f"redis://127.0.0.1:{redis_port}/0"
    faces, bucket = standin.Faces(), standin.Bucket()
    with closing(Redis.from_url(url)) as connection:
        connection.flushall()
        webhook = webhook_app(WebhookSettings(redis_url=url), connection)
        with standin.served(webhook) as webhook_url, standin.served(faces.app()) as faces_url:
            wanted = settings(redis_url=url, webhook_url=webhook_url, gpu_worker_url=faces_url)
            parts = Parts(wanted)
            parts.bucket = bucket  # type: ignore[assignment]
            with closing(parts):
                yield Console(create_app(wanted, parts), parts, connection, faces, bucket)


def _field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return html.unescape(found[1])
