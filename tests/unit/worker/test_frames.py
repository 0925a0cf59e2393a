"""Frames are sampled on a budget, upright, and nothing of a file's claims is believed unchecked."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from app.common.errors import PermanentError, TransientError
from app.worker.frames import Frame, Report, Sampling, Video
from app.worker.store import _Ranges
from tests import media

SIZE = (160, 120)


def sampled(data: bytes, **sampling: float) -> tuple[list[Frame], Report]:
    budget = Sampling(**{"interval_s": 1.0, "max_frames": 1000, "max_pixels": 10**8, "max_side": 1600, **sampling})  # type: ignore[arg-type]
    video = Video(io.BytesIO(data), budget)
    return list(video.frames()), video.report


def moving(seconds: float, fps: int = 10, size: tuple[int, int] = SIZE) -> Iterator[Image.Image]:
    return (media.numbered(size, number) for number in range(round(seconds * fps)))


def halves() -> Image.Image:
    """Red above, blue below: which way is up can be told."""
    return media.scene((160, 120), (Image.new("RGB", (160, 60), "red"), 0, 0), background="blue")


def top_is_red(frame: Frame) -> bool:
    assert frame.pixels is not None
    height, width = frame.pixels.shape[:2]
    top, bottom = frame.pixels[height // 4, width // 2], frame.pixels[3 * height // 4, width // 2]
    return bool(top[0] > 150 > top[2] and bottom[2] > 150 > bottom[0])


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "mpeg4", "yuv420p"),
        ("matroska", "libx265", "yuv420p10le"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("flv", "flv", "yuv420p"),
    ],
)
def test_a_frame_a_second_of_every_kind_of_video(container: str, codec: str, pix_fmt: str) -> None:
    fps = 25  # every codec here knows this rate
    data = media.video(moving(9, fps), fps=fps, container=container, codec=codec, pix_fmt=pix_fmt)
    frames, report = sampled(data)
    assert 9 <= len(frames) <= 11
    assert report.clock_restarts == 0
    assert all(frame.pixels is not None and frame.pixels.shape == (120, 160, 3) for frame in frames)
    assert [frame.time_s for frame in frames] == sorted(frame.time_s for frame in frames)
    assert frames[0].time_s < 0.5
    assert 8 <= report.until_s <= 9
    assert report.duration_s == pytest.approx(9, abs=0.1)


def test_the_budget_is_kept_and_spread_over_the_whole_video() -> None:
    frames, report = sampled(media.video(moving(12)), max_frames=4, interval_s=0.1)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 4, 8, 12], abs=0.5)
    assert report.interval_s == pytest.approx(4, abs=0.5)
    assert report.thinned


@pytest.mark.parametrize("interval", [0.2, 0.3, 0.7, 1.1])
def test_no_second_of_an_interval_is_looked_at_twice(interval: float) -> None:
    _, report = sampled(media.video(moving(21)), interval_s=interval)
    assert report.sampled == pytest.approx(21 / interval, rel=0.1)  # key frames may come a tenth early


def test_a_budget_of_one_frame_is_one_frame() -> None:
    frames, report = sampled(media.video(moving(2)), max_frames=1, interval_s=0.1)
    assert (len(frames), report.sent) == (1, 1)


def test_black_frames_are_left_out_and_still_ones_are_not_sent_twice() -> None:
    black = Image.new("RGB", SIZE, "black")
    still = media.numbered(SIZE, 3)
    frames, report = sampled(media.video([black] * 30 + [still] * 50 + [media.numbered(SIZE, 9)] * 10))
    assert report.black >= 2
    assert report.same >= 3
    assert report.sent == 2
    assert sum(frame.pixels is not None for frame in frames) == report.sent
    assert report.sampled == report.sent + report.black + report.same


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_phone_held_any_way_gives_upright_frames(rotation: int) -> None:
    stored = halves().rotate(-rotation, expand=True)
    frames, report = sampled(media.video([stored] * 15, rotation=rotation if rotation < 180 else rotation - 360))
    assert top_is_red(frames[0])
    assert (report.width, report.height) == (160, 120)


def test_large_frames_are_reduced_to_what_the_engine_uses() -> None:
    frames, report = sampled(media.video(moving(1, size=(1280, 720))), max_side=320)
    assert frames[0].pixels is not None
    assert frames[0].pixels.shape == (180, 320, 3)
    assert (report.width, report.height) == (1280, 720)


def test_frames_beyond_the_limit_are_refused_before_one_is_decoded() -> None:
    with pytest.raises(PermanentError, match="320 × 240"):
        sampled(media.video(moving(1, size=(320, 240))), max_pixels=50_000)


def test_key_frames_alone_are_decoded_where_they_suffice() -> None:
    data = media.video(moving(20, fps=25), fps=25, codec_options={"g": "10", "x264-params": "scenecut=0"})
    frames, report = sampled(data)
    assert 18 <= len(frames) <= 21
    assert all(frame.pixels is not None for frame in frames)
    assert report.damaged_packets == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (media.video(moving(3))[:-400], "damaged"),  # its index is at the end, and missing
        (b"\0\0\0\x1cftypisom" + b"garbage" * 1000, "damaged"),
        (b"a text that calls itself a video\n" * 100, "damaged"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "damaged"),
        (media.audio(), "no_video_stream"),
        (media.audio("matroska", cover=None), "no_video_stream"),
        (media.audio("mp4", cover=media.jpeg(Image.new("RGB", (64, 64), "red"))), "no_video_stream"),
    ],
)
def test_what_has_no_frames_says_why(data: bytes, code: str) -> None:
    with pytest.raises(PermanentError) as refused:
        sampled(data)
    assert refused.value.code == code


def test_a_video_cut_in_the_middle_is_read_as_far_as_it_goes() -> None:
    data = media.video(moving(20), faststart=True)
    frames, report = sampled(data[: len(data) * 6 // 10])
    assert 3 <= len(frames) < 20
    assert report.stated_s == pytest.approx(20, abs=0.1)
    assert 10 < report.until_s <= (report.duration_s or 0) < 13


def test_damage_in_the_middle_costs_the_damaged_part_only() -> None:
    data = bytearray(media.video(moving(20), faststart=True, codec_options={"g": "10"}))
    middle = len(data) * 6 // 10
    data[middle : middle + 400] = bytes(np.random.default_rng(1).integers(0, 256, 400, np.uint8))
    frames, report = sampled(bytes(data))
    assert len(frames) >= 15
    assert report.until_s >= 18


class Failing:
    """Stands in for a store that fails after some reads."""

    def __init__(self, data: bytes, reads: int) -> None:
        self.data, self.reads = data, reads

    def read(self, _version: object, offset: int, length: int) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise TransientError("The store is away.")
        return self.data[offset : offset + length]


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_a_read_that_fails_is_never_taken_for_the_end_of_the_video(reads: int) -> None:
    data = media.video(moving(60), faststart=True)

    class Version:
        size = len(data)

    ranges = _Ranges(Failing(data, reads), Version())  # type: ignore[arg-type]
    video = Video(io.BufferedReader(ranges, 4096), Sampling(1.0, 1000, 10**8, 1600))
    with contextlib.suppress(TransientError, PermanentError):
        list(video.frames())
    assert isinstance(ranges.failure, TransientError)
