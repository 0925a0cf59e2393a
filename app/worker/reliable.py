"""RQ's queue and worker, made not to lose a job.

On several queues RQ takes a job with BLPOP: killed right after it, the worker leaves the job in no list
(rq issue 1716). On one queue it moves the job to a list from which it is recovered. Here every queue works so.
"""

import logging
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from redis import Redis
from rq import Queue, Worker, get_current_job
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.queue import Queue as BaseQueue
from rq.scheduler import RQScheduler

#: Seconds between looks at several queues. Redis can block on one list while moving, not on many: on the first.
POLL_INTERVAL = 0.2

#: Processes that an object may end before it is not tried again.
MOST_DEATHS = 3


def deaths() -> int:
    """How many processes the job in hand has ended: by a signal, in a decoder or for want of memory."""
    job = get_current_job()
    return int(job.meta.get("deaths", 0)) if job else 0


class ReliableQueue(Queue):
    """A queue whose jobs survive the worker that took them, also where it serves several."""

    @classmethod
    def dequeue_any(  # type: ignore[override]
        cls, queues: Iterable[BaseQueue], timeout: int | None, connection: Redis, **options: Any
    ) -> tuple[Job, BaseQueue] | None:
        """Take the next job, trying the queues in order; as the base class does for one queue."""
        in_order = list(queues)
        if len(in_order) == 1:
            return super().dequeue_any(in_order, timeout, connection, **options)
        deadline = time.monotonic() + (timeout or 0)
        while True:
            for queue in in_order:
                if taken := super().dequeue_any([queue], None, connection, **options):
                    return taken
            if timeout is None:
                return None
            if time.monotonic() >= deadline:
                raise DequeueTimeout(timeout, [queue.key for queue in in_order])
            with suppress(DequeueTimeout):
                return super().dequeue_any(in_order[:1], POLL_INTERVAL, connection, **options)  # type: ignore[arg-type]


class ReliableWorker(Worker):
    """A worker on reliable queues: each job is cleared from the list of those under way."""

    queue_class = ReliableQueue

    #: Called now and then, while nothing else is to be done.
    chores: Callable[[Redis], None] = staticmethod(lambda _connection: None)
    #: Address space of a job's process, in bytes.
    job_memory = resource.RLIM_INFINITY

    @property
    def dequeue_timeout(self) -> int:
        """Seconds to wait for a job before looking around; RQ waits for nearly the worker's time to live."""
        return min(int(super().dequeue_timeout), int(self.maintenance_interval))

    def run_maintenance_tasks(self) -> None:
        """Look around for what dead workers left, due scheduled jobs included.

        A killed scheduler keeps its lock for over a minute, while jobs wait to be tried again. Two schedulers may
        enqueue a job twice, which changes nothing.
        """
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        scheduler = RQScheduler(
            self.queues, connection=self.connection, logging_level=logging.WARNING, serializer=self.serializer
        )
        scheduler.prepare_registries(self.queue_names())
        scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
        self.chores(self.connection)

    def main_work_horse(self, job: Job, queue: BaseQueue) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self.job_memory, self.job_memory))
        super().main_work_horse(job, queue)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        job.meta["deaths"] = int(job.meta.get("deaths", 0)) + 1
        job.save_meta()  # type: ignore[no-untyped-call]

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds after which a job counts as abandoned; RQ adds a minute, here three signs of life may be missed.

        A job that is taken over although its worker lives is run twice, which changes nothing.
        """
        return 3 * int(self.job_monitoring_interval)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:  # noqa: ARG002
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)
