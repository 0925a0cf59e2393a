"""Buckets and index are compared, and what was lost on the way is found."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rq.job import JobStatus

from app.common.errors import TransientError
from app.common.jobs import queue
from app.worker import reconcile, schedule
from app.worker.converge import Context
from app.worker.faces import FaceClient
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectVersion, Store
from infra import contract
from tests import media
from tests.fixtures import Pipeline, eventually, standing
from tests.unit.gpu.onnx_packs import write_pack

ARNS = [contract.target_arn(target) for target in (contract.DURABLE_TARGET, contract.HINT_TARGET)]


@contextmanager
def events_lost(found: Pipeline) -> Iterator[None]:
    """A time in which nothing tells the webhook what happens to the buckets."""
    for bucket in ("images", "videos"):
        contract.unsubscribe(found.minio, bucket, ARNS)
    try:
        yield
    finally:
        for bucket in ("images", "videos"):
            contract.subscribe(found.minio, bucket, ARNS)


def operate(found: Pipeline, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the worker's, as an operator would."""
    environment = dict(found.stack.processes["worker-1"].environment)
    return subprocess.run(
        [sys.executable, "-m", "app.worker", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )


def differences(found: Pipeline) -> set[str]:
    """What a dry run prints, a line for each difference."""
    answer = operate(found, "reconcile", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.splitlines())


def worker_context(found: Pipeline, **settings: str) -> Context:
    """What a job of the stack's worker works with."""
    environment = {name.lower(): value for name, value in found.stack.processes["worker-1"].environment.items()}
    fields = {name: value for name, value in environment.items() if name in WorkerSettings.model_fields}
    loaded = WorkerSettings.model_validate(fields | settings)
    return Context(loaded, Store(loaded), FaceClient(loaded))


@pytest.fixture
def portrait(photos: dict[str, bytes]) -> Callable[[int], bytes]:
    """Small photographs with a face, each of other bytes."""
    face = media.jpeg(media.portrait(photos))
    return lambda number: face + bytes([number])


def test_what_no_event_told_of_is_found(running: Pipeline, portrait: Callable[[int], bytes]) -> None:
    operate(running, "reconcile", "--wait")  # other tests put records that no object stands behind
    for number in range(3):
        running.put("images", f"told/{number}.jpg", portrait(number))
    for number in range(3):
        running.indexed("images", f"told/{number}.jpg")
    running.idle()
    with events_lost(running):
        created = running.put("images", "untold/new line\n.jpg", portrait(3))
        changed = running.put("images", "told/1.jpg", portrait(4))
        running.minio.remove_object("images", "told/2.jpg")
    expected = {
        "missing\timages/untold/new line\\x0a.jpg",
        "changed\timages/told/1.jpg",
        "orphan\timages/told/2.jpg",
    }
    assert differences(running) == expected
    assert differences(running) == expected  # a dry run changes nothing
    done = operate(running, "reconcile", "--wait")
    assert "Differences: 1 changed, 1 missing, 1 orphan." in done.stderr
    assert running.indexed("images", "untold/new line\n.jpg", created)["points"] == 1
    assert running.indexed("images", "told/1.jpg", changed)["points"] == 1
    running.gone("images", "told/2.jpg")
    assert differences(running) == set()


def test_a_job_that_failed_does_not_keep_its_object_from_the_next_comparison(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    with events_lost(running):
        etag = running.put("images", "failed.jpg", portrait(8))
    settings = worker_context(running, reconcile_queue_name="nobody_serves").settings
    difference = [reconcile.Difference("images", "failed.jpg", "missing")]
    assert reconcile.enqueue(difference, running.redis, settings) == 1
    assert reconcile.enqueue(difference, running.redis, settings) == 0  # it waits
    waiting = queue("nobody_serves", running.redis)
    job = waiting.jobs[0]
    waiting.remove(job)
    waiting.failed_job_registry.add(job, exc_string="a bug")  # as a worker does after the last try
    job.set_status(JobStatus.FAILED)
    assert operate(running, "reconcile", "--wait").returncode == 0
    assert running.indexed("images", "failed.jpg", etag)["points"] == 1
    assert waiting.failed_job_registry.get_job_count(cleanup=False) == 0


def test_a_comparison_comes_by_itself(running: Pipeline, portrait: Callable[[int], bytes]) -> None:
    with events_lost(running):
        etag = running.put("images", "scheduled.jpg", portrait(5))
    running.redis.delete("lookingglass:reconcile:not_due")  # an hour later
    assert running.indexed("images", "scheduled.jpg", etag)["points"] == 1
    running.idle()
    figures = eventually(lambda: running.redis.hgetall("lookingglass:reconcile"), "figures of the comparison")
    assert b"differences" in figures


def test_the_daily_look_at_every_record_is_due_until_it_was_taken(running: Pipeline) -> None:
    running.idle()
    running.redis.delete(schedule.NOT_DUE_THOROUGHLY)
    with pytest.raises(TransientError):
        schedule.step(worker_context(running, gpu_worker_url="http://127.0.0.1:9"), running.redis, None, 0, 0)
    assert not running.redis.exists(schedule.NOT_DUE_THOROUGHLY)
    schedule.step(worker_context(running), running.redis, None, 0, 0)
    assert running.redis.exists(schedule.NOT_DUE_THOROUGHLY)


def test_the_proof_says_what_is_left(running: Pipeline, portrait: Callable[[int], bytes]) -> None:
    running.put("images", "proof.jpg", portrait(6))
    running.indexed("images", "proof.jpg")
    there = operate(running, "proof", "images", "proof.jpg")
    assert there.returncode == 1
    assert json.loads(there.stdout)["points"] == 1
    running.minio.remove_object("images", "proof.jpg")
    running.gone("images", "proof.jpg")
    proof = operate(running, "proof", "images", "proof.jpg")
    assert proof.returncode == 0
    assert json.loads(proof.stdout) == {
        "bucket": "images",
        "object": "proof.jpg",
        "in_bucket": False,
        "record": None,
        "points": 0,
        "gone": True,
    }


def test_a_verdict_can_be_taken_back(running: Pipeline) -> None:
    etag = running.put("images", "quarantined.jpg", b"no picture")
    running.indexed("images", "quarantined.jpg", etag)
    before = running.item("images", "quarantined.jpg")["item"]["indexed_at"]
    assert operate(running, "release", "images", "quarantined.jpg").returncode == 0

    def tried_again() -> bool:
        item = running.item("images", "quarantined.jpg").get("item")
        return bool(item and item["indexed_at"] > before)

    eventually(tried_again, "another verdict")


def test_an_object_that_ends_its_worker_s_process_is_quarantined(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    with events_lost(running):
        etag = running.put("images", "deadly.jpg", portrait(7))
    job = running.call(
        "POST",
        "webhook/test/queue",
        {"bucket": "images", "object": "deadly.jpg", "run_at": "2100-01-01T00:00:00Z"},
    )[1]["job_id"]
    running.redis.hset(f"rq:job:{job}", "meta", json.dumps({"deaths": 3}))
    running.redis.zadd("rq:scheduled:facial_recognition", {job: 1})
    item = running.indexed("images", "deadly.jpg", etag)["item"]
    assert item["reason_code"] == "quarantined"
    listed = running.call("GET", "gpu_worker/items?reason_code=quarantined")[1]["items"]
    assert [found["key"] for found in listed] == ["deadly.jpg"]
    running.minio.remove_object("images", "deadly.jpg")
    running.gone("images", "deadly.jpg")


def test_an_orphan_is_found_behind_deletions_that_happen_meanwhile(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    """Records are counted while objects come and go, so the count alone can hide what it should tell of."""
    operate(running, "reconcile", "--wait")
    for number in range(2):
        running.put("images", f"hidden/{number}.jpg", portrait(number))
        running.indexed("images", f"hidden/{number}.jpg")
    context = worker_context(running)
    with events_lost(running):
        running.minio.remove_object("images", "hidden/0.jpg")
    compared = {}
    for thorough in (True, False):
        found = []
        for differences, following in reconcile.pages(context, reconcile.start(context.settings, thorough=thorough)):
            found += [difference.key for difference in differences]
            if not thorough and following and (following.bucket, following.side) == ("images", "objects"):
                context.faces.delete("images", "hidden/1.jpg")  # as a job does when its object was deleted
        compared[thorough] = found
    assert compared == {True: ["hidden/0.jpg"], False: []}
    operate(running, "reconcile", "--wait")


def test_a_bucket_that_is_gone_is_passed_over_and_forgotten_on_request(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    context = worker_context(running, image_bucket="gone")
    version = ObjectVersion("gone", "a.jpg", "v1", 1, None, "", "")
    context.faces.put_image(version, portrait(0))
    with events_lost(running):
        running.put("videos", "beside.jpg", portrait(9))
    found = [
        difference
        for differences, _ in reconcile.pages(context, reconcile.start(context.settings))
        for difference in differences
    ]
    assert [(difference.bucket, difference.key) for difference in found] == [("videos", "beside.jpg")]
    assert operate(running, "forget", "images").returncode == 1
    assert operate(running, "forget", "gone").returncode == 0
    assert context.faces.remains("gone", "a.jpg") == (None, 0)
    operate(running, "reconcile", "--wait")


def test_a_full_queue_leaves_events_with_minio(
    tmp_path: Path, portrait: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_QUEUED_JOBS", "3")
    with standing(tmp_path / "full", workers=1) as found:
        worker = found.stack.processes["worker-1"]
        worker.stop()
        for number in range(10):
            found.put("images", f"{number}.jpg", portrait(number))
        eventually(
            lambda: found.call("POST", "webhook/webhook/minio", {"Records": []}, **found.token())[0] == 503,
            "a full queue",
        )
        worker.start()
        for number in range(10):
            found.indexed("images", f"{number}.jpg", timeout=120)
        found.idle()
        for _ in range(3):  # on no queue, but in Redis all the same
            later = {"bucket": "images", "object": "0.jpg", "run_at": "2100-01-01T00:00:00Z"}
            assert found.call("POST", "webhook/test/queue", later)[0] < 300
        eventually(
            lambda: found.call("POST", "webhook/webhook/minio", {"Records": []}, **found.token())[0] == 503,
            "as many jobs waiting for their time as may",
        )


def test_another_model_takes_over_when_it_has_seen_everything(
    tmp_path: Path, portrait: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing(tmp_path / "models", workers=1) as found:
        for number in range(3):
            found.put("images", f"{number}.jpg", portrait(number))
        for number in range(3):
            found.indexed("images", f"{number}.jpg")
        [old] = found.call("GET", "gpu_worker/models")[1]["models"]
    write_pack(tmp_path / "packs" / "stand_in")
    for name, value in (
        ("ENGINE", "insightface"),
        ("MODEL_DIR", str(tmp_path / "packs")),
        ("MODEL_PACK", "stand_in"),
        ("RECONCILE_INTERVAL", "0"),
    ):
        monkeypatch.setenv(name, value)
    with standing(tmp_path / "models", workers=1) as found:
        assert found.call("POST", "gpu_worker/alias")[0] == 409
        assert {line.split("\t")[0] for line in differences(found)} == {"model"}
        assert operate(found, "models", "--drop", old["model_id"]).returncode == 1  # readers still see it
        assert operate(found, "reconcile", "--wait").returncode == 0
        assert differences(found) == set()
        models = {model["model_id"]: model for model in found.call("GET", "gpu_worker/models")[1]["models"]}
        assert [name for name, model in models.items() if model["read"]] == [
            name for name, model in models.items() if model["in_use"]
        ]
        assert not models[old["model_id"]]["read"]
        assert operate(found, "models", "--drop", old["model_id"]).returncode == 0
        assert old["model_id"] not in str(found.call("GET", "gpu_worker/models")[1])
