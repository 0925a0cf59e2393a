"""When the next frame of a video is looked at: a clock that goes on, and a budget spread over what is there."""

from dataclasses import dataclass, field

from av.packet import Packet
from av.video.stream import VideoStream

#: Seconds that a timestamp may be ahead of the one before: ffmpeg's own limits. Beyond it the clock has started
#: again, in streams that may do so (MPEG) and in all others.
JUMP_IN_MPEG = 10.0
JUMP = 30 * 3600.0
#: Where packets have no decoding time, frames of B-pyramids come this many frames early.
REORDERED = 16
#: Seconds by which times of decoding may go back in files that were written carelessly.
A_WOBBLE = 0.1
#: Where a clock may start again, a stream that begins this many seconds behind the others is of a later part.
LATE_STREAM = 1.0
#: Seconds taken for a frame's, where nothing tells.
A_FRAME = 0.04

#: A video shorter than this many intervals is looked at this often all the same.
LOOKS_AT_LEAST = 8
#: Share of the frames left that is planned with, at any time: the rest is for a video that turns out longer.
PLANNED = 0.9
#: Share of the file that must have been read before it tells how long the video is.
TELLING_SHARE = 0.005
#: A stated duration is refuted when the video goes on by this share.
OVERRUN = 1.02


@dataclass(slots=True)
class _Track:
    """One stream's part of the clock, in seconds."""

    offset: float
    #: Times of the last packet, shown and decoded, as far as they were given.
    shown: float | None = None
    decoded: float | None = None
    step: float = A_FRAME


@dataclass(slots=True)
class Clock:
    """Seconds since the video's start, of packets of all its streams, whatever their timestamps do.

    Joined recordings, camera segments and streams that reconnected have timestamps that start again; time goes on.
    """

    #: Time of the latest frame of any stream.
    latest: float = 0.0
    #: How often a clock was seen to start again.
    restarts: int = 0
    #: What the timestamps of the present part of the file begin with, if it says so.
    _origin: float | None = None
    _may_jump: bool = False
    _began: float = 0.0
    _tracks: dict[int, _Track] = field(default_factory=dict)

    def begin(self, origin: float | None, *, may_jump: bool) -> None:
        """Another part of the file begins, after all that was read so far."""
        self._origin, self._may_jump = origin, may_jump
        if self._tracks:
            self.restarts += 1
            self._began = self.latest + A_FRAME
        self._tracks = {}

    def time(self, packet: "Packet[VideoStream]") -> float:
        """Seconds from the start of the video at which this packet is shown."""
        base = float(packet.time_base or 0)
        track = self._tracks.get(packet.stream_index)
        if track is None:
            track = self._tracks[packet.stream_index] = self._start(packet, base)
        pts = None if packet.pts is None else packet.pts * base
        dts = None if packet.dts is None else packet.dts * base
        self._mend(track, pts, dts)
        if pts is None and dts is None:
            shown = self._began if track.shown is None else track.shown + track.step
        else:
            shown = (pts if pts is not None else dts or 0.0) + track.offset
        decoded = None if dts is None else dts + track.offset
        before, now = (track.decoded, decoded) if decoded is not None else (track.shown, shown)
        if before is not None and now is not None and 0 < now - before <= JUMP_IN_MPEG:
            track.step = now - before
        track.shown = shown
        track.decoded = decoded if decoded is not None else track.decoded
        self.latest = max(self.latest, shown)
        return max(0.0, shown)

    def _start(self, packet: "Packet[VideoStream]", base: float) -> _Track:
        first = packet.pts if packet.pts is not None else packet.dts
        if first is None:
            return _Track(self._began)
        origin = self._origin
        # A part's origin is that of its sound too; one that is far from its pictures is none.
        if origin is None or not -1 <= first * base - origin <= (JUMP_IN_MPEG if self._may_jump else JUMP):
            origin = first * base
        if self._may_jump and first * base - origin + self._began < self.latest - LATE_STREAM:
            self.restarts += 1
            return _Track(self.latest + A_FRAME - first * base)
        return _Track(self._began - origin)

    def _mend(self, track: _Track, pts: float | None, dts: float | None) -> None:
        """Move the track's offset if the stamps have started again. Times of decoding never go back by themselves."""
        stamp, last, back = pts, track.shown, max(1.0, REORDERED * track.step)
        if dts is not None:
            stamp, last, back = dts, track.decoded, A_WOBBLE
        if stamp is None or last is None:
            return
        at = stamp + track.offset
        if not -back <= at - last <= (JUMP_IN_MPEG if self._may_jump else JUMP):
            self.restarts += 1
            track.offset += self.latest + track.step - at


@dataclass(slots=True)
class Budget:
    """How far apart frames are looked at, so that the frames sent on are enough for the whole video.

    A file's own word on its length is a hint, and so is the share of its bytes that was read so far; the shorter of
    the two is believed until the video goes on beyond it.
    """

    interval_s: float
    max_frames: int
    #: Streams that share the budget.
    streams: int = 1
    looked: int = 0
    #: Frames sent on; those that show nothing new cost no engine its time.
    sent: int = 0

    @property
    def spent(self) -> bool:
        """Whether no more may be sent on than the last frame of each stream."""
        return self.sent >= max(1, self.max_frames - self.streams)

    @property
    def used_up(self) -> bool:
        """Whether not one more may be sent on."""
        return self.sent >= self.max_frames

    def spacing(self, time: float, *, latest: float, read: float, stated: float | None) -> float:
        """Seconds from a look at `time` to the next; infinite when the budget is spent.

        `latest` is how far the file was read, in seconds, `read` as a share of its bytes, `stated` its own word.
        What is known grows with every packet, so ask again until the time has come.
        """
        if self.spent:
            return float("inf")
        by_bytes = latest / read if latest > 0 and read >= TELLING_SHARE else None
        if stated is not None and latest > stated * OVERRUN + 1:
            stated = None
        total = min((hint for hint in (by_bytes, stated) if hint is not None), default=None)
        close = self.interval_s
        if total is not None and total < LOOKS_AT_LEAST * self.interval_s:
            close = max(total, self.interval_s) / LOOKS_AT_LEAST
        thin = 0.0 if total is None else self._spread(total - time, PLANNED)
        if by_bytes is None or (self.streams > 1 and stated is not None and by_bytes < stated / 2):
            # Nobody knows how long it is, for one stream may lie behind the other in the file: what is left lasts
            # for as many times what has passed as it has frames.
            thin = max(thin, min(self._spread(time, 1.0), self._spread((stated or float("inf")) - time, PLANNED)))
        return max(close, thin)

    def _spread(self, seconds: float, share: float) -> float:
        """Distance of looks with which so many seconds take a share of the frames that are left."""
        left = share * max(0, self.max_frames - self.streams - self.sent)
        new = min(1.0, (self.sent + 1) / (self.looked + 1))
        return max(0.0, seconds) * self.streams * new / (left + 1)
