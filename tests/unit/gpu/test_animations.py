"""An animation is looked at in a few of its frames, none of them empty."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from PIL import Image

from app.gpu.images import Canvas, Limits, decode
from app.gpu.slots import slot_bytes
from tests.unit.gpu.pictures import Decoded, decoded, encode, halves, is_upright


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


@pytest.mark.parametrize(("max_pixels", "frames"), [(50_000_000, 16), (96 * 64 * 4, 4), (96 * 64, 1)])
def test_room_is_asked_for_all_frames_of_an_animation_before_one_is_decoded(max_pixels: int, frames: int) -> None:
    asked: list[int] = []
    data = animation("WEBP", range(40), 40)
    decode(data, Limits(max_pixels, 2048, asked.append), Canvas(memoryview(bytearray(slot_bytes(max_pixels)))))
    assert asked == [96 * 64 * frames]
