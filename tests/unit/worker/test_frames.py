"""Frames are sampled on a budget, upright, and nothing of a file's claims is believed unchecked."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import av
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
    assert 9 <= len(frames) <= 12
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


@pytest.mark.parametrize(
    ("pix_fmt", "max_side", "rotation", "subsampled"),
    [
        ("yuv420p", 2048, 0, True),
        ("yuv420p", 2048, 90, True),
        ("yuv420p", 80, 0, False),  # reduced by half, it has a colour for each pixel again
        ("yuv422p", 2048, 0, False),
        ("yuv444p", 2048, 0, False),
    ],
)
def test_a_frame_says_whether_it_has_a_colour_for_each_pixel(
    pix_fmt: str, max_side: int, rotation: int, subsampled: bool
) -> None:
    data = media.video(moving(1, size=(160, 120)), pix_fmt=pix_fmt, rotation=rotation)
    frames, _ = sampled(data, max_side=max_side)
    assert frames[0].pixels is not None
    assert frames[0].size == frames[0].pixels.shape[1::-1]
    assert frames[0].subsampled is subsampled


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


def looks(frames: list[Frame], stream: int = 0) -> list[float]:
    """When a stream was looked at."""
    return [frame.time_s for frame in frames if frame.stream == stream]


def covers(times: list[float], seconds: float, within: float = 1.2) -> bool:
    """Whether no part of so many seconds is further than that from a look."""
    return bool(max(np.diff([0.0, *times, seconds])) <= within)


FPS = 25


def segment(
    container: str, codec: str, first: int, size: tuple[int, int] = SIZE, mux: dict[str, str] | None = None
) -> bytes:
    """Eight seconds; the frames of no two segments are the same."""
    frames = (media.numbered(size, first + number) for number in range(8 * FPS))
    return media.video(frames, fps=FPS, container=container, codec=codec, mux_options=mux)


@pytest.mark.parametrize(
    ("container", "codec", "mux"),
    [
        ("mpegts", "libx264", {}),
        ("mpegts", "mpeg2video", {"mpegts_m2ts_mode": "1"}),
        ("mpeg", "mpeg1video", {}),
        ("vob", "mpeg2video", {}),
        ("flv", "flv", {}),
        ("flv", "libx264", {}),
        ("webm", "libvpx-vp9", {}),
        ("matroska", "libx264", {}),
        ("mp4", "libx264", {}),
        ("mov", "mpeg4", {}),
        ("asf", "wmv2", {}),
        ("avi", "mpeg4", {}),
    ],
)
def test_time_goes_on_where_recordings_were_joined(container: str, codec: str, mux: dict[str, str]) -> None:
    one, other = (segment(container, codec, first, mux=mux) for first in (0, 300))
    frames, report = sampled(one + other)
    assert covers(looks(frames), 16)
    assert looks(frames) == sorted(looks(frames))
    assert report.duration_s == pytest.approx(16, abs=0.2)
    assert report.clock_restarts == (container != "avi")  # libav counts AVI's frames by itself


def test_camera_segments_of_less_than_a_second_are_all_looked_at() -> None:
    parts = [
        media.video((media.numbered(SIZE, 100 * part + n) for n in range(20)), fps=FPS, container="mpegts")
        for part in range(5)
    ]
    frames, report = sampled(b"".join(parts))
    assert covers(looks(frames), 4, within=0.7)
    assert report.clock_restarts == 4


def test_a_joined_segment_may_have_another_size_and_another_program() -> None:
    other = segment(
        "mpegts", "mpeg2video", 300, (320, 240), {"mpegts_start_pid": "0x200", "mpegts_pmt_start_pid": "0x1100"}
    )
    frames, _ = sampled(segment("mpegts", "libx264", 0) + other)
    assert covers([frame.time_s for frame in frames], 16)
    larger = [frame for frame in frames if frame.time_s > 8.2]
    assert all(frame.pixels is not None and frame.pixels.shape == (240, 320, 3) for frame in larger)


def test_what_follows_a_video_and_is_none_is_no_part_of_it() -> None:
    frames, report = sampled(segment("flv", "flv", 0) + b"FLV\x01\x05\0\0\0\x09" + bytes(20_000))
    assert covers(looks(frames), 8)
    assert report.duration_s == pytest.approx(8, abs=0.1)


def unmarked(packet: Any) -> list[Any]:
    packet.is_keyframe = False
    return [packet]


def marked(packet: Any) -> list[Any]:
    packet.is_keyframe = True
    return [packet]


REFRESH = {"x264-params": "intra-refresh=1:scenecut=0:keyint=1000"}
UNTRUE: dict[str, Callable[[], bytes]] = {
    "MP4 without its table of key frames": lambda: media.video(moving(20)).replace(b"stss", b"free"),
    "AVI whose index calls each a key frame": lambda: media.all_key(
        media.video(moving(20), container="avi", codec="mpeg4", codec_options={"g": "300"})
    ),
    "MKV that calls each a key frame": lambda: media.repacked(media.video(moving(20)), "matroska", marked),
    "MKV that calls none a key frame": lambda: media.repacked(media.video(moving(20)), "matroska", unmarked),
    "intra refresh": lambda: media.video(moving(20), codec_options=REFRESH),
    "intra refresh, all marked": lambda: media.video(moving(20), codec_options=REFRESH).replace(b"stss", b"free"),
    "intra refresh in MPEG-TS": lambda: media.video(moving(20), container="mpegts", codec_options=REFRESH),
    "long runs of frames that none refers to": lambda: media.video(
        moving(20), codec_options={"bf": "16", "x264-params": "b-adapt=0:b-pyramid=0:scenecut=0"}
    ),
    "open groups of pictures": lambda: media.video(
        moving(20, FPS), fps=FPS, container="mpegts", codec_options={"g": "25", "x264-params": "open-gop=1"}
    ),
    "interlaced": lambda: media.video(
        moving(20, FPS), fps=FPS, container="mpegts", codec="mpeg2video", codec_options={"flags": "+ildct+ilme"}
    ),
}


@pytest.mark.parametrize("kind", UNTRUE)
def test_the_stream_is_believed_and_not_its_container_s_marks(kind: str) -> None:
    frames, report = sampled(UNTRUE[kind]())
    assert covers(looks(frames), 20)
    assert 19 <= len(frames) <= 24
    assert all(frame.pixels is not None for frame in frames)
    assert report.damaged_packets == 0


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("matroska", "libx264"), ("mov", "mpeg4"), ("mpegts", "libx264"), ("avi", "mpeg4"),
     ("asf", "wmv2")],
)  # fmt: skip
def test_every_stream_of_pictures_is_looked_at(container: str, codec: str) -> None:
    proxy = (media.numbered((64, 48), 400 + number) for number in range(9 * FPS))
    frames, report = sampled(media.streams(moving(9, FPS), proxy, fps=FPS, container=container, codec=codec))
    for stream, size in ((0, (120, 160, 3)), (1, (48, 64, 3))):
        assert covers(looks(frames, stream), 9)
        assert all(f.pixels is not None and f.pixels.shape == size for f in frames if f.stream == stream)
    assert [(one.width, one.height) for one in report.streams.values()] == [(160, 120), (64, 48)]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_still_in_front_hides_nothing(container: str) -> None:
    still = [media.numbered((64, 64), 3)]
    frames, _ = sampled(media.streams(still, moving(9, FPS), fps=FPS, container=container))
    assert len(looks(frames, 0)) == 1
    assert covers(looks(frames, 1), 9)


def test_several_streams_share_one_budget() -> None:
    frames, report = sampled(media.streams(moving(40), moving(40)), max_frames=20)
    assert report.sent <= 20
    for stream in (0, 1):
        assert covers(looks(frames, stream), 40, within=6)


def test_a_stream_beyond_the_limit_is_left_out_and_the_others_are_not() -> None:
    data = media.streams(moving(3), moving(3, size=(640, 480)))
    frames, report = sampled(data, max_pixels=100_000)
    assert {frame.stream for frame in frames} == {0}
    assert "640 × 480" in (report.streams[1].left_out or "")


def test_each_stream_is_upright_by_itself() -> None:
    turned = [halves().rotate(-90, expand=True)] * 20
    frames, report = sampled(media.streams(moving(2), turned, rotations=(0, 90)))
    assert top_is_red(next(frame for frame in frames if frame.stream == 1))
    assert (report.streams[1].width, report.streams[1].height) == (160, 120)


def test_a_video_that_says_it_lasts_a_day_is_looked_at_as_the_half_minute_that_it_is() -> None:
    data = media.video(moving(30), container="matroska")
    frames, report = sampled(media.stating(data, 95_443))
    assert covers(looks(frames), 30)
    assert report.duration_s == pytest.approx(30, abs=0.2)
    assert report.stated_s == pytest.approx(95_443)
    assert not report.thinned


@pytest.mark.parametrize("kind", ["says nothing", "says too little", "says it truly", "says too much"])
def test_the_budget_is_spread_over_what_is_there_whatever_the_file_says(kind: str) -> None:
    size = (64, 64)
    data = media.video(moving(600, 1, size), fps=1, container="matroska", codec="mpeg4")
    data = {
        "says nothing": lambda: media.live(moving(600, 1, size), fps=1),
        "says too little": lambda: media.stating(data, 10),
        "says it truly": lambda: data,
        "says too much": lambda: media.stating(data, 86_400),
    }[kind]()
    frames, report = sampled(data, max_frames=50)
    assert 30 <= report.sent <= 50
    assert report.thinned
    assert covers(looks(frames), 600, within=30)
    assert report.until_s == pytest.approx(599, abs=1)


def test_a_still_scene_uses_up_no_budget() -> None:
    still, other = media.numbered(SIZE, 3), media.numbered(SIZE, 8)
    frames, report = sampled(media.video([still] * 400 + [other] * 20 + [still] * 180), max_frames=20)
    seen = [frame.time_s for frame in frames if frame.pixels is not None]
    assert any(40 <= time <= 42 for time in seen)
    assert report.sent < 20


@pytest.mark.parametrize("colour", ["black", "white", "darkgreen"])
@pytest.mark.parametrize(("seconds", "blank"), [(0.8, 0.5), (1.0, 0.7), (1.4, 1.1), (1.9, 1.6)])
def test_a_short_clip_that_begins_with_nothing_is_looked_at_closely(
    colour: str, seconds: float, blank: float
) -> None:
    nothing, something = Image.new("RGB", SIZE, colour), media.numbered(SIZE, 7)
    shown = round((seconds - blank) * FPS)
    frames, report = sampled(media.video([nothing] * round(blank * FPS) + [something] * shown, fps=FPS))
    assert report.sent == 1
    assert blank <= frames[0].time_s <= seconds


def test_someone_who_enters_late_in_a_short_clip_is_seen() -> None:
    room, person = media.numbered(SIZE, 4), media.numbered(SIZE, 9)
    frames, _ = sampled(media.video([room] * 30 + [person] * 8, fps=FPS))
    assert sum(frame.pixels is not None for frame in frames) == 2


@pytest.mark.parametrize("every", [3, 25])
def test_empty_packets_mean_as_before(every: int) -> None:
    data = media.video(moving(20, FPS), fps=FPS, container="avi", codec="mpeg4", codec_options={"g": "300"})
    frames, report = sampled(media.emptied(data, every))
    assert covers(looks(frames), 20, within=1.3)
    assert report.damaged_packets == 0
    assert report.duration_s == pytest.approx(20, abs=1)  # empty packets at the end are not handed out


def test_packets_that_say_as_before_are_not_damaged_ones() -> None:
    def not_coded(packet: Any) -> list[Any]:
        if packet.is_keyframe or packet.pts % 2 == 0:
            return [packet]
        # A VOP of MPEG-4 whose bit "coded" is not set, as XviD writes it where nothing changed.
        same = av.Packet(b"\0\0\x01\xb6\x50\xcf\xff")
        same.pts, same.dts, same.time_base = packet.pts, packet.dts, packet.time_base
        return [same]

    data = media.video(moving(20, FPS), fps=FPS, container="avi", codec="mpeg4", codec_options={"g": "50"})
    frames, report = sampled(media.repacked(data, "avi", not_coded))
    assert covers(looks(frames), 20)
    assert report.damaged_packets == 0


def test_a_size_that_changes_midway_is_told_with_each_frame() -> None:
    data = segment("mpegts", "libx264", 0) + segment("mpegts", "libx264", 300, (320, 240))
    frames, report = sampled(data, max_side=200)
    assert (report.streams[0].width, report.streams[0].height) == (320, 240)
    for frame in frames:
        assert frame.pixels is not None
        height, width = frame.pixels.shape[:2]
        shown = (160, 120) if frame.time_s < 8 else (320, 240)
        assert (width * frame.scale[0], height * frame.scale[1]) == pytest.approx(shown, abs=0.5)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 5, 30, 31, 100], [0, 5, 30, 31, 100]),  # a slide show
        ([5 * n for n in range(12)], [5 * n for n in range(12)]),  # a time lapse of 0.2 frames a second
        ([0, 0.04, 0.08, 2, 2.04, 2.08, 9, 9.04, 20], [0, 2, 9, 20]),  # a screen that changes now and then
        ([0.5], [0]),
    ],
)
def test_frames_come_at_any_time(times: list[float], expected: list[float]) -> None:
    frames, _ = sampled(media.timed(times))
    assert looks(frames) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_clock_may_begin_anywhere(container: str) -> None:
    frames, report = sampled(media.timed([100 + n / FPS for n in range(10 * FPS)], container=container))
    assert covers(looks(frames), 10)
    assert report.duration_s == pytest.approx(10, abs=0.1)
    assert report.stated_s == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("container", "codec"), [("mpegts", "libx264"), ("matroska", "libx264"), ("flv", "flv"), ("avi", "mpeg4")]
)
def test_a_recording_that_was_cut_off_is_read_as_far_as_it_goes(container: str, codec: str) -> None:
    data = media.video(moving(20, FPS), fps=FPS, container=container, codec=codec)
    begin = 30_000 if container == "mpegts" else 0
    frames, report = sampled(data[begin : len(data) * 7 // 10])
    assert covers(looks(frames), report.duration_s or 0)
    assert 6 < (report.duration_s or 0) < 15
