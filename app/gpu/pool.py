"""The engine processes, and who may use them when.

One picture is decoded per process at a time, which bounds the pixels in memory; a bounded number of requests wait
for their turn, and the rest are told to come back, so that health answers never queue behind inference.
"""

import os
import threading
from concurrent.futures import CancelledError, Future, wait
from dataclasses import fields
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from app.common.errors import TransientError
from app.common.wire import EngineCrashedError
from app.gpu import analysis
from app.gpu.analysis import Analysis, EngineFailedError, EngineNotLoadedError
from app.gpu.engines.base import EngineInfo, EngineUnavailableError
from app.gpu.settings import FaceSettings
from app.gpu.turns import LANES, Lane, Turns

#: Seconds for an engine to load its models; a large pack on a cold disk and a new CUDA context take a while.
LOAD_TIMEOUT = 300

#: Pictures under way per engine process: one being analysed, one ready to follow.
HELD_PER_PROCESS = 2

#: Seconds a request waits for its turn before it is told to come back.
TURN_TIMEOUT = 30


def most_requests(settings: FaceSettings) -> int:
    """How many requests for an analysis may be under way at once, those included that wait for their turn."""
    most_processes = settings.engine_processes or os.cpu_count() or 1
    return HELD_PER_PROCESS * most_processes + settings.max_waiting * len(LANES)


class _EndedError(TransientError):
    """The process had ended before it was given the picture."""


class EnginePool:
    """Engine processes; `close()` ends them.

    What the first one loads is what the service runs: a process that loads anything else later is not used.

    Raises:
        EngineUnavailableError: the engine cannot run as configured.
    """

    def __init__(self, settings: FaceSettings) -> None:
        first = EngineProcess(settings)
        try:
            self.info = first.expected = first.loaded()
        except BaseException:
            first.end()
            raise
        self.processes = settings.processes(self.info.device)
        self._turns = Turns(HELD_PER_PROCESS * self.processes, waiting=settings.max_waiting, timeout=TURN_TIMEOUT)
        self._all = [first, *(EngineProcess(settings, self.info) for _ in range(self.processes - 1))]
        self._idle = self._all.copy()
        self._changed = threading.Condition()

    @property
    def problem(self) -> str | None:
        """Why no engine process can take a picture; None while at least one may."""
        problems = [process.problem for process in self._all]
        return problems[0] if all(problems) else None

    def state(self) -> dict[str, Any]:
        """How many engine processes there are and are ready, and what is wrong with the others, if anything is."""
        ready = sum(process.ready for process in self._all)
        problems = sorted({process.problem for process in self._all if process.problem})
        return {
            "processes": self.processes,
            "processes_ready": ready,
            **(
                {"problem": f"{ready} of {self.processes} engine processes: {' '.join(problems)}"} if problems else {}
            ),
        }

    def mend(self) -> None:
        """Have idle processes whose models could not be loaded try again."""
        with self._changed:
            broken = [process for process in self._idle if process.problem]
            self._idle = [process for process in self._idle if process not in broken]
        for process in broken:
            try:
                process.mend()
            finally:
                self._give(process)

    def analyse(self, data: bytes, lane: Lane) -> Analysis:
        """Find the faces of a picture, given as its file's bytes, when its turn has come.

        Raises:
            PermanentError: the picture can never be decoded.
            EngineCrashedError: its engine process died, failed or ran out of time or memory on it.
            TransientError: its engine process had been ended from outside, or does not load its models again.
            BusyError: too many wait already, or its turn did not come in time.
        """
        with self._turns.turn(lane):
            return self._analyse(data)

    def _analyse(self, data: bytes) -> Analysis:
        for _ in self._all:
            process = self._take()
            try:
                return process.analyse(data)
            except _EndedError:
                if not any(other.ready for other in self._all):
                    raise
            finally:
                self._give(process)
        raise _EndedError("Engine processes were ended from outside; new ones are starting.")

    def close(self) -> None:
        """End the processes, each when its picture is done."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._all))
        for process in self._all:
            process.end()

    def _take(self) -> "EngineProcess":
        """An idle process: a ready one as long as there is any, busy or not, else one that may become ready."""
        with self._changed:
            while True:
                ready = [process for process in self._all if process.ready]
                usable = ready or [process for process in self._all if not process.problem] or self._all
                if found := next((process for process in usable if process in self._idle), None):
                    self._idle.remove(found)
                    return found
                self._changed.wait(1)  # a process that has loaded its models meanwhile tells nobody

    def _give(self, process: "EngineProcess") -> None:
        with self._changed:
            self._idle.append(process)
            self._changed.notify_all()


class EngineProcess:
    """One engine process, replaced by a new one when a picture ends or spoils it; for one thread at a time.

    A pool of its own: whatever happens to one process, the others share no lock or pipe with it.
    """

    def __init__(self, settings: FaceSettings, expected: EngineInfo | None = None) -> None:
        self._settings = settings
        #: What it has to load; None as long as anything will do.
        self.expected = expected
        #: Why its models could not be loaded the last time, or are not the ones expected; None at first.
        self.problem: str | None = None
        #: Whether its models are loaded, and the right ones.
        self.ready = False
        self._start()

    def loaded(self) -> EngineInfo:
        """What the engine is, once its models are loaded.

        Raises:
            EngineUnavailableError: they cannot be.
        """
        try:
            found = self._loading.result()
            self._note(self._loading)
            return found
        except EngineUnavailableError:
            raise
        except Exception as error:
            raise EngineUnavailableError(_said(error)) from error

    def mend(self) -> None:
        """Load the models again if they could not be."""
        if self._loading.done() and self.problem:
            self._replace()

    def analyse(self, data: bytes) -> Analysis:
        """As `EnginePool.analyse`; models are loaded before, and not on the picture's time."""
        wait([self._loading], TURN_TIMEOUT)
        if self._loading.done():
            self._note(self._loading)
        if not self.ready:
            raise TransientError(f"The engine process is loading its models. {self.problem or ''}".strip())
        limit = self._settings.analysis_timeout
        try:
            future: Future[Analysis] = self._pool.schedule(analysis.analyse, args=[data], timeout=limit)
            return future.result()
        except TimeoutError as error:
            self._replace()
            raise EngineCrashedError(f"The picture took longer than the {limit} s of ANALYSIS_TIMEOUT.") from error
        except ProcessExpired as error:
            self._replace()
            raise EngineCrashedError(f"The engine process died on this picture (exit {error.exitcode}).") from error
        except MemoryError as error:
            self._replace()
            raise EngineCrashedError("The engine process ran out of memory on this picture.") from error
        except EngineFailedError as error:
            # After an error of CUDA's, every further call in its process fails.
            self._replace()
            raise EngineCrashedError(f"The engine failed on this picture: {error}") from error
        except (EngineNotLoadedError, RuntimeError, CancelledError) as error:
            # Ended from outside while it was idle, which is not the picture's fault.
            self._replace()
            raise _EndedError("The engine process was ended from outside; a new one is starting.") from error

    def end(self) -> None:
        """End the process."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _start(self) -> None:
        self.ready = False
        self._pool = ProcessPool(
            max_workers=1,
            initializer=analysis.start,
            initargs=[self._settings],
            # A fork of a threaded, CUDA-using process is not safe.
            context=get_context("spawn"),
        )
        self._loading: Future[EngineInfo] = self._pool.schedule(analysis.describe, timeout=LOAD_TIMEOUT)
        self._loading.add_done_callback(self._note)

    def _note(self, loading: "Future[EngineInfo]") -> None:
        if loading.cancelled() or loading is not self._loading:
            return
        if error := loading.exception():
            self.problem = _said(error)
        else:
            self.problem = _difference(loading.result(), self.expected) if self.expected else None
            self.ready = self.problem is None

    def _replace(self) -> None:
        self.end()
        self._start()


def _said(error: BaseException) -> str:
    if isinstance(error, EngineUnavailableError):
        return str(error)
    return f"The engine process did not load its models within {LOAD_TIMEOUT} s: {type(error).__name__}: {error}"


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
