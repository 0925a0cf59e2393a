"""What webhook and worker agree on about jobs: names, queues, time limits, how often each is tried.

The webhook names jobs by dotted path and so never imports the worker.
"""

from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field
from redis import Redis
from rq import Queue, Retry
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from app.common.media import Kind
from app.common.redis import check_url
from app.common.settings import ServiceSettings

ROUTE = "app.worker.jobs.route_processing_job"

RECONCILE = "app.worker.jobs.reconcile_buckets"

#: The job of an object that is known to be a video.
VIDEO = "app.worker.jobs.process_video_upload"

#: States of a job that will run, or runs.
PENDING = (JobStatus.CREATED, JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED)

#: The functions that a job may name; one that names another is never run, whoever put it into Redis.
FUNCTIONS = frozenset(
    (
        ROUTE,
        RECONCILE,
        "app.worker.jobs.process_image_upload",
        VIDEO,
        "app.worker.jobs.cleanup_processed_item",
    )
)

#: Redis hash that counts, by queue, the jobs that named another function.
REFUSED_JOBS = "lookingglass:refused_jobs"

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

    redis_url: Annotated[str, AfterValidator(check_url)] = "redis://localhost:6379/0"
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
    #: Most finished, and most failed, jobs of a queue that are remembered, whatever their age: they are in memory.
    max_finished_jobs: int = Field(20_000, ge=100)
    max_failed_jobs: int = Field(20_000, ge=100)

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


def is_ours(job: Job) -> bool:
    """Whether a job names one of our functions; only the name is read, as JSON."""
    try:
        return job.func_name in FUNCTIONS
    except DeserializationError:
        return False


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


#: Jobs forgotten in one command, for Redis does nothing else meanwhile.
TRIMMED_AT_ONCE = 1000

#: Takes the jobs that expire first off a registry and deletes them with their results. KEYS: the registry. ARGV: jobs
#: to keep, most to take off, the state a job must be in to be deleted, and what a job's keys begin with.
_TRIM = """
local over = math.min(redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1]), tonumber(ARGV[2]))
if over <= 0 then return 0 end
local taken = redis.call('ZPOPMIN', KEYS[1], over)
for at = 1, #taken, 2 do
  local job = ARGV[4] .. taken[at]
  if redis.call('HGET', job, 'status') == ARGV[3] then
    redis.call('UNLINK', job, job .. ':dependents', job .. ':dependencies', ARGV[5] .. taken[at])
  end
end
return over
"""


def trim_ended(connection: Redis, settings: JobSettings) -> int:
    """Forget the oldest finished and failed jobs beyond what is remembered of each queue; return how many.

    Costs a round trip per queue and kind, and time by the number forgotten alone.
    """
    return sum(
        _trim(connection, registry.key, keep, status)
        for name in settings.all_queues()
        for registry, keep, status in (
            (queue(name, connection).finished_job_registry, settings.max_finished_jobs, JobStatus.FINISHED),
            (queue(name, connection).failed_job_registry, settings.max_failed_jobs, JobStatus.FAILED),
        )
    )


def _trim(connection: Redis, registry: str, keep: int, status: JobStatus) -> int:
    script, total = connection.register_script(_TRIM), 0
    job, result = Job.key_for(""), Result.get_key("")  # type: ignore[no-untyped-call]
    while True:
        forgotten = int(script([registry], [keep, TRIMMED_AT_ONCE, status.value, job, result]))
        total += forgotten
        if forgotten < TRIMMED_AT_ONCE:
            return total
