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
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from app.gpu.engines import load
from app.gpu.engines.base import Engine, EngineInfo, Face
from app.gpu.images import decode
from app.gpu.settings import FaceSettings

#: Memory in bytes that one picture may take beside what the engine holds: a part for every pixel that is allowed
#: (WebP, the greediest format, was seen to take 22), and one for what does not grow with the picture.
MEMORY_PER_PIXEL = 40
MEMORY = 2**30


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
    started = time.perf_counter()
    image = decode(data, max_pixels=settings.max_image_pixels, max_side=engine.info.max_side)
    decoded = time.perf_counter()
    try:
        [faces] = engine.analyse([image.pixels])
    except MemoryError:
        raise
    except Exception as error:
        # As text: what a library raises may not survive the way to another process.
        raise EngineFailedError(f"{type(error).__name__}: {error}") from None
    x, y = image.scale
    return Analysis(
        width=image.width,
        height=image.height,
        faces=[_scaled(face, x, y) for face in faces],
        decode_ms=(decoded - started) * 1000,
        analyse_ms=(time.perf_counter() - decoded) * 1000,
    )


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


def _scaled(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box
    return Face(
        box=(left * x, top * y, right * x, bottom * y),
        landmarks=face.landmarks * np.array([x, y], np.float32),
        score=face.score,
        embedding=face.embedding,
    )
