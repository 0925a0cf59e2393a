"""Targets 9 and 11: Redis with a million jobs, and with more jobs a second than there is memory for."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import redis
import urllib3
from rq.job import Job, JobStatus
from rq.results import Result
from rq.utils import now

from app.common.jobs import ROUTE, ObjectJob, options, queue
from app.worker.settings import WorkerSettings
from tests.bench import servers
from tests.bench.measure import Figure, Target, compared, in_turn, percentile
from tests.bench.sizes import Sizes

#: KEYS: a list and a registry. ARGV: number of the first job and of the last. Jobs of which nobody asks more than the
#: state: half of them wait, half of them are finished.
_FILL = """
for at = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local id = 'bench-' .. at
  redis.call('HSET', 'rq:job:' .. id, 'status', at % 2 == 0 and 'queued' or 'finished')
  if at % 2 == 0 then redis.call('RPUSH', KEYS[1], id) else redis.call('ZADD', KEYS[2], 4e9 + at, id) end
end
"""
CHUNK = 10_000

ENDPOINTS = ("/queue/stats", "/health")

#: Jobs a second that end in production, how much faster they end here, and how many are written at a time.
RATE, FASTER, TOGETHER = 200, 10, 200

#: What Redis may keep in the stack (MiB): MEMORY and DATA_SHARE in infra/pulumi/lookingglass.
LIMIT = 0.6 * 1024


def counts(sizes: Sizes) -> Iterator[Figure]:
    """p99 of what is asked all the time, with many jobs against few."""
    with servers.scratch() as directory, ExitStack() as stack:
        urls = []
        for name, number in (("few", sizes.few_jobs), ("many", sizes.many_jobs)):
            own = directory / name
            own.mkdir()
            redis_url, _ = stack.enter_context(servers.redis_server(own))
            urls.append(stack.enter_context(servers.webhook(own, redis_url))[0])
            _fill(redis_url, number)
        for endpoint in ENDPOINTS:
            few, many = (f"{url}{endpoint}" for url in urls)
            slowest = in_turn(
                sizes.rounds,
                partial(_slowest, many, sizes.questions),
                partial(_slowest, few, sizes.questions),
            )
            what = f"p99 ms of GET {endpoint} with {sizes.many_jobs:,} jobs"
            beside = f"with {sizes.few_jobs}"
            name = f"p99-{endpoint.strip('/').replace('/', '-')}"
            yield compared(9, name, what, beside, Target(most=1.3), "ms", slowest)


def memory(sizes: Sizes) -> Iterator[Figure]:
    """Redis's memory where jobs end all the time, while a worker forgets the oldest."""
    with servers.scratch() as directory, servers.redis_server(directory) as (redis_url, _):
        environment = servers.worker_environment(redis_url, "127.0.0.1:9", "http://127.0.0.1:9")
        connection = servers.connected(redis_url)
        with servers.workers(directory, 1, environment):
            ended, most = _end_jobs(connection, sizes.redis_s)
        kept = int(connection.zcard("rq:finished:facial_recognition"))
        connection.close()
    # A machine that is too busy to end as many jobs simulates a shorter time.
    what = f"MiB of Redis at most, {RATE} images/s for {ended // RATE} s simulated in {sizes.redis_s} s"
    more = {"jobs ended": ended, "finished jobs remembered at the end": kept}
    yield Figure(
        11, "redis-memory", what, "its limit in the stack", Target(most=1), [most / LIMIT], most, LIMIT, "MiB", more
    )


def _fill(redis_url: str, number: int) -> None:
    connection = servers.connected(redis_url)
    used = queue("facial_recognition", connection)
    script = connection.register_script(_FILL)
    for first in range(0, number, CHUNK):
        script([used.key, used.finished_job_registry.key], [first, min(first + CHUNK, number) - 1])
    connection.sadd("rq:queues", used.key)
    connection.close()


def _slowest(url: str, questions: int) -> float:
    http, seconds = urllib3.PoolManager(), []
    for _ in range(questions):
        started = time.perf_counter()
        http.request("GET", url)
        seconds.append(time.perf_counter() - started)
    http.clear()
    return 1000 * percentile(seconds, 0.99)


def _end_jobs(connection: "redis.Redis", seconds: int) -> tuple[int, float]:
    """Have jobs end, as RQ writes it down, so many times as fast.

    Returns how many did, and the most memory that Redis used (MiB).
    """
    settings, most, number = WorkerSettings(), 0.0, 0
    used = queue("facial_recognition", connection)
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        if number > passed * RATE * FASTER:
            time.sleep(0.01)
            continue
        with connection.pipeline(transaction=False) as pipe:
            for _ in range(TOGETHER):
                number += 1
                _end(used.create_job(ROUTE, **options(_job(number), settings)), settings, pipe)
            pipe.execute()
        most = max(most, connection.info("memory")["used_memory"] / 2**20)
    return number, most


def _end(job: Job, settings: WorkerSettings, pipe: "redis.client.Pipeline") -> None:
    job.started_at = job.enqueued_at = job.created_at
    job.ended_at = now()
    job._status = JobStatus.FINISHED
    job.save(pipeline=pipe, include_meta=False)
    value = {"bucket": "images", "object": "x.jpg", "status": "indexed", "etag": "0" * 32, "face_count": 1}
    Result.create(job, Result.Type.SUCCESSFUL, ttl=settings.result_ttl, return_value=value, pipeline=pipe)
    job.finished_job_registry.add(job, settings.result_ttl, pipe)
    pipe.expire(job.key, settings.result_ttl)


def _job(number: int) -> ObjectJob:
    name = f"{number:032x}"
    return ObjectJob("facial_recognition", name, "images", f"a/folder/{number}.jpg", "s3:ObjectCreated:Put", 180)
