"""What a face service says of itself, and does, when engine processes cannot be used: over HTTP, real processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask.testing import FlaskClient

from app.gpu.api import create_app
from app.gpu.service import FaceService
from app.gpu.settings import FaceSettings
from tests.fixtures import eventually
from tests.unit.gpu.onnx_packs import write_pack
from tests.unit.gpu.test_pool import ONE_FACE, processes, replace_pack


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    """A client of a face service with two engine processes, which are ready."""
    write_pack(tmp_path / "stand_in")
    settings = FaceSettings(
        engine="insightface",
        model_dir=tmp_path,
        model_pack="stand_in",
        engine_processes=2,
        decoders=2,
        index_dir=tmp_path / "index",
    )
    service = FaceService(settings)
    try:
        client = create_app(service, settings).test_client()
        eventually(lambda: health(client)[1].get("processes_ready") == 2, "both processes ready")
        yield client
    finally:
        service.close()
    left = [child for child in psutil.Process().children(recursive=True) if "app.gpu" in " ".join(child.cmdline())]
    assert not left, "a process was left behind"


def health(client: FlaskClient) -> tuple[int, dict[str, Any]]:
    answer = client.get("/health")
    return answer.status_code, answer.get_json()


def put(client: FlaskClient, number: int) -> int:
    application = client.application
    answer = application.test_client().put(f"/items/images/{number}.jpg?etag=e{number}", data=ONE_FACE)
    return answer.status_code


def test_a_replaced_model_is_told_and_used_for_nothing(client: FlaskClient, tmp_path: Path) -> None:
    model = health(client)[1]["model_id"]
    replace_pack(tmp_path)
    processes("infer")[0].kill()
    with ThreadPoolExecutor(4) as clients:
        assert set(clients.map(lambda number: put(client, number), range(60))) == {200}
    eventually(lambda: "problem" in health(client)[1], "the problem told")
    status, said = health(client)
    assert (status, said["processes"], said["processes_ready"]) == (200, 2, 1)
    problem = f"Restart the face service: model {model} was replaced by stand_in-"
    assert said["problem"].startswith(f"1 of 2 engine processes: {problem}")
    assert "lookingglass_engine_processes_unusable 1.0" in client.get("/metrics").text

    for process in processes("infer"):
        process.kill()
    eventually(lambda: health(client)[0] == 503, "not ready any more")
    assert health(client)[1]["error"].startswith(problem)
    assert put(client, 100) == 503
    assert client.get("/items/count").get_json()["items"] == 60


def test_how_long_an_answer_takes_at_most_follows_the_setting(client: FlaskClient) -> None:
    # 30 s until its turn comes, and twice ANALYSIS_TIMEOUT.
    assert health(client)[1]["answer_timeout_s"] == 150
