"""Frames of a video, chosen on a budget.

The file is read once, from front to back, all its streams of pictures together, and decoded no further than the
sampling needs. Memory holds the decoders' own frames, packets that wait, and the frames that were chosen and are not
sent yet, whatever the video's length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from app.common.errors import PermanentError
from app.worker.comparing import Thumbnail, is_blank, shows_the_same, thumbnail
from app.worker.converting import converted
from app.worker.decoding import Look, StreamSampler
from app.worker.sampling import Budget, Clock
from app.worker.streams import DECODER, clock_may_jump, moving_pictures, next_part, opened, why_not

#: Looks are said to be thinner than asked for, from this factor on.
THINNER = 1.2

#: Parts joined end to end that are read at most.
MOST_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame, upright, with square pixels."""

    #: Seconds from the start of the video.
    time_s: float
    #: Index of its stream in the file.
    stream: int
    #: Width and height in pixels; None where it shows the same as the one before.
    size: tuple[int, int] | None = None
    #: Factors (x, y) from coordinates in `pixels` to those in the frame as it is shown.
    scale: tuple[float, float] = (1.0, 1.0)
    #: As decoded, or reduced where it is larger than `pixels`; and the quarter turns, counter-clockwise, to upright.
    decoded: VideoFrame | None = None
    turns: int = 0

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """height × width × 3, RGB; made each time, so that whoever sends frames does it while others are decoded."""
        if self.decoded is None:
            return None
        pixels = converted(self.decoded, *self._lying, "rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, self.turns), np.uint8)

    @property
    def subsampled(self) -> bool:
        """Whether there is a colour for every other of these pixels at most, in rows and columns."""
        if self.decoded is None:
            return False
        width, height = self._lying
        chroma = self.decoded.format
        return 2 * chroma.chroma_width() <= width + 1 and 2 * chroma.chroma_height() <= height + 1

    @property
    def _lying(self) -> tuple[int, int]:
        """Width and height before it is turned."""
        width, height = self.size or (0, 0)
        return (height, width) if self.turns % 2 else (width, height)


@dataclass(slots=True)
class StreamReport:
    """What was made of one stream."""

    index: int
    codec: str
    #: Size as shown: of the largest frame that was looked at, or as stated while none was.
    width: int
    height: int
    sampled: int = 0
    #: Why it was not looked at.
    left_out: str | None = None


@dataclass(slots=True)
class Report:
    """What was made of a video; filled while its frames are read."""

    streams: dict[int, StreamReport] = field(default_factory=dict)
    #: What the file says its length is, and what it turned out to be.
    stated_s: float | None = None
    duration_s: float | None = None
    #: The longest time between two looks at one stream, as planned.
    interval_s: float = 0.0
    sampled: int = 0
    #: Frames sent on, of one colour, and the same as the one before: together those sampled.
    sent: int = 0
    black: int = 0
    same: int = 0
    damaged_packets: int = 0
    #: Time of the last frame that was looked at.
    until_s: float = 0.0
    #: How often the clock started again.
    clock_restarts: int = 0
    #: Whether the budget of frames sampled the video more thinly than the interval asked for.
    thinned: bool = False

    @property
    def width(self) -> int:
        """Of the first stream that was looked at."""
        return self._main.width

    @property
    def height(self) -> int:
        return self._main.height

    @property
    def _main(self) -> StreamReport:
        seen = [stream for stream in self.streams.values() if stream.sampled]
        return (seen or list(self.streams.values()) or [StreamReport(0, "", 0, 0)])[0]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The budget."""

    interval_s: float
    #: Most frames handed out with pixels.
    max_frames: int
    max_pixels: int
    #: Longest side of the frames handed out.
    max_side: int


class Video:
    """A video whose frames can be read once."""

    def __init__(self, stream: BinaryIO, sampling: Sampling) -> None:
        self.sampling = sampling
        self.report = Report()
        self._stream = stream
        self._size = 0
        self._clock = Clock()
        self._budget = Budget(sampling.interval_s, sampling.max_frames)
        #: Byte that was read last.
        self._position = 0

    def frames(self) -> Iterator[Frame]:
        """Sampled frames in order of time.

        Raises:
            PermanentError: there is no video in it, or none that can be decoded.
        """
        self._size = self._stream.seek(0, 2)
        self._stream.seek(0)
        begin: int | None = 0
        for number in range(MOST_PARTS):
            if begin is None:
                break
            try:
                yield from self._part(begin)
            except PermanentError:
                if number == 0:
                    raise
            begin = self._next_part(begin)
        self.report.clock_restarts = self._clock.restarts
        if self.report.sampled == 0:
            raise PermanentError(
                "damaged",
                "Not one frame of the video can be decoded; it is damaged or encrypted.",
                {"video_decoder": DECODER},
            )

    def _next_part(self, begin: int) -> int | None:
        after = next_part(self._stream, begin, self._position)
        return after if after is not None and after > begin else None

    def _part(self, begin: int) -> Iterator[Frame]:
        with opened(self._stream, begin) as container:
            streams = self._choose(container)
            if begin == 0:
                self.report.stated_s = _stated(container, streams)
            origin = container.start_time / av.time_base if container.start_time is not None else None
            self._clock.begin(origin, may_jump=clock_may_jump(container))
            watched = {stream.index: _Watched(self, stream) for stream in streams}
            self._budget.streams = max(1, len(watched))
            for packet in self._packets(container, streams):
                if packet.pos is not None and packet.pos >= 0:
                    self._position = max(self._position, begin + packet.pos)
                yield from watched[packet.stream_index].push(packet)
            for one in watched.values():
                yield from one.finish()
        self.report.duration_s = self._clock.latest

    def _choose(self, container: InputContainer) -> list[VideoStream]:
        """The streams that can be looked at.

        Raises:
            PermanentError: there are none, and why.
        """
        chosen, refusals = [], []
        for stream in moving_pictures(container):
            refusal = why_not(stream, self.sampling.max_pixels)
            if refusal:
                refusals.append(refusal)
            else:
                chosen.append(stream)
            context = stream.codec_context
            if stream.index not in self.report.streams:
                self.report.streams[stream.index] = StreamReport(
                    stream.index,
                    context.name if context else "unknown",
                    context.width if context else 0,
                    context.height if context else 0,
                    left_out=refusal.message if refusal else None,
                )
        if not chosen:
            raise refusals[0] if refusals else PermanentError("no_video_stream", "The file has no video stream.")
        return chosen

    def _packets(self, container: InputContainer, streams: list[VideoStream]) -> Iterator["Packet[VideoStream]"]:
        """Packets in the order of the file, over places that cannot be read."""
        packets, failures = container.demux(tuple(streams)), 0
        while failures < packet_limit(self.report):
            try:
                packet = next(packets, None)
            except (av.error.EOFError, IndexError):
                # PyAV raises IndexError for a stream that was not there when the file was opened: the next part's.
                return
            except av.error.FFmpegError:
                self.report.damaged_packets += 1
                failures += 1
                packets = container.demux(tuple(streams))
                continue
            if packet is None:
                return
            # The last packet of each stream is none: it says that there are no more.
            if packet.size or packet.dts is not None or packet.pts is not None:
                yield packet

    def spacing(self, time: float) -> float:
        """Seconds from a look at `time` to the next."""
        read = self._position / self._size if self._size else 0.0
        return self._budget.spacing(time, latest=self._clock.latest, read=read, stated=self.report.stated_s)

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def budget(self) -> Budget:
        return self._budget


class _Watched:
    """One stream: its sampler, and what was seen of it last."""

    def __init__(self, video: Video, stream: VideoStream) -> None:
        self._video, self._stream = video, stream
        self._sampler = StreamSampler(stream, video.sampling.max_pixels)
        self._report = video.report.streams[stream.index]
        self._looked = 0.0
        #: What was sent on last; None after a frame of one colour.
        self._shown: Thumbnail | None = None
        #: Seconds to the next look, while frames are of one colour.
        self._blank_step = 0.0

    def push(self, packet: "Packet[VideoStream]") -> Iterator[Frame]:
        """Take a packet; give the frames that are due."""
        if self._sampler.damaged <= packet_limit(self._video.report):
            time = self._video.clock.time(packet)
            if not self._blank_step:
                self._sampler.wait(self._video.spacing(self._sampler.looked_s))
            yield from self._see(self._sampler.push(packet, time))

    def finish(self) -> Iterator[Frame]:
        """Give what is left: the video's end is looked at, whatever was spent."""
        longest = min(self._video.spacing(self._video.clock.latest), self._video.sampling.interval_s) / 2
        yield from self._see(self._sampler.finish(longest))
        self._video.report.damaged_packets += self._sampler.damaged

    def _see(self, looks: Iterator[Look]) -> Iterator[Frame]:
        for look in looks:
            report, budget = self._video.report, self._video.budget
            self._report_distance(look.time_s)
            if budget.used_up:
                self._sampler.wait(float("inf"))
                continue
            report.sampled += 1
            budget.looked += 1
            self._report.sampled += 1
            report.until_s = max(report.until_s, look.time_s)
            thumb = thumbnail(look.frame, self._video.sampling.max_side) if look.frame else None
            if thumb is not None and is_blank(thumb):
                report.black += 1
                self._shown = None
                self._sampler.wait(self._until_something_shows(look.time_s))
                continue
            self._blank_step = 0.0
            if look.frame is None or thumb is None:
                if self._shown is None:
                    report.black += 1
                else:
                    report.same += 1
                    yield Frame(look.time_s, self._stream.index)
            elif self._shown is not None and shows_the_same(thumb, self._shown):
                report.same += 1
                yield Frame(look.time_s, self._stream.index)
            else:
                self._shown = thumb
                report.sent += 1
                budget.sent += 1
                yield self._upright(look.time_s, look.frame)
            self._sampler.wait(self._video.spacing(look.time_s))

    def _report_distance(self, time: float) -> None:
        """Say how far apart the looks are, and whether the budget is why."""
        distance, report = min(time - self._looked, self._sampler.spacing_s), self._video.report
        self._looked = time
        report.interval_s = max(report.interval_s, distance)
        report.thinned |= distance > THINNER * self._video.sampling.interval_s

    def _until_something_shows(self, time: float) -> float:
        """From one frame to the next at first, then further and further."""
        self._blank_step = max(2 * self._blank_step, self._sampler.frame_s)
        self._blank_step = min(self._blank_step, self._video.spacing(time))
        return self._blank_step

    def _upright(self, time: float, frame: VideoFrame) -> Frame:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        width, height = round(frame.width * aspect) if 0.1 < aspect < 10 else frame.width, frame.height
        turns = round(frame.rotation / 90) % 4
        shown = (height, width) if turns % 2 else (width, height)
        if shown[0] * shown[1] > self._report.width * self._report.height or self._report.sampled == 1:
            self._report.width, self._report.height = shown
        scale = min(1.0, self._video.sampling.max_side / max(width, height))
        size = max(2, round(width * scale)), max(2, round(height * scale))
        upright = size[::-1] if turns % 2 else size
        scales = shown[0] / upright[0], shown[1] / upright[1]
        if scale < 1:  # several of them wait to be sent
            frame = converted(frame, *size, "rgb24")
        # The display matrix turns counter-clockwise, as does numpy.
        return Frame(time, self._stream.index, upright, scales, frame, turns)


def packet_limit(report: Report) -> int:
    """Damaged packets after which a video is given up: more than any that can still be watched."""
    return 1000 + 10 * report.sampled


def _stated(container: InputContainer, streams: list[VideoStream]) -> float | None:
    """How long the file says that it is."""
    lengths = [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
    if lengths:
        return max(lengths)
    if not container.duration:
        return None
    # Matroska's length is where its clock ends, wherever it begins.
    begins = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    return max(0, container.duration - begins) / av.time_base
