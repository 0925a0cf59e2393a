"""What webhook and worker agree on about jobs: names, queues, time limits, how often each is tried.

The webhook names jobs by dotted path and so never imports the worker.
"""

from typing import Any, NamedTuple

from pydantic import Field
from redis import Redis
from rq import Queue, Retry
from rq.serializers import JSONSerializer

from app.common.media import Kind
from app.common.settings import ServiceSettings

ROUTE = "app.worker.jobs.route_processing_job"

RECONCILE = "app.worker.jobs.reconcile_buckets"

#: Redis hash with the figures of the last comparison of buckets and index: `ended_at`, `seconds`, `differences`.
RECONCILE_FIGURES = "lookingglass:reconcile"

#: Seconds a step of a comparison of buckets and index may run.
RECONCILE_TIMEOUT = 900

#: Bytes a second at which an object is worked off at least: a larger one may take longer.
LEAST_RATE = 2**20

#: Seconds before each new try of a job that raised: a crash, a bug, an object that kills its decoder. What is
#: merely away does not raise, see `app.worker.jobs`.
RETRY_INTERVALS = [10, 60, 300]


class JobSettings(ServiceSettings):
    """The settings that whoever enqueues needs."""

    redis_url: str = Field("redis://localhost:6379/0", pattern=r"^(rediss?|unix)://")
    #: Queue of images and of everything without a queue of its own.
    queue_name: str = "facial_recognition"
    video_queue_name: str | None = None
    cleanup_queue_name: str | None = None
    #: Queue of what comparisons of buckets and index found; every worker serves it last.
    reconcile_queue_name: str = "reconcile"
    image_bucket: str = "images"
    video_bucket: str = "videos"
    #: Seconds a job may run before it is ended.
    image_job_timeout: int = Field(180, ge=10)
    video_job_timeout: int = Field(7200, ge=10)
    #: Seconds a finished job is remembered; a redelivered event finds its job for as long.
    result_ttl: int = Field(3600, ge=60)
    #: Seconds a failed job stays on the list of failed jobs.
    failure_ttl: int = Field(30 * 86400, ge=60)

    def all_queues(self) -> list[str]:
        """Every queue in use, without repeats, the default first."""
        names = (self.queue_name, self.video_queue_name, self.cleanup_queue_name, self.reconcile_queue_name)
        return list(dict.fromkeys(name for name in names if name))

    def buckets(self) -> frozenset[str]:
        """The buckets that the index speaks of."""
        return frozenset((self.image_bucket, self.video_bucket))

    def queue_for(self, kind: Kind, *, removed: bool = False) -> str:
        """The name of the queue for an object of this kind, or for its removal."""
        own = self.cleanup_queue_name if removed else self.video_queue_name if kind is Kind.VIDEO else None
        return own or self.queue_name

    def timeout_for(self, kind: Kind, size: int = 0) -> int:
        """Seconds a job on an object of this kind and size in bytes may run."""
        allowed = self.video_job_timeout if kind is Kind.VIDEO else self.image_job_timeout
        return allowed + size // LEAST_RATE


class ObjectJob(NamedTuple):
    """A job to be enqueued: look at this object."""

    queue: str
    job_id: str
    bucket: str
    object: str
    event: str
    timeout: int
    at_front: bool = False


def queue(name: str, connection: Redis) -> Queue:
    """A queue whose jobs are JSON: a pickle put into Redis is refused, never loaded."""
    return Queue(name, connection=connection, serializer=JSONSerializer)


def options(job: ObjectJob, settings: JobSettings) -> dict[str, Any]:
    """The arguments of RQ's `Queue.prepare_data` and `Queue.create_job` for this job."""
    return {
        "kwargs": {"bucket": job.bucket, "object": job.object, "event": job.event},
        "job_id": job.job_id,
        "description": f"{job.event} {job.bucket}/{job.object}",
        **_limits(settings, job.timeout),
    }


def step_options(settings: JobSettings) -> dict[str, Any]:
    """The same for a step of a comparison of buckets and index."""
    return {"description": "compare buckets and index", **_limits(settings, RECONCILE_TIMEOUT)}


def _limits(settings: JobSettings, timeout: int) -> dict[str, Any]:
    """How long a job may run and is remembered, and how often it is tried."""
    return {
        "timeout": timeout,
        "result_ttl": settings.result_ttl,
        "failure_ttl": settings.failure_ttl,
        "retry": Retry(max=len(RETRY_INTERVALS), interval=RETRY_INTERVALS),
    }
