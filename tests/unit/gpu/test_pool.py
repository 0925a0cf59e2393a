"""Engine processes come and go, and the pool says what it can do."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
import pytest
from PIL import Image

from app.common.errors import TransientError
from app.gpu import analysis
from app.gpu.analysis import EngineFailedError
from app.gpu.engines import load
from app.gpu.pool import EnginePool, EngineProcess
from app.gpu.settings import FaceSettings
from tests import media
from tests.fixtures import eventually
from tests.unit.gpu.onnx_packs import write_pack


@pytest.fixture
def settings(tmp_path: Path) -> FaceSettings:
    write_pack(tmp_path / "stand_in")
    return FaceSettings(engine="insightface", model_dir=tmp_path, model_pack="stand_in", engine_processes=1)


@pytest.fixture
def pool(settings: FaceSettings) -> Iterator[EnginePool]:
    pool = EnginePool(settings)
    yield pool
    pool.close()


def bright_square() -> bytes:
    """A picture in which the stand-in pack finds one face."""
    image = Image.new("RGB", (640, 640))
    image.paste(Image.effect_noise((128, 128), 40).point(lambda value: 200 + value // 8), (128, 128))
    return media.jpeg(image)


def end_engines(most: int = 100) -> None:
    """End engine processes of this one from outside."""
    children = psutil.Process().children(recursive=True)
    for child in [child for child in children if "spawn_main" in " ".join(child.cmdline())][:most]:
        child.kill()


def test_models_that_cannot_be_loaded_again_are_a_problem_until_they_can(
    pool: EnginePool, settings: FaceSettings, photos: dict[str, bytes]
) -> None:
    picture = media.jpeg(media.portrait(photos))
    assert pool.analyse(picture, "pictures").width > 0
    pack, away = settings.model_dir / "stand_in", settings.model_dir / "away"
    pack.rename(away)
    end_engines()

    def refused() -> bool:
        with pytest.raises(TransientError):
            pool.analyse(picture, "pictures")
        return bool(pool.problem)

    eventually(refused, "a problem")
    pool.mend()
    assert "stand_in" in str(pool.problem)  # while they are being loaded again, too
    away.rename(pack)

    def mended() -> bool:
        pool.mend()
        return pool.problem is None

    eventually(mended, "models loaded again, without a picture")
    assert pool.analyse(picture, "pictures").width > 0


def replace_pack(settings: FaceSettings) -> None:
    """Another model in the place of the one that runs."""
    (settings.model_dir / "stand_in").rename(settings.model_dir / "before")
    write_pack(settings.model_dir / "stand_in", seed=1)


def test_a_model_replaced_under_a_running_service_is_not_used(pool: EnginePool, settings: FaceSettings) -> None:
    picture = bright_square()
    [embedding] = [face.embedding for face in pool.analyse(picture, "pictures").faces]
    replace_pack(settings)
    end_engines()

    def refused() -> str | None:
        with pytest.raises(TransientError):
            pool.analyse(picture, "pictures")
        return pool.problem

    problem = eventually(refused, "the other model refused")
    assert f"Restart the face service: model {pool.info.model_id} was replaced by stand_in-" in problem
    assert pool.state() == {"processes": 1, "processes_ready": 0, "problem": f"0 of 1 engine processes: {problem}"}
    shutil.rmtree(settings.model_dir / "stand_in")
    (settings.model_dir / "before").rename(settings.model_dir / "stand_in")

    def mended() -> bool:
        pool.mend()
        return pool.problem is None

    eventually(mended, "the service's own model used again")
    assert pool.state() == {"processes": 1, "processes_ready": 1}
    [again] = [face.embedding for face in pool.analyse(picture, "pictures").faces]
    assert (again == embedding).all()


def test_a_process_on_another_device_is_not_used(settings: FaceSettings, photos: dict[str, bytes]) -> None:
    expected = replace(load(settings).info, device="cuda:0")
    process = EngineProcess(settings, expected)
    try:
        with pytest.raises(TransientError, match="runs on cpu, the face service on cuda:0"):
            process.analyse(media.jpeg(media.portrait(photos)))
        assert not process.ready
    finally:
        process.end()


@pytest.mark.parametrize("broken", ["removed", "replaced"])
def test_a_process_that_cannot_work_is_not_offered_while_another_can(settings: FaceSettings, broken: str) -> None:
    picture = bright_square()
    pool = EnginePool(settings.model_copy(update={"engine_processes": 2}))
    try:
        eventually(lambda: pool.state()["processes_ready"] == 2, "both ready")
        if broken == "removed":
            (settings.model_dir / "stand_in").rename(settings.model_dir / "away")
        else:
            replace_pack(settings)
        end_engines(1)
        with ThreadPoolExecutor(4) as clients:
            found = list(clients.map(lambda _: len(pool.analyse(picture, "pictures").faces), range(60)))
        assert found == [1] * 60
        eventually(lambda: "problem" in pool.state(), "the problem told")
        state = pool.state()
        assert (state["processes"], state["processes_ready"]) == (2, 1)
        assert state["problem"].startswith("1 of 2 engine processes: ")
        assert ("Restart the face service" if broken == "replaced" else "not in MODEL_DIR") in state["problem"]
        assert pool.problem is None
    finally:
        pool.close()


def test_what_an_engine_raises_is_told_from_what_happens_to_its_process(
    monkeypatch: pytest.MonkeyPatch, photos: dict[str, bytes]
) -> None:
    class Spoilt:
        info = load(FaceSettings()).info

        def analyse(self, _images: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = cache(Spoilt)
    engine()
    monkeypatch.setattr(analysis, "_engine", engine)
    monkeypatch.setattr(analysis, "_settings", [FaceSettings()])
    monkeypatch.setattr(analysis, "_bound_memory", lambda _pixels: None)
    with pytest.raises(EngineFailedError, match="RuntimeError: CUDA error"):
        analysis.analyse(media.jpeg(media.portrait(photos)))
