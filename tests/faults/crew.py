"""A local stack whose processes come back when they end, as a container engine brings them back."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from infra.local.processes import ChildProcess
from tests.fixtures import Pipeline, eventually, standing

#: What each worker serves, and so what its scheduler schedules for.
QUEUES = ("facial_recognition", "video_processing", "cleanup")

#: The processes in the order in which an engine would stop them.
SERVICES = ("webhook", "worker-1", "worker-2", "gpu-worker", "minio", "redis")


#: Seconds between two starts of a process that does not stay.
RESTART_SECONDS = 3


class Crew:
    """The processes of a stack, ended and brought back."""

    def __init__(self, found: Pipeline) -> None:
        self.found = found
        self._away: set[str] = set()
        self._started: dict[str, float] = {}

    @property
    def processes(self) -> dict[str, ChildProcess]:
        """The stack's, by name."""
        return self.found.stack.processes

    @property
    def workers(self) -> list[ChildProcess]:
        """Those that run jobs."""
        return [process for name, process in self.processes.items() if name.startswith("worker-")]

    def tend(self, seconds: float = 0.0) -> None:
        """Start what has ended, for so long; but not what is meant to be away."""
        deadline = time.monotonic() + seconds
        while True:
            for name, process in self.processes.items():
                recently = time.monotonic() - self._started.get(name, 0.0) < RESTART_SECONDS
                if name not in self._away and not process.running() and not recently:
                    self._started[name] = time.monotonic()
                    process.start()
            if time.monotonic() >= deadline:
                return
            time.sleep(0.1)

    def kill(self, *names: str) -> None:
        """End processes and all their descendants as a power cut would."""
        for name in names:
            self.processes[name].kill()

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """A time in which these processes are away."""
        self._away.update(names)
        self.kill(*names)
        try:
            yield
        finally:
            self._away.difference_update(names)
            self.tend()

    def kill_schedulers(self) -> None:
        """End the processes that enqueue what is due: the eldest child of each worker."""
        for worker in self.workers:
            children = sorted(psutil.Process(worker.pid).children(), key=lambda child: child.create_time())
            if children and time.time() - children[0].create_time() > 2:
                children[0].kill()

    def ready(self) -> None:
        """Wait until everything is up again."""

        def probe() -> bool:
            self.tend()
            with suppress(Exception):
                return self.found.face_service_ready() and self.found.call("GET", "webhook/health")[0] == 200
            return False

        eventually(probe, "the whole stack up again", 120)

    def log_offsets(self) -> dict[str, int]:
        """How long each worker's log is."""
        return {worker.name: worker.log.stat().st_size for worker in self.workers}

    def begun(self, offsets: dict[str, int], what: str = "Processing") -> tuple[ChildProcess, str] | None:
        """A worker that has begun with an object since then, and the line that says so."""
        for worker in self.workers:
            with worker.log.open(errors="replace") as log:
                log.seek(offsets[worker.name])
                for line in log:
                    if what in line:
                        return worker, line
        return None


@contextmanager
def crew(directory: Path, **environment: str) -> Iterator[Crew]:
    """A crew of its own, in a directory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RECONCILE_INTERVAL": "0", **environment}.items():
            patch.setenv(name, value)
        with standing(directory, queue_names=",".join(QUEUES)) as found:
            yield Crew(found)


def freeze(process: ChildProcess) -> Callable[[], None]:
    """Hold a process where it is; return what lets it go on."""
    process.signal(signal.SIGSTOP)
    return lambda: process.signal(signal.SIGCONT)
