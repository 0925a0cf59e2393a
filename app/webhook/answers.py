"""What the webhook answers, described for `/openapi.json`; what these forbid, it does not say."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Said(BaseModel):
    """An answer, or a part of one, with all its members."""

    model_config = ConfigDict(extra="forbid")


class Success(Said):
    status: Literal["success"]


class EnqueuedJob(Said):
    job_id: str
    bucket: str
    object: str
    event: str
    #: RQ's, `queued` for a new one.
    status: str


class IgnoredEvent(Said):
    bucket: str
    object: str
    event: str
    reason: str


class DeadLettered(Said):
    reason: str


class Taken(Success):
    processed_jobs: int
    jobs: list[EnqueuedJob]
    ignored: list[IgnoredEvent]
    dead_lettered: list[DeadLettered]


class Events(Said):
    #: Seconds for which MinIO's durable target sent nothing although there were events.
    held_back_s: int
    #: When MinIO sent something last, ISO 8601; null before that.
    last_at: str | None
    problem: str | None = None


class Health(Said):
    status: Literal["healthy"]
    service: Literal["webhook"]
    version: str
    redis: Literal["connected"]
    queues: list[str]
    events: Events


class Report(Said):
    """What became of a job; times are ISO 8601."""

    job_id: str
    #: RQ's: queued, started, finished, failed, deferred, scheduled, stopped, canceled.
    status: str
    queue: str
    #: The job's arguments; null for a job that is none of ours.
    arguments: dict[str, Any] | None
    created_at: str | None
    enqueued_at: str | None
    started_at: str | None
    ended_at: str | None
    retries_left: int | None
    result: Any
    #: Why it failed, or what it waits for.
    error: str | None
    traceback: str | None


class Counts(Said):
    queued_jobs: int
    started_jobs: int
    failed_jobs: int
    finished_jobs: int
    deferred_jobs: int
    scheduled_jobs: int


class Stats(Success):
    queue_name: str
    stats: Counts
    #: The same for every queue in use.
    queues: dict[str, Counts]


class Enqueued(Success):
    job_id: str
    bucket: str
    object: str
    event: str
    job_status: str
    run_at: str | None = None


class Failed(Success):
    failed_jobs: int
    jobs: list[Report]


class Requeued(Success):
    requeued: int
    job_id: str | None = None


class DeadLetter(Said):
    at: str
    reason: str
    record: str


class DeadLetters(Success):
    dead_letters: int
    events: list[DeadLetter]
