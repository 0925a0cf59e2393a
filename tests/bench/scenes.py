"""Pictures with faces of known heights at known places, made of photographs of seven people."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.gpu.faces import Face

#: Where the faces are in the photographs: left, top, right, bottom, from the brows to the chin.
FACES = (
    ("group.jpg", (1122, 293, 1226, 396)),
    ("group.jpg", (62, 281, 166, 385)),
    ("group.jpg", (730, 362, 834, 466)),
    ("group.jpg", (451, 299, 576, 424)),
    ("group.jpg", (274, 178, 360, 264)),
    ("group.jpg", (892, 85, 995, 189)),
    ("astronaut.png", (177, 78, 266, 167)),
)

#: What is cut out around a face, in its heights: hair, neck and shoulders are part of what makes one.
AROUND = 0.8

#: Heights of the faces in wide scenes.
WIDE_HEIGHTS = np.geomspace(83, 312, 12)


@dataclass(frozen=True, slots=True)
class Head:
    """A face with what is around it, upright, and the face's height in pixels."""

    image: Image.Image
    height: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a head lies in a scene: left, top, right, bottom; the face is in the middle of it."""

    box: tuple[int, int, int, int]
    height: float


def heads(photos: dict[str, bytes]) -> list[Head]:
    """The seven."""
    images = {name: Image.open(io.BytesIO(photos[name])).convert("RGB") for name, _ in FACES}
    return [_cut(images[name], box) for name, box in FACES]


def scene(
    heads: Sequence[Head], size: tuple[int, int], heights: Sequence[float], *, turned: float = 0, seed: int = 1
) -> tuple[Image.Image, list[Placed]]:
    """One head after another with a face of each of these heights, as many as there is room for, `turned` degrees."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 150, (size[1] // 40 + 2, size[0] // 40 + 2, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    placed: list[Placed] = []
    for number, height in enumerate(heights):
        head = heads[(number + seed) % len(heads)]
        scale = height / head.height
        image = head.image.resize(
            (round(head.image.width * scale), round(head.image.height * scale)), Image.Resampling.LANCZOS
        )
        mask = Image.new("L", image.size, 255).rotate(turned, expand=True)
        image = image.rotate(turned, Image.Resampling.BICUBIC, expand=True)
        if box := _place(size, image.size, placed, rng):
            picture.paste(image, box[:2], mask)
            placed.append(Placed(box, height))
    return picture, placed


def wide(photos: dict[str, bytes], size: tuple[int, int]) -> tuple[bytes, list[Placed]]:
    """A wide picture as JPEG, with up to twelve faces of 83 to 312 pixels."""
    picture, placed = scene(heads(photos), size, WIDE_HEIGHTS.tolist())
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    return data.getvalue(), placed


def found_of(placed: Placed, faces: Sequence[Face]) -> int:
    """How many of the faces found have their middle where this one was placed."""
    left, top, right, bottom = placed.box
    middles = (((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2) for face in faces)
    return sum(left < x < right and top < y < bottom for x, y in middles)


def _cut(photo: Image.Image, box: tuple[int, int, int, int]) -> Head:
    left, top, right, bottom = box
    around = round(AROUND * (bottom - top))
    outer = max(0, left - around), max(0, top - around), right + around, min(photo.height, bottom + around)
    return Head(photo.crop((*outer[:2], min(photo.width, outer[2]), outer[3])), bottom - top)


def _place(
    size: tuple[int, int], head: tuple[int, int], placed: Sequence[Placed], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Somewhere free."""
    for left, top in _somewhere(size[0] - head[0], size[1] - head[1], rng):
        box = left, top, left + head[0], top + head[1]
        if not any(_overlap(box, other.box) for other in placed):
            return box
    return None


def _somewhere(right: int, bottom: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    if right >= 0 and bottom >= 0:
        for _ in range(1000):
            yield int(rng.integers(right + 1)), int(rng.integers(bottom + 1))


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
