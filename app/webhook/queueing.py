"""What became of events and jobs, as Redis and RQ tell."""

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from app.common.errors import LookingGlassError
from app.common.inspection import jobs_by_state, oldest_queued_seconds, suspended, workers
from app.common.jobs import RECONCILE_FIGURES, RETRY_INTERVALS, is_ours, queue
from app.webhook.intake import HINTS_SINCE, LAST_EVENT
from app.webhook.metrics import Figures
from app.webhook.settings import WebhookSettings

#: Redis list of records that could not become jobs, newest first, and how many are kept.
DEAD_LETTERS = "lookingglass:dead_letters"
DEAD_LETTERS_KEPT = 10_000

#: A dead letter is cut to this many characters of its record.
DEAD_LETTER_CHARS = 4000

#: Seconds after which the durable target, which looks at its directory every 3 s, counts as stopped.
HELD_BACK_AFTER = 20

JSON = dict[str, Any]


class NotOursError(LookingGlassError):
    """The job names a function that is none of ours, so no worker runs it."""

    code = "not_ours"
    status = 422


class Jobs:
    """Answers for jobs and events; one per process."""

    def __init__(self, connection: "Redis", settings: WebhookSettings) -> None:
        self._redis = connection
        self._settings = settings

    def held_back(self) -> int:
        """Seconds for which MinIO's durable target has sent nothing although there were events; 0 while it does."""
        since = self._redis.get(HINTS_SINCE)
        waited = int(time.time()) - int(since) if since else 0
        return waited if waited > HELD_BACK_AFTER else 0

    def last_event(self) -> str | None:
        """When MinIO sent something last, ISO 8601."""
        at = self._redis.get(LAST_EVENT)
        return datetime.fromtimestamp(int(at), UTC).isoformat() if at else None

    def figures(self) -> Figures:
        """What is worth a metric; costs a few round trips whatever is in Redis."""
        names = self._settings.all_queues()
        memory = self._redis.info("memory")
        return Figures(
            jobs=self.stats(),
            oldest=oldest_queued_seconds(self._redis, names),
            workers=workers(self._redis),
            paused=suspended(self._redis),
            held_back=self.held_back(),
            compared=self.compared(),
            redis_used=memory["used_memory"],
            redis_limit=memory["maxmemory"] or memory.get("total_system_memory", 0),
        )

    def compared(self) -> dict[str, float]:
        """Figures of the last comparison of buckets and index; none before the first."""
        names = ("ended_at", "seconds", "differences")
        values = self._redis.hmget(RECONCILE_FIGURES, names)
        return {name: float(value) for name, value in zip(names, values, strict=True) if value is not None}

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
        return _report(job, job.latest_result()) if job else None

    def failed(self, limit: int) -> tuple[int, list[JSON]]:
        """How many jobs have failed for good, and the newest of them."""
        total, found = 0, []
        for name in self._settings.all_queues():
            registry = self._queue(name).failed_job_registry
            total += registry.get_job_count(cleanup=False)
            ids = registry.get_job_ids(0, limit - 1, desc=True, cleanup=False)
            jobs = Job.fetch_many(ids, connection=self._redis, serializer=JSONSerializer)
            found += [job for job in jobs if job is not None]
        found = found[:limit]
        return total, [_report(job, latest) for job, latest in zip(found, self._latest(found), strict=True)]

    def requeue(self, job_id: str) -> bool:
        """Put a failed job back on its queue with its tries restored; False if it is not among the failed.

        Raises:
            NotOursError: it names a function that no worker here runs.
        """
        job = self._fetch(job_id)
        if job is None:
            return False
        if not is_ours(job):
            raise NotOursError(f"The job {job_id} names a function that no worker here runs.")
        job.retries_left = len(RETRY_INTERVALS)
        try:
            self._queue(job.origin).failed_job_registry.requeue(job)
        except (NoSuchJobError, InvalidJobOperation):
            return False
        return True

    def requeue_all(self) -> int:
        """Put every failed job of ours back on its queue; return how many."""
        registries = [self._queue(name).failed_job_registry for name in self._settings.all_queues()]
        failed = [job_id for registry in registries for job_id in registry.get_job_ids(cleanup=False)]
        requeued = 0
        for job_id in failed:
            with suppress(NotOursError):
                requeued += self.requeue(job_id)
        return requeued

    def stats(self) -> dict[str, dict[str, int]]:
        """Counts of each queue's jobs by state; reading them changes nothing."""
        return jobs_by_state(self._redis, self._settings.all_queues())

    def _latest(self, jobs: list[Job]) -> list[Result | None]:
        """The latest result of each, in one round trip; RQ takes one for each."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.xrevrange(Result.get_key(job.id), count=1)  # type: ignore[no-untyped-call]
            found = pipe.execute()
        return [
            Result.restore(job.id, entries[0][0].decode(), entries[0][1], self._redis, JSONSerializer)
            if entries
            else None
            for job, entries in zip(jobs, found, strict=True)
        ]

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except (NoSuchJobError, ValueError):  # ValueError: no job can have such an id
            return None

    def _queue(self, name: str) -> Queue:
        return queue(name, self._redis)


def _report(job: Job, latest: Result | None) -> JSON:
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
