"""Pictures of every accepted kind come out upright in 8-bit RGB; everything else is refused with its reason."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.common.errors import PermanentError
from app.gpu.faces import Image as Pixels
from app.gpu.images import Canvas, Limits, Picture, decode
from app.gpu.slots import slot_bytes
from tests.media import png_bomb

ORIENTATION = 0x0112


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
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
    memory = memoryview(bytearray(slot_bytes(max_pixels)))
    picture = decode(data, Limits(max_pixels, max_side), Canvas(memory))
    return Decoded(picture, [plane.pixels(memory) for plane in picture.planes])


def is_upright(image: Decoded) -> bool:
    height = image.pixels.shape[0]
    top, bottom = image.pixels[height // 4].mean(axis=0), image.pixels[3 * height // 4].mean(axis=0)
    return bool(top[0] > 150 > top[2] and bottom[2] > 150 > bottom[0])


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF", "BMP"])
def test_every_accepted_format_is_decoded(format_name: str) -> None:
    image = decoded(encode(halves(), format_name))
    assert image.pixels.shape == (64, 96, 3)
    assert image.pixels.dtype == np.uint8
    assert is_upright(image)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_every_mode_of_png_becomes_rgb(mode: str) -> None:
    assert decoded(encode(halves().convert(mode), "PNG")).pixels.shape == (64, 96, 3)


def test_cmyk_becomes_rgb() -> None:
    assert is_upright(decoded(encode(halves().convert("CMYK"), "JPEG")))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_grey_is_reduced_and_not_clipped(bits: int) -> None:
    ramp = np.linspace(0, 2**bits - 1, 96).astype(np.uint16)
    image = decoded(encode(Image.fromarray(np.tile(ramp, (64, 1))), "PNG"))
    row = image.pixels[32, :, 0].astype(int)
    assert row[0] == 0
    assert 250 <= row[-1] <= 255
    assert abs(row[48] - 128) < 4


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_exif_orientation_is_followed(orientation: int, stored: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = decoded(encode(halves().transpose(stored), "JPEG", exif=exif, quality=95))
    assert image.size == (96, 64)
    assert is_upright(image)


def test_deep_grey_keeps_its_orientation() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    values = np.full((96, 64), 60_000, np.uint16)
    image = decoded(encode(Image.fromarray(values), "PNG", exif=exif))
    assert image.pixels.shape[:2] == (64, 96)


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500), (9_000, 2)])
def test_a_large_jpeg_may_be_as_narrow_as_it_likes(size: tuple[int, int]) -> None:
    image = decoded(encode(Image.new("RGB", size), "JPEG"))
    assert image.size == size
    assert all(min(pixels.shape[:2]) >= 1 for pixels in image.planes)


@pytest.mark.parametrize(
    ("size", "eighths"),
    [((1500, 1100), 6), ((1000, 800), 8), ((4000, 2100), 2), ((3000, 2000), 3), ((7000, 5000), 2)],
)
def test_a_large_jpeg_is_decoded_at_the_eighth_that_is_needed(size: tuple[int, int], eighths: int) -> None:
    image = decoded(encode(halves(size), "JPEG"), max_pixels=10**8, max_side=1000)
    assert image.pixels.shape[1] == -(-size[0] * eighths // 8)
    assert image.size == size
    assert is_upright(image)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"just text", "not_an_image"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (png_bomb(50_000), "too_many_pixels"),
        (encode(halves((960, 640)), "JPEG")[:-300], "truncated"),
        (encode(halves(), "PNG")[:60], "truncated"),
        (encode(halves(), "WEBP")[:-40], "damaged"),
        (encode(halves(), "PNG").replace(b"IDAT", b"ID\0T"), "damaged"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, code: str) -> None:
    with pytest.raises(PermanentError) as refused:
        decoded(data)
    assert refused.value.code == code
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF"])
def test_pictures_cut_anywhere_are_refused_or_decoded_and_nothing_else(format_name: str) -> None:
    data = encode(halves(), format_name)
    for cut in range(0, len(data), max(1, len(data) // 25)):
        try:
            decoded(data[:cut])
        except PermanentError as error:
            assert error.code in ("empty", "not_an_image", "damaged", "truncated", "too_many_pixels")
