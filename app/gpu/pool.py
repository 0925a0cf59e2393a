"""The engine processes, and who may use them when.

One picture is decoded per process at a time, which bounds the pixels in memory; a bounded number of requests wait
for a process, and the rest are told to come back, so that health answers never queue behind inference.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from multiprocessing import get_context
from queue import SimpleQueue

from pebble import ProcessExpired, ProcessPool

from app.common.errors import LookingGlassError, TransientError
from app.gpu import analysis
from app.gpu.analysis import Analysis
from app.gpu.engines.base import EngineInfo
from app.gpu.settings import FaceSettings

#: Seconds for an engine to load its models; a large pack on a cold disk and a new CUDA context take a while.
LOAD_TIMEOUT = 300

#: Requests admitted per engine process: one being analysed, one ready to follow, two waiting with their client.
HELD_PER_PROCESS = 2
WAITING_PER_PROCESS = 2

#: Seconds a request waits for its turn before it is told to come back.
TURN_TIMEOUT = 30


class BusyError(TransientError):
    """More pictures at once than the engine processes can take; come back in a moment."""


class EngineCrashedError(LookingGlassError):
    """An engine process died or hung on this picture; others are not affected."""


class EnginePool:
    """Engine processes; use as a context manager."""

    def __init__(self, settings: FaceSettings) -> None:
        self._settings = settings
        self.info = self._describe()
        self.processes = settings.processes(self.info.device)
        self._held = threading.BoundedSemaphore(HELD_PER_PROCESS * self.processes)
        self._admitted = threading.BoundedSemaphore((HELD_PER_PROCESS + WAITING_PER_PROCESS) * self.processes)
        # A pool per process: whatever happens to one, the others share no lock or pipe with it.
        self._free: SimpleQueue[ProcessPool] = SimpleQueue()
        for _ in range(self.processes):
            self._free.put(self._new_pool())

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
            EngineCrashedError: its engine process died or ran out of time on it.
            TransientError: its engine process had been ended from outside.
        """
        pool = self._free.get()
        try:
            future: Future[Analysis] = pool.schedule(
                analysis.analyse, args=[data], timeout=self._settings.analysis_timeout
            )
            return future.result()
        except TimeoutError as error:
            raise EngineCrashedError(
                f"The picture took longer than the {self._settings.analysis_timeout} s of ANALYSIS_TIMEOUT."
            ) from error
        except ProcessExpired as error:
            raise EngineCrashedError(f"The engine process died on this picture (exit {error.exitcode}).") from error
        except MemoryError as error:
            raise EngineCrashedError("The engine process ran out of memory on this picture.") from error
        except (RuntimeError, CancelledError) as error:
            # Ended from outside while it was idle, which is not the picture's fault.
            _end(pool)
            pool = self._new_pool()
            raise TransientError("The engine process was ended from outside; a new one is starting.") from error
        finally:
            self._free.put(pool)

    def close(self) -> None:
        """End the processes; a picture in work is given up."""
        for _ in range(self.processes):
            _end(self._free.get())

    def _describe(self) -> EngineInfo:
        pool = self._new_pool()
        try:
            future: Future[EngineInfo] = pool.schedule(analysis.describe, timeout=LOAD_TIMEOUT)
            return future.result()
        finally:
            _end(pool)

    def _new_pool(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=1,
            initializer=analysis.start,
            initargs=[self._settings],
            # A fork of a threaded, CUDA-using process is not safe.
            context=get_context("spawn"),
        )
        pool.schedule(analysis.describe)  # load the models now, not with the first picture
        return pool


def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
