"""From a decoded picture to its faces: every view of it goes to an engine, and each face counts once."""

import time
from dataclasses import dataclass

from app.gpu import views
from app.gpu.decoding import Decoded
from app.gpu.engine_process import Pixels
from app.gpu.engines.base import Face
from app.gpu.inference import Engines
from app.gpu.views import View


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


def analyse(decoded: Decoded, engines: Engines, deadline: float) -> Analysis:
    """Find the faces of a picture by a moment of `time.monotonic()`.

    Raises:
        EngineCrashedError, TransientError: as `Engines.analyse`.
    """
    started = time.perf_counter()
    info, size = engines.info, (decoded.width, decoded.height)
    looked_at = views.views(decoded.planes, info.max_side)
    found = engines.analyse([_pixels(view, decoded.slot.number) for view in looked_at], deadline)
    faces = views.faces(list(zip(looked_at, found, strict=True)), size, info.distance, info.link_distance)
    return Analysis(
        width=decoded.width,
        height=decoded.height,
        faces=faces,
        notes=decoded.notes,
        decode_ms=decoded.decode_ms,
        analyse_ms=(time.perf_counter() - started) * 1000,
    )


def _pixels(view: View, slot: int) -> Pixels:
    plane = view.plane
    return Pixels(slot, plane.offset, plane.height, plane.width, view.left, view.top, view.right, view.bottom)
