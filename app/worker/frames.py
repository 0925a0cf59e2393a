"""Frames of a video, chosen on a budget.

The stream is read once, from front to back, and decoded no further than the sampling needs. Memory holds the
decoder's own frames and the one that was chosen, whatever the video's length.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from app.common.errors import PermanentError

#: The only demuxers a file can reach; playlists and anything that opens other files are not among them.
DEMUXERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"

#: However long a video says it is, frames are never further apart than this many seconds.
LONGEST_INTERVAL = 10.0

#: Decoder threads: frame threads hold a frame each, which counts at 4K.
DECODER_THREADS = min(2, os.cpu_count() or 1)

#: Below this frame rate every frame may be a sample, so none is left undecoded.
LEAST_RATE_TO_SKIP = 8

#: Frames are compared as grey pictures of this side, in grey levels of 0 to 255.
THUMBNAIL = 32
#: A frame whose mean is below this and that has hardly any contrast is black.
BLACK_MEAN = 24
BLACK_DEVIATION = 6
#: A frame that differs less than this from the last one, on average, shows the same.
SAME_DIFFERENCE = 1.5


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame, upright, with square pixels."""

    #: Seconds from the start of the video.
    time_s: float
    #: height × width × 3, RGB; None where it shows the same as the one before.
    pixels: NDArray[np.uint8] | None


@dataclass(slots=True)
class Report:
    """What was made of a video; filled while its frames are read."""

    width: int = 0
    height: int = 0
    duration_s: float | None = None
    interval_s: float = 0.0
    sampled: int = 0
    black: int = 0
    same: int = 0
    damaged_packets: int = 0
    #: Time of the last frame that was looked at.
    until_s: float = 0.0
    #: Whether the budget ended before the video did.
    budget_spent: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """The budget."""

    interval_s: float
    max_frames: int
    max_pixels: int
    #: Longest side of the frames handed out.
    max_side: int


@dataclass(slots=True)
class Video:
    """A video whose frames can be read once."""

    stream: BinaryIO
    sampling: Sampling
    report: Report = field(default_factory=Report)

    def frames(self) -> Iterator[Frame]:
        """Sampled frames in order of time.

        Raises:
            PermanentError: there is no video in it, or none that can be decoded.
        """
        try:
            container = av.open(
                self.stream,
                mode="r",
                container_options={"format_whitelist": DEMUXERS},
                metadata_errors="replace",
            )
        except av.error.FFmpegError as error:
            raise PermanentError(
                "damaged", f"The video cannot be opened; it is damaged or truncated ({error.strerror})."
            ) from error
        with container:
            yield from self._sample(container)
        if self.report.sampled == 0:
            raise PermanentError("damaged", "Not one frame of the video can be decoded; it is damaged or encrypted.")

    def _sample(self, container: InputContainer) -> Iterator[Frame]:
        stream = _video_stream(container)
        self._describe(container, stream)
        keyframes_only = self._economise(stream)
        due, last = float("-inf"), None
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        for number, decoded in enumerate(self._decode(container, stream, keyframes_only)):
            # Streams without timestamps are taken to run evenly.
            at = decoded.time - start if decoded.time is not None else number / float(stream.guessed_rate or 25)
            if at < due:
                continue
            if self.report.sampled == self.sampling.max_frames:
                self.report.budget_spent = True
                return
            # On a grid, so that frames that come late do not thin the sampling; the share of an interval is for
            # times that lie on it but for a rounding error.
            due = math.floor(at / self.report.interval_s + 1.001) * self.report.interval_s
            self.report.sampled += 1
            self.report.until_s = max(self.report.until_s, at)
            thumbnail = decoded.reformat(THUMBNAIL, THUMBNAIL, "gray").to_ndarray().astype(np.int16)
            if thumbnail.mean() < BLACK_MEAN and thumbnail.std() < BLACK_DEVIATION:
                self.report.black += 1
                last = None
            elif last is not None and np.abs(thumbnail - last).mean() < SAME_DIFFERENCE:
                self.report.same += 1
                yield Frame(at, None)
            else:
                last = thumbnail
                yield Frame(at, self._upright(decoded, stream))

    def _describe(self, container: InputContainer, stream: VideoStream) -> None:
        context = stream.codec_context
        if context.width * context.height > self.sampling.max_pixels:
            raise PermanentError(
                "too_many_pixels",
                f"The video has {context.width} × {context.height} pixels a frame, "
                f"more than VIDEO_MAX_PIXELS={self.sampling.max_pixels}.",
            )
        if stream.duration and stream.time_base:
            self.report.duration_s = float(stream.duration * stream.time_base)
        elif container.duration:
            self.report.duration_s = container.duration / av.time_base
        thin = (self.report.duration_s or 0) / self.sampling.max_frames
        self.report.interval_s = max(self.sampling.interval_s, min(thin, LONGEST_INTERVAL))

    def _economise(self, stream: VideoStream) -> bool:
        """Tell the decoder what it may leave out; whether key frames alone are samples enough."""
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        # A stream may change its size on the way.
        stream.codec_context.options = {"max_pixels": str(self.sampling.max_pixels)}
        if _keyframe_spacing(stream) <= self.report.interval_s:
            stream.codec_context.skip_frame = "NONKEY"
            return True
        if float(stream.guessed_rate or 0) >= LEAST_RATE_TO_SKIP:
            stream.codec_context.skip_frame = "NONREF"
        return False

    def _decode(self, container: InputContainer, stream: VideoStream, keyframes_only: bool) -> Iterator[VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                # The last packet is empty and fetches what the decoder still holds.
                if keyframes_only and packet.size and not packet.is_keyframe:
                    continue
                decoded = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.report.damaged_packets += 1
                if packet is None or self.report.damaged_packets > packet_limit(self.report):
                    return
                continue
            yield from (frame for frame in decoded if isinstance(frame, VideoFrame))

    def _upright(self, frame: VideoFrame, stream: VideoStream) -> NDArray[np.uint8]:
        aspect = float(stream.sample_aspect_ratio or 1)
        width, height = round(frame.width * aspect) if 0.1 < aspect < 10 else frame.width, frame.height
        turns = round(frame.rotation / 90) % 4
        self.report.width, self.report.height = (height, width) if turns % 2 else (width, height)
        scale = min(1.0, self.sampling.max_side / max(width, height))
        size = max(2, round(width * scale)), max(2, round(height * scale))
        pixels = frame.reformat(*size, format="rgb24").to_ndarray()
        # The display matrix turns counter-clockwise, as does numpy.
        return np.ascontiguousarray(np.rot90(pixels, turns))


def packet_limit(report: Report) -> int:
    """Damaged packets after which a video is given up: more than any that can still be watched."""
    return 1000 + 10 * report.sampled


def _video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; the cover of a song is not one."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise PermanentError("no_video_stream", "The file has no video stream.")
    stream = streams[0]
    if stream.codec_context is None or not stream.codec_context.name:
        raise PermanentError("unsupported_codec", "The video's codec is not known to this build of FFmpeg.")
    if stream.codec_context.codec_tag == "encv":
        raise PermanentError("encrypted", "The video is encrypted (common encryption); it cannot be decoded.")
    return stream


def _keyframe_spacing(stream: VideoStream) -> float:
    """The longest time in seconds from one key frame to the next; infinite where the container has no index."""
    times = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe]
    if len(times) < 2 or not stream.time_base:
        return float("inf")
    last = (stream.start_time or 0) + (stream.duration or 0)
    return float(max(np.diff([*times, max(last, times[-1])])) * stream.time_base)
