"""From events to jobs in RQ, and back to what became of them."""

import json
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from app.common.jobs import RECONCILE_FIGURES, RETRY_INTERVALS, ROUTE, ObjectJob, options, queue
from app.common.media import guess_from_name
from app.webhook.events import REMOVED, Event
from app.webhook.settings import WebhookSettings

#: Redis list of records that could not become jobs, newest first, and how many are kept.
DEAD_LETTERS = "lookingglass:dead_letters"
DEAD_LETTERS_KEPT = 10_000

#: A dead letter is cut to this many characters of its record.
DEAD_LETTER_CHARS = 4000

#: Redis key with the time since which MinIO's quick target told of events and its durable one of none.
HINTS_SINCE = "lookingglass:events:hints_since"
#: Seconds after which the durable target, which looks at its directory every 3 s, counts as stopped.
HELD_BACK_AFTER = 20

#: Seconds for which the answer holds whether more jobs may wait.
FULL_FOR = 0.25

JSON = dict[str, Any]


class Jobs:
    """Enqueues jobs and answers for them; one per process."""

    def __init__(self, connection: "Redis", settings: WebhookSettings) -> None:
        self._redis = connection
        self._settings = settings
        self._full, self._full_until = False, 0.0

    def from_event(self, event: Event) -> ObjectJob:
        """The job of an event."""
        return self.new(
            event.bucket,
            event.key,
            event.name,
            job_id=event.job_id,
            content_type=event.s3.object.content_type,
            size=event.s3.object.size,
            at_front=event.high_priority,
        )

    def new(
        self,
        bucket: str,
        key: str,
        event: str,
        *,
        job_id: str | None = None,
        content_type: str = "",
        size: int = 0,
        at_front: bool = False,
    ) -> ObjectJob:
        """A job for an object, not yet enqueued."""
        kind = guess_from_name(key, content_type)
        return ObjectJob(
            queue=self._settings.queue_for(kind, removed=event.startswith(REMOVED)),
            job_id=job_id or uuid.uuid4().hex,
            bucket=bucket,
            object=key,
            event=event,
            timeout=self._settings.timeout_for(kind, size),
            at_front=at_front,
        )

    def enqueue(self, jobs: Iterable[ObjectJob]) -> list[JSON]:
        """Enqueue in one round trip what is not known yet; a redelivered event finds its job.

        Two deliveries of one event at the same moment may both enqueue it; its second run finds nothing to do.
        """
        wanted = list({job.job_id: job for job in jobs}.values())
        known = Job.fetch_many([job.job_id for job in wanted], connection=self._redis, serializer=JSONSerializer)
        new = [job for job, found in zip(wanted, known, strict=True) if found is None]
        with self._redis.pipeline() as pipe:
            for name, group in groupby(sorted(new, key=lambda job: job.queue), key=lambda job: job.queue):
                self._queue(name).enqueue_many(
                    [
                        Queue.prepare_data(ROUTE, at_front=job.at_front, **options(job, self._settings))
                        for job in group
                    ],
                    pipeline=pipe,
                )
            pipe.execute()
        return [
            _answer(job, JobStatus.QUEUED if found is None else found.get_status(refresh=False))
            for job, found in zip(wanted, known, strict=True)
        ]

    def full(self) -> bool:
        """Whether as many jobs wait as may; looked up a few times a second, for events come by the thousand."""
        if time.monotonic() >= self._full_until:
            queues = [self._queue(name) for name in self._settings.all_queues()]
            # In an outage jobs wait to be tried again, and are on no queue.
            later = sum(queue.scheduled_job_registry.get_job_count(cleanup=False) for queue in queues)
            waiting = later + sum(queue.count for queue in queues)
            self._full, self._full_until = waiting >= self._settings.max_queued_jobs, time.monotonic() + FULL_FOR
        return self._full

    def delivered(self, *, hint: bool) -> None:
        """Note from which of MinIO's two targets an event came."""
        if hint:
            self._redis.set(HINTS_SINCE, int(time.time()), nx=True)
        else:
            self._redis.delete(HINTS_SINCE)

    def held_back(self) -> int:
        """Seconds for which MinIO's durable target has sent nothing although there were events; 0 while it does."""
        since = self._redis.get(HINTS_SINCE)
        waited = int(time.time()) - int(since) if since else 0
        return waited if waited > HELD_BACK_AFTER else 0

    def compared(self) -> dict[str, float]:
        """Figures of the last comparison of buckets and index; none before the first."""
        names = ("ended_at", "seconds", "differences")
        values = self._redis.hmget(RECONCILE_FIGURES, names)
        return {name: float(value) for name, value in zip(names, values, strict=True) if value is not None}

    def schedule(self, job: ObjectJob, at: datetime) -> JSON:
        """Enqueue a job at a later time, through RQ's scheduler."""
        target = self._queue(job.queue)
        scheduled = target.create_job(ROUTE, **options(job, self._settings))
        scheduled.enqueue_at_front = job.at_front
        target.schedule_job(scheduled, at)
        return {**_answer(job, JobStatus.SCHEDULED), "run_at": at.astimezone(UTC).isoformat()}

    def bury(self, record: Any, reason: str) -> None:
        """Keep a record that can never become a job, with the reason."""
        letter = json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "reason": reason,
                "record": json.dumps(record)[:DEAD_LETTER_CHARS],
            }
        )
        with self._redis.pipeline() as pipe:
            pipe.lpush(DEAD_LETTERS, letter)
            pipe.ltrim(DEAD_LETTERS, 0, DEAD_LETTERS_KEPT - 1)
            pipe.execute()

    def dead_letters(self, limit: int) -> tuple[int, list[JSON]]:
        """How many records were buried, and the newest of them."""
        newest = self._redis.lrange(DEAD_LETTERS, 0, limit - 1)
        return int(self._redis.llen(DEAD_LETTERS)), [json.loads(letter) for letter in newest]

    def find(self, job_id: str) -> JSON | None:
        """A job's status, times, result and error; None if there is no such job."""
        job = self._fetch(job_id)
        return _report(job) if job else None

    def failed(self, limit: int) -> tuple[int, list[JSON]]:
        """How many jobs have failed for good, and the newest of them."""
        total, reports = 0, []
        for name in self._settings.all_queues():
            registry = self._queue(name).failed_job_registry
            total += registry.get_job_count(cleanup=False)
            ids = registry.get_job_ids(0, limit - 1, desc=True, cleanup=False)
            jobs = Job.fetch_many(ids, connection=self._redis, serializer=JSONSerializer)
            reports += [_report(job) for job in jobs if job is not None]
        return total, reports[:limit]

    def requeue(self, job_id: str) -> bool:
        """Put a failed job back on its queue with its tries restored; False if it is not among the failed."""
        job = self._fetch(job_id)
        if job is None:
            return False
        job.retries_left = len(RETRY_INTERVALS)
        try:
            self._queue(job.origin).failed_job_registry.requeue(job)
        except (NoSuchJobError, InvalidJobOperation):
            return False
        return True

    def requeue_all(self) -> int:
        """Put every failed job back on its queue; return how many."""
        registries = [self._queue(name).failed_job_registry for name in self._settings.all_queues()]
        failed = [job_id for registry in registries for job_id in registry.get_job_ids(cleanup=False)]
        return sum(self.requeue(job_id) for job_id in failed)

    def stats(self, name: str) -> dict[str, int]:
        """Counts of a queue's jobs by state; reading them changes nothing.

        States are read in the order a job passes them, so that one under way between two of them is seen.
        """
        target = self._queue(name)
        queued, taken = target.count, self._redis.llen(target.intermediate_queue_key)
        registries = {
            "started_jobs": target.started_job_registry,
            "failed_jobs": target.failed_job_registry,
            "finished_jobs": target.finished_job_registry,
            "deferred_jobs": target.deferred_job_registry,
            "scheduled_jobs": target.scheduled_job_registry,
        }
        counts = {key: registry.get_job_count(cleanup=False) for key, registry in registries.items()}
        counts["started_jobs"] += taken  # by a worker that has not yet recorded the start
        return {"queued_jobs": queued, **counts}

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except (NoSuchJobError, ValueError):  # ValueError: no job can have such an id
            return None

    def _queue(self, name: str) -> Queue:
        return queue(name, self._redis)


def _answer(job: ObjectJob, status: JobStatus) -> JSON:
    return {
        "job_id": job.job_id,
        "bucket": job.bucket,
        "object": job.object,
        "event": job.event,
        "status": status.value,
    }


def _report(job: Job) -> JSON:
    latest = job.latest_result()
    status = job.get_status(refresh=False)
    waiting = None if status is JobStatus.FINISHED else job.meta.get("waiting_for")
    error = (latest.exc_string if latest else None) or waiting
    return {
        "job_id": job.id,
        "status": status.value,
        "queue": job.origin,
        "arguments": _arguments(job),
        "created_at": _time(job.created_at),
        "enqueued_at": _time(job.enqueued_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "retries_left": job.retries_left,
        "result": latest.return_value if latest and latest.exc_string is None else None,
        "error": _last_line(error),
        "traceback": latest.exc_string if latest else None,
    }


def _arguments(job: Job) -> JSON | None:
    try:
        return job.kwargs
    except DeserializationError:  # not one of ours: only JSON is ever read
        return None


def _time(value: datetime | None) -> str | None:
    return value.isoformat() if value else None


def _last_line(error: str | None) -> str | None:
    return error.strip().splitlines()[-1] if error and error.strip() else None
