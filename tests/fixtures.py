"""Fixtures: one real local stack for all pipeline tests, and the photos they use."""

import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
import redis
import urllib3
from minio import Minio

from infra.contract import PORTS
from infra.local import tools
from infra.local.photos import photos as fetch_photos
from infra.local.settings import LocalSettings
from infra.local.stack import Stack

#: Seconds within which something that should happen at once has to have happened on a busy machine.
SOON = 60

JSON = dict[str, Any]
T = TypeVar("T")


#: What keeps ports for this process: the file number of a socket of each one's name, gone with the process.
_claims: list[int] = []


def free_port() -> int:
    """A port that nothing listens on, and that stays so until it is used, however long that takes.

    It is none that the system gives to outgoing connections, and other processes of the tests pass it over.
    """
    candidates = _lasting_ports()
    random.shuffle(candidates)
    return next(port for port in candidates if _claimed(port))


def _lasting_ports() -> list[int]:
    """Ports that no outgoing connection gets; all, where any may go to one."""
    low, high = (int(bound) for bound in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    every = range(10_000, 65_536)
    return [port for port in every if not low <= port <= high] or list(every)


def _claimed(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0lookingglass-test-port-{port}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return False
    _claims.append(claim.detach())
    return True


def local_settings(directory: Path, **more: Any) -> LocalSettings:
    """Settings of a stack of its own, on free ports."""
    ports = {f"{name}_port": free_port() for name in PORTS}
    return LocalSettings.model_validate({"lookingglass_dir": directory, "workers": 2, **ports, **more})


def eventually(probe: Callable[[], T | None], what: str, timeout: float = SOON) -> T:
    """Wait for a probe to return something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what}; last seen: {found!r}")
        time.sleep(0.1)
    return found


#: The output that holds the token of each HTTP API, where the stack has one.
TOKENS = {"webhook": "api_token", "gpu_worker": "gpu_worker_token"}


@dataclass
class Interfaces:
    """The public interfaces of a pipeline, however it was stood up."""

    outputs: dict[str, Any]
    minio: Minio
    redis: "redis.Redis"
    http: urllib3.PoolManager

    def call(self, method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Call an HTTP endpoint given as `webhook/…` or `gpu_worker/…`; return status and decoded JSON."""
        service, _, path = url.partition("/")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if token := self.outputs.get(TOKENS[service]):
            headers = {"Authorization": f"Bearer {token}", **headers}
        answer = self.http.request(
            method, f"{self.outputs[f'{service}_url']}/{path}", body=data, headers=headers, redirect=False
        )
        return answer.status, json.loads(answer.data)

    def put(self, bucket: str, key: str, data: bytes, **options: Any) -> str:
        """Upload an object; return its ETag."""
        return self.minio.put_object(bucket, key, BytesIO(data), len(data), **options).etag or ""

    def item(self, bucket: str, key: str) -> JSON:
        """What the index knows of an object: the whole answer, with status 404's as it is."""
        path = f"gpu_worker/items/{quote(bucket, safe='')}/{quote(key, safe='').replace('.', '%2E')}?faces=1"
        return dict(self.call("GET", path)[1])

    def indexed(self, bucket: str, key: str, etag: str | None = None, timeout: float = SOON) -> JSON:
        """Wait until the index has this version of an object, whatever its verdict, and return the record."""

        def probe() -> JSON | None:
            answer = self.item(bucket, key)
            done = answer.get("current") and etag in (None, answer["item"]["etag"])
            return answer if done else None

        return eventually(probe, f"{bucket}/{key} in the index", timeout)

    def gone(self, bucket: str, key: str, timeout: float = SOON) -> None:
        """Wait until nothing of an object is left in the index."""

        def probe() -> bool:
            answer = self.item(bucket, key)
            return answer.get("code") == "not_found" and answer["points"] == 0

        eventually(probe, f"{bucket}/{key} gone", timeout)

    def idle(self, timeout: float = SOON) -> None:
        """Wait until no job is queued or under way."""

        def probe() -> bool:
            stats = self.call("GET", "webhook/queue/stats")[1]["queues"].values()
            return not any(queue[state] for queue in stats for state in ("queued_jobs", "started_jobs"))

        eventually(probe, "no job queued or under way", timeout)

    def face_service_ready(self) -> bool:
        """Whether the face service takes pictures."""
        try:
            return self.call("GET", "gpu_worker/health")[0] == 200
        except urllib3.exceptions.HTTPError:
            return False

    def token(self) -> dict[str, str]:
        """The header MinIO sends to the webhook."""
        return {"Authorization": f"Bearer {self.outputs['webhook_token']}"}


@dataclass
class Pipeline(Interfaces):
    """A pipeline of local processes, with the processes."""

    stack: Stack

    def log(self, name: str) -> str:
        """The log of a process of the stack."""
        return self.stack.processes[name].log.read_text()


def pipeline(stack: Stack) -> Pipeline:
    """The interfaces of a running stack."""
    return Pipeline(
        stack.outputs,
        stack.minio(),
        redis.Redis.from_url(str(stack.outputs["redis_url"])),
        urllib3.PoolManager(timeout=120, retries=False, maxsize=8),
        stack,
    )


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """Photographs with real faces, by name."""
    try:
        return {name: path.read_bytes() for name, path in fetch_photos().items()}
    except tools.ToolError as error:
        pytest.skip(str(error))


@contextmanager
def standing(directory: Path, **settings: Any) -> Iterator[Pipeline]:
    """A real stack of its own for as long as the context lasts."""
    try:
        with Stack(local_settings(directory, **settings)) as stack:
            found = pipeline(stack)
            try:
                yield found
            finally:
                found.http.clear()
                found.redis.close()
    except tools.ToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One real stack for all tests of a run that do not break it."""
    for name in ("WEBHOOK_TOKEN", "API_TOKEN", "ENGINE", "QDRANT_URL"):
        os.environ.pop(name, None)
    with standing(tmp_path_factory.mktemp("stack")) as found:
        yield found
