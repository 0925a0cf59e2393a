"""Decoders: a few processes that turn strangers' bytes into pixels in shared memory, and may die of it.

A picture's bytes go to a decoder over a channel of its own, and what it answers is parsed as data and believed only
where it fits. A decoder that dies, hangs or answers nonsense costs the picture it had; a new one takes its place.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socketpair
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from app.common.errors import PermanentError, TransientError
from app.common.wire import EngineCrashedError
from app.gpu import environment, views
from app.gpu.ends import end_seen
from app.gpu.faces import Image
from app.gpu.jpegs import WRITTEN
from app.gpu.settings import FaceSettings
from app.gpu.slots import Slot, slot_bytes
from app.gpu.views import Plane

ROOT = Path(__file__).resolve().parents[2]

#: What a decoder runs, before its arguments.
COMMAND = ("-m", "app.gpu.decode")

#: All of the service's environment that a decoder gets.
ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")

#: Seconds for a decoder to start; it takes a third of one.
START_TIMEOUT = 60

#: Longest line in bytes that a decoder may answer.
MAX_LINE = 2**16

T = TypeVar("T")


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Ready(_Said):
    kind: Literal["ready"]
    decoder: str = Field(max_length=200)


class _Admit(_Said):
    kind: Literal["admit"]
    pixels: int = Field(ge=0)


class _Rejected(_Said):
    kind: Literal["rejected"]
    code: Literal["empty", "not_an_image", "damaged", "truncated", "too_many_pixels"]
    message: str = Field(max_length=2000)
    judged_by: dict[
        Annotated[str, Field(pattern="^(MAX_IMAGE_PIXELS|decoder)$")], int | Annotated[str, Field(max_length=200)]
    ]


class _OutOfMemory(_Said):
    kind: Literal["out_of_memory"]


class _Plane(_Said):
    offset: int = Field(ge=0)
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    whole: bool
    frame: int | None = Field(ge=0)


class _Decoded(_Said):
    kind: Literal["decoded"]
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    planes: list[_Plane] = Field(min_length=1, max_length=64)
    notes: list[Annotated[str, Field(max_length=1000)]] = Field(max_length=16)
    decode_ms: FiniteFloat = Field(ge=0)


_Message = _Ready | _Admit | _Rejected | _OutOfMemory | _Decoded
_MESSAGE: TypeAdapter[_Message] = TypeAdapter(Annotated[_Message, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture in its slot, upright; valid until the slot is given back."""

    #: Size in pixels of the upright picture as stored; boxes are given in these.
    width: int
    height: int
    #: What engines look at, see `app.gpu.views`.
    planes: list[Plane]
    #: What was ignored or not looked at.
    notes: list[str]
    decode_ms: float
    slot: Slot

    def pixels(self, plane: Plane) -> Image:
        """The pixels of a plane, read-only and not copied."""
        return plane.pixels(self.slot.memory)


class Decoders:
    """Decoder processes; safe to use from many threads, which are served in the order they came.

    Raises:
        TransientError: they do not start; the message says why.
    """

    def __init__(self, settings: FaceSettings, *, number: int, slots: int, max_side: int) -> None:
        """`number` processes with at least one of the `slots` each, for an engine of `max_side`."""
        self._limits = _Limits(settings.max_image_pixels, max_side, settings.analysis_timeout)
        #: All there are, in order of their numbers; engine processes map them by their `fd`.
        self.slots = [Slot(at, slot_bytes(settings.max_image_pixels)) for at in range(max(number, slots))]
        # One decoder's slots are its own: a corrupted one cannot touch what another decoded.
        self._decoders = [_Decoder(self._limits, self.slots[at::number]) for at in range(number)]
        self._turns = _Turns()
        # One picture of the largest size, beside an ordinary one in each slot.
        self._room = _Room(settings.max_image_pixels, max_side**2)
        try:
            #: What decides whether a picture is damaged: libraries and their versions.
            [self.version, *_] = [decoder.ready() for decoder in self._decoders]
        except BaseException:
            self.close()
            raise

    @contextmanager
    def decode(self, data: bytes) -> Iterator[Decoded]:
        """Decode a picture into a slot, and hold that slot as long as the context lasts.

        What is held has a bound in pixels: a picture may have to wait until others are given back.

        Raises:
            PermanentError: it can never be decoded.
            EngineCrashedError: its decoder died, ran out of time or memory, or answered nonsense.
            TransientError: decoders do not start.
        """
        decoder, slot = self._turns.take(self._free)
        hold = _Hold(self._room)
        try:
            try:
                decoded = decoder.decode(data, slot, hold)
            finally:
                self._turns.give(decoder.done)
            hold.shrink(sum(plane.height * plane.width for plane in decoded.planes))
            yield decoded
        finally:
            hold.release()
            slot.trim()
            self._turns.give(lambda: decoder.free.append(slot))

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return [decoder.pid for decoder in self._decoders]

    def close(self) -> None:
        """End the processes."""
        for decoder in self._decoders:
            decoder.end()
        for slot in self.slots:
            slot.close()

    def _free(self) -> "tuple[_Decoder, Slot] | None":
        for decoder in self._decoders:
            if decoder.idle and decoder.free:
                decoder.idle = False
                return decoder, decoder.free.pop()
        return None


@dataclass(frozen=True, slots=True)
class _Limits:
    max_pixels: int
    max_side: int
    #: Per picture.
    seconds: int


class _Turns:
    """First come, first served, for whatever may be had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: One for each who waits, so that of many only the first is woken.
        self._queue: deque[threading.Condition] = deque()

    def take(self, find: Callable[[], T | None]) -> T:
        """Wait until one's turn has come and there is something; `find` is called by one thread at a time."""
        with self._lock:
            if not self._queue and (found := find()) is not None:
                return found
            called = threading.Condition(self._lock)
            self._queue.append(called)
            try:
                while self._queue[0] is not called or (found := find()) is None:
                    called.wait()
                return found
            finally:
                self._queue.remove(called)
                self._call()

    def give(self, back: Callable[[], None]) -> None:
        """Make something free again."""
        with self._lock:
            back()
            self._call()

    def _call(self) -> None:
        """Have the first look whether there is something."""
        if self._queue:
            self._queue[0].notify()


class _Room:
    """Room in memory for so many pixels at once, beyond the ordinary ones that every picture may have."""

    def __init__(self, pixels: int, ordinary: int) -> None:
        self.pixels, self.ordinary = pixels, ordinary
        self.free = pixels
        self.turns = _Turns()

    def needed(self, pixels: int) -> int:
        """How much a picture of so many pixels takes of it; one that is larger than the room takes all."""
        return min(max(0, pixels - self.ordinary), self.pixels)


class _Hold:
    """What one picture holds of the room."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._held = 0

    def take(self, pixels: int) -> None:
        """Wait for room for so many pixels, in place of what was held."""
        self.release()
        wanted = self._room.needed(pixels)

        def find() -> int | None:
            if self._room.free < wanted:
                return None
            self._room.free -= wanted
            return wanted

        self._held = self._room.turns.take(find)

    def shrink(self, pixels: int) -> None:
        """Keep no more than is needed for so many."""
        if spare := max(0, self._held - self._room.needed(pixels)):
            self._held -= spare
            self._give(spare)

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)

    def _give(self, pixels: int) -> None:
        def back() -> None:
            self._room.free += pixels

        self._room.turns.give(back)


class _DeadError(Exception):
    """The process has ended."""


class _NonsenseError(Exception):
    """The process said what it never should."""


@dataclass(slots=True)
class _Decoder:
    """One decoder and its slots, for one thread at a time; the process is replaced when a picture ends it."""

    limits: _Limits
    slots: list[Slot]
    free: list[Slot] = field(init=False)
    idle: bool = field(init=False, default=True)
    _process: "_Process" = field(init=False)

    def __post_init__(self) -> None:
        self.free = self.slots.copy()
        self._process = _Process(self.limits, self.slots)

    @property
    def pid(self) -> int:
        return self._process.pid

    def done(self) -> None:
        self.idle = True

    def ready(self) -> str:
        """The version that the process says it is of, once it is started.

        Raises:
            TransientError: it does not start.
        """
        try:
            return self._process.ready()
        except (_DeadError, _NonsenseError, TimeoutError) as error:
            self._replace()
            raise TransientError(f"A decoder process did not start: {error}") from error

    def decode(self, data: bytes, slot: Slot, hold: _Hold) -> Decoded:
        """As `Decoders.decode`."""
        if self._process.has_ended():
            self._replace()  # while it was idle, which is not the picture's fault
        self.ready()
        try:
            said = self._process.ask(data, self.slots.index(slot), hold)
            if isinstance(said, _Decoded):
                return _fitting(said, slot, self.limits)
        except TimeoutError as error:
            self._replace()
            raise EngineCrashedError(
                f"The picture took longer to decode than the {self.limits.seconds} s of ANALYSIS_TIMEOUT."
            ) from error
        except _DeadError as error:
            self._replace()
            raise EngineCrashedError(f"The decoder died on this picture ({error}).") from error
        except _NonsenseError as error:
            self._replace()
            raise EngineCrashedError(
                f"The decoder was ended: on this picture it answered nonsense ({error})."
            ) from error
        if isinstance(said, _Rejected):
            raise PermanentError(said.code, said.message, {**said.judged_by})
        self._replace()
        raise EngineCrashedError("The decoder ran out of memory on this picture.")

    def end(self) -> None:
        self._process.end()

    def _replace(self) -> None:
        self._process.end()
        try:
            self._process = _Process(self.limits, self.slots)
        except OSError as error:  # the one that has ended stays, and is replaced with the next picture
            raise TransientError(f"No decoder process could be started: {error}.") from error


class _Process:
    """A process and the channel to it."""

    def __init__(self, limits: _Limits, slots: list[Slot]) -> None:
        self._limits = limits
        self._channel, theirs = socketpair()
        self._unread = b""
        self._version: str | None = None
        with theirs:
            fds = [theirs.fileno(), *(slot.writable_fd for slot in slots)]
            numbers = [fds[0], limits.max_pixels, limits.max_side, *fds[1:]]
            try:
                self._popen = subprocess.Popen(
                    [sys.executable, *COMMAND, *map(str, numbers)],
                    cwd=ROOT,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                )
            except BaseException:
                self._channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def ready(self) -> str:
        if self._version is None:
            said = self._hear(time.monotonic() + START_TIMEOUT)
            if not isinstance(said, _Ready):
                raise _NonsenseError(f"{said.kind} before ready")
            self._version = said.decoder
        return self._version

    def ask(self, data: bytes, slot: int, hold: _Hold) -> _Decoded | _Rejected | _OutOfMemory:
        """Have a picture decoded."""
        seconds = self._limits.seconds
        deadline = time.monotonic() + seconds
        asked = json.dumps({"slot": slot, "bytes": len(data), "seconds": seconds}).encode() + b"\n"
        self._say(asked, data, deadline)
        while isinstance(said := self._hear(deadline), _Admit):
            began = time.monotonic()
            hold.take(said.pixels)
            deadline += time.monotonic() - began
            self._say(b"\n", b"", deadline)
        if isinstance(said, _Ready):
            raise _NonsenseError("ready again")
        return said

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._channel.close()

    def _say(self, line: bytes, data: bytes, deadline: float) -> None:
        self._channel.settimeout(_left(deadline))
        try:
            sent = self._channel.sendmsg([line, data])
            for rest in (line[sent:], memoryview(data)[max(0, sent - len(line)) :]):
                if rest:
                    self._channel.settimeout(_left(deadline))
                    self._channel.sendall(rest)
        except TimeoutError:
            raise
        except OSError as error:
            raise _DeadError(end_seen(self._popen)) from error

    def _hear(self, deadline: float) -> _Message:
        while b"\n" not in self._unread:
            if len(self._unread) > MAX_LINE:
                raise _NonsenseError(f"a line of more than {MAX_LINE} bytes")
            self._channel.settimeout(_left(deadline))
            try:
                heard = self._channel.recv(MAX_LINE)
            except ConnectionResetError:
                heard = b""
            if not heard:
                raise _DeadError(end_seen(self._popen))
            self._unread += heard
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return _MESSAGE.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise _NonsenseError(f"{first['msg']} at {first['loc']}") from error


def _fitting(said: _Decoded, slot: Slot, limits: _Limits) -> Decoded:
    """A decoder's answer, if it is one that a sound decoder may give.

    Raises:
        _NonsenseError: it is not.
    """
    if said.width * said.height > WRITTEN * limits.max_pixels:
        raise _NonsenseError("a picture larger than any that is accepted")
    planes = [Plane(p.offset, p.height, p.width, p.whole, p.frame) for p in said.planes]
    if any(plane.end > slot.size for plane in planes):
        raise _NonsenseError("pixels beyond the end of the slot")
    if sum(views.number(plane, limits.max_side) for plane in planes) > views.MAX_VIEWS:
        raise _NonsenseError("more to look at than any picture has")
    return Decoded(said.width, said.height, planes, said.notes, said.decode_ms, slot)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, **environment.ENVIRONMENT}


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
