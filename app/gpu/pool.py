"""The engine processes, and who may use them when.

One picture is decoded per process at a time, which bounds the pixels in memory; a bounded number of requests wait
for a process, and the rest are told to come back, so that health answers never queue behind inference.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import get_context

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
        self._pool = self._new_pool(self.processes)
        for _ in range(self.processes):  # load the models now, not with the first picture
            self._pool.schedule(analysis.describe)

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
        """
        future: Future[Analysis] = self._pool.schedule(
            analysis.analyse, args=[data], timeout=self._settings.analysis_timeout
        )
        try:
            return future.result()
        except TimeoutError as error:
            raise EngineCrashedError(
                f"The picture took longer than the {self._settings.analysis_timeout} s of ANALYSIS_TIMEOUT."
            ) from error
        except ProcessExpired as error:
            raise EngineCrashedError(f"The engine process died on this picture (exit {error.exitcode}).") from error
        except MemoryError as error:
            raise EngineCrashedError("The engine process ran out of memory on this picture.") from error

    def close(self) -> None:
        """End the processes; a picture in work is given up."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _describe(self) -> EngineInfo:
        with self._new_pool(1) as pool:
            future: Future[EngineInfo] = pool.schedule(analysis.describe, timeout=LOAD_TIMEOUT)
            return future.result()

    def _new_pool(self, processes: int) -> ProcessPool:
        return ProcessPool(
            max_workers=processes,
            initializer=analysis.start,
            initargs=[self._settings],
            # A fork of a threaded, CUDA-using process is not safe.
            context=get_context("spawn"),
        )
