"""Who is next: places for pictures, given in the order they came, and neither kind of work keeps the other out."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from app.common.wire import BusyError

#: A picture that is put into the index, or a frame of a video, whose worker asks for one after the other.
Lane = Literal["pictures", "frames"]
LANES: tuple[Lane, ...] = ("pictures", "frames")


class Turns:
    """A number of places, and a queue for each lane.

    While both lanes wait they get places alternately, so that many of the one do not keep few of the other waiting.
    """

    def __init__(self, places: int, *, waiting: int, timeout: float) -> None:
        """`waiting` may queue up in each lane, for `timeout` seconds."""
        self._free = places
        self._most, self._timeout = waiting, timeout
        self._queues: dict[Lane, deque[threading.Event]] = {lane: deque() for lane in LANES}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, lane: Lane) -> Iterator[None]:
        """Hold a place, after all who came before in this lane.

        Raises:
            BusyError: as many wait as may, or it took too long.
        """
        self._enter(lane)
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def _enter(self, lane: Lane) -> None:
        with self._lock:
            if self._free:  # then nobody waits
                self._free -= 1
                return
            queue = self._queues[lane]
            if len(queue) >= self._most:
                raise BusyError(f"{self._most} {lane} wait already, which is MAX_WAITING; try again in a moment.")
            called = threading.Event()
            queue.append(called)
        if called.wait(self._timeout):
            return
        with self._lock:
            if called.is_set():
                return
            queue.remove(called)
        raise BusyError(f"It was not this picture's turn within {self._timeout:g} s; try again in a moment.")

    def _pass_on(self) -> None:
        """Give a place to whoever is next."""
        for lane, queue in self._queues.items():
            if queue:
                queue.popleft().set()
                # The other lane first, the next time.
                self._queues[lane] = self._queues.pop(lane)
                return
        self._free += 1
