"""How many of everything there are, by the machine's cores and the engine's device."""

import os
from dataclasses import replace

import pytest

from app.gpu.engines.base import EngineInfo
from app.gpu.settings import FaceSettings
from app.gpu.sizing import MOST_PLACES, most_requests, sizes

CPU = EngineInfo(
    engine="an engine",
    model_id="a model",
    device="cpu",
    embedding_size=512,
    distance="cosine",
    link_distance=0.6,
    max_side=640,
)
CARD = replace(CPU, device="cuda:0", batch=8, threads=4)


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


def test_engines_on_a_cpu_have_a_core_each_and_decoders_share_them() -> None:
    found = sizes(FaceSettings(), CPU)
    assert (found.processes, found.decoders) == (16, 16)
    assert found.places == 16 + 16 + 16, "being looked at, ready to follow, being decoded"


def test_a_card_has_one_process_and_the_other_cores_decode_for_it() -> None:
    found = sizes(FaceSettings(), CARD)
    assert (found.processes, found.decoders) == (1, 15)
    assert found.places == 2 * 4 * 8 + 15, "every call can be full, and another follow"


def test_a_machine_of_one_core_has_one_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    for info in (CPU, CARD):
        found = sizes(FaceSettings(), info)
        assert (found.processes, found.decoders) == (1, 1)


def test_settings_say_otherwise() -> None:
    found = sizes(FaceSettings(engine_processes=3, decoders=5), CPU)
    assert (found.processes, found.decoders, found.places) == (3, 5, 2 * 3 + 5)


def test_there_are_no_more_places_than_slots_can_be_given_to_a_process() -> None:
    found = sizes(FaceSettings(engine_processes=256, decoders=256), replace(CARD, batch=64, threads=16))
    assert (found.decoders, found.places) == (MOST_PLACES, MOST_PLACES)
    assert most_requests(FaceSettings(max_waiting=10)) == MOST_PLACES + 20
