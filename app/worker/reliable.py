"""RQ's queue and worker, made not to lose a job, to run none but ours, and to ask Redis little.

On several queues RQ takes a job with BLPOP: killed right after it, the worker leaves the job in no list
(rq issue 1716). On one queue it moves the job to a list from which it is recovered. Here every queue works so.

A job runs in the worker's own process, whose connections live from one to the next, or in one forked for it, where
it opens what strangers made. RQ asks Redis about twenty times for each job; what is asked here is four times.
"""

import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Any, NamedTuple

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Worker, get_current_job
from rq.exceptions import AbandonedJobError, DequeueTimeout
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.queue import Queue as BaseQueue
from rq.scheduler import RQScheduler
from rq.utils import now
from rq.worker import WorkerStatus

from app.common.jobs import FUNCTIONS, REFUSED_JOBS

log = logging.getLogger(__name__)

#: Seconds between looks at several queues. Redis can block on one list while moving, not on many: on the first.
POLL_INTERVAL = 0.2

#: Processes that an object may end before it is not tried again.
MOST_DEATHS = 3

#: Seconds between two looks whether workers are suspended, and between two signs of life of one that has work.
SUSPENSION_INTERVAL = 1
SIGN_INTERVAL = 10

#: Seconds beyond its time after which a job that cannot be interrupted ends the worker, as RQ does with its forks.
OVERTIME = 60

#: Moves the next job from the first queue that has one to the list of those under way, and reads it. KEYS: queues and
#: their lists, in pairs. ARGV: what a job's key begins with.
_TAKE = """
for at = 1, #KEYS, 2 do
  local id = redis.call('LMOVE', KEYS[at], KEYS[at + 1], 'LEFT', 'RIGHT')
  if id then return {KEYS[at], id, redis.call('HGETALL', ARGV[1] .. id)} end
end
return false
"""


class ForeignJobError(Exception):
    """A job names a function that is none of ours."""


def deaths() -> int:
    """How many processes the job in hand has ended: by a signal, in a decoder or for want of memory."""
    job = get_current_job()
    return int(job.meta.get("deaths", 0)) if job else 0


class GuardedJob(Job):
    """A job that calls one of our functions and nothing else, whatever was put into Redis."""

    #: The functions that may be called.
    functions = FUNCTIONS

    #: Functions and addresses that a job may name beside its own: read nowhere.
    success_callback = failure_callback = stopped_callback = None

    def foreign(self) -> str | None:
        """What is wrong with the function that the job names; only the name is read, as JSON."""
        try:
            if self.func_name in self.functions and self.instance is None:
                return None
        except Exception:
            return "it is not JSON as our jobs are"
        return f"it names {self.func_name!s:.200}, which is none of our functions"

    @property
    def func(self) -> Callable[..., Any] | None:
        """The function, imported only if it is one of ours."""
        if problem := self.foreign():
            raise ForeignJobError(problem)
        function: Callable[..., Any] | None = super().func
        return function

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """Call no address that a job names."""


class ReliableQueue(Queue):
    """A queue whose jobs survive the worker that took them, also where it serves several."""

    job_class = GuardedJob

    @classmethod
    def dequeue_any(  # type: ignore[override]
        cls, queues: Iterable[BaseQueue], timeout: int | None, connection: Redis, **options: Any
    ) -> tuple[Job, BaseQueue] | None:
        """Take the next job, trying the queues in order."""
        in_order = list(queues)
        deadline = time.monotonic() + (timeout or 0)
        while True:
            if taken := cls._take(in_order, connection):
                return taken
            if timeout is None:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise DequeueTimeout(timeout, [queue.key for queue in in_order])
            wait = min(left, POLL_INTERVAL) if len(in_order) > 1 else left
            with suppress(DequeueTimeout):
                return super().dequeue_any(in_order[:1], wait, connection, **options)  # type: ignore[arg-type]

    @classmethod
    def _take(cls, queues: list[BaseQueue], connection: Redis) -> tuple[Job, BaseQueue] | None:
        by_key = {queue.key: queue for queue in queues}
        keys = [key for name in by_key for key in (name, IntermediateQueue.get_intermediate_queue_key(name))]
        while found := connection.register_script(_TAKE)(keys, [Job.key_for("")]):
            key, identifier, pairs = found[0].decode(), found[1].decode(), found[2]
            queue = by_key[key]
            try:
                job = GuardedJob(identifier, connection=connection, serializer=queue.serializer)
                job.restore(dict(zip(pairs[::2], pairs[1::2], strict=True)))
            except Exception as error:
                if pairs:  # else it is not there any more
                    log.error("Refused job %s of %s: it cannot be read: %s", identifier, queue.name, error)
                    connection.hincrby(REFUSED_JOBS, queue.name, 1)
                connection.lrem(IntermediateQueue.get_intermediate_queue_key(key), 1, identifier)
                continue
            return job, queue
        return None

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """No job of ours waits for another."""
        return {}


class InHand(NamedTuple):
    """A job that a worker runs in its own process, and since when by its monotonic clock."""

    job: Job
    execution: Execution
    since: float


class ReliableWorker(Worker):
    """A worker on reliable queues that runs jobs itself, or in a fork."""

    queue_class = ReliableQueue
    job_class = GuardedJob
    log_result_lifespan = False

    #: Called now and then, while nothing else is to be done.
    chores: Callable[[Redis], None] = staticmethod(lambda _connection: None)
    #: Called with what a job returned that ended well, and with what writes its end, to have more written.
    note_success: Callable[[Any, Pipeline], None] = staticmethod(lambda _outcome, _pipeline: None)
    #: Whether a job is to run in a process of its own.
    forks: Callable[[Job], bool] = staticmethod(lambda _job: True)
    #: Least seconds that a job may run, whatever it says.
    least_timeout: Callable[[], float] = staticmethod(lambda: 0.0)
    #: Address space of a job's own process, in bytes.
    job_memory = resource.RLIM_INFINITY

    def __init__(self, queues: Iterable[str], *args: Any, **options: Any) -> None:
        super().__init__(queues, *args, **options)  # type: ignore[arg-type]
        self.log_job_description = False
        self.push_exc_handler(_count_death)  # type: ignore[no-untyped-call]
        self._last_sign = 0.0
        self._last_look = 0.0
        self._speaker: Thread | None = None
        self._saying = Lock()
        self._in_hand: InHand | None = None

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

    def execute_job(self, job: Job, queue: BaseQueue) -> None:
        """Run a job here, or in a process of its own; or refuse it."""
        if isinstance(job, GuardedJob) and (problem := job.foreign()):
            self._refuse(job, queue, problem)
            return
        if job.timeout and 0 < job.timeout < self.least_timeout():
            job.timeout = int(self.least_timeout())
        if self.forks(job):
            super().execute_job(job, queue)
            return
        execution = self.prepare_execution(job)
        with self._signs_of_life(job, execution):
            self.perform_job(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)

    def main_work_horse(self, job: Job, queue: BaseQueue) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self.job_memory, self.job_memory))
        super().main_work_horse(job, queue)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        _add_death(job)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds after which a job counts as abandoned; RQ adds a minute, here three signs of life may be missed.

        A job that is taken over although its worker lives is run twice, which changes nothing.
        """
        return 3 * int(self.job_monitoring_interval)

    def prepare_execution(self, job: Job) -> Execution:
        """Take the job over and clear it from the list of those under way, all at once."""
        with self.connection.pipeline() as pipeline:
            execution = Execution.create(job, self.get_heartbeat_ttl(job), pipeline=pipeline, worker_name=self.name)
            self.set_state(WorkerStatus.BUSY, pipeline=pipeline)
            job.prepare_for_execution(self.name, pipeline=pipeline)
            pipeline.persist(job.key)
            pipeline.lrem(
                IntermediateQueue.get_intermediate_queue_key(Queue(job.origin, self.connection).key), 1, job.id
            )
            pipeline.execute()
        self.executions[execution.id] = execution
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """All of it is done by `prepare_execution`."""

    def handle_execution_ended(self, job: Job, queue: BaseQueue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """Note when; what is written next says it to Redis."""
        job.ended_at = now()

    def handle_job_success(self, job: Job, *args: Any, **options: Any) -> None:
        """Remember what it returned, for what is written with its end."""
        self._outcome = job._result
        super().handle_job_success(job, *args, **options)

    def increment_successful_job_count(self, pipeline: Pipeline | None = None) -> None:
        """Count it here too, without asking Redis once more."""
        super().increment_successful_job_count(pipeline)
        if pipeline is not None:
            self.note_success(self._outcome, pipeline)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Remember the state, and tell it, but not that nothing is done for a moment between two jobs."""
        if state == WorkerStatus.IDLE and pipeline is None:
            self._state = state
        else:
            super().set_state(state, pipeline)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, BaseQueue] | None:
        """Take the next job; before waiting for one, say so."""
        taken = super().dequeue_job_and_maintain_ttl(None)
        if taken or timeout is None:
            return taken
        self.connection.hset(self.key, "state", WorkerStatus.IDLE)
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Give a sign of life, unless one was given a moment ago."""
        if pipeline is not None:
            super().heartbeat(max(timeout or 0, self.worker_ttl + 60), pipeline)
            return
        if time.monotonic() - self._last_sign < SIGN_INTERVAL:
            return
        with self.connection.pipeline() as own:
            super().heartbeat(timeout, own)
            own.execute()
        self._last_sign = time.monotonic()

    def check_for_suspension(self, burst: bool) -> None:
        """Wait while workers are suspended; looked at now and then."""
        if time.monotonic() - self._last_look >= SUSPENSION_INTERVAL:
            super().check_for_suspension(burst)
            self._last_look = time.monotonic()

    @contextmanager
    def _signs_of_life(self, job: Job, execution: Execution) -> Iterator[None]:
        """Say all the while that this process works on a job, so that nobody takes it over."""
        if self._speaker is None:
            self._speaker = Thread(target=self._speak, daemon=True)
            self._speaker.start()
        with self._saying:
            self._in_hand = InHand(job, execution, time.monotonic())
        try:
            yield
        finally:
            with self._saying:  # what is being said of it has been said
                self._in_hand = None

    def _speak(self) -> None:
        """Say it of each job in hand, as long as the process lives: a thread for each would cost as much as Redis.

        A job that goes on long beyond its time cannot be interrupted: it ends the process, and is taken over.
        """
        while True:
            time.sleep(self.job_monitoring_interval)
            with self._saying:
                if self._in_hand is None:
                    continue
                job, execution, since = self._in_hand
                if job.timeout and 0 < job.timeout + OVERTIME < time.monotonic() - since:
                    log.critical("A job is far beyond its time and cannot be interrupted: the worker ends")
                    os.kill(os.getpid(), signal.SIGKILL)
                with suppress(Exception):  # the next one may get through
                    self.maintain_heartbeats(job, execution)

    def _refuse(self, job: GuardedJob, queue: BaseQueue, problem: str) -> None:
        """Put a job that is not ours among the failed ones, unread."""
        log.error("Refused job %s of %s: %s", job.id, queue.name, problem)
        job.retries_left = None
        self.connection.hincrby(REFUSED_JOBS, queue.name, 1)
        self.handle_job_failure(job, queue, exc_string=f"{ForeignJobError.__name__}: refused, for {problem}.")
        queue.intermediate_queue.remove(job.id)


def _count_death(job: Job, kind: type[BaseException], *_: Any) -> None:
    """Called for each job that raised, or was left by a worker that died: that may be the object's doing too."""
    if kind is AbandonedJobError:
        _add_death(job)


def _add_death(job: Job) -> None:
    job.meta["deaths"] = int(job.meta.get("deaths", 0)) + 1
    job.save_meta()  # type: ignore[no-untyped-call]
