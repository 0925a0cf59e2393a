"""A picture's way through turn, decoder, slot and engine, and what may go wrong on it."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from app.common.errors import PermanentError, TransientError
from app.gpu.pool import EnginePool
from app.gpu.settings import FaceSettings
from tests import media
from tests.fixtures import eventually
from tests.unit.gpu.onnx_packs import write_pack

Start = Callable[..., EnginePool]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with one pack, `stand_in`."""
    write_pack(tmp_path / "stand_in")
    return tmp_path


@pytest.fixture
def start(models: Path) -> Iterator[Start]:
    """Start pools with the pack, whose processes are ready."""
    pools: list[EnginePool] = []

    def start(processes: int = 1, **settings: Any) -> EnginePool:
        pools.append(
            EnginePool(
                FaceSettings(
                    engine="insightface",
                    model_dir=models,
                    model_pack="stand_in",
                    engine_processes=processes,
                    decoders=2,
                    **settings,
                )
            )
        )
        eventually(lambda: pools[-1].state()["processes_ready"] == processes, "all processes ready")
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()
    left = [child for child in psutil.Process().children(recursive=True) if "app.gpu" in " ".join(child.cmdline())]
    assert not left, "a process was left behind"


def bright_squares(size: tuple[int, int], *squares: tuple[int, int, int]) -> bytes:
    """A picture with squares at (left, top, side), in each of which the stand-in pack finds a face."""
    image = Image.new("RGB", size)
    for left, top, side in squares:
        image.paste(Image.effect_noise((side, side), 40).point(lambda value: 200 + value // 8), (left, top))
    return media.jpeg(image)


ONE_FACE = bright_squares((640, 640), (128, 128, 128))


def processes(module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if f"app.gpu.{module}" in child.cmdline()]


def replace_pack(models: Path) -> None:
    """Another model in the place of the one that runs."""
    (models / "stand_in").rename(models / "before")
    write_pack(models / "stand_in", seed=1)


def test_faces_are_given_in_pixels_of_the_picture(start: Start) -> None:
    pool = start()
    large = bright_squares((2560, 2560), (512, 1024, 512))
    assert pool.info.max_side < 2560, "it has to be decoded at less than its size"
    analysis = pool.analyse(large, "pictures")
    [face] = analysis.faces
    assert np.allclose(face.box, (512, 1024, 1024, 1536), atol=16)
    assert (analysis.width, analysis.height, analysis.notes) == (2560, 2560, [])


def test_each_of_many_pictures_gets_its_own_faces(start: Start) -> None:
    pool = start(2, max_waiting=100)
    pictures = [
        bright_squares((640, 640), *[(128 * at, 128 * row, 128) for at in range(0, 4, 2)][: 1 + row])
        for row in range(2)
    ]
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda n: len(pool.analyse(pictures[n % 2], "pictures").faces), range(64)))
    assert found == [1, 2] * 32


def test_nobody_is_told_to_come_back_below_the_limit(start: Start) -> None:
    pool = start()
    clients = pool.sizes.places + 64
    with ThreadPoolExecutor(clients) as crowd:
        assert list(crowd.map(lambda _: len(pool.analyse(ONE_FACE, "frames").faces), range(4 * clients))) == [1] * (
            4 * clients
        )


def test_a_file_that_is_no_picture_is_refused_and_costs_no_engine(start: Start) -> None:
    pool = start()
    before = processes("infer")
    with pytest.raises(PermanentError, match="of no known media format"):
        pool.analyse(b"no picture at all", "pictures")
    assert processes("infer") == before
    assert len(pool.analyse(ONE_FACE, "pictures").faces) == 1


def test_a_model_replaced_under_a_running_service_is_not_used(start: Start, models: Path) -> None:
    pool = start()
    [before] = pool.analyse(ONE_FACE, "pictures").faces
    replace_pack(models)
    processes("infer")[0].kill()
    with pytest.raises(TransientError, match=f"model {pool.info.model_id} was replaced by stand_in-"):
        pool.analyse(ONE_FACE, "pictures")
    assert pool.problem
    assert pool.problem.startswith("Restart the face service")
    assert pool.state()["problem"] == f"0 of 1 engine processes: {pool.problem}"

    shutil.rmtree(models / "stand_in")
    (models / "before").rename(models / "stand_in")
    eventually(lambda: pool.problem is None, "the service's own model in use again")
    [again] = pool.analyse(ONE_FACE, "pictures").faces
    assert (again.embedding == before.embedding).all()


@pytest.mark.parametrize("broken", ["removed", "replaced"])
def test_a_process_that_cannot_work_is_not_offered_while_another_can(start: Start, models: Path, broken: str) -> None:
    pool = start(2)
    if broken == "removed":
        (models / "stand_in").rename(models / "away")
    else:
        replace_pack(models)
    processes("infer")[0].kill()
    with ThreadPoolExecutor(4) as clients:
        assert list(clients.map(lambda _: len(pool.analyse(ONE_FACE, "pictures").faces), range(60))) == [1] * 60
    eventually(lambda: "problem" in pool.state(), "the problem told")
    state = pool.state()
    assert (state["processes"], state["processes_ready"]) == (2, 1)
    assert state["problem"].startswith("1 of 2 engine processes: ")
    assert ("Restart the face service" if broken == "replaced" else "not in MODEL_DIR") in state["problem"]
    assert pool.problem is None


def test_decoders_and_engines_that_end_while_idle_cost_no_picture(start: Start) -> None:
    pool = start(2)
    killed = [*processes("infer"), *processes("decode")]
    for process in killed:
        process.kill()
    psutil.wait_procs(killed)
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(lambda _: len(pool.analyse(ONE_FACE, "pictures").faces), range(16))) == [1] * 16
