"""JPEGs by libjpeg-turbo, at the eighth of their size that is needed: pixels that are not decoded cost little."""

import numpy as np
import simplejpeg
from PIL import Image

from app.gpu import views
from app.gpu.faces import Image as Pixels

#: So many times the pixels that may be decoded may be written on a JPEG: reading past them takes time, and a
#: progressive one's coefficients memory.
WRITTEN = 4

#: A scale that leaves this share of an engine's side is enough: 2016 pixels of a phone's 4032 do for 2048, and the
#: next eighth would take twice as long.
ENOUGH = 0.95

END = b"\xff\xd9"


def eighths(width: int, height: int, side: int, max_pixels: int) -> int:
    """The scale for an engine of this side: of a wide picture as much as may be, of others as little as is needed."""
    if views.is_wide(width, height, side):
        return next((scale for scale in range(8, 1, -1) if _may_be_wide(width, height, scale, side, max_pixels)), 1)
    return next((scale for scale in range(1, 8) if max(size(width, height, scale)) >= ENOUGH * side), 8)


def size(width: int, height: int, scale: int) -> tuple[int, int]:
    """Width and height at this many eighths."""
    return -(-width * scale // 8), -(-height * scale // 8)


def decode(
    data: bytes, mode: str, width: int, height: int, notes: list[str], into: memoryview | None = None
) -> Pixels | None:
    """The pixels of a JPEG of Pillow's `mode`, this large once decoded; None if anything is wrong with them.

    RGB is decoded in place where there is memory to decode `into`.
    """
    try:
        return _strictly(data, mode, width, height, into)
    except ValueError:
        pass
    try:
        pixels = _strictly(data.rstrip(b"\xff") + END, mode, width, height, into)
    except ValueError:
        return None
    notes.append("The JPEG's end is missing; all of its pixels are there.")
    return pixels


def _may_be_wide(width: int, height: int, scale: int, side: int, max_pixels: int) -> bool:
    at = size(width, height, scale)
    return at[0] * at[1] <= max_pixels and views.count(*at, side) <= views.MAX_VIEWS


def _strictly(data: bytes, mode: str, width: int, height: int, into: memoryview | None) -> Pixels:
    colours, buffer = ("CMYK", None) if mode == "CMYK" else ("RGB", into)
    pixels: Pixels = simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, buffer=buffer)
    if pixels.shape[:2] != (height, width):
        raise ValueError("not the size that was asked for")
    if colours == "CMYK":  # stored inverted, by everyone
        return np.asarray(Image.frombytes("CMYK", (width, height), 255 - pixels).convert("RGB"))
    return pixels
