"""Engine processes take what waits, and when one fails nobody but the culprit suffers."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.common.errors import TransientError
from app.common.wire import EngineCrashedError
from app.gpu.engine_process import Pixels
from app.gpu.engines.base import EngineUnavailableError, Face
from app.gpu.inference import Engines
from app.gpu.settings import FaceSettings
from app.gpu.slots import Slot
from tests.fixtures import eventually
from tests.unit.gpu.stand_ins import DIE, DIE_IN_COMPANY, FAULTS, HANG, LOADER, RAISE, SLEEP

#: Side of the square views in the slot, one for each value of a byte.
SIDE = 8

Start = Callable[..., Engines]


@pytest.fixture(scope="module")
def slot() -> Iterator[Slot]:
    """A slot with a view for every number, which is the value of all of its pixels."""
    slot = Slot(0, 256 * SIDE * SIDE * 3)
    with open(slot.writable_fd, "wb", closefd=False) as file:
        for number in range(256):
            file.write(bytes([number]) * (SIDE * SIDE * 3))
    yield slot
    slot.close()


@pytest.fixture
def start(tmp_path: Path, slot: Slot) -> Iterator[Start]:
    """Start engine processes."""
    (tmp_path / "model").write_text("model-1")
    started: list[Engines] = []

    def start(processes: int = 1, **settings: Any) -> Engines:
        engines = Engines(FaceSettings(model_dir=tmp_path, **settings), LOADER)
        started.append(engines)
        engines.serve(processes, [slot])
        eventually(lambda: engines.state()["processes_ready"] == processes, "all processes ready")
        return engines

    yield start
    for engines in started:
        engines.close()
    assert not processes(), "an engine process was left behind"


def processes() -> list[psutil.Process]:
    """The engine processes there are."""
    return [child for child in psutil.Process().children() if "app.gpu.infer" in child.cmdline()]


def view(number: int) -> Pixels:
    return Pixels(0, number * SIDE * SIDE * 3, SIDE, SIDE, 0, 0, SIDE, SIDE)


def look(engines: Engines, *numbers: int, within: float = 60) -> list[Face]:
    """What the engines say of these views, as of one picture."""
    found = engines.analyse([view(number) for number in numbers], time.monotonic() + within)
    return [face for [face] in found]


def together(engines: Engines, *numbers: int) -> "list[Future[list[Face]]]":
    """Look at these views as at pictures that come at the same time, while the only process is busy."""
    with ThreadPoolExecutor(len(numbers) + 1) as clients:
        busy = clients.submit(look, engines, SLEEP)
        eventually(lambda: not engines._queue._tasks and not busy.done(), "the process busy")
        waiting = []
        for number in numbers:
            waiting.append(clients.submit(look, engines, number))
            eventually(lambda: len(engines._queue._tasks) == len(waiting), "waiting")
    return waiting


def test_each_view_is_answered_with_its_own_faces(start: Start) -> None:
    faces = look(start(2, engine_batch=4, engine_threads=2), *range(100))
    assert [face.score for face in faces] == list(range(100))
    assert faces[7].landmarks.tolist() == [[1, 2], [3, 4]]


def test_a_view_is_a_rectangle_of_its_plane(start: Start) -> None:
    # One plane of all the squares, one above the other: a tile two squares high, without their outer columns.
    tile = Pixels(0, 0, 256 * SIDE, SIDE, 1, 20 * SIDE, SIDE - 1, 22 * SIDE)
    [[face]] = start().analyse([tile], time.monotonic() + 60)
    assert (face.score, face.box) == (20, (0, 0, SIDE - 2, 2 * SIDE))


def test_a_process_takes_what_waits_up_to_its_batch_and_waits_for_no_more(start: Start) -> None:
    engines = start(engine_batch=4)
    assert [face.embedding[0] for face in look(engines, 1)] == [1]
    found = [done.result()[0] for done in together(engines, *range(9))]
    assert [face.score for face in found] == list(range(9))
    assert [face.embedding[0] for face in found] == [4] * 8 + [1]


@pytest.mark.parametrize(
    ("culprit", "told"), [(DIE, "exit status 9"), (RAISE, "RuntimeError: CUDA error"), (HANG, "ANALYSIS_TIMEOUT")]
)
def test_of_a_batch_that_fails_only_the_culprit_is_blamed(start: Start, culprit: int, told: str) -> None:
    engines = start(engine_batch=8, analysis_timeout=2)
    innocent, guilty, other = together(engines, 1, culprit, 2)
    assert [innocent.result()[0].score, other.result()[0].score] == [1, 2]
    with pytest.raises(EngineCrashedError, match=told):
        guilty.result()
    assert look(engines, 3)[0].score == 3


def test_a_batch_that_fails_only_as_a_batch_costs_nobody_anything(start: Start) -> None:
    found = together(start(engine_batch=8), 1, DIE_IN_COMPANY, 2)
    assert [done.result()[0].score for done in found] == [1, DIE_IN_COMPANY, 2]


def test_a_culprit_beside_others_in_one_process_is_told_from_them(start: Start) -> None:
    engines = start(engine_threads=4)
    with ThreadPoolExecutor(8) as clients:
        sleeping = [clients.submit(look, engines, SLEEP) for _ in range(3)]
        guilty = clients.submit(look, engines, DIE)
        assert [done.result()[0].score for done in sleeping] == [SLEEP] * 3
        with pytest.raises(EngineCrashedError, match="exit status 9"):
            guilty.result()


def test_a_process_ended_from_outside_costs_its_pictures_only_time(start: Start) -> None:
    engines = start(2)
    with ThreadPoolExecutor(2) as clients:
        busy = [clients.submit(look, engines, SLEEP) for _ in range(2)]
        eventually(lambda: not engines._queue._tasks, "both processes busy")
        killed = processes()
        for process in killed:
            process.kill()
        assert {done.result()[0].score for done in busy} == {SLEEP}
    assert {process.pid for process in processes()}.isdisjoint(process.pid for process in killed)


def test_idle_processes_that_ended_are_replaced_before_anybody_asks(start: Start) -> None:
    engines = start(2)
    for process in processes():
        process.kill()
    eventually(lambda: engines.state()["processes_ready"] == 0, "the end noticed")
    eventually(lambda: engines.state()["processes_ready"] == 2, "both replaced")
    assert look(engines, 5)[0].score == 5


def test_a_process_of_another_model_or_device_is_refused(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = start(2)
    (tmp_path / "model").write_text("model-2")
    processes()[0].kill()
    eventually(lambda: "problem" in engines.state(), "the problem told")
    assert engines.state() == {
        "processes": 2,
        "processes_ready": 1,
        "problem": "1 of 2 engine processes: Restart the face service: model model-1 was replaced by model-2, and "
        "vectors of two models must not mix.",
    }
    assert engines.problem is None
    with ThreadPoolExecutor(4) as clients:
        assert [face.score for [face] in clients.map(lambda n: look(engines, n), range(60))] == list(range(60))

    (tmp_path / "model").write_text("model-1")
    monkeypatch.setenv("STAND_IN_DEVICE", "cuda:0")
    eventually(lambda: "runs on cuda:0, the face service on cpu" in engines.state()["problem"], "the device told")
    monkeypatch.delenv("STAND_IN_DEVICE")
    eventually(lambda: engines.state() == {"processes": 2, "processes_ready": 2}, "both in use again")


def test_nobody_waits_where_no_process_can_be_used(start: Start, tmp_path: Path) -> None:
    engines = start()
    (tmp_path / "model").rename(tmp_path / "away")
    with ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(look, engines, HANG)
        eventually(lambda: not engines._queue._tasks, "the process busy")
        processes()[0].kill()
        with pytest.raises(TransientError, match=r"There is no .*model"):
            waiting.result()
    with pytest.raises(TransientError, match=r"There is no .*model"):
        look(engines, 1)
    assert engines.problem
    (tmp_path / "away").rename(tmp_path / "model")
    eventually(lambda: engines.problem is None, "in use again, without a picture")
    assert look(engines, 1)[0].score == 1


def test_waiting_ends(start: Start) -> None:
    engines = start()
    with ThreadPoolExecutor(1) as clients:
        hanging = clients.submit(look, engines, HANG, within=1)
        eventually(lambda: not engines._queue._tasks, "the process busy")
        with pytest.raises(TransientError, match="No engine process had time"):
            look(engines, 1, within=0.2)
        with pytest.raises(TransientError, match="No engine process had time"):
            hanging.result()
    processes()[0].kill()
    assert [face.score for face in look(engines, 2)] == [2]


def test_an_engine_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="There is no"):
        Engines(FaceSettings(model_dir=tmp_path), LOADER)
    with pytest.raises(EngineUnavailableError, match=r"AttributeError: .*nothing_of_the_kind"):
        Engines(FaceSettings(model_dir=tmp_path), "tests.unit.gpu.stand_ins:nothing_of_the_kind")
    with pytest.raises(EngineUnavailableError, match="ended while it loaded its models: exit status 3"):
        Engines(FaceSettings(model_dir=tmp_path), "tests.unit.gpu.stand_ins:end")
    assert not processes()


def test_an_engine_process_keeps_the_memory_that_every_picture_takes(start: Start) -> None:
    engines = start()
    first, then = (look(engines, FAULTS)[0].score for _ in range(2))
    assert (first > 100, then < 100) == (True, True)


def test_an_engine_process_holds_no_secret(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QDRANT_API_KEY", "GPU_WORKER_TOKEN", "MINIO_PASSWORD", "QDRANT_URL"):
        monkeypatch.setenv(name, "http://confidential")
    start(qdrant_api_key="confidential", gpu_worker_token="confidential")
    [process] = processes()
    assert not [name for name, value in process.environ().items() if "confidential" in value]
    assert not [argument for argument in process.cmdline() if "confidential" in argument]
