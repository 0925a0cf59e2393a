"""The jobs, as RQ runs them.

What an object can never be is recorded on its item and ends the job; what is away for a while makes the job wait
its turn again, as often as it takes; only what should not happen fails the job.
"""

import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from redis.client import Pipeline
from rq import Queue, Retry, get_current_job
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from app.common.errors import PermanentError, TransientError
from app.common.inspection import count_finished
from app.common.jobs import PENDING, RECONCILE, VIDEO, ObjectJob, options, queue
from app.common.media import Kind, guess_from_name
from app.worker import schedule
from app.worker.converge import Context, VideoFoundError, converge, give_up
from app.worker.faces import EngineCrashedError, FaceClient
from app.worker.reliable import MOST_DEATHS, deaths
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion, Store
from app.worker.video import VideoTimeoutError

log = logging.getLogger(__name__)

#: Seconds before a job that waits for something away is tried again: at first soon, then every five minutes.
OUTAGE_INTERVALS = [2, 5, 10, 30, 60, 120, 300]
#: How often it is tried: for a week.
OUTAGE_TRIES = 2000

#: Seconds that a job takes at most beside what the face service takes: reading the picture, waiting for a place.
JOB_SLACK = 60

JSON = dict[str, Any]
Outcome = JSON | Retry


def _job(run: Callable[[str, str], Outcome]) -> Callable[..., Outcome]:
    """What the jobs have in common: what becomes of the errors."""

    @wraps(run)
    def job(bucket: str, object: str, event: str | None = None) -> Outcome:  # noqa: A002, ARG001
        return _run_or_wait(f"{bucket}/{object}", lambda: _run_or_quarantine(run, bucket, object))

    return job


def _run_or_wait(what: str, work: Callable[[], Outcome]) -> Outcome:
    """Do a job's work; where what it needs is away or slow, have the job tried again later.

    That uses up none of the tries that it has for what should not happen.
    """
    try:
        return work()
    except (TransientError, ObjectChangedError, JobTimeoutException) as error:
        job = get_current_job()
        if job is None:
            raise
        # Of all work only that on videos is done here, and says so itself; else the time went to waiting for others.
        slow = isinstance(error, JobTimeoutException)
        reason = f"MinIO and the face service took longer than the job may: {error}" if slow else str(error)
        log.warning("Waiting with %s: %s", what, reason)
        job.meta["waiting_for"] = reason
        job.save_meta()  # type: ignore[no-untyped-call]
        return Retry(max=OUTAGE_TRIES, interval=OUTAGE_INTERVALS)


def _run_or_quarantine(run: Callable[[str, str], Outcome], bucket: str, key: str) -> Outcome:
    """Run a job's work; give up on an object that did harm at every try."""
    if deaths() >= MOST_DEATHS:
        return _quarantine(bucket, key, f"it ended {deaths()} processes of workers")
    try:
        return run(bucket, key)
    except (EngineCrashedError, VideoTimeoutError, MemoryError) as error:
        if _tries_left():
            raise
        return _quarantine(bucket, key, str(error) or "it took more memory than a job may")


@_job
def route_processing_job(bucket: str, object: str) -> Outcome:  # noqa: A002
    """Look at an object and do what it needs, whatever the event said."""
    kind = guess_from_name(object).value
    return _converge(f"Processing {kind} upload", bucket, object)


@_job
def process_image_upload(bucket: str, object: str) -> Outcome:  # noqa: A002
    """Make the index agree with the bucket for an object that was no video when last seen."""
    return _converge("Processing image upload", bucket, object)


@_job
def process_video_upload(bucket: str, object: str) -> Outcome:  # noqa: A002
    """Make the index agree with the bucket for an object that was a video when last seen."""
    return _converge("Processing video upload", bucket, object)


@_job
def cleanup_processed_item(bucket: str, object: str) -> Outcome:  # noqa: A002
    """Make the index agree with the bucket for an object that was gone when last seen."""
    return _converge("Cleaning up removed item", bucket, object)


def reconcile_buckets(
    position: list[Any] | None = None, found: int = 0, began: float = 0, dry_run: bool = False
) -> Outcome:
    """Compare buckets and index from a position on, and enqueue what differs."""
    job = get_current_job()
    if job is None:
        raise RuntimeError("A step of a comparison enqueues the next, so it runs as a job.")
    return _run_or_wait(
        "the comparison of buckets and index",
        lambda: schedule.step(context(), job, position, found, began, dry_run=dry_run),
    )


def forks(job: Job) -> bool:
    """Whether a job is to run in a process of its own: where it may open a video, which strangers made."""
    if job.func_name == VIDEO:
        return True
    if job.func_name == RECONCILE:
        return False
    told = job.kwargs
    removed = str(told.get("event", "")).startswith("s3:ObjectRemoved")
    return not removed and guess_from_name(str(told.get("object", ""))) is Kind.VIDEO


def note_success(outcome: Any, pipeline: Pipeline) -> None:
    """Count a job on an object that ended well, unless it only passed the object on."""
    if isinstance(outcome, dict) and "object" in outcome and outcome["status"] != "forwarded":
        count_finished(pipeline)


def least_timeout() -> float:
    """Seconds that a job needs at least, whatever IMAGE_JOB_TIMEOUT says: the face service may take so long."""
    longest = context().faces.longest_s
    return longest + JOB_SLACK if longest else 0


@cache
def context() -> Context:
    """The clients of this process, whose connections live from one job to the next."""
    settings = WorkerSettings()
    return Context(settings, Store(settings), FaceClient(settings))


# A forked process makes connections of its own.
os.register_at_fork(after_in_child=context.cache_clear)

#: The process that this module was loaded in; a job in another runs in a fork, and may open a video.
_LOADED_IN = os.getpid()


def _converge(doing: str, bucket: str, key: str) -> JSON:
    log.info("%s %s/%s", doing, bucket, key)  # operators search the logs for these words
    job = get_current_job()
    try:
        outcome = converge(context(), bucket, key, videos=job is None or os.getpid() != _LOADED_IN)
    except VideoFoundError as found:
        if job is None:
            raise
        outcome = _forward(job, context().settings, found.version)
    log.info("Finished %s/%s: %s", bucket, key, outcome["status"], extra={"outcome": outcome})
    return outcome


def _tries_left() -> bool:
    job = get_current_job()
    return bool(job and job.retries_left)


def _quarantine(bucket: str, key: str, why: str) -> JSON:
    """Give up on an object that ended a process at every try; recorded on its item."""
    log.error("Quarantined %s/%s: %s", bucket, key, why)
    reason = f"Quarantined, for at every try the same happened: {why}"
    return give_up(context(), bucket, key, PermanentError("quarantined", reason))


def _forward(job: Job, settings: WorkerSettings, version: ObjectVersion) -> JSON:
    """Give a video that was not known for one a process of its own, its queue, and the time that its size takes."""
    compared = job.origin == settings.reconcile_queue_name  # elsewhere it would overtake uploads
    video = ObjectJob(
        queue=job.origin if compared else settings.queue_for(Kind.VIDEO),
        job_id=f"{job.id.removesuffix('-video')}-video",
        bucket=version.bucket,
        object=version.key,
        event=(job.kwargs or {}).get("event", ""),
        timeout=settings.timeout_for(Kind.VIDEO, version.size),
    )
    [known] = Job.fetch_many([video.job_id], connection=job.connection, serializer=JSONSerializer)
    if known is None or known.get_status(refresh=False) not in PENDING:
        data = Queue.prepare_data(VIDEO, **options(video, settings))
        queue(video.queue, job.connection).enqueue_many([data])
    return {"bucket": version.bucket, "object": version.key, "status": "forwarded", "job_id": video.job_id}
