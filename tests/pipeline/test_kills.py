"""Processes end in every way they can, and the index still says what the bucket says."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.common.jobs import queue
from tests import media
from tests.fixtures import Pipeline, eventually, standing

RECORD = {
    "eventName": "s3:ObjectCreated:Put",
    "s3": {"bucket": {"name": "images"}, "object": {"key": "503.jpg", "sequencer": "1"}},
}

#: Seconds until a killed worker's job is taken over: three missed signs of life and the next look around.
TAKEN_OVER = 150


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack of its own to break, whose workers serve several queues."""
    queues = "facial_recognition,video_processing,cleanup"
    with standing(tmp_path_factory.mktemp("fragile"), queue_names=queues) as found:
        yield found


def busy_worker(fragile: Pipeline, key: str) -> str:
    """The name of the worker that has begun with an object."""

    def probe() -> str | None:
        return next((name for name in ("worker-1", "worker-2") if f"upload images/{key}" in fragile.log(name)), None)

    return eventually(probe, f"a worker busy with {key}")


def test_a_worker_told_to_stop_finishes_its_job_first(fragile: Pipeline, photos: dict[str, bytes]) -> None:
    etag = fragile.put("images", "sigterm.jpg", photos["group.jpg"])
    process = fragile.stack.processes[busy_worker(fragile, "sigterm.jpg")]
    process.signal(signal.SIGTERM)
    assert process.process is not None
    assert process.process.wait(60) == 0
    assert fragile.item("images", "sigterm.jpg")["item"]["etag"] == etag
    process.restart()
    fragile.idle()
    logs = fragile.log("worker-1") + fragile.log("worker-2")
    assert logs.count("upload images/sigterm.jpg") == 1


def test_a_killed_worker_s_job_is_taken_over(fragile: Pipeline, photos: dict[str, bytes]) -> None:
    etag = fragile.put("images", "sigkill.jpg", photos["group.jpg"])
    process = fragile.stack.processes[busy_worker(fragile, "sigkill.jpg")]
    process.kill()
    fragile.indexed("images", "sigkill.jpg", etag, timeout=TAKEN_OVER)
    process.start()
    fragile.idle(timeout=TAKEN_OVER)
    assert fragile.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 0


def test_events_wait_for_a_webhook_that_is_away(fragile: Pipeline, photos: dict[str, bytes]) -> None:
    webhook = fragile.stack.processes["webhook"]
    webhook.kill()
    face = media.jpeg(media.portrait(photos))
    for number in range(5):
        fragile.put("images", f"missed/{number}.jpg", face)
    fragile.minio.remove_object("images", "missed/4.jpg")
    time.sleep(1)
    webhook.start()
    for number in range(4):
        fragile.indexed("images", f"missed/{number}.jpg")
    fragile.gone("images", "missed/4.jpg")


@pytest.mark.parametrize("name", ["gpu-worker", "redis"])
def test_nothing_is_lost_when_a_server_is_killed_under_load(
    fragile: Pipeline, photos: dict[str, bytes], name: str
) -> None:
    face = media.jpeg(media.portrait(photos))
    for number in range(12):
        fragile.put("images", f"{name}/{number}.jpg", face + bytes([number]))
        if number == 6:
            fragile.stack.processes[name].kill()
    if name == "redis":
        assert fragile.call("GET", "webhook/health")[0] == 503
        assert fragile.call("GET", "webhook/health/live")[0] == 200
        assert fragile.call("POST", "webhook/webhook/minio", {"Records": [RECORD]}, **fragile.token())[0] == 503
    time.sleep(3)
    fragile.stack.processes[name].start()
    eventually(fragile.face_service_ready, "the face service ready")
    for worker in ("worker-1", "worker-2"):
        # Without a supervisor here, a worker that ended for want of Redis is started again by the test.
        if not fragile.stack.processes[worker].running():
            fragile.stack.processes[worker].start()
    for number in range(12):
        fragile.indexed("images", f"{name}/{number}.jpg", timeout=TAKEN_OVER)


def test_a_face_service_that_stands_still_costs_no_tries(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_JOB_TIMEOUT", "10")
    with standing(tmp_path / "still", workers=1) as found:
        leader = psutil.Process(found.stack.processes["gpu-worker"].pid)
        service = [leader, *leader.children(recursive=True)]
        for process in service:
            process.suspend()
        etag = found.put("images", "held.jpg", photos["astronaut.png"])
        eventually(lambda: "took longer than the job may" in found.log("worker-1"), "a job whose time ran out", 60)
        for process in service:
            process.resume()
        assert found.indexed("images", "held.jpg", etag)["item"]["status"] == "indexed"
        finished = queue("facial_recognition", found.redis).finished_job_registry
        # What was sent when the time ran out may be indexed before the job is tried again.
        [identifier] = eventually(lambda: finished.get_job_ids(cleanup=False), "a finished job")
        job = found.call("GET", f"webhook/job/{identifier}")[1]
        assert (job["status"], job["retries_left"]) == ("finished", 3)
