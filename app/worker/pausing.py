"""A pause that holds: RQ's worker looks whether it is to rest only when it has taken a job.

Until then it waits for one, and runs the first that comes.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis import Redis
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.queue import Queue as BaseQueue
from rq.suspension import is_suspended

from app.worker.reliable import ReliableQueue

#: Seconds between two looks whether workers are suspended.
LOOK_INTERVAL = 1


class PausableQueue(ReliableQueue):
    """A queue of which nothing is taken while workers are suspended."""

    #: When it was looked last, and what was seen; of this process.
    _looked, _rests = 0.0, False

    @classmethod
    def dequeue_any(  # type: ignore[override]
        cls, queues: Iterable[BaseQueue], timeout: int | None, connection: Redis, **options: Any
    ) -> tuple[Job, BaseQueue] | None:
        """Take the next job, trying the queues in order; none while workers are suspended."""
        in_order = list(queues)
        deadline = time.monotonic() + (timeout or 0)
        while True:
            rests = cls._look(connection)
            if timeout is None:
                return None if rests else super().dequeue_any(in_order, None, connection, **options)
            left = deadline - time.monotonic()
            if left <= 0:
                raise DequeueTimeout(timeout, [queue.key for queue in in_order])
            if rests:
                time.sleep(min(left, LOOK_INTERVAL))
                continue
            with suppress(DequeueTimeout):
                return super().dequeue_any(in_order, LOOK_INTERVAL, connection, **options)

    @classmethod
    def _look(cls, connection: Redis) -> bool:
        if time.monotonic() - PausableQueue._looked >= LOOK_INTERVAL or PausableQueue._rests:
            PausableQueue._looked, PausableQueue._rests = time.monotonic(), bool(is_suspended(connection))
        return PausableQueue._rests
