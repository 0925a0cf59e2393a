"""What runs inside an engine process: decode one picture, find and embed its faces.

Pictures are hostile until decoded, so each is handled in a process that may die and leave the service standing.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing import parent_process
from multiprocessing.connection import wait

import numpy as np

from app.gpu.engines import load
from app.gpu.engines.base import Engine, EngineInfo, Face
from app.gpu.images import decode
from app.gpu.settings import FaceSettings


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
    """
    settings, engine = _settings[-1], _engine()
    started = time.perf_counter()
    image = decode(data, max_pixels=settings.max_image_pixels, max_side=engine.info.max_side)
    decoded = time.perf_counter()
    [faces] = engine.analyse([image.pixels])
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


def _scaled(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box
    return Face(
        box=(left * x, top * y, right * x, bottom * y),
        landmarks=face.landmarks * np.array([x, y], np.float32),
        score=face.score,
        embedding=face.embedding,
    )
