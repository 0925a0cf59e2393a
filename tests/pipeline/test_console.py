"""The console and its command over a real pipeline."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from app.cli.client import Console, UnreachableError
from app.cli.where import Where
from infra.local import tools
from tests import media
from tests.fixtures import Pipeline, eventually

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def console(running: Pipeline) -> Console:
    """The console's API with the operator's token."""
    return Console(Where(str(running.outputs["console_url"]), str(running.outputs["console_token"])))


@pytest.fixture
def lookingglass(running: Pipeline, tmp_path: Path) -> Command:
    """The command, run from anywhere; its exit status and what it printed."""
    outputs = running.stack.directory / "outputs.json"

    def run(*arguments: str) -> tuple[int, str, str]:
        command = [str(tools.ROOT / "scripts" / "lookingglass"), "--outputs", str(outputs), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def resumed(console: Console) -> Iterator[None]:
    """The workers go on afterwards, whatever became of the test."""
    yield
    console.do("resume")


def boxes(console: Console) -> dict[str, str]:
    return {box["name"]: box["state"] for box in console.get("/")["boxes"]}


def test_a_stack_that_stands_is_green_from_end_to_end(running: Pipeline, console: Console) -> None:
    running.idle()
    found = eventually(lambda: (page := console.get("/"))["boxes"] and page, "the overview")
    states = {box["name"]: box for box in found["boxes"]}
    assert [name for name, box in states.items() if box["state"] == "red"] == []
    assert {worker["state"] for worker in found["workers"]} <= {"idle", "busy"}
    assert len(found["workers"]) >= 2
    [service] = found["face_services"]
    assert (service["engine"], service["ready"]) == ("dlib", True)
    assert "images_held" in service["load"]


def test_without_its_token_nothing_is_seen(running: Pipeline) -> None:
    url = str(running.outputs["console_url"])
    with pytest.raises(UnreachableError, match="token"):
        Console(Where(url, "wrong")).get("/")
    answer = running.http.request("GET", url, redirect=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/sign-in?next=/?")


def test_an_upload_is_shown_with_its_boxes_and_what_each_step_took(
    running: Pipeline, console: Console, photos: dict[str, bytes]
) -> None:
    key = "console/of one & two.jpg"
    photo = media.jpeg(media.portrait(photos))
    running.indexed("images", key, running.put("images", key, photo))
    found = console.get("/object", bucket="images", object=key)
    assert (found["same"], found["current"], len(found["faces"])) == (True, True, 1)
    assert found["item"]["timings_ms"].keys() >= {"decode", "analyse"}
    assert 0 <= found["seconds"] < 60
    listed = console.get("/objects", bucket="images", prefix="console/")["objects"]
    assert [(one["key"], one["status"]) for one in listed] == [(key, "indexed")]
    url, header = f"{running.outputs['console_url']}/picture", {"Authorization": f"Bearer {console_token(running)}"}
    picture = running.http.request("GET", url, fields={"bucket": "images", "object": key}, headers=header)
    assert picture.headers["Cache-Control"] == "no-store"
    assert Image.open(BytesIO(picture.data)).size == Image.open(BytesIO(photo)).size
    assert console.get("/audit")["entries"][0]["about"] == f"images/{key}"


def console_token(running: Pipeline) -> str:
    return str(running.outputs["console_token"])


def test_a_videos_people_have_their_times(running: Pipeline, console: Console, photos: dict[str, bytes]) -> None:
    face = media.portrait(photos)
    clip = media.video((media.scene((320, 240), (face, 20 + n, 10)) for n in range(30)), fps=10)
    running.indexed("videos", "console/clip.mp4", running.put("videos", "console/clip.mp4", clip))
    people = console.get("/object", bucket="videos", object="console/clip.mp4")["people"]
    [person] = people["rows"]
    assert people["duration_s"] == pytest.approx(3, abs=0.5)
    assert person["first_seen_s"] <= person["best_seen_s"] <= person["last_seen_s"]


def test_a_broken_file_is_under_trouble_and_gone_from_it_once_replaced(
    running: Pipeline, console: Console, photos: dict[str, bytes], lookingglass: Command
) -> None:
    key = "console/broken.jpg"
    photo = media.jpeg(media.portrait(photos))
    running.indexed("images", key, running.put("images", key, photo[:2000]))

    def examples() -> list[str]:
        groups = console.get("/trouble")["rejected"]["groups"]
        return [case["object"] for group in groups for case in group["examples"]]

    assert key in examples()
    status, printed, _ = lookingglass("items", "--status", "rejected", "--prefix", "console/")
    assert (status, key in printed) == (0, True)
    running.indexed("images", key, running.put("images", key, photo))
    assert key not in examples()


def test_a_verdict_is_released_and_given_anew(running: Pipeline, lookingglass: Command) -> None:
    key = "console/no photo.jpg"
    before = running.indexed("images", key, running.put("images", key, b"This only calls itself a photo."))
    status, _, said = lookingglass("release", "images", key)
    assert (status, "tries it anew" in said) == (0, True)

    def anew() -> bool:
        item = running.item("images", key).get("item")
        return bool(item and item["indexed_at"] > before["item"]["indexed_at"])

    eventually(anew, "a verdict that is new")


@pytest.mark.usefixtures("resumed")
def test_paused_workers_leave_jobs_where_they_are_until_they_are_resumed(
    running: Pipeline, console: Console, photos: dict[str, bytes], lookingglass: Command
) -> None:
    running.idle()
    assert lookingglass("pause")[0] == 0
    assert {worker["state"] for worker in console.get("/")["workers"]} == {"suspended"}
    time.sleep(2.5)  # a worker that waits for a job looks once a second
    key = "console/while paused.jpg"
    etag = running.put("images", key, media.jpeg(media.portrait(photos)))
    waiting = eventually(lambda: console.get("/")["jobs"]["facial_recognition"]["queued_jobs"], "a job that waits")
    assert waiting >= 1
    time.sleep(1)
    assert running.item("images", key).get("item") is None
    assert boxes(console)["Workers"] == "amber"
    assert lookingglass("resume")[0] == 0
    running.indexed("images", key, etag)


def test_a_comparison_shows_how_far_it_got_and_what_it_found(
    running: Pipeline, console: Console, lookingglass: Command, photos: dict[str, bytes]
) -> None:
    key = "console/lost.jpg"
    running.indexed("images", key, running.put("images", key, media.jpeg(media.portrait(photos))))
    running.idle()
    running.call("DELETE", f"gpu_worker/items/images/{key.replace('/', '%2F')}")

    def dry_run() -> str:
        status, printed, _ = lookingglass("--json", "reconcile", "--dry-run")
        return printed if status == 0 else ""

    found = json.loads(eventually(dry_run, "a dry run, after the comparison that is under way"))
    assert (found["dry_run"], found["found"].get("missing")) == (True, 1)
    assert {"why": "missing", "bucket": "images", "key": key} in found["differences"]
    assert running.item("images", key).get("item") is None
    eventually(lambda: lookingglass("reconcile", "--wait")[0] == 0, "a comparison, after the one under way")
    running.indexed("images", key)


def test_the_proof_of_a_deletion_is_an_exit_status(
    running: Pipeline, lookingglass: Command, photos: dict[str, bytes]
) -> None:
    key = "console/gone.jpg"
    running.indexed("images", key, running.put("images", key, media.jpeg(media.portrait(photos))))
    assert lookingglass("proof", "images", key)[0] == 1
    running.minio.remove_object("images", key)
    running.gone("images", key)
    status, printed, _ = lookingglass("--json", "proof", "images", key)
    assert (status, json.loads(printed)["gone"]) == (0, True)


def test_the_models_and_the_end_of_a_log_are_shown(lookingglass: Command) -> None:
    status, printed, _ = lookingglass("models")
    assert status == 0
    assert re.search(r"in use, what readers see", printed)
    status, printed, _ = lookingglass("logs", "worker", "-n", "3")
    assert status == 0
    assert '"level"' in printed or "{" in printed


def test_a_bucket_that_is_there_is_not_forgotten(lookingglass: Command) -> None:
    status, _, said = lookingglass("forget", "images")
    assert status == 1
    assert "is there" in said


def test_jobs_that_end_well_are_counted_by_the_hour(
    running: Pipeline, console: Console, photos: dict[str, bytes]
) -> None:
    before = console.get("/")["throughput"]["day"]
    running.indexed("images", "console/counted.jpg", running.put("images", "console/counted.jpg", b"no photo"))
    eventually(lambda: console.get("/")["throughput"]["day"] > before, "one more job")


def test_its_own_log_has_no_trace(running: Pipeline) -> None:
    assert "Traceback" not in running.log("console")
