"""Pictures of every accepted kind come out upright in 8-bit RGB; everything else is refused with its reason."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
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
    memory = memoryview(mmap(-1, slot_bytes(max_pixels)))
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


def animation(format_name: str, shown: Iterable[int], of: int) -> bytes:
    """Something to see in these frames, and nothing in the others."""
    frames = [halves() if number in shown else Image.new("RGB", (96, 64), "white") for number in range(of)]
    for number, frame in enumerate(frames):
        frame.paste((250, 250, 250 - number), (0, 0, 1, 1))  # encoders drop what is as before
    options = {"lossless": True} if format_name == "WEBP" else {}
    return encode(frames[0], format_name, save_all=True, append_images=frames[1:], duration=40, **options)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize(
    ("shown", "of"), [(range(1, 2), 2), (range(20, 40), 40), (range(60, 80), 100), (range(100), 100)], ids=str
)
def test_of_an_animation_frames_are_sampled_that_show_something(format_name: str, shown: range, of: int) -> None:
    image = decoded(animation(format_name, shown, of))
    frames = [plane.frame or 0 for plane in image.picture.planes]
    assert set(frames) <= set(shown)
    assert len(frames) <= 16
    assert max(b - a for a, b in pairwise([shown[0] - 1, *frames, shown[-1] + 1])) <= max(1, of // 8)
    assert all(is_upright(Decoded(image.picture, [pixels])) for pixels in image.planes)
    assert image.picture.notes == [f"An animation: {len(frames)} of its frames were looked at, of {of}."]


def test_an_animation_without_anything_to_see_is_one_picture() -> None:
    assert [plane.frame for plane in decoded(animation("GIF", [], 5)).picture.planes] == [0]


def test_of_an_animation_no_more_pixels_are_kept_than_of_a_picture() -> None:
    image = decoded(animation("GIF", range(40), 40), max_pixels=96 * 64 * 4)
    assert len(image.planes) == 4
    assert image.picture.notes == [
        "An animation: 4 of its frames were looked at, of the first 16, beyond which it was not decoded."
    ]


def test_an_animation_that_is_damaged_later_is_looked_at_until_there() -> None:
    data = animation("GIF", range(40), 40)
    image = decoded(data[: len(data) * 3 // 4])
    assert max(plane.frame or 0 for plane in image.picture.planes) > 20
    assert "looked at" in image.picture.notes[0]


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


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("end", [b"", b"\xff"])
def test_a_jpeg_without_its_end_has_all_of_its_pixels(mode: str, progressive: bool, end: bytes) -> None:
    data = encode(halves().convert(mode), "JPEG", quality=95, progressive=progressive)
    assert data.endswith(b"\xff\xd9")
    image = decoded(data[:-2] + end)
    assert is_upright(image)
    assert image.picture.notes == ["The JPEG's end is missing; all of its pixels are there."]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_without_some_of_its_pixels_is_truncated(mode: str) -> None:
    data = encode(halves((960, 640)).convert(mode), "JPEG")
    for cut in (len(data) - 20, len(data) // 2):
        with pytest.raises(PermanentError) as refused:
            decoded(data[:cut])
        assert refused.value.code == "truncated"


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_rubbish_behind_a_picture_does_no_harm(format_name: str) -> None:
    assert is_upright(decoded(encode(halves(), format_name) + b"rubbish" * 500))


def test_what_is_decoded_is_limited_and_not_what_is_written_on_a_jpeg() -> None:
    photo = encode(halves((3000, 2250)), "JPEG")
    image = decoded(photo, max_pixels=2_000_000, max_side=1000)
    assert image.size == (3000, 2250)
    assert image.pixels.shape == (844, 1125, 3)
    for data, most, told in (
        (photo, 1_000_000, "more than 4 times the 1000000"),
        (encode(halves((3000, 2250)), "PNG"), 6_000_000, "more than the 6000000"),
    ):
        with pytest.raises(PermanentError, match=told) as refused:
            decoded(data, max_pixels=most, max_side=1000)
        assert refused.value.code == "too_many_pixels"
        assert refused.value.judged_by == {"MAX_IMAGE_PIXELS": most}


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


@pytest.mark.parametrize(("format_name", "scale"), [("JPEG", "5/8"), ("PNG", "1/2")])
def test_a_picture_too_large_to_be_looked_at_in_parts_says_at_which_scale_it_was(
    format_name: str, scale: str
) -> None:
    image = decoded(encode(halves((9000, 1200)), format_name), max_pixels=10**8, max_side=300)
    assert image.picture.notes == [
        f"The picture is too large to be looked at at full scale; it was looked at at {scale} of it."
    ]
    assert image.size == (9000, 1200)
