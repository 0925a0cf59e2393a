"""JPEGs are decoded at the scale that is needed, whole or not at all."""

import numpy as np
import pytest

from app.common.errors import PermanentError
from app.gpu import jpegs
from tests.unit.gpu.pictures import decoded, encode, halves, is_upright


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500), (9_000, 2)])
def test_a_large_jpeg_may_be_as_narrow_as_it_likes(size: tuple[int, int]) -> None:
    image = decoded(encode(halves(size), "JPEG"))
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


@pytest.mark.parametrize(("side", "eighths"), [(1600, 4), (2048, 4), (2200, 5), (4032, 8), (500, 1)])
def test_a_phones_photo_is_decoded_at_no_more_than_an_engine_can_use(side: int, eighths: int) -> None:
    assert jpegs.eighths(4032, 3024, side, 10**8) == eighths


def test_a_photo_of_108_million_pixels_is_not_too_large() -> None:
    image = decoded(encode(halves((12_000, 9000)), "JPEG"), max_pixels=10**8)
    assert image.size == (12_000, 9000)
    assert image.pixels.shape == (2250, 3000, 3)
    assert is_upright(image)


def test_a_jpeg_is_decoded_where_an_engine_looks_at_it() -> None:
    memory = memoryview(bytearray(3 * 96 * 64 + 100))
    pixels = jpegs.decode(encode(halves(), "JPEG"), "RGB", 96, 64, [], memory)
    assert pixels is not None
    assert np.shares_memory(pixels, np.frombuffer(memory, np.uint8))


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
