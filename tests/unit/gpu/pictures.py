"""Small pictures whose orientation can be told, and what becomes of them."""

import io
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from PIL import Image

from app.gpu.faces import Image as Pixels
from app.gpu.images import Canvas, Limits, Picture, decode
from app.gpu.slots import slot_bytes

#: EXIF's tag.
ORIENTATION = 0x0112


def encode(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def halves(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Red above, blue below: its orientation can be told."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0], size[1] // 2))
    return image


@dataclass
class Decoded:
    """A picture and its planes' pixels."""

    picture: Picture
    planes: list[Pixels]

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.width, self.picture.height

    @property
    def pixels(self) -> Pixels:
        """Those of an ordinary picture, which has one plane."""
        [pixels] = self.planes
        return pixels


def decoded(data: bytes, max_pixels: int = 10**7, max_side: int = 1600) -> Decoded:
    memory = memoryview(mmap(-1, slot_bytes(max_pixels)))
    picture = decode(data, Limits(max_pixels, max_side), Canvas(memory))
    return Decoded(picture, [plane.pixels(memory) for plane in picture.planes])


def is_upright(image: Decoded) -> bool:
    height = image.pixels.shape[0]
    top, bottom = image.pixels[height // 4].mean(axis=0), image.pixels[3 * height // 4].mean(axis=0)
    return bool(top[0] > 150 > top[2] and bottom[2] > 150 > bottom[0])
