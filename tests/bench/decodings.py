"""Target 6: a phone's photo, decoded for the engine."""

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps

from app.gpu.engines import load
from app.gpu.engines.base import Engine
from app.gpu.faces import Face
from app.gpu.faces import Image as Pixels
from app.gpu.images import Canvas, Limits, decode
from app.gpu.settings import EngineSettings
from tests.bench.measure import Figure, Target, compared, in_turn
from tests.bench.pictures import phone
from tests.bench.sizes import Sizes

#: The side that the engines' detectors can use.
SIDE = 2048
MAX_PIXELS = 100_000_000

#: Two boxes are of one face if they share this much of what they cover together.
SAME = 0.5


def phone_photo(sizes: Sizes) -> Iterator[Figure]:
    """Milliseconds of one decoding; how Pillow does it is how it was done before."""
    photo, canvas = phone(), Canvas(memoryview(bytearray(2**25)))

    def ours() -> Pixels:
        canvas._used = 0
        return decode(photo, Limits(MAX_PIXELS, SIDE), canvas).planes[0].pixels(canvas.memory)

    def pillow() -> Pixels:
        image = Image.open(io.BytesIO(photo))
        shrink = SIDE / max(image.size)
        image.draft(None, (round(image.width * shrink), round(image.height * shrink)))
        upright = ImageOps.exif_transpose(image.convert("RGB"))
        return np.ascontiguousarray(np.ascontiguousarray(upright)[:, :, ::-1])

    milliseconds = in_turn(sizes.rounds, lambda: _took(ours, sizes.decodings), lambda: _took(pillow, sizes.decodings))
    engine = load(EngineSettings())
    found, known = _faces(engine, ours()), _faces(engine, pillow()[:, :, ::-1])
    more = {
        "faces found": len(found),
        "faces found before": len(known),
        "of these the same": sum(any(_overlap(one, other) > SAME for other in found) for one in known),
    }
    what = "ms to decode a photo of 4032 × 3024 for the engine"
    beside = "Pillow with draft, and a BGR copy"
    yield compared(6, "phone-photo", what, beside, Target(most=0.4), "ms", milliseconds, more)


def _took(decoding: Callable[[], Pixels], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        decoding()
    return 1000 * (time.process_time() - started) / times


Box = tuple[float, ...]


def _faces(engine: Engine, pixels: Pixels) -> list[Box]:
    """Boxes in shares of the picture."""
    height, width = pixels.shape[:2]
    faces: list[Face] = engine.analyse([np.ascontiguousarray(pixels)])[0]
    return [tuple(at / side for at, side in zip(face.box, (width, height) * 2, strict=True)) for face in faces]


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""

    def area(box: Box) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    shared = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return shared / (area(one) + area(other) - shared)
