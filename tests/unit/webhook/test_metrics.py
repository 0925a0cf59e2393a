"""What the webhook tells Prometheus of queues, workers and Redis, by the names that the ecosystem knows."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rq import suspension

from app.webhook import metrics
from app.webhook.queueing import Jobs
from app.webhook.settings import WebhookSettings
from tests.redis_server import redis_server
from tests.unit.console import standin


@pytest.fixture
def connection(tmp_path: Path) -> Iterator["Redis"]:
    with redis_server(tmp_path / "redis", "--maxmemory", "100mb") as port, closing(Redis(port=port)) as connected:
        yield connected


def samples(connection: "Redis") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition(Jobs(connection, WebhookSettings()).figures()).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_jobs_workers_and_the_age_of_the_next_job(connection: "Redis") -> None:
    standin.enqueue(connection, "a.jpg", "job-1")
    connection.hset("rq:job:job-1", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    standin.fail(connection, "b.jpg", "job-2", "ValueError: no")
    standin.worker(connection, "w1")
    standin.worker(connection, "w2")
    found = samples(connection)
    queue = ("queue", "facial_recognition")
    assert found["rq_jobs", (queue, ("status", "queued"))] == 1
    assert found["rq_jobs", (queue, ("status", "failed"))] == 1
    assert found["lookingglass_oldest_job_seconds", (queue,)] > 1e6
    assert found["lookingglass_oldest_job_seconds", (("queue", "reconcile"),)] == 0
    assert found["rq_workers", (("queues", "facial_recognition"), ("state", "idle"))] == 2


def test_a_pause_and_redis_s_memory_are_seen(connection: "Redis") -> None:
    assert samples(connection)["lookingglass_workers_paused", ()] == 0
    suspension.suspend(connection)
    found = samples(connection)
    assert found["lookingglass_workers_paused", ()] == 1
    assert found["lookingglass_redis_limit_bytes", ()] == 100 * 2**20
    assert 0 < found["lookingglass_redis_used_bytes", ()] < 100 * 2**20


def test_a_scrape_costs_the_same_with_many_jobs(connection: "Redis") -> None:
    def commands() -> int:
        before = int(connection.info("stats")["total_commands_processed"])
        samples(connection)
        return int(connection.info("stats")["total_commands_processed"]) - before

    few = commands()
    with connection.pipeline(transaction=False) as pipe:
        for number in range(20_000):
            pipe.rpush("rq:queue:facial_recognition", f"job-{number}")
            pipe.zadd("rq:failed:facial_recognition", {f"failed-{number}": number})
        pipe.execute()
    assert commands() == few
