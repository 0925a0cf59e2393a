"""The commands operators have used from the beginning work as they stand."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.local import tools
from tests import media
from tests.fixtures import Pipeline, eventually


@pytest.fixture(scope="module")
def mc(tmp_path_factory: pytest.TempPathFactory, running: Pipeline) -> list[str]:
    """`mc` with the alias `local`, as the original document sets it."""
    try:
        command = [str(tools.mc()), "--config-dir", str(tmp_path_factory.mktemp("mc"))]
    except tools.ToolError as error:
        pytest.skip(str(error))
    out = running.stack.outputs
    shell(
        [*command, "alias", "set", "local", str(out["minio_url"]), str(out["minio_user"]), str(out["minio_password"])]
    )
    return command


def shell(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def curl(url: str, *options: str) -> dict[str, Any]:
    answer = json.loads(shell(["curl", "--silent", "--show-error", *options, url]))
    assert isinstance(answer, dict)
    return answer


def test_mc_cp_to_both_buckets(running: Pipeline, mc: list[str], photos: dict[str, bytes], tmp_path: Path) -> None:
    photo, video = tmp_path / "test.jpg", tmp_path / "test.mp4"
    photo.write_bytes(media.jpeg(media.portrait(photos)))
    face = media.portrait(photos)
    video.write_bytes(media.video(media.scene((320, 240), (face, n, 10)) for n in range(30)))
    shell([*mc, "cp", str(photo), "local/images/"])
    shell([*mc, "cp", str(video), "local/videos/"])
    assert running.indexed("images", "test.jpg")["points"] == 1
    assert running.indexed("videos", "test.mp4")["points"] == 1
    assert "Processing event" in running.log("webhook")
    workers = running.log("worker-1") + running.log("worker-2")
    assert "Processing image upload" in workers
    assert "Processing video upload" in workers
    for line in workers.splitlines():
        json.loads(line)  # structured, every one


def test_mc_event_list_shows_the_target(mc: list[str]) -> None:
    for bucket in ("images", "videos"):
        assert "arn:minio:sqs::lookingglass:webhook" in shell([*mc, "event", "list", f"local/{bucket}"])


def test_curl_on_every_endpoint(running: Pipeline) -> None:
    url = str(running.stack.outputs["webhook_url"])
    assert curl(f"{url}/health")["status"] == "healthy"
    assert curl(f"{url}/health/live")["status"] == "alive"
    body = '{"bucket":"images","object":"test.jpg","event":"s3:ObjectCreated:Put"}'
    queued = curl(f"{url}/test/queue", "-X", "POST", "-H", "Content-Type: application/json", "-d", body)
    assert queued["status"] == "success"
    assert curl(f"{url}/job/{queued['job_id']}")["job_id"] == queued["job_id"]
    assert curl(f"{url}/queue/stats")["queue_name"] == "facial_recognition"
    assert curl(f"{url}/jobs/failed")["status"] == "success"
    assert curl(f"{url}/events/dead")["status"] == "success"
    assert "lookingglass_events_total" in shell(["curl", "--silent", f"{url}/metrics"])
    face = str(running.stack.outputs["gpu_worker_url"])
    health = curl(f"{face}/health")
    assert (health["status"], health["engine"], health["device"]) == ("healthy", "dlib", "cpu")
    assert "lookingglass_stage_seconds" in shell(["curl", "--silent", f"{face}/metrics"])
    assert curl(f"{face}/items?limit=1")["status"] == "success"


def test_a_photo_can_be_sent_to_the_face_service_with_curl(
    running: Pipeline, photos: dict[str, bytes], tmp_path: Path
) -> None:
    photo = tmp_path / "one.jpg"
    photo.write_bytes(media.jpeg(media.portrait(photos)))
    answer = curl(f"{running.stack.outputs['gpu_worker_url']}/faces", "--data-binary", f"@{photo}")
    [face] = answer["faces"]
    assert len(face["embedding"]) == 128


def test_redis_cli_and_rq_info_see_the_queue(running: Pipeline) -> None:
    url = str(running.stack.outputs["redis_url"])
    port = url.rpartition(":")[2].partition("/")[0]
    command = [str(tools.redis_cli()), "-p", port, "LLEN", "rq:queue:facial_recognition"]
    eventually(lambda: shell(command).strip() == "0", "the queue empty")
    info = [str(tools.ROOT / ".venv" / "bin" / "rq"), "info", "--url", url]
    assert "facial_recognition" in shell(info)
    eventually(lambda: "2 workers" in shell(info), "both workers there, also one that a test before this one ended")
