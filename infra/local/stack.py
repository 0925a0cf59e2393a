"""The whole pipeline as plain processes of this machine, on loopback: no Docker, no GPU, no root."""

import fcntl
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import redis
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from app.common.errors import LookingGlassError
from infra import contract
from infra.local import tools
from infra.local.outputs import outputs, write
from infra.local.processes import ChildProcess
from infra.local.settings import LocalSettings
from infra.monitoring import prometheus as monitoring

#: Seconds for a process to become ready; the face service loads models.
READY_SECONDS = 120

#: Seconds a worker may take to finish its job, and the face service its pictures, when the stack is stopped.
WORKER_GRACE = 60
SERVICE_GRACE = 30

HOST = "127.0.0.1"


class StackError(LookingGlassError):
    """The stack cannot be started here as configured; the message says what to change."""


class Stack:
    """Starts everything in order on entry, and ends it on leaving, last things first, so that nothing is lost.

    Raises, on entry:
        StackError: a port is taken, or another stack uses the state directory.
        ToolError: Redis or MinIO is not to be had.
        ProcessError: a process did not become ready.
    """

    def __init__(self, settings: LocalSettings, say: Callable[[str], None] = tools.say) -> None:
        self.settings = settings
        self.directory = settings.lookingglass_dir.absolute()
        self.outputs: dict[str, str | None] = {}
        self.processes: dict[str, ChildProcess] = {}
        self._say = say
        self._http = urllib3.PoolManager(timeout=5, retries=False)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._own_directory())
            redis_server, minio = tools.redis_server(), tools.minio()
            self._check_ports()
            token = self._token("webhook_token")
            self.outputs = outputs(self.settings, token, self._token("console_token"))
            for process in self._describe(str(redis_server), str(minio), token):
                self.processes[process.name] = process
                self._say(f"Starting {process.name} …")
                stack.callback(self._stop, process)
                process.start()
                process.wait_until(self._ready(process.name), READY_SECONDS)
                if process.name == "minio":
                    self._prepare_buckets()
            write(self.outputs, self.directory)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    def check(self) -> None:
        """Raise if a process ended unasked.

        Raises:
            ProcessError: with the end of its log.
        """
        for process in self.processes.values():
            process.check()

    def minio(self) -> Minio:
        """A client of the stack's MinIO, with all rights."""
        return Minio(
            f"{HOST}:{self.settings.minio_port}",
            access_key=self.settings.minio_user,
            secret_key=self.settings.minio_password,
            secure=False,
            region="us-east-1",
        )

    def _describe(self, redis_server: str, minio: str, token: str | None) -> Iterator[ChildProcess]:
        """The processes in the order they are started; the reverse loses nothing at the end."""
        settings, data = self.settings, self.directory / "data"
        for name in ("redis", "minio", "events"):
            (data / name).mkdir(parents=True, exist_ok=True)
        redis_options = ["--save", "", *contract.REDIS_OPTIONS]
        redis_address = ["--bind", HOST, "--port", str(settings.redis_port), "--dir", str(data / "redis")]
        yield self._process("redis", [redis_server, *redis_address, *redis_options], {})
        addresses = ["--address", f"{HOST}:{settings.minio_port}"]
        addresses += ["--console-address", f"{HOST}:{settings.minio_console_port}"]
        yield self._process(
            "minio",
            [minio, "server", "--quiet", *addresses, str(data / "minio")],
            {
                **contract.notification_environment(str(self.outputs["webhook_url"]), data / "events", token),
                "MINIO_ROOT_USER": settings.minio_user,
                "MINIO_ROOT_PASSWORD": settings.minio_password,
                "MINIO_UPDATE": "off",
            },
        )
        yield self._service(
            "gpu-worker", "app.gpu", SERVICE_GRACE, INDEX_DIR=os.environ.get("INDEX_DIR", str(data / "index"))
        )
        for number in range(1, (settings.workers or min(16, len(os.sched_getaffinity(0)) + 2)) + 1):
            yield self._service(f"worker-{number}", "app.worker", WORKER_GRACE, WORKER_NAME=f"worker-{number}")
        yield self._service("console", "app.console", SERVICE_GRACE, CONSOLE_TOKEN=str(self.outputs["console_token"]))
        if settings.prometheus_port:
            yield self._prometheus(settings.prometheus_port)
        # Last to start and first to stop: MinIO keeps the events meanwhile.
        yield self._service("webhook", "app.webhook", SERVICE_GRACE, WEBHOOK_TOKEN=token or "")

    def _prometheus(self, port: int) -> ChildProcess:
        program = shutil.which("prometheus")
        if program is None:
            raise StackError("PROMETHEUS_PORT is set, and no prometheus is on PATH: install Debian's, or unset it.")
        directory = self.directory / "data" / "prometheus"
        directory.mkdir(parents=True, exist_ok=True)
        written = directory / "prometheus.yml"
        written.touch(mode=0o600)
        written.write_text(monitoring.configuration(monitoring.targets(self.outputs)))
        options = [f"--config.file={written}", f"--storage.tsdb.path={directory}"]
        return self._process("prometheus", [program, *options, f"--web.listen-address={HOST}:{port}"], {})

    def _service(self, name: str, module: str, grace: float, **environment: str) -> ChildProcess:
        settings = self.settings
        common = {
            "REDIS_URL": str(self.outputs["redis_url"]),
            "MINIO_ENDPOINT": f"{HOST}:{settings.minio_port}",
            "MINIO_USER": settings.minio_user,
            "MINIO_PASSWORD": settings.minio_password,
            "GPU_WORKER_URL": str(self.outputs["gpu_worker_url"]),
            "GPU_WORKER_PORT": str(settings.gpu_worker_port),
            "WEBHOOK_URL": str(self.outputs["webhook_url"]),
            "WEBHOOK_PORT": str(settings.webhook_port),
            "CONSOLE_PORT": str(settings.console_port),
            "IMAGE_BUCKET": settings.image_bucket,
            "VIDEO_BUCKET": settings.video_bucket,
            "QUEUE_NAMES": settings.queue_names,
            "PYTHONPATH": str(tools.ROOT),
        }
        return self._process(name, [sys.executable, "-m", module], common | environment, grace)

    def _process(
        self, name: str, command: list[str], environment: dict[str, str], grace: float = SERVICE_GRACE
    ) -> ChildProcess:
        logs = self.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return ChildProcess(name, command, {**os.environ, **environment}, logs / f"{name}.log", grace)

    def _ready(self, name: str) -> Callable[[], bool]:
        out = self.outputs
        if name == "redis":
            return lambda: bool(_quietly(lambda: redis.Redis.from_url(str(out["redis_url"])).ping()))
        if name == "minio":  # `live` and `ready` answer before it takes requests
            return lambda: self._answers(f"{out['minio_url']}/minio/health/cluster")
        if name == "gpu-worker":
            return lambda: self._answers(f"{out['gpu_worker_url']}/health")
        if name == "prometheus":
            return lambda: self._answers(f"http://{HOST}:{self.settings.prometheus_port}/-/ready")
        if name in ("webhook", "console"):
            return lambda: self._answers(f"{out[f'{name}_url']}/health")
        return lambda: self._worker_registered(name)

    def _answers(self, url: str) -> bool:
        return bool(_quietly(lambda: self._http.request("GET", url).status == 200))

    def _worker_registered(self, name: str) -> bool:
        workers = redis.Redis.from_url(str(self.outputs["redis_url"])).smembers("rq:workers")
        return any(f".{self.processes[name].pid}.".encode() in worker for worker in workers)

    def _prepare_buckets(self) -> None:
        client = self.minio()
        admin = MinioAdmin(
            endpoint=f"{HOST}:{self.settings.minio_port}",
            credentials=StaticProvider(self.settings.minio_user, self.settings.minio_password),
            secure=False,
        )
        known = json.loads(admin.info()).get("sqsARN") or []
        arns = [arn for arn in known if arn.split(":")[4] in (contract.DURABLE_TARGET, contract.HINT_TARGET)]
        for bucket in (self.settings.image_bucket, self.settings.video_bucket):
            if not client.bucket_exists(bucket):
                client.make_bucket(bucket)
            contract.subscribe(client, bucket, arns)

    def _stop(self, process: ChildProcess) -> None:
        if process.running():
            self._say(f"Stopping {process.name} …")
        process.stop()

    def _check_ports(self) -> None:
        for variable, port in self.settings.ports().items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise StackError(
                        f"Port {port} is taken by another program: end that one, or set {variable} to a free port."
                    ) from error

    def _token(self, name: str) -> str | None:
        """What MinIO shows the webhook, or an operator the console: as given (empty: none), else one of our own."""
        if (given := os.environ.get(name.upper())) is not None:
            return given or None
        path = self.directory / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32))
        return path.read_text()

    @contextmanager
    def _own_directory(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StackError(
                    f"Another stack is running in {self.directory}: end it, or choose another LOOKINGGLASS_DIR."
                ) from error
            yield


def _quietly(attempt: Callable[[], object]) -> object:
    try:
        return attempt()
    except (redis.RedisError, urllib3.exceptions.HTTPError, OSError):
        return None
