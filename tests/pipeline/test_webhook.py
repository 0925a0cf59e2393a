"""The webhook's endpoints, over HTTP, on a real Redis."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import DefaultSerializer as PickleSerializer
from rq.serializers import JSONSerializer

from app.common.jobs import queue
from tests import media
from tests.fixtures import SOON, Pipeline, eventually

MINIO = "webhook/webhook/minio"


def record(key: str = "hook/a.jpg", name: str = "s3:ObjectRemoved:Delete", **more: Any) -> dict[str, Any]:
    """A record of an event; a removal by default, which costs nothing to process."""
    return {"eventName": name, "s3": {"bucket": {"name": "images"}, "object": {"key": key, **more}}}


def post(running: Pipeline, *records: Any) -> tuple[int, Any]:
    return running.call("POST", MINIO, {"Records": list(records)}, **running.token())


def finished(running: Pipeline, job_id: str) -> Any:
    """Wait until a job finished, and return its report."""
    return eventually(
        lambda: (found := running.call("GET", f"webhook/job/{job_id}")[1])["status"] == "finished" and found,
        f"job {job_id} finished",
    )


def test_an_event_becomes_a_job_that_can_be_followed(running: Pipeline) -> None:
    status, answer = post(running, record("hook/a+b%2Bc.jpg", sequencer=uuid4().hex))
    assert (status, answer["status"], answer["processed_jobs"]) == (200, "success", 1)
    [job] = answer["jobs"]
    assert set(job) == {"job_id", "bucket", "object", "event", "status"}
    assert (job["bucket"], job["object"], job["status"]) == ("images", "hook/a b+c.jpg", "queued")
    report = finished(running, job["job_id"])
    assert report["result"]["status"] == "deleted"
    assert report["created_at"] <= report["started_at"] <= report["ended_at"]
    assert report["error"] is None


def test_a_redelivered_event_finds_its_job_and_a_newer_one_does_not(running: Pipeline) -> None:
    sequencer = uuid4().hex
    jobs = [post(running, record(sequencer=s))[1]["jobs"][0] for s in (sequencer, sequencer, sequencer + "1")]
    assert jobs[0]["job_id"] == jobs[1]["job_id"] != jobs[2]["job_id"]
    finished(running, jobs[0]["job_id"])
    again = post(running, record(sequencer=sequencer))[1]["jobs"][0]
    assert (again["job_id"], again["status"]) == (jobs[0]["job_id"], "finished")


def test_many_records_become_many_jobs_at_once(running: Pipeline) -> None:
    records = [record(f"hook/{n}.jpg", sequencer=uuid4().hex) for n in range(50)]
    status, answer = post(running, *records, records[0])
    assert (status, answer["processed_jobs"]) == (200, 50)
    assert len({job["job_id"] for job in answer["jobs"]}) == 50
    running.idle()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"Records": 7}', b"\xff", b"[" * 5000])
def test_what_is_no_event_document_gets_400_and_a_sentence(running: Pipeline, body: bytes) -> None:
    status, answer = running.call("POST", MINIO, body, **running.token())
    assert (status, answer["status"]) == (400, "error")
    assert answer["error"].endswith(".")


def test_a_body_beyond_the_limit_gets_413(running: Pipeline) -> None:
    status, answer = post(running, *[record("x" * 1000) for _ in range(2000)])
    assert (status, answer["status"]) == (413, "error")
    assert post(running)[0] == 200, "the connection is of no more use"


@pytest.mark.parametrize(
    "broken", [None, 7, "x", [], {}, record(""), record("x" * 2000), {"eventName": "s3:X", "s3": 1}]
)
def test_a_record_that_can_never_be_a_job_is_kept_with_its_reason_and_does_not_block(
    running: Pipeline, broken: Any
) -> None:
    before = running.call("GET", "webhook/events/dead")[1]["dead_letters"]
    status, answer = post(running, broken, record(sequencer=uuid4().hex))
    assert (status, answer["processed_jobs"], len(answer["dead_lettered"])) == (200, 1, 1)
    after = running.call("GET", "webhook/events/dead")[1]
    assert after["dead_letters"] == before + 1
    assert after["events"][0]["reason"] == answer["dead_lettered"][0]["reason"]


@pytest.mark.parametrize(
    "other",
    [
        record(name="s3:ObjectAccessed:Get"),
        record(name="s3:ObjectCreated:PutTagging"),
        {**record(), "s3": {"bucket": {"name": "backups"}, "object": {"key": "a.jpg"}}},
    ],
)
def test_an_event_that_is_none_of_ours_is_ignored_with_its_reason(running: Pipeline, other: Any) -> None:
    status, answer = post(running, other)
    assert (status, answer["processed_jobs"]) == (200, 0)
    assert answer["ignored"][0]["reason"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}])
def test_an_event_without_the_token_gets_401(running: Pipeline, headers: dict[str, str]) -> None:
    status, answer = running.call("POST", MINIO, {"Records": []}, **headers)
    assert (status, answer["status"]) == (401, "error")


def test_the_test_endpoint_enqueues_now_and_later(running: Pipeline) -> None:
    body = {"bucket": "images", "object": "hook/none.jpg", "event": "s3:ObjectCreated:Put"}
    status, answer = running.call("POST", "webhook/test/queue", {**body, "priority": "high"})
    assert (status, answer["status"], answer["job_status"]) == (200, "success", "queued")
    at = datetime.now(UTC) + timedelta(seconds=3)
    status, answer = running.call("POST", "webhook/test/queue", {**body, "run_at": at.isoformat()})
    assert (status, answer["job_status"]) == (200, "scheduled")
    job = f"webhook/job/{answer['job_id']}"
    assert running.call("GET", job)[1]["status"] == "scheduled"
    report = finished(running, answer["job_id"])
    # RQ's scheduler counts in whole seconds.
    assert datetime.fromisoformat(report["started_at"]) >= at - timedelta(seconds=1)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "a"},
        {"bucket": "images"},
        {"bucket": "images", "object": ""},
        {"bucket": "images", "object": 7},
        {"bucket": "images", "object": "\ud800"},
        {"bucket": "nowhere", "object": "a"},
        {"bucket": "images", "object": "a", "event": "s3:Nothing"},
        {"bucket": "images", "object": "a", "run_at": "soon"},
        {"bucket": "images", "object": "a", "priority": "highest"},
        [],
    ],
)
def test_a_wrong_test_job_gets_400_and_a_sentence(running: Pipeline, body: Any) -> None:
    status, answer = running.call("POST", "webhook/test/queue", body)
    assert (status, answer["status"]) == (400, "error")


def test_stats_have_the_original_keys(running: Pipeline) -> None:
    status, answer = running.call("GET", "webhook/queue/stats")
    assert (status, answer["status"], answer["queue_name"]) == (200, "success", "facial_recognition")
    original = {"queued_jobs", "failed_jobs", "finished_jobs", "started_jobs", "deferred_jobs"}
    assert original <= set(answer["stats"])


def test_an_unknown_job_or_path_gets_404_in_json(running: Pipeline) -> None:
    assert running.call("GET", "webhook/job/unknown")[0] == 404
    assert running.call("GET", "webhook/nothing/here")[1]["status"] == "error"
    assert running.call("DELETE", "webhook/health")[0] == 405


def test_metrics_count_events_and_jobs(running: Pipeline) -> None:
    post(running, record(sequencer=uuid4().hex))
    text = running.http.request("GET", f"{running.stack.outputs['webhook_url']}/metrics").data.decode()
    assert 'lookingglass_events_total{outcome="job"}' in text
    assert 'rq_jobs{queue="facial_recognition",status="failed"}' in text


def test_a_full_redis_makes_minio_keep_the_event(running: Pipeline) -> None:
    event = record(sequencer=uuid4().hex)
    running.redis.config_set("maxmemory", 1)
    try:
        status, answer = post(running, event)
        assert (status, answer["status"]) == (503, "error")
    finally:
        running.redis.config_set("maxmemory", 0)
    assert post(running, event)[0] == 200


def test_a_job_that_waits_for_the_face_service_says_so_and_ends_well(
    running: Pipeline, photos: dict[str, bytes]
) -> None:
    service = running.stack.processes["gpu-worker"]
    service.stop()
    try:
        running.put("images", "patient.jpg", media.jpeg(media.portrait(photos)))
        _, answer = running.call("POST", "webhook/test/queue", {"bucket": "images", "object": "patient.jpg"})
        job = f"webhook/job/{answer['job_id']}"
        report = eventually(
            lambda: (found := running.call("GET", job)[1])["status"] == "scheduled" and found, "the job waiting"
        )
        assert "face service" in report["error"]
        assert report["retries_left"] == 3
        time.sleep(8)  # several tries
        assert running.call("GET", job)[1]["retries_left"] == 3
    finally:
        service.start()
        service.wait_until(running.face_service_ready, SOON)
    assert running.indexed("images", "patient.jpg")["points"] == 1
    report = finished(running, answer["job_id"])
    assert report["result"]["status"] in ("indexed", "unchanged")
    assert report["error"] is None
    assert running.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 0


def test_a_pickled_job_is_refused_unread(running: Pipeline, tmp_path: Path) -> None:
    proof = tmp_path / "loaded"
    job = Queue("facial_recognition", connection=running.redis, serializer=PickleSerializer).enqueue(
        "app.worker.jobs.route_processing_job", Loaded(str(proof))
    )
    report = eventually(
        lambda: (found := running.call("GET", f"webhook/job/{job.id}")[1])["status"] == "failed" and found, "refused"
    )
    assert report["arguments"] is None
    assert not proof.exists()
    assert running.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 1
    queue("facial_recognition", running.redis).failed_job_registry.remove(job.id, delete_job=True)


class Loaded:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def test_a_failed_job_is_listed_with_its_reason_and_can_be_requeued(running: Pipeline) -> None:
    target = queue("facial_recognition", running.redis)
    ids = [
        target.enqueue("app.worker.jobs.no_such_job", kwargs={"bucket": "images", "object": f"{n}"}).id
        for n in range(3)
    ]
    listed = eventually(
        lambda: (found := running.call("GET", "webhook/jobs/failed")[1])["failed_jobs"] == 3 and found,
        "three failures",
    )
    assert {job["job_id"] for job in listed["jobs"]} == set(ids)
    assert all("no_such_job" in job["error"] for job in listed["jobs"])
    for job in Job.fetch_many(ids, connection=running.redis, serializer=JSONSerializer):
        assert job is not None
        assert job.kwargs  # read before the name changes: they are stored together
        job.func_name = "app.worker.jobs.route_processing_job"
        job.save()
    assert running.call("POST", f"webhook/job/{ids[0]}/requeue")[0] == 200
    assert running.call("POST", f"webhook/job/{ids[0]}/requeue")[0] in (200, 404)
    status, answer = running.call("POST", "webhook/jobs/failed/requeue")
    assert (status, answer["requeued"]) == (200, 2)
    eventually(lambda: running.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 0, "none failed")
    for job_id in ids:
        assert finished(running, job_id)
    assert running.call("POST", "webhook/job/unknown/requeue")[0] == 404
