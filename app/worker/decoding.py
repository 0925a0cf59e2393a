"""One stream of pictures, decoded no further than the sampling needs, and nothing of its container's marks believed.

Packets wait until it is known what of them is needed. If a key frame comes about when the next look is due, it alone
is decoded and what waited before it is dropped; else all are decoded up to the frame that is due. A key frame is one
when the decoder says so of what came out: marks of containers are often untrue, and once one was seen to be, every
packet is decoded. What waits is kept from the last true key frame on, so nothing is lost by the discovery.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

#: Decoder threads: frame threads hold a frame each, which counts at 4K.
DECODER_THREADS = min(2, os.cpu_count() or 1)

#: How much before or after it is due a look may be for the sake of a key frame, as a share of the distance of looks.
KEY_FRAME_SLACK = 0.1

#: Bytes of packets that wait at most.
MOST_WAITING = 64 * 2**20

#: Frames between two looks from which those that no other frame refers to are left undecoded: more than the longest
#: run of them that encoders make, 16.
ENOUGH_TO_SKIP = 20

#: Timestamps given to packets are in this part of a second.
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """What is shown at some time."""

    time_s: float
    #: None: the same as at the last look.
    frame: VideoFrame | None


@dataclass(slots=True, eq=False)
class _Waiting:
    packet: "Packet[VideoStream]"
    time: float


class StreamSampler:
    """Takes a stream's packets in the order of the file, and gives the frames that are due.

    Whoever takes a look says by `wait`, before asking for the next one, how far it is to be from there.
    """

    def __init__(self, stream: VideoStream, max_pixels: int) -> None:
        stream.thread_type = "AUTO"
        self._context = stream.codec_context
        self._context.thread_count = DECODER_THREADS
        # A stream may change its size on the way.
        self._context.options = {"max_pixels": str(max_pixels)}
        #: Packets that could not be decoded.
        self.damaged = 0
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        #: How many of those that wait the decoder has been given.
        self._fed = 0
        self._marks_true = True
        #: A key frame that may be the one to look at.
        self._candidate: _Waiting | None = None
        self._skip_unreferenced = True
        #: Seconds from one look to the next.
        self.spacing_s = 0.0
        #: What the next look is counted from: the last one, or where on the grid it should have been.
        self._base = float("-inf")
        self._first: float | None = None
        self._newest = 0.0
        self._count = 0
        #: The last frame that came out, and its time; that of the last one that was looked at.
        self._last: tuple[float, VideoFrame] | None = None
        self._looked = float("-inf")

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next, on average."""
        return (self._newest - (self._first or 0.0)) / max(1, self._count)

    @property
    def looked_s(self) -> float:
        """The time of the last look, and 0 before there was one."""
        return max(0.0, self._looked)

    def wait(self, seconds: float) -> None:
        """Look again so many seconds after the present or the last look."""
        self.spacing_s = seconds

    def push(self, packet: "Packet[VideoStream]", time: float) -> Iterator[Look]:
        """Take the next packet, shown at `time`; give what is due."""
        self._first = time if self._first is None else self._first
        self._newest, self._count = max(self._newest, time), self._count + 1
        if packet.size == 0:
            yield from self._as_before(time)
            return
        packet.pts, packet.dts = round(time * MICRO), None
        key = self._marks_true and packet.is_keyframe
        if key:
            yield from self._catch_up(time)
        self._waiting.append(_Waiting(packet, time))
        self._bytes += packet.size
        if key and time >= self._due - self._slack:
            self._candidate = self._waiting[-1]
        if self._candidate and self._is_due(time):
            yield from self._try_key_frame(self._candidate)
        if not key:
            yield from self._catch_up(self._newest)
        if self._bytes > MOST_WAITING:
            yield from self._relieve()

    def finish(self, longest: float) -> Iterator[Look]:
        """Give what is still due, and the last frame if the last look is longer ago than that many seconds."""
        if self._newest - self._looked > longest or self._is_due(self._newest):
            while self._fed < len(self._waiting):
                yield from self._feed()
        if self._fed or not self._marks_true:
            yield from self._offer(self._drain())
        if self._last and self._last[0] > self._looked and self._newest - self._looked > longest:
            yield from self._look(*self._last)

    @property
    def _due(self) -> float:
        return self._base + self.spacing_s

    @property
    def _slack(self) -> float:
        return KEY_FRAME_SLACK * self.spacing_s if self.spacing_s < float("inf") else 0.0

    def _is_due(self, time: float) -> bool:
        # The part is for times that are those of looks but for a rounding error.
        return time >= self._due - self._slack / 100

    def _catch_up(self, until: float) -> Iterator[Look]:
        """Decode what waits if a look is overdue; where marks are untrue, in any case."""
        while self._fed < len(self._waiting) and (not self._marks_true or self._due + self._slack <= until):
            yield from self._feed()

    def _feed(self) -> Iterator[Look]:
        """Decode the next packet that waits, after all before it."""
        waiting = self._waiting[self._fed]
        self._fed += 1
        if not self._marks_true:
            self._drop_fed()
        self._economise(waiting.time)
        yield from self._offer(self._decode(waiting.packet))

    def _try_key_frame(self, candidate: _Waiting) -> Iterator[Look]:
        """Decode a packet alone, if it really begins anew; else all before it too."""
        self._candidate = None
        index = self._waiting.index(candidate)
        if self._fed > index:
            return  # it has had its turn
        if self._fed:
            yield from self._offer(self._drain())
        frames = self._alone(candidate.packet)
        if not frames:
            self._marks_true = False
            yield from self._catch_up(self._newest)
            return
        self._begin_at(index)
        if candidate.time >= self._due - self._slack:
            self._last = candidate.time, frames[0]
            yield from self._look(*self._last)
            self._base = candidate.time

    def _relieve(self) -> Iterator[Look]:
        """Too much waits: begin at the last key frame, or decode."""
        for index in range(len(self._waiting) - 1, 0, -1):
            if self._marks_true and self._waiting[index].packet.is_keyframe:
                if self._fed:
                    yield from self._offer(self._drain())
                if self._alone(self._waiting[index].packet):
                    self._begin_at(index)
                    return
                break
        self._marks_true = False
        yield from self._catch_up(self._newest)

    def _begin_at(self, index: int) -> None:
        """Forget what waited before a key frame."""
        self._candidate = None
        self._bytes -= sum(waiting.packet.size for waiting in self._waiting[:index])
        del self._waiting[:index]
        self._fed = 0

    def _drop_fed(self) -> None:
        self._bytes -= sum(waiting.packet.size for waiting in self._waiting[: self._fed])
        del self._waiting[: self._fed]
        self._fed = 0

    def _as_before(self, time: float) -> Iterator[Look]:
        """An empty packet: what was shown before is shown on."""
        if not self._is_due(time):
            return
        while self._fed < len(self._waiting):
            yield from self._feed()
        if not self._is_due(time) or self._last is None:
            return
        new = self._last[1] if self._last[0] > self._looked else None
        yield from self._look(time, new)

    def _offer(self, frames: list[VideoFrame]) -> Iterator[Look]:
        for frame in frames:
            time = frame.pts / MICRO if frame.pts is not None else self._newest
            self._last = time, frame
            if self._is_due(time):
                yield from self._look(time, frame)

    def _look(self, time: float, frame: VideoFrame | None) -> Iterator[Look]:
        due = self._due
        yield Look(time, frame)
        self._looked = time
        self._base = time
        if 0 < self.spacing_s < float("inf") and due > float("-inf"):
            # On a grid, so that frames that come late do not thin the sampling.
            self._base -= max(0.0, time - due) % self.spacing_s

    def _economise(self, time: float) -> None:
        """Leave frames undecoded that no other refers to, while there are enough others."""
        came = self._last[0] if self._last else time
        if time - came > self.spacing_s + 2 * ENOUGH_TO_SKIP * self.frame_s:
            self._skip_unreferenced = False  # too little comes out
        many = self.spacing_s >= ENOUGH_TO_SKIP * self.frame_s
        self._context.skip_frame = "NONREF" if many and self._skip_unreferenced else "DEFAULT"

    def _alone(self, packet: "Packet[VideoStream]") -> list[VideoFrame]:
        """The frame of a packet decoded by itself; none unless it is whole without others."""
        self._context.skip_frame = "DEFAULT"
        before = self.damaged
        frames = self._decode(packet) + self._drain()
        self.damaged = before  # what lacks the packets before it is not damaged by that
        return [frame for frame in frames if _is_whole(frame)][-1:]

    def _decode(self, packet: "Packet[VideoStream] | None") -> list[VideoFrame]:
        try:
            return [frame for frame in self._context.decode(packet) if isinstance(frame, VideoFrame)]
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.damaged += 1
            return []

    def _drain(self) -> list[VideoFrame]:
        """What the decoder still holds; it begins anew after that."""
        frames = self._decode(None)
        self._context.flush_buffers()
        self._fed = 0
        return frames


def _is_whole(frame: VideoFrame) -> bool:
    """Whether a frame decoded by itself needs no other; half of an interlaced one may be in the next packet."""
    return (
        frame.key_frame and frame.pict_type == PictureType.I and not frame.is_corrupt and not frame.interlaced_frame
    )
