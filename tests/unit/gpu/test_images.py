"""Pictures of every accepted kind come out upright in 8-bit RGB; everything else is refused with its reason."""

from mmap import mmap

import numpy as np
import pytest
from PIL import Image

from app.common.errors import PermanentError
from app.gpu.images import Canvas, Limits, decode
from app.gpu.slots import slot_bytes
from tests.media import png_bomb
from tests.unit.gpu.pictures import ORIENTATION, Decoded, decoded, encode, halves, is_upright


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF", "BMP"])
def test_every_accepted_format_is_decoded(format_name: str) -> None:
    image = decoded(encode(halves(), format_name))
    assert image.pixels.shape == (64, 96, 3)
    assert image.pixels.dtype == np.uint8
    assert is_upright(image)
    assert image.picture.notes == []


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


def test_what_will_be_decoded_is_admitted_before() -> None:
    admitted: list[int] = []
    for data in (encode(halves((4000, 3000)), "JPEG"), encode(halves((400, 300)), "PNG")):
        decode(data, Limits(10**8, 1600, admitted.append), Canvas(memoryview(mmap(-1, slot_bytes(10**7)))))
    assert admitted == [2000 * 1500, 400 * 300]


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_a_wide_picture_is_kept_at_full_scale_and_at_reduced_ones(format_name: str) -> None:
    image = decoded(encode(halves((6000, 750)), format_name), max_side=400)
    assert [pixels.shape[:2] for pixels in image.planes] == [(750, 6000), (188, 1500), (50, 400)]
    assert [plane.whole for plane in image.picture.planes] == [False, False, True]
    assert (image.size, image.picture.notes) == ((6000, 750), [])


@pytest.mark.parametrize(
    ("orientation", "stored"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (1, None)]
)
def test_every_plane_of_a_wide_picture_shows_it_upright(orientation: int, stored: Image.Transpose | None) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = halves((6000, 750))
    found = decoded(encode(image if stored is None else image.transpose(stored), "JPEG", exif=exif), max_side=400)
    assert [is_upright(Decoded(found.picture, [pixels])) for pixels in found.planes] == [True] * 3


@pytest.mark.parametrize(("format_name", "scale"), [("JPEG", "5/8"), ("PNG", "1/2")])
def test_a_picture_too_large_to_be_looked_at_in_parts_says_at_which_scale_it_was(
    format_name: str, scale: str
) -> None:
    image = decoded(encode(halves((9000, 1200)), format_name), max_pixels=10**8, max_side=300)
    assert image.picture.notes == [
        f"The picture is too large to be looked at at full scale; it was looked at at {scale} of it."
    ]
    assert image.size == (9000, 1200)
