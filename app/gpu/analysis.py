"""What runs inside an engine process: decode one picture, find and embed its faces.

Pictures are hostile until decoded, so each is handled in a process that may die and leave the service standing.
"""

import os
import resource
import signal
import threading
import time
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

from app.gpu import views
from app.gpu.decode import MEMORY, MEMORY_PER_PIXEL
from app.gpu.engines import load
from app.gpu.engines.base import Engine, EngineInfo, Face
from app.gpu.images import Canvas, Limits, decode
from app.gpu.settings import FaceSettings
from app.gpu.slots import slot_bytes
from app.gpu.views import View


class EngineFailedError(Exception):
    """The engine raised something of its own: on this picture, or because its process is spoilt."""


class EngineNotLoadedError(Exception):
    """The process is a new one, in the place of one that was ended, and has not been told to load its models."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The faces of one picture, in pixels of the upright picture as stored."""

    width: int
    height: int
    faces: list[Face]
    #: What was ignored or not looked at.
    notes: list[str]
    decode_ms: float
    analyse_ms: float


def start(settings: FaceSettings) -> None:
    """Initialise an engine process."""
    # The service ends its processes itself; a Ctrl-C in the terminal must not end a picture in the middle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _settings.append(settings)


def describe() -> EngineInfo:
    """Load the engine and say what it is.

    Raises:
        EngineUnavailableError: it cannot run as configured.
    """
    return _engine().info


def analyse(data: bytes) -> Analysis:
    """Decode a picture and find its faces.

    Raises:
        PermanentError: the picture can never be decoded.
        EngineFailedError: the engine failed on it.
        EngineNotLoadedError: `describe` must be called first, which may take longer than a picture.
    """
    if not _engine.cache_info().currsize:
        raise EngineNotLoadedError
    settings, engine = _settings[-1], _engine()
    _bound_memory(settings.max_image_pixels)
    info = engine.info
    started = time.perf_counter()
    picture = decode(data, Limits(settings.max_image_pixels, info.max_side), _canvas())
    decoded = time.perf_counter()
    found: list[tuple[View, list[Face]]] = []
    try:
        for view in views.views(picture.planes, info.max_side):
            [faces] = engine.analyse([view.pixels(_canvas().memory)])
            found.append((view, faces))
    except MemoryError:
        raise
    except Exception as error:
        # As text: what a library raises may not survive the way to another process.
        raise EngineFailedError(f"{type(error).__name__}: {error}") from None
    size = picture.width, picture.height
    return Analysis(
        width=picture.width,
        height=picture.height,
        faces=views.faces(found, size, info.distance, info.link_distance),
        notes=picture.notes,
        decode_ms=(decoded - started) * 1000,
        analyse_ms=(time.perf_counter() - decoded) * 1000,
    )


def _canvas() -> Canvas:
    return Canvas(_memory())


@cache
def _memory() -> memoryview:
    return memoryview(mmap(-1, slot_bytes(_settings[-1].max_image_pixels)))


_settings: list[FaceSettings] = []


def _end_with_parent() -> None:
    if parent := parent_process():
        wait([parent.sentinel])
        os._exit(1)


@cache
def _engine() -> Engine:
    return load(_settings[-1])


def _bound_memory(pixels: int) -> None:
    """Have a decoder that wants more memory than any picture needs fail, before the machine runs out of it.

    Counted from what the process holds by now: CUDA alone reserves more addresses than there is memory, and a limit
    that came nearer with each picture would at last have sound ones look damaged.
    """
    status = Path("/proc/self/status").read_text()
    held = 1024 * int(status.partition("VmData:")[2].split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY + MEMORY_PER_PIXEL * pixels, hard))
