"""The services, each alone or all together, as their own processes on ports of their own."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import urllib3
from minio import Minio

from infra import contract
from infra.local import tools
from infra.local.processes import ChildProcess
from tests.bench import CORES
from tests.fixtures import free_port

HOST = "127.0.0.1"
USER = PASSWORD = "minioadmin"

#: Seconds for a server to be ready; a face service loads models.
READY = 120

#: Tells how much was taken until now; in a `with`, for as long as the taker is there.
Count = Callable[[], int]
Taken = AbstractContextManager[Count]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for the data and the logs of one part."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield Path(directory)


@contextmanager
def running(process: ChildProcess, ready: Callable[[], bool]) -> Iterator[ChildProcess]:
    """A process, from when it is ready until the block is left."""
    process.start()
    try:
        process.wait_until(ready, READY)
        yield process
    finally:
        process.stop()


def listens(port: int) -> Callable[[], bool]:
    """Whether something listens on a port."""

    def look() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    return look


def healthy(url: str) -> Callable[[], bool]:
    """Whether a URL answers 200."""
    http = urllib3.PoolManager(timeout=5, retries=False)

    def look() -> bool:
        try:
            return http.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    return look


def process(
    name: str, command: list[str], directory: Path, environment: Mapping[str, str] | None = None
) -> ChildProcess:
    """A process of ours with its log in `directory`; of the environment only what is not a setting of a service."""
    variables = {**os.environ, "PYTHONPATH": str(tools.ROOT), **(environment or {})}
    return ChildProcess(name, command, variables, directory / f"{name}.log")


def python(name: str, module: list[str], directory: Path, environment: Mapping[str, str]) -> ChildProcess:
    """A process that runs a module."""
    return process(name, [sys.executable, "-m", *module], directory, environment)


@contextmanager
def redis_server(directory: Path, name: str = "redis") -> Iterator[tuple[str, int]]:
    """A Redis of its own set up as the stack's: its URL, and its process's id."""
    port, data = free_port(), directory / f"{name}-data"
    data.mkdir()
    command = [str(tools.redis_server()), "--bind", HOST, "--port", str(port), "--dir", str(data)]
    command += ["--save", "", *contract.REDIS_OPTIONS]
    with running(process(name, command, directory), listens(port)) as server:
        yield f"redis://{HOST}:{port}/0", server.pid


def connected(url: str) -> "redis.Redis":
    """A client of a Redis."""
    return redis.Redis.from_url(url)


@contextmanager
def minio_server(directory: Path, webhook_url: str = "") -> Iterator[tuple[str, int]]:
    """A MinIO with both buckets that tells the webhook, if one is given: its `host:port`, and its process's id."""
    port, console, data = free_port(), free_port(), directory / "minio-data"
    data.mkdir()
    (directory / "events").mkdir()
    command = [str(tools.minio()), "server", "--quiet", "--address", f"{HOST}:{port}"]
    command += ["--console-address", f"{HOST}:{console}", str(data)]
    told = contract.notification_environment(webhook_url, directory / "events", None) if webhook_url else {}
    environment = {**told, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_UPDATE": "off"}
    ready = healthy(f"http://{HOST}:{port}/minio/health/cluster")
    with running(process("minio", command, directory, environment), ready) as server:
        client = store(f"{HOST}:{port}")
        arns = [contract.target_arn(target) for target in (contract.DURABLE_TARGET, contract.HINT_TARGET)]
        for bucket in ("images", "videos"):
            client.make_bucket(bucket)
            if webhook_url:
                contract.subscribe(client, bucket, arns)
        yield f"{HOST}:{port}", server.pid


def store(endpoint: str) -> Minio:
    """A client of a MinIO with all rights, with as many connections as anyone here needs."""
    pool = urllib3.PoolManager(timeout=60, maxsize=32, retries=urllib3.Retry(3, backoff_factor=0.2))
    return Minio(endpoint, access_key=USER, secret_key=PASSWORD, secure=False, region="us-east-1", http_client=pool)


@contextmanager
def webhook(directory: Path, redis_url: str, port: int | None = None, **more: str) -> Iterator[tuple[str, int]]:
    """The webhook: its URL, and its process's id."""
    port = port or free_port()
    environment = {"REDIS_URL": redis_url, "WEBHOOK_PORT": str(port), "LOG_LEVEL": "WARNING", **more}
    server = python("webhook", ["app.webhook"], directory, environment)
    with running(server, healthy(f"http://{HOST}:{port}/health")):
        yield f"http://{HOST}:{port}", server.pid


@contextmanager
def face_service(
    directory: Path, environment: Mapping[str, str], module: str = "app.gpu", port: int | None = None
) -> Iterator[tuple[str, int]]:
    """A face service with an index of its own: its URL, and its process's id."""
    port = port or free_port()
    settings = {"GPU_WORKER_PORT": str(port), "INDEX_DIR": str(directory / "index"), "LOG_LEVEL": "WARNING"}
    server = python("face", [module], directory, {**settings, **environment})
    with running(server, healthy(f"http://{HOST}:{port}/health")):
        yield f"http://{HOST}:{port}", server.pid


def worker_environment(redis_url: str, minio: str, face_url: str) -> dict[str, str]:
    """What a worker needs to know."""
    return {
        "REDIS_URL": redis_url,
        "MINIO_ENDPOINT": minio,
        "MINIO_USER": USER,
        "MINIO_PASSWORD": PASSWORD,
        "GPU_WORKER_URL": face_url,
        "LOG_LEVEL": "WARNING",
        "RECONCILE_INTERVAL": "0",
    }


@contextmanager
def workers(
    directory: Path, count: int, environment: Mapping[str, str], module: str = "app.worker"
) -> Iterator[dict[str, int]]:
    """So many workers, ours or plain ones: their processes' ids by name."""
    connection = connected(environment["REDIS_URL"])
    before = connection.scard("rq:workers")
    started = [
        python(name, [module], directory, {**environment, "WORKER_NAME": name})
        for name in (f"worker-{number}" for number in range(1, count + 1))
    ]
    try:
        for one in started:
            one.start()
        for one in started:
            one.wait_until(lambda: int(connection.scard("rq:workers")) >= int(before) + count, READY)
        yield {one.name: one.pid for one in started}
    finally:
        for one in started:
            one.stop()
        connection.close()


@contextmanager
def receiver(directory: Path, port: int | None = None) -> Iterator[str]:
    """The server that answers at once: its URL."""
    port = port or free_port()
    with running(python("receiver", ["tests.bench.receiver", str(port)], directory, {}), listens(port)):
        yield f"http://{HOST}:{port}"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything from bucket to index, each service as one process and what it starts."""

    directory: Path
    redis_url: str
    minio: str
    face_url: str
    webhook_url: str
    #: Process ids by name.
    pids: Mapping[str, int]

    def indexed(self) -> int:
        """How many records the face service has written."""
        return int(sum(samples(f"{self.face_url}/metrics", "lookingglass_items_indexed_total")))


@contextmanager
def pipeline(directory: Path, engine: str | None = None, **worker_settings: str) -> Iterator[Pipeline]:
    """All of it with a worker per core, and with one of `tests.bench.engines` where one is named."""
    chosen = {"BENCH_ENGINE": engine} if engine else {}
    with ExitStack() as stack:
        redis_url, redis_pid = stack.enter_context(redis_server(directory))
        face_url, face_pid = stack.enter_context(
            face_service(directory, chosen, "tests.bench.stand_in" if engine else "app.gpu")
        )
        webhook_url, webhook_pid = stack.enter_context(webhook(directory, redis_url))
        minio, minio_pid = stack.enter_context(minio_server(directory, webhook_url))
        environment = {**worker_environment(redis_url, minio, face_url), **worker_settings}
        crew = stack.enter_context(workers(directory, CORES, environment))
        pids = {"redis": redis_pid, "face service": face_pid, "webhook": webhook_pid, "MinIO": minio_pid, **crew}
        yield Pipeline(directory, redis_url, minio, face_url, webhook_url, pids)


def samples(url: str, name: str) -> list[float]:
    """The values of a metric that a service tells, whatever its labels."""
    text = urllib3.request("GET", url).data.decode()
    return [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
