"""Jobs are RQ's own, though they are not made by RQ."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from app.common.jobs import ROUTE, ObjectJob, options, queue
from app.webhook.intake import Intake
from app.webhook.settings import WebhookSettings
from tests.redis_server import redis_server

SETTINGS = WebhookSettings(video_queue_name="videos", result_ttl=77, failure_ttl=88)

#: Set where a job was made, a moment apart.
WHEN = {"created_at", "enqueued_at"}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator["redis.Redis"]:
    with redis_server(tmp_path) as port, redis.Redis(port=port) as connection:
        yield connection


def by_rq(connection: "redis.Redis", job: ObjectJob) -> Job:
    made = queue(job.queue, connection).enqueue_call(
        ROUTE, **{**options(job, SETTINGS), "job_id": f"{job.job_id}-by-rq"}
    )
    return Job.fetch(made.id, connection, JSONSerializer)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.jpg", "s3:ObjectCreated:Put"),
        ("clip.mp4", "s3:ObjectCreated:Copy"),
        ("é/\n\0 .png", "s3:ObjectRemoved:Delete"),
    ],
)
def test_a_job_has_what_rq_itself_would_have_written(connection: "redis.Redis", key: str, name: str) -> None:
    intake = Intake(connection, SETTINGS)
    wanted = intake.new("images", key, name, size=5 * 2**30)
    intake.enqueue(wanted)
    ours, theirs = Job.fetch(wanted.job_id, connection, JSONSerializer), by_rq(connection, wanted)
    assert (ours.func_name, ours.args, ours.kwargs) == (theirs.func_name, theirs.args, theirs.kwargs)
    stored = [{n: v for n, v in job.to_dict().items() if n not in WHEN} for job in (ours, theirs)]
    assert stored[0] == stored[1]
    assert ours.created_at == ours.enqueued_at
    assert 0 <= (theirs.created_at - ours.created_at).total_seconds() < 60
    assert queue(wanted.queue, connection).get_job_ids() == [ours.id, theirs.id]


def test_a_job_at_the_front_is_the_next(connection: "redis.Redis") -> None:
    intake = Intake(connection, SETTINGS)
    for job_id, at_front in (("first", False), ("second", True)):
        intake.enqueue(
            intake.new("images", f"{job_id}.jpg", "s3:ObjectCreated:Put", job_id=job_id, at_front=at_front)
        )
    assert queue(SETTINGS.queue_name, connection).get_job_ids() == ["second", "first"]
