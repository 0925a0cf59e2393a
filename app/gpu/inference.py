"""Engine processes kept running: what is to be looked at waits in one queue, and every sound process takes from it.

A process takes all that waits, up to its batch, and never waits for more. When it dies, fails or takes too long,
nobody is blamed yet: each view that it had in hand is repeated alone, and only a view with which an engine fails
alone is at fault.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from app.common.errors import TransientError
from app.common.wire import EngineCrashedError
from app.gpu import metrics
from app.gpu.engine_process import EngineProcess, FailedError, Memory, NotAskedError, Pixels
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face
from app.gpu.settings import FaceSettings

#: What loads an engine in its process: module and function.
LOADER = "app.gpu.engines:load"

#: Seconds until a process that could not be used is tried again: at first, and at most.
RETRY_SECONDS, LONGEST_RETRY = 2, 60


@dataclass(eq=False, slots=True)
class _Task:
    """Something to look at, and who waits for it."""

    pixels: Pixels
    done: "Future[list[Face]]" = field(default_factory=Future)
    #: To be looked at by a process that has nothing else in hand, for it may be what ended one.
    alone: bool = False
    #: Nobody waits for it any more.
    abandoned: bool = False


class Engines:
    """Engine processes, safe to use from many threads; `close()` ends them.

    What the first one loads is what the service runs: a process that loads anything else later is not used.

    Raises:
        EngineUnavailableError: the engine cannot run as configured.
    """

    def __init__(self, settings: FaceSettings, loader: str = LOADER) -> None:
        self._start = partial(EngineProcess, settings, loader)
        self._seconds = settings.analysis_timeout
        self._queue = _Queue()
        self._closing = threading.Event()
        self._keepers: list[_Keeper] = []
        self._first: EngineProcess | None = self._start()
        try:
            #: What every process has to be.
            self.info = self._first.loaded()
        except BaseException:
            self._first.close()
            raise

    def serve(self, processes: int, slots: Sequence[Memory]) -> None:
        """Have so many processes look at what is in these slots."""
        first, self._first = self._first, None
        self._keepers = [
            _Keeper(self._start, self.info, slots, self._queue, self._seconds, self._closing, self._check)
            for _ in range(processes)
        ]
        metrics.UNUSABLE.set_function(lambda: sum(keeper.problem is not None for keeper in self._keepers))
        for keeper in self._keepers:
            keeper.start(first)
            first = None

    def state(self) -> dict[str, Any]:
        """How many processes there are and are ready, and what is wrong with the others, if anything is."""
        ready, total = sum(keeper.ready for keeper in self._keepers), len(self._keepers)
        state: dict[str, Any] = {"processes": total, "processes_ready": ready}
        if problems := sorted({keeper.problem for keeper in self._keepers if keeper.problem}):
            state["problem"] = f"{ready} of {total} engine processes: {' '.join(problems)}"
        return state

    @property
    def problem(self) -> str | None:
        """Why no process can be used; None while at least one may."""
        problems = [keeper.problem for keeper in self._keepers]
        return problems[0] if all(problems) else None

    def analyse(self, views: Sequence[Pixels], deadline: float) -> list[list[Face]]:
        """The faces in each view, by a moment of `time.monotonic()`.

        Raises:
            EngineCrashedError: an engine process died, failed or ran out of time or memory on one of them.
            TransientError: no process can be used, or none had time.
        """
        tasks = [_Task(pixels) for pixels in views]
        self._queue.put(tasks)
        self._check()
        try:
            return [task.done.result(max(0.0, deadline - time.monotonic())) for task in tasks]
        except TimeoutError as error:
            raise TransientError("No engine process had time for this picture; they are busy, or loading.") from error
        finally:
            for task in tasks:
                task.abandoned = True

    def close(self) -> None:
        """End the processes, each when it is done with what it has in hand."""
        self._closing.set()
        self._queue.wake()
        if self._first:
            self._first.close()
        for keeper in self._keepers:
            keeper.close()

    def _check(self) -> None:
        """Have nobody wait for processes of which none can be used."""
        if problem := self.problem:
            for task in self._queue.drain():
                task.done.set_exception(TransientError(problem))


class _Queue:
    """Tasks in the order they came; those that have to be repeated come first."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()

    def put(self, tasks: Sequence[_Task]) -> None:
        with self._changed:
            self._tasks.extend(tasks)
            self._changed.notify(len(tasks))

    def put_back(self, tasks: Sequence[_Task]) -> None:
        with self._changed:
            self._tasks.extendleft(reversed(tasks))
            self._changed.notify_all()

    def take(self, most: int, is_over: Callable[[], bool]) -> list[_Task]:
        """What waits, up to a number; nothing once it is over."""
        with self._changed:
            while not is_over():
                if batch := self._batch(most):
                    return batch
                self._changed.wait()
            return []

    def wake(self) -> None:
        """Have those who wait look whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def drain(self) -> list[_Task]:
        """Everything that waits."""
        with self._changed:
            drained = list(self._tasks)
            self._tasks.clear()
        return drained

    def _batch(self, most: int) -> list[_Task]:
        batch: list[_Task] = []
        while self._tasks and len(batch) < most:
            task = self._tasks[0]
            if task.alone and batch:
                break
            self._tasks.popleft()
            if not task.abandoned:
                batch.append(task)
                if task.alone:
                    break
        return batch


class _Keeper:
    """Keeps one engine process running, and gives it work."""

    def __init__(
        self,
        start: Callable[[], EngineProcess],
        info: EngineInfo,
        slots: Sequence[Memory],
        queue: _Queue,
        seconds: float,
        closing: threading.Event,
        tell: Callable[[], None],
    ) -> None:
        self._start, self._info, self._slots, self._queue = start, info, slots, queue
        self._seconds, self._closing, self._tell = seconds, closing, tell
        #: Why the process could not be used the last time; None at first, and while it can.
        self.problem: str | None = None
        #: Whether it is used.
        self.ready = False
        self._process: EngineProcess | None = None
        self._feeders: list[threading.Thread] = []
        self._in_hand = _InHand()

    def start(self, process: EngineProcess | None) -> None:
        """Begin, with a process that has loaded its models or a new one."""
        self._process = process
        self._thread = threading.Thread(target=self._keep, args=(process,), name="engine keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the process when nobody waits for it any more."""
        for feeder in self._feeders:
            feeder.join()
        if self._process:
            self._process.end()
        self._thread.join()

    def _keep(self, process: EngineProcess | None) -> None:
        pause = RETRY_SECONDS
        while not self._closing.is_set():
            if process is None:
                process = self._process = self._start()
                self.problem = self._found_wrong(process)
            if self.problem is None and not self._closing.is_set():
                self._use(process)
                pause = RETRY_SECONDS
            process.close()
            process = None
            if self.problem is not None:
                self._tell()
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_RETRY)

    def _found_wrong(self, process: EngineProcess) -> str | None:
        if self._closing.is_set():
            return None
        try:
            return _difference(process.loaded(), self._info)
        except EngineUnavailableError as error:
            return str(error)

    def _use(self, process: EngineProcess) -> None:
        """Give it work until it ends."""
        try:
            lines = process.give(self._slots, self._info.threads)
        except NotAskedError:
            return
        self._feeders = [
            threading.Thread(target=self._feed, args=(process, line), name="engine feeder", daemon=True)
            for line in lines
        ]
        for feeder in self._feeders:
            feeder.start()
        self.ready = True
        process.wait()
        self.ready = False
        self._queue.wake()
        for feeder in self._feeders:
            feeder.join()

    def _feed(self, process: EngineProcess, line: Connection) -> None:
        while batch := self._queue.take(self._info.batch, lambda: self._closing.is_set() or process.ended):
            with self._in_hand.together() if not batch[0].alone else self._in_hand.alone():
                self._look(process, line, batch)

    def _look(self, process: EngineProcess, line: Connection, batch: list[_Task]) -> None:
        alone = batch[0].alone
        # With one line and one view nothing else can be what takes so long.
        sure = alone or (len(batch) == 1 and self._info.threads == 1)
        seconds = self._seconds if sure else self._seconds / 2
        metrics.BATCH.observe(len(batch))
        try:
            with metrics.ENGINE_SECONDS.time():
                found = process.ask(line, [task.pixels for task in batch], seconds)
        except NotAskedError:
            process.end()
            self._queue.put_back(batch)
        except TimeoutError:
            process.end()
            took = f"The picture took longer than the {self._seconds} s of ANALYSIS_TIMEOUT."
            self._blame(batch, took if sure else None)
        except FailedError as error:
            # An engine that failed once may fail with all that follows: after an error of CUDA's it does.
            process.end()
            self._blame(batch, f"On this picture: {error}." if alone else None)
        else:
            for task, faces in zip(batch, found, strict=True):
                task.done.set_result(faces)

    def _blame(self, batch: list[_Task], reason: str | None) -> None:
        if reason:
            batch[0].done.set_exception(EngineCrashedError(reason))
            return
        for task in batch:
            task.alone = True
        self._queue.put_back(batch)


class _InHand:
    """What a process has in hand: several calls together, or one alone."""

    def __init__(self) -> None:
        self._calls = 0
        self._changed = threading.Condition()

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._calls >= 0)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._calls == 0)
            self._calls = -1
        try:
            yield
        finally:
            with self._changed:
                self._calls = 0
                self._changed.notify_all()


def _difference(found: EngineInfo, expected: EngineInfo) -> str | None:
    """Why a process with such an engine cannot work for a service that runs another; None if it is the same."""
    if found.model_id != expected.model_id:
        return (
            f"Restart the face service: model {expected.model_id} was replaced by {found.model_id}, and vectors of "
            "two models must not mix."
        )
    if found.device != expected.device:
        return (
            f"A new engine process runs on {found.device}, the face service on {expected.device}: look after the "
            "device, or restart the face service."
        )
    others = [field.name for field in fields(found) if getattr(found, field.name) != getattr(expected, field.name)]
    if others:
        return f"Restart the face service: a new engine process has another {', '.join(others)}."
    return None
