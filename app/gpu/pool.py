"""The engine processes, and who may use them when.

One picture is decoded per process at a time, which bounds the pixels in memory; a bounded number of requests wait
for a process, and the rest are told to come back, so that health answers never queue behind inference.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from multiprocessing import get_context
from queue import Empty, SimpleQueue

from pebble import ProcessExpired, ProcessPool

from app.common.errors import TransientError
from app.common.wire import BusyError, EngineCrashedError
from app.gpu import analysis
from app.gpu.analysis import Analysis, EngineFailedError, EngineNotLoadedError
from app.gpu.engines.base import EngineInfo, EngineUnavailableError
from app.gpu.settings import FaceSettings

#: Seconds for an engine to load its models; a large pack on a cold disk and a new CUDA context take a while.
LOAD_TIMEOUT = 300

#: Requests admitted per engine process: one being analysed, one ready to follow, two waiting with their client.
HELD_PER_PROCESS = 2
WAITING_PER_PROCESS = 2

#: Seconds a request waits for its turn before it is told to come back.
TURN_TIMEOUT = 30


class EnginePool:
    """Engine processes; `close()` ends them.

    Raises:
        EngineUnavailableError: the engine cannot run as configured.
    """

    def __init__(self, settings: FaceSettings) -> None:
        first = EngineProcess(settings)
        try:
            self.info = first.loaded()
        except BaseException:
            first.end()
            raise
        self.processes = settings.processes(self.info.device)
        self._held = threading.BoundedSemaphore(HELD_PER_PROCESS * self.processes)
        self._admitted = threading.BoundedSemaphore((HELD_PER_PROCESS + WAITING_PER_PROCESS) * self.processes)
        self._all = [first, *(EngineProcess(settings) for _ in range(self.processes - 1))]
        self._free: SimpleQueue[EngineProcess] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    @property
    def problem(self) -> str | None:
        """Why no engine process can take a picture; None while at least one may."""
        problems = [process.problem for process in self._all]
        return problems[0] if all(problems) else None

    def mend(self) -> None:
        """Have idle processes whose models could not be loaded try again."""
        for _ in self._all:
            try:
                process = self._free.get_nowait()
            except Empty:
                return
            try:
                process.mend()
            finally:
                self._free.put(process)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold one of the places for a picture; read its bytes only inside.

        Raises:
            BusyError: there was no place in time.
        """
        if not self._admitted.acquire(blocking=False):
            raise BusyError("The face service has as many pictures as it can hold; try again in a moment.")
        try:
            if not self._held.acquire(timeout=TURN_TIMEOUT):
                raise BusyError(f"No engine process was free within {TURN_TIMEOUT} s; try again in a moment.")
            try:
                yield
            finally:
                self._held.release()
        finally:
            self._admitted.release()

    def analyse(self, data: bytes) -> Analysis:
        """Find the faces of a picture, given as its file's bytes. Call inside `turn()`.

        Raises:
            PermanentError: the picture can never be decoded.
            EngineCrashedError: its engine process died, failed or ran out of time or memory on it.
            TransientError: its engine process had been ended from outside, or does not load its models again.
        """
        process = self._free.get()
        try:
            return process.analyse(data)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End the processes, each when its picture is done."""
        for _ in self._all:
            self._free.get().end()


class EngineProcess:
    """One engine process, replaced by a new one when a picture ends or spoils it; for one thread at a time.

    A pool of its own: whatever happens to one process, the others share no lock or pipe with it.
    """

    def __init__(self, settings: FaceSettings) -> None:
        self._settings = settings
        #: Why its models could not be loaded the last time; None at first, and once they are.
        self.problem: str | None = None
        self._start()

    def loaded(self) -> EngineInfo:
        """What the engine is, once its models are loaded.

        Raises:
            EngineUnavailableError: they cannot be.
        """
        try:
            return self._loading.result()
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
        if not self._loading.done() or self.problem:
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
            raise TransientError("The engine process was ended from outside; a new one is starting.") from error

    def end(self) -> None:
        """End the process."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _start(self) -> None:
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
        if not loading.cancelled():
            error = loading.exception()
            self.problem = _said(error) if error else None

    def _replace(self) -> None:
        self.end()
        self._start()


def _said(error: BaseException) -> str:
    if isinstance(error, EngineUnavailableError):
        return str(error)
    return f"The engine process did not load its models within {LOAD_TIMEOUT} s: {type(error).__name__}: {error}"
