"""Buckets and index are compared, and what was lost on the way is found."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from rq.job import Job, JobStatus
from rq.utils import now

from app.common import comparison
from app.common.errors import TransientError
from app.common.jobs import queue
from app.worker import reconcile, schedule
from app.worker.converge import Context, converge
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


def operate(found: Pipeline, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the worker's, as an operator would; `changed` are variables of its environment."""
    environment = {**found.stack.processes["worker-1"].environment, **changed}
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
    printed = set(answer.stdout.splitlines())
    assert answer.returncode == (3 if printed else 0), answer.stderr
    return printed


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


def test_who_waits_for_a_comparison_is_told_of_a_job_that_failed(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    operate(running, "reconcile", "--wait")
    with events_lost(running):
        running.put("images", "fails.jpg", portrait(9))
    waiting = queue("served_by_the_test", running.redis)
    with ThreadPoolExecutor(1) as operator:
        told = operator.submit(operate, running, "reconcile", "--wait", RECONCILE_QUEUE_NAME=waiting.name)
        job = eventually(lambda: next(iter(waiting.jobs), None), "a job of the comparison")
        job.ended_at = now()
        job.set_status(JobStatus.FAILED)
        job.save()
        waiting.failed_job_registry.add(job, exc_string="a bug")
        waiting.remove(job)
    assert told.result().returncode == 1
    assert "1 of their jobs failed" in told.result().stderr
    assert operate(running, "reconcile", "--wait").returncode == 0


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
    step = Job("comparison-0-0", connection=running.redis)
    with pytest.raises(TransientError):
        schedule.step(worker_context(running, gpu_worker_url="http://127.0.0.1:9"), step, None, 0, 0)
    assert not running.redis.exists(schedule.NOT_DUE_THOROUGHLY)
    schedule.step(worker_context(running), step, None, 0, 0)
    assert running.redis.exists(schedule.NOT_DUE_THOROUGHLY)


def test_comparisons_do_not_pile_up_where_nobody_serves_their_queue(running: Pipeline) -> None:
    settings = worker_context(running, reconcile_queue_name="nobody_compares").settings
    waiting = queue("nobody_compares", running.redis)
    for _ in range(3):
        running.redis.delete(schedule.NOT_DUE)  # an hour later
        schedule.keep_scheduled(running.redis, settings, 3600)
    [first] = waiting.jobs
    comparison.enqueue_step(running.redis, settings, first.id, {})  # as a step does that is run again
    assert waiting.job_ids == [first.id]
    first.delete()
    running.redis.delete(schedule.NOT_DUE)
    schedule.keep_scheduled(running.redis, settings, 3600)
    [second] = waiting.jobs
    assert second.id != first.id
    second.delete()


def test_a_verdict_is_judged_again_when_its_cause_changed(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    operate(running, "reconcile", "--wait")
    with events_lost(running):
        running.put("images", "large.jpg", portrait(10) + bytes(3000))
    strict = worker_context(running, max_image_bytes="1024")
    assert converge(strict, "images", "large.jpg")["status"] == "rejected"
    assert running.item("images", "large.jpg")["item"]["judged_by"] == {"MAX_IMAGE_BYTES": 1024}
    assert compared(strict, "large.jpg") == []
    assert differences(running) == {"judgement\timages/large.jpg"}
    assert "Differences: 1 judgement." in operate(running, "reconcile", "--wait").stderr
    assert running.item("images", "large.jpg")["points"] == 1
    assert differences(running) == set()


def compared(context: Context, key: str, **how: bool) -> list[str]:
    """What a comparison finds of a picture, without repairing it."""
    return [
        difference.why
        for found, _ in reconcile.pages(context, reconcile.start(context.settings, **how))
        for difference in found
        if (difference.bucket, difference.key) == ("images", key)
    ]


def test_an_object_that_is_denied_to_the_worker_is_rejected_and_tried_again(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    operate(running, "reconcile", "--wait")
    admin = MinioAdmin(
        endpoint=running.outputs["minio_url"].partition("://")[2],
        credentials=StaticProvider(running.outputs["minio_user"], running.outputs["minio_password"]),
        secure=False,
    )
    denied = "arn:aws:s3:::images/denied.jpg"
    allow = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::*"]}
    deny = {"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": [denied]}
    admin.user_add("reader", "reader-secret")
    admin.policy_add("reading", policy={"Version": "2012-10-17", "Statement": [allow, deny]})
    admin.policy_set("reading", user="reader")
    reader = worker_context(running, minio_user="reader", minio_password="reader-secret")
    with events_lost(running):
        etag = running.put("images", "denied.jpg", portrait(11))
        running.put("images", "allowed.jpg", portrait(12))
    assert converge(reader, "images", "allowed.jpg")["status"] == "indexed"
    assert converge(reader, "images", "denied.jpg")["status"] == "rejected"
    item = running.item("images", "denied.jpg")["item"]
    assert (item["reason_code"], item["etag"]) == ("unreadable", etag)
    assert item["size"] == len(portrait(11))
    assert compared(reader, "denied.jpg", thorough=False) == []
    assert compared(reader, "denied.jpg", thorough=True) == []  # looked at today
    assert compared(reader, "denied.jpg", by_hand=True) == ["judgement"]
    admin.policy_add("nothing", policy={"Version": "2012-10-17", "Statement": [allow | {"Effect": "Deny"}]})
    admin.policy_set("nothing", user="reader")
    with pytest.raises(TransientError):
        converge(reader, "images", "allowed.jpg")
    # Another user may be allowed to: it is tried again at once.
    assert differences(running) == {"judgement\timages/denied.jpg"}
    operate(running, "reconcile", "--wait")
    assert running.indexed("images", "denied.jpg", etag)["points"] == 1


def test_a_listing_has_what_the_client_s_own_has_whatever_the_keys(running: Pipeline) -> None:
    keys = [
        f"listed/{name}" for name in ("a b", "a+b", "a%2Bb", "<&>'\"", "new\nline", "tab\t\x7f", "ä/é/😀", "folder/")
    ]
    with events_lost(running):
        for key in keys:
            running.put("images", key, b"" if key.endswith("/") else key.encode())
    expected = [
        (listed.object_name, listed.etag, listed.size)
        for listed in running.minio.list_objects("images", recursive=True, start_after="listed")
        if str(listed.object_name).startswith("listed/")
    ]
    assert {key for key, _, _ in expected} == set(keys)
    pages = worker_context(running).store.pages("images", "listed", 3)
    found = [one for page in pages for one in page if one.key.startswith("listed/")]
    assert found == expected
    for key in keys:
        running.minio.remove_object("images", key)


def test_an_object_that_stands_for_a_folder_is_nothing_to_compare(running: Pipeline) -> None:
    operate(running, "reconcile", "--wait")
    running.put("images", "folder/", b"")
    running.idle()
    assert running.item("images", "folder/")["code"] == "not_found"
    assert differences(running) == set()
    running.minio.remove_object("images", "folder/")


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


def test_a_deadly_object_that_was_deleted_meanwhile_is_removed_once(
    running: Pipeline, portrait: Callable[[int], bytes]
) -> None:
    running.put("images", "deadly and gone.jpg", portrait(13))
    running.indexed("images", "deadly and gone.jpg")
    running.idle()
    with events_lost(running):
        running.minio.remove_object("images", "deadly and gone.jpg")
    body = {"bucket": "images", "object": "deadly and gone.jpg", "run_at": "2100-01-01T00:00:00Z"}
    job = running.call("POST", "webhook/test/queue", body)[1]["job_id"]
    running.redis.hset(f"rq:job:{job}", "meta", json.dumps({"deaths": 3}))
    running.redis.zadd("rq:scheduled:facial_recognition", {job: 1})
    running.gone("images", "deadly and gone.jpg")
    eventually(lambda: running.call("GET", f"webhook/job/{job}")[1]["status"] == "finished", "the job finished")


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
    version = ObjectVersion("gone", "a.jpg", "v1", 1, None, "2026-01-01T00:00:00+00:00")
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
