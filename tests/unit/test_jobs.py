"""What ended is remembered for a while and up to a number, so that Redis stays small whatever the rate."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from app.common.jobs import FUNCTIONS, ROUTE, JobSettings, ObjectJob, is_ours, options, queue, trim_ended
from app.worker import jobs as worker_jobs
from infra import contract
from tests.redis_server import redis_server

#: Ten minutes at 200 images a second.
SUSTAINED = 200 * 600

#: Bytes that Redis may take for what is remembered of them; 2 kB each, all of them would be 240 MB.
MOST_BYTES = 60 * 2**20


@pytest.fixture
def connection(tmp_path: Path) -> Iterator["redis.Redis"]:
    with redis_server(tmp_path, *contract.REDIS_OPTIONS) as port, redis.Redis(port=port) as connection:
        yield connection


def end(connection: "redis.Redis", settings: JobSettings, numbers: range, status: JobStatus) -> None:
    """Leave jobs behind as RQ does when they end."""
    target = queue(settings.queue_name, connection)
    registry = target.finished_job_registry if status is JobStatus.FINISHED else target.failed_job_registry
    with connection.pipeline(transaction=False) as pipe:
        for number in numbers:
            wanted = ObjectJob(target.name, f"job-{number}", "images", f"camera/{number}.jpg", "s3:Put", 180)
            job = target.create_job(ROUTE, **options(wanted, settings))
            job.set_status(status, pipeline=pipe)
            job.save(pipeline=pipe)
            value = {"bucket": "images", "object": f"camera/{number}.jpg", "status": "indexed", "faces": 2}
            Result.create(job, Result.Type.SUCCESSFUL, ttl=settings.result_ttl, return_value=value, pipeline=pipe)
            pipe.zadd(registry.key, {job.id: time.time() + settings.result_ttl + number})
        pipe.execute()


@pytest.mark.parametrize("status", [JobStatus.FINISHED, JobStatus.FAILED])
def test_the_oldest_that_ended_are_forgotten_first_with_all_that_they_left(
    connection: "redis.Redis", status: JobStatus
) -> None:
    settings = JobSettings(max_finished_jobs=100, max_failed_jobs=100)
    end(connection, settings, range(2500), status)
    assert trim_ended(connection, settings) == 2400
    assert trim_ended(connection, settings) == 0
    kept = {f"job-{number}" for number in range(2400, 2500)}
    assert {key.decode().removeprefix("rq:job:") for key in connection.scan_iter("rq:job:*")} == kept
    assert {key.decode().removeprefix("rq:results:") for key in connection.scan_iter("rq:results:*")} == kept


def test_a_job_that_is_under_way_again_is_not_deleted(connection: "redis.Redis") -> None:
    settings = JobSettings(max_finished_jobs=100)
    end(connection, settings, range(101), JobStatus.FINISHED)
    again = Job.fetch("job-0", connection=connection, serializer=JSONSerializer)
    again.set_status(JobStatus.QUEUED)
    assert trim_ended(connection, settings) == 1
    assert Job.exists("job-0", connection=connection)


def test_a_sustained_rate_stays_within_a_bound(connection: "redis.Redis") -> None:
    settings = JobSettings()
    largest = 0
    for at in range(0, SUSTAINED, 3000):  # what 200 a second leave between two rounds of a worker's maintenance
        end(connection, settings, range(at, at + 3000), JobStatus.FINISHED)
        largest = max(largest, connection.info("memory")["used_memory"])
        trim_ended(connection, settings)
    assert connection.zcard(queue(settings.queue_name, connection).finished_job_registry.key) == 20_000
    assert largest < MOST_BYTES


def test_only_our_functions_are_ours(connection: "redis.Redis") -> None:
    target = queue("facial_recognition", connection)
    assert is_ours(target.create_job(ROUTE, kwargs={}))
    for other in ("os.system", "app.worker.jobs.context", "app.worker.operate.run"):
        assert not is_ours(target.create_job(other, kwargs={}))
    pickled = target.create_job(ROUTE)
    pickled.data = b"\x80\x04N."
    assert not is_ours(pickled)


def test_every_function_of_ours_exists() -> None:
    for name in FUNCTIONS:
        assert callable(getattr(worker_jobs, name.rpartition(".")[2]))
