"""A change the size of the smallest face that an engine finds counts; noise and flicker do not."""

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.worker.comparing import Thumbnail, is_blank, shows_the_same, thumbnail

SIZE = (1600, 900)


def room() -> NDArray[np.float32]:
    across, down = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    return np.asarray(90 + 40 * np.sin(across / 90) + 30 * np.cos(down / 70), np.float32)


def seen(grey: NDArray[np.float32], noise: float = 0, seed: int = 1) -> Thumbnail:
    noisy = grey + np.random.default_rng(seed).normal(0, noise, grey.shape)
    return thumbnail(av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="gray"), 1600)


def with_person(side: int, x: int, y: int, contrast: float = 15) -> NDArray[np.float32]:
    grey = room()
    grey[y : y + side, x : x + side] += contrast
    return grey


@pytest.mark.parametrize("noise", [0, 4, 8])
@pytest.mark.parametrize(("side", "x", "y"), [(40, 0, 0), (40, 803, 447), (40, 1560, 860), (150, 700, 300)])
def test_the_smallest_face_counts_wherever_it_appears(noise: float, side: int, x: int, y: int) -> None:
    assert not shows_the_same(seen(with_person(side, x, y), noise, 2), seen(room(), noise))


@pytest.mark.parametrize("noise", [0, 4, 8])
@pytest.mark.parametrize("light", [-6, 0, 6])
def test_noise_and_flicker_are_nothing_new(noise: float, light: float) -> None:
    assert shows_the_same(seen(room() + light, noise, 2), seen(room(), noise))


def test_a_light_that_is_switched_on_is_a_change() -> None:
    assert not shows_the_same(seen(room() + 40), seen(room()))


def test_a_picture_that_becomes_sharp_is_a_change() -> None:
    lines = room() + 12 * (np.indices((SIZE[1], SIZE[0]))[1] // 8 % 2)
    blurred = room() + 6
    assert not shows_the_same(seen(lines.astype(np.float32)), seen(blurred))


def test_frames_of_another_size_are_never_the_same() -> None:
    assert not shows_the_same(seen(room()[:450]), seen(room()))


@pytest.mark.parametrize("grey", [0, 16, 128, 255])
def test_one_colour_is_blank_and_a_small_face_in_it_is_not(grey: float) -> None:
    plain = np.full((SIZE[1], SIZE[0]), grey, np.float32)
    assert is_blank(seen(plain, noise=3))
    plain[400:440, 800:840] += 60 if grey < 128 else -60
    assert not is_blank(seen(plain, noise=3))
