"""What lies beside the pixels may be damaged, and the picture is none the worse for it."""

import struct
import zlib

import pytest
from PIL import Image

from tests.unit.gpu.pictures import ORIENTATION, decoded, encode, halves, is_upright


def chunk(name: bytes, data: bytes) -> bytes:
    """One of those that a PNG is made of."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: bytes) -> bytes:
    """A PNG with more before its pixels."""
    data = encode(halves(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(marker: int, body: bytes, image: Image.Image | None = None) -> bytes:
    """A JPEG with a segment before its pixels."""
    data = encode(image or halves(), "JPEG", quality=95)
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]


#: Three million bytes, in a few.
BIG = zlib.compress(b"x" * 3_000_000)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        pytest.param(png_with(chunk(b"zTXt", b"k\0\0" + BIG)), "MAX_TEXT_CHUNK", id="compressed text"),
        pytest.param(png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + BIG)), "MAX_TEXT_CHUNK", id="international text"),
        pytest.param(png_with(chunk(b"iCCP", b"k\0\0" + BIG)), "MAX_TEXT_CHUNK", id="colour profile"),
        pytest.param(png_with(chunk(b"tEXt", b"k\0v")[:-1] + b"?"), "header is damaged", id="checksum of a text"),
        pytest.param(png_with(chunk(b"pHYs", b"?")), "Truncated pHYs chunk", id="short chunk"),
        pytest.param(png_with(chunk(b"eXIf", b"XX*\0what")), "EXIF data is damaged", id="EXIF of a PNG"),
        pytest.param(jpeg_with(0xE1, b"Exif\0\0XX*\0what"), "not begin with II or MM", id="EXIF of a JPEG"),
        pytest.param(jpeg_with(0xED, b"Photoshop 3.0\x008BIMxx"), "header is damaged", id="Photoshop's"),
        pytest.param(jpeg_with(0xEE, b"Adobe"), "header is damaged", id="Adobe's"),
    ],
)
def test_what_lies_beside_the_pixels_may_be_damaged(data: bytes, note: str) -> None:
    image = decoded(data)
    assert is_upright(image)
    [said] = image.picture.notes
    assert "ignored" in said
    assert note in said


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(struct.pack(">HHIi", 0x0128, 9, 1, -5), id="a negative number"),
        pytest.param(struct.pack(">HHii", 0x0128, 3, -1, -5), id="a negative count"),
        pytest.param(struct.pack(">HHIi", 0x011A, 5, 1, -5), id="a negative offset"),
        pytest.param(struct.pack(">HHIi", 0x0128, 77, 1, 5), id="an unknown type"),
    ],
)
def test_an_orientation_holds_whatever_else_stands_in_the_exif_data(damage: bytes) -> None:
    orientation = struct.pack(">HHII", ORIENTATION, 3, 1, 6 << 16)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + orientation + damage + bytes(4)
    image = decoded(jpeg_with(0xE1, exif, halves().transpose(Image.Transpose.ROTATE_90)))
    assert image.size == (96, 64)
    assert is_upright(image)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_rubbish_behind_a_picture_does_no_harm(format_name: str) -> None:
    assert is_upright(decoded(encode(halves(), format_name) + b"rubbish" * 500))
