"""Engine processes come and go, and the pool says what it can do."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from app.common.errors import TransientError
from app.gpu import analysis
from app.gpu.analysis import EngineFailedError
from app.gpu.engines import load
from app.gpu.pool import EnginePool
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


def end_engines() -> None:
    """End the engine processes of this one from outside."""
    for child in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()


def test_models_that_cannot_be_loaded_again_are_a_problem_until_they_can(
    pool: EnginePool, settings: FaceSettings, photos: dict[str, bytes]
) -> None:
    picture = media.jpeg(media.portrait(photos))
    assert pool.analyse(picture).width > 0
    pack, away = settings.model_dir / "stand_in", settings.model_dir / "away"
    pack.rename(away)
    end_engines()

    def refused() -> bool:
        with pytest.raises(TransientError):
            pool.analyse(picture)
        return bool(pool.problem)

    eventually(refused, "a problem")
    pool.mend()
    assert "stand_in" in str(pool.problem)  # while they are being loaded again, too
    away.rename(pack)

    def mended() -> bool:
        pool.mend()
        return pool.problem is None

    eventually(mended, "models loaded again, without a picture")
    assert pool.analyse(picture).width > 0


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
