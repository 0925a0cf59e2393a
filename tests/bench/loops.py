"""The bare loops that the pipeline is compared with: on every core a process that decodes and looks, and no more."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import get_context

import simplejpeg

from app.gpu.engines.base import Engine
from app.gpu.settings import EngineSettings
from tests.bench import CORES


@dataclass(slots=True)
class Loops:
    """One loop per core, with the engine loaded."""

    _pool: ProcessPoolExecutor
    _loader: str
    #: CPU milliseconds of an image, the last time.
    cpu_ms: float = 0.0

    def rate(self, picture: bytes, count: int, loops: int = CORES) -> float:
        """Images/s of so many loops, over `count` images together."""
        each = max(1, count // loops)
        seconds, used = zip(*self._pool.map(_loop, [(self._loader, picture, each)] * loops), strict=True)
        self.cpu_ms = 1000 * sum(used) / (each * loops)
        # The slowest loop counts.
        return float(each * loops / max(seconds))


@contextmanager
def bare_loops(loader: str, picture: bytes) -> Iterator[Loops]:
    """The loops, from when each has looked at a picture."""
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        loops = Loops(pool, loader)
        loops.rate(picture, CORES)
        yield loops


def _loop(work: tuple[str, bytes, int]) -> tuple[float, float]:
    """Decode and look at one picture again and again; return the seconds it took, and those of CPU."""
    loader, picture, count = work
    engine = _engine(loader)
    started, used = time.perf_counter(), time.process_time()
    for _ in range(count):
        engine.analyse([simplejpeg.decode_jpeg(picture)])
    return time.perf_counter() - started, time.process_time() - used


@cache
def _engine(loader: str) -> Engine:
    module, _, function = loader.partition(":")
    engine: Engine = getattr(import_module(module), function)(EngineSettings())
    return engine
