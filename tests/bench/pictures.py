"""The pictures that are sent: real photos, each with bytes of its own."""

import io
from functools import cache

from PIL import Image

from infra.local.photos import photos
from tests import media

#: A JPEG's first two bytes, and the marker of a comment.
START, COMMENT = b"\xff\xd8", b"\xff\xfe"


@cache
def group() -> bytes:
    """A photo as it comes: six people, 1280 × 886, 128 kB."""
    return photos()["group.jpg"].read_bytes()


@cache
def portrait() -> bytes:
    """One face, 190 × 210 pixels: what a slow engine gets, so that the rest shows."""
    return media.jpeg(media.portrait({name: path.read_bytes() for name, path in photos().items()}))


@cache
def phone() -> bytes:
    """A 12 MP photo as phones take them, with the six people across it."""
    image = Image.open(io.BytesIO(group())).convert("RGB")
    whole = Image.new("RGB", (4032, 3024), "slategray")
    whole.paste(image.resize((4032, 4032 * image.height // image.width), Image.Resampling.LANCZOS), (0, 100))
    return media.jpeg(whole)


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture as a file of its own: with a number in a comment."""
    text = b"%d" % number
    return START + COMMENT + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def padded(jpeg: bytes, size: int) -> bytes:
    """The same picture, this many bytes long."""
    return jpeg + bytes(max(0, size - len(jpeg)))
