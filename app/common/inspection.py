"""What Redis tells of queues and workers. Reading it changes nothing, and costs the same at any number of jobs."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Worker
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import as_text, utcparse

from app.common.jobs import queue

#: Seconds without a sign of life after which a worker counts as silent: three are missed.
SILENT_AFTER = 45

#: Redis hash of an hour's finished jobs: minute of the hour → how many.
FINISHED = "lookingglass:finished:{:%Y%m%d%H}"
#: Hours for which they are kept: a day, and the hour under way.
FINISHED_HOURS = 25

JSON = dict[str, Any]


def jobs_by_state(connection: Redis, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts of each queue's jobs by state, in one round trip.

    States are read in the order a job passes them, so that one under way between two of them is seen.
    """
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            looked_at = queue(name, connection)
            pipe.llen(looked_at.key)
            pipe.llen(looked_at.intermediate_queue_key)  # taken by a worker that has not yet recorded the start
            for registry in (
                looked_at.started_job_registry,
                looked_at.failed_job_registry,
                looked_at.finished_job_registry,
                looked_at.deferred_job_registry,
                looked_at.scheduled_job_registry,
            ):
                pipe.zcard(registry.key)
        counts = iter(pipe.execute())
    return {
        name: {
            "queued_jobs": next(counts),
            "started_jobs": next(counts) + next(counts),
            "failed_jobs": next(counts),
            "finished_jobs": next(counts),
            "deferred_jobs": next(counts),
            "scheduled_jobs": next(counts),
        }
        for name in names
    }


def oldest_queued_seconds(connection: Redis, names: Sequence[str]) -> dict[str, float]:
    """For how long the job that is next has waited, by queue; 0 where none waits."""
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.lindex(queue(name, connection).key, 0)
        first = [identifier.decode() if identifier else "" for identifier in pipe.execute()]
        for identifier in first:
            pipe.hget(Job.key_for(identifier), "enqueued_at")
        times = pipe.execute()
    return {name: _seconds_since(at) if at else 0.0 for name, at in zip(names, times, strict=True)}


def workers(connection: Redis) -> list[JSON]:
    """The workers that Redis knows, and what each does for how long; sorted by name.

    A worker is `busy`, `idle`, `suspended`, or `silent` where signs of life are missing.
    """
    rest = suspended(connection)
    prefix = Worker.redis_worker_namespace_prefix
    keys = sorted(as_text(key) for key in connection.smembers(Worker.redis_workers_keys))
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
            pipe.srandmember(WORKER_EXECUTIONS_KEY_TEMPLATE.format(key.removeprefix(prefix)))
        found = iter(pipe.execute())
        seen = [(key.removeprefix(prefix), _text(next(found)), next(found)) for key in keys]
        seen = [(name, about, execution) for name, about, execution in seen if about]
        executions = [_execution(connection, execution) for *_, execution in seen]
        for execution in executions:
            pipe.hgetall(execution.key if execution else "")
            pipe.hmget(Job.key_for(execution.job_id if execution else ""), "description", "origin")
        found = iter(pipe.execute())
        jobs = [_job(execution, _text(next(found)), next(found)) for execution in executions]
    return [_worker(name, about, job, rest=rest) for (name, about, _), job in zip(seen, jobs, strict=True)]


def suspended(connection: Redis) -> bool:
    """Whether workers were told to take no jobs."""
    return bool(connection.exists(WORKERS_SUSPENDED))


def count_finished(pipeline: Pipeline) -> None:
    """Note that a job ended well, now; `pipeline` is what writes its end."""
    now = datetime.now(UTC)
    key = FINISHED.format(now)
    pipeline.hincrby(key, str(now.minute), 1)
    pipeline.expire(key, FINISHED_HOURS * 3600)


def finished(connection: Redis) -> dict[str, Any]:
    """Jobs that ended well in the last hour and day, and by hour, the present one last."""
    now = datetime.now(UTC)
    hours = [now - timedelta(hours=back) for back in reversed(range(FINISHED_HOURS))]
    with connection.pipeline(transaction=False) as pipe:
        for hour in hours:
            pipe.hgetall(FINISHED.format(hour))
        minutes = [{int(minute): int(count) for minute, count in found.items()} for found in pipe.execute()]
    this, before, first = minutes[-1], minutes[-2], minutes[0]
    by_hour = [sum(counts.values()) for counts in minutes]
    return {
        "hour": sum(this.values()) + sum(count for minute, count in before.items() if minute > now.minute),
        "day": sum(by_hour[1:]) + sum(count for minute, count in first.items() if minute > now.minute),
        "by_hour": by_hour[1:],
    }


def _execution(connection: Redis, member: bytes | None) -> Execution | None:
    return Execution.from_composite_key(member.decode(), connection=connection) if member else None


def _job(execution: Execution | None, about: Mapping[str, str], job: Sequence[bytes | None]) -> JSON | None:
    if execution is None or not about:
        return None
    description, origin = ((value or b"").decode("utf-8", "replace") for value in job)
    return {
        "job_id": execution.job_id,
        "what": description,
        "queue": origin,
        "seconds": round(max(0.0, time.time() - float(about["created_at"])), 1),
    }


def _worker(name: str, about: Mapping[str, str], job: JSON | None, *, rest: bool) -> JSON:
    silent = _seconds_since(about["last_heartbeat"]) if "last_heartbeat" in about else 0.0
    state = "silent" if silent > SILENT_AFTER else "busy" if job else "suspended" if rest else "idle"
    return {
        "name": name,
        "state": state,
        "queues": about.get("queues", "").split(","),
        "host": about.get("hostname", ""),
        "silent_s": silent,
        "up_s": _seconds_since(about["birth"]) if "birth" in about else 0.0,
        "finished": int(about.get("successful_job_count", 0)),
        "failed": int(about.get("failed_job_count", 0)),
        "job": job,
    }


def _text(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in found.items()}


def _seconds_since(at: str | bytes) -> float:
    text = at.decode() if isinstance(at, bytes) else at
    return round(max(0.0, time.time() - utcparse(text).timestamp()), 1)
