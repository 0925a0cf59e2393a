"""How long until the backlog is done: measured, not promised."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from redis.exceptions import RedisError

#: Seconds between two looks, and for how long they count.
INTERVAL = 5
WINDOW = 300
#: Seconds of looks below which nothing is said.
LEAST_SPAN = 15


class Look(NamedTuple):
    """The jobs that were waiting or under way at a moment."""

    at: float
    jobs: int


def outlook(looks: Sequence[Look]) -> tuple[str, float | None]:
    """What becomes of the backlog: `none`, `measuring`, `growing`, `steady`, or `shrinking` with the seconds left."""
    if not looks or not looks[-1].jobs:
        return "none", None
    first, last = looks[0], looks[-1]
    # Since it was empty last: what was done before says nothing of this backlog.
    empty = [number for number, look in enumerate(looks) if not look.jobs]
    if empty:
        first = looks[empty[-1]]
    span = last.at - first.at
    if span < LEAST_SPAN:
        return "measuring", None
    done_a_second = (first.jobs - last.jobs) / span
    if done_a_second == 0:
        return "steady", None
    return ("shrinking", last.jobs / done_a_second) if done_a_second > 0 else ("growing", None)


class Backlog:
    """Looks now and then, for as long as the process lives."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._looks: deque[Look] = deque(maxlen=WINDOW // INTERVAL)
        self._closing = threading.Event()
        self._looker = threading.Thread(target=self._keep_looking, name="backlog", daemon=True)
        self._looker.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._looker.join()

    def outlook(self, jobs: int) -> tuple[str, float | None]:
        """As the function `outlook`, of what was seen and the number of jobs now."""
        return outlook([*self._looks, Look(time.monotonic(), jobs)])

    def _keep_looking(self) -> None:
        while not self._closing.is_set():
            try:
                self._looks.append(Look(time.monotonic(), self._count()))
            except RedisError:
                self._looks.clear()
            self._closing.wait(INTERVAL)
