"""Pictures of every accepted kind come out upright in 8-bit RGB; everything else is refused with its reason."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.common.errors import PermanentError
from app.gpu.images import DecodedImage, decode
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


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500), (9_000, 2)])
def test_a_large_jpeg_may_be_as_narrow_as_it_likes(size: tuple[int, int]) -> None:
    image = decoded(encode(Image.new("RGB", size), "JPEG"))
    assert (image.width, image.height) == size
    assert min(image.pixels.shape[:2]) >= 1


def decoded(data: bytes, max_pixels: int = 10**7, max_side: int = 1600) -> DecodedImage:
    return decode(data, max_pixels=max_pixels, max_side=max_side)


def is_upright(image: DecodedImage) -> bool:
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
    assert (image.width, image.height) == (96, 64)
    assert is_upright(image)


def test_deep_grey_keeps_its_orientation() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    values = np.full((96, 64), 60_000, np.uint16)
    image = decoded(encode(Image.fromarray(values), "PNG", exif=exif))
    assert image.pixels.shape[:2] == (64, 96)


def test_a_large_jpeg_is_reduced_and_keeps_its_own_coordinates() -> None:
    image = decoded(encode(halves((4000, 2000)), "JPEG"), max_side=1000)
    assert max(image.pixels.shape) < 2000
    assert max(image.pixels.shape) >= 1000
    assert (image.width, image.height) == (4000, 2000)
    assert image.scale == pytest.approx((4000 / image.pixels.shape[1], 2000 / image.pixels.shape[0]))


def test_the_first_frame_of_an_animation_counts() -> None:
    data = encode(halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64), "white")])
    assert is_upright(decoded(data))


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
