"""The face service's endpoints, over HTTP, with the real engine and the embedded index."""

import hashlib
import threading
import time
from typing import Any

import psutil
import pytest

from tests import media
from tests.fixtures import Pipeline, eventually

BYTES = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def portrait(photos: dict[str, bytes]) -> bytes:
    return media.jpeg(media.portrait(photos))


def put(running: Pipeline, key: str, body: Any, headers: dict[str, str], query: str = "") -> tuple[int, Any]:
    return running.call("PUT", f"gpu_worker/items/images/{key}{query}", body, **headers)


def test_health_says_what_runs_on_what(running: Pipeline) -> None:
    status, health = running.call("GET", "gpu_worker/health")
    assert status == 200
    assert health["model_id"].startswith("dlib_resnet_v1-")
    assert health["index"]["alias"] == health["index"]["collection"] == f"faces_{health['model_id']}"
    assert running.call("GET", "gpu_worker/health/live")[0] == 200


def test_a_picture_is_analysed_without_being_kept(running: Pipeline, portrait: bytes) -> None:
    before = running.call("GET", "gpu_worker/health")[1]["index"]
    status, answer = running.call("POST", "gpu_worker/faces", portrait)
    assert (status, len(answer["faces"]), len(answer["faces"][0]["embedding"])) == (200, 1, 128)
    assert running.call("GET", "gpu_worker/health")[1]["index"] == before


def test_a_picture_put_without_an_etag_gets_s3_s(running: Pipeline, portrait: bytes) -> None:
    status, answer = put(running, "direct.jpg", portrait, BYTES)
    assert (status, answer["item"]["etag"]) == (200, hashlib.md5(portrait).hexdigest())
    status, answer = running.call("DELETE", "gpu_worker/items/images/direct.jpg")
    assert (status, answer["deleted_points"], answer["points"]) == (200, 1, 0)
    assert running.call("DELETE", "gpu_worker/items/images/direct.jpg")[1]["deleted_points"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"a text", 415, "not_an_image"),
        (media.png_bomb(50_000), 413, "too_many_pixels"),
        (b"\xff\xd8\xff\xe0", 422, "damaged"),
    ],
)
def test_what_is_no_picture_gets_a_reason_and_is_remembered(
    running: Pipeline, body: bytes, status: int, code: str
) -> None:
    assert put(running, f"refused-{code}", body, BYTES)[0] == status
    answer = running.call("POST", "gpu_worker/faces", body)
    assert (answer[0], answer[1]["code"]) == (status, code)
    item = running.item("images", f"refused-{code}")["item"]
    assert (item["status"], item["reason_code"], item["reason"]) == ("rejected", code, answer[1]["error"])


def known(running: Pipeline, **more: Any) -> dict[str, Any]:
    model = running.call("GET", "gpu_worker/health")[1]["model_id"]
    face = {"box": [0, 0, 9, 9], "score": 1, "embedding": [0.5] * 128, "first_seen_s": 1, "last_seen_s": 2}
    return {"etag": "v1", "kind": "video", "model_id": model, "faces": [face], **more}


def test_known_faces_are_indexed_as_given(running: Pipeline) -> None:
    status, answer = put(running, "known.mp4", known(running), JSON)
    assert (status, answer["item"]["face_count"]) == (200, 1)
    found = running.item("images", "known.mp4")
    assert found["current"]
    assert found["faces"][0]["first_seen_s"] == 1


def test_faces_of_another_model_are_refused(running: Pipeline) -> None:
    status, answer = put(running, "other.mp4", known(running, model_id="other"), JSON)
    assert (status, answer["code"]) == (409, "model_changed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"etag": None},
        {"faces": [{"box": [0, 0, 9, 9], "score": 1, "embedding": [0.5] * 3}]},
        {"faces": [{"box": [0, 0], "score": 1, "embedding": [0.5] * 128}]},
        {"faces": "none"},
        {"surprise": 1},
        {"duration_s": float("nan")},
    ],
)
def test_a_wrong_body_gets_400_and_a_sentence(running: Pipeline, wrong: dict[str, Any]) -> None:
    status, answer = put(running, "wrong.mp4", known(running, **wrong), JSON)
    assert (status, answer["code"]) == (400, "bad_request")
    assert running.item("images", "wrong.mp4")["code"] == "not_found"


def test_wrong_queries_get_400(running: Pipeline, portrait: bytes) -> None:
    assert put(running, "q.jpg", portrait, BYTES, "?size=many")[0] == 400
    assert put(running, "q.jpg", portrait, BYTES, "?unknown=1")[0] == 400
    assert running.call("GET", "gpu_worker/items?limit=0")[0] == 400
    assert running.call("GET", "gpu_worker/items?after=nonsense")[0] == 400
    assert running.call("GET", "gpu_worker/nothing")[1]["code"] == "not_found"


def test_health_answers_while_every_engine_is_busy_and_nobody_is_told_to_come_back(
    running: Pipeline, photos: dict[str, bytes]
) -> None:
    statuses: list[int] = []

    def send() -> None:
        statuses.append(running.call("POST", "gpu_worker/faces", photos["group.jpg"])[0])

    senders = [threading.Thread(target=send) for _ in range(12)]
    for sender in senders:
        sender.start()
    time.sleep(0.3)
    assert running.call("GET", "gpu_worker/health")[0] == 200
    assert any(sender.is_alive() for sender in senders)
    for sender in senders:
        sender.join()
    assert statuses == [200] * 12


def engines(running: Pipeline) -> list[psutil.Process]:
    service = psutil.Process(running.stack.processes["gpu-worker"].pid)
    return [child for child in service.children(recursive=True) if "app.gpu.infer" in child.cmdline()]


def test_an_engine_process_that_dies_over_a_picture_costs_it_only_time(
    running: Pipeline, photos: dict[str, bytes], portrait: bytes
) -> None:
    answers: list[tuple[int, Any]] = []
    sender = threading.Thread(
        target=lambda: answers.append(running.call("POST", "gpu_worker/faces", photos["group.jpg"]))
    )
    before = {engine.pid: engine.cpu_times().user for engine in engines(running)}
    sender.start()
    busy = eventually(
        lambda: [e for e in engines(running) if e.cpu_times().user > before.get(e.pid, 0) + 0.2], "a busy engine"
    )
    for engine in busy:
        engine.kill()
    sender.join()
    [(status, answer)] = answers
    assert (status, answer["status"]) == (200, "success")
    eventually(lambda: running.call("POST", "gpu_worker/faces", portrait)[0] == 200, "the next picture analysed")


def test_engine_processes_ended_from_outside_are_replaced(running: Pipeline, portrait: bytes) -> None:
    killed = engines(running)
    for engine in killed:
        engine.kill()
    for _ in range(4):  # more than there are processes
        eventually(lambda: running.call("POST", "gpu_worker/faces", portrait)[0] == 200, "a picture analysed")
    assert {engine.pid for engine in engines(running)}.isdisjoint(engine.pid for engine in killed)
    assert running.face_service_ready()
