"""Requests that arrive when their sender was overtaken find that they are too late."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.common.items import item_id
from app.common.wire import OvertakenError
from app.gpu.index import FaceIndex, IndexAwayError, Payload, Store, Vector
from app.gpu.index import face_index as module
from app.gpu.index.changes import Change, Changes, Claim
from app.gpu.index.layout import ITEMS, NOBODY, RETENTION
from app.gpu.index.store import Where
from tests.unit.gpu.index.conftest import INFO, put


class CutOff:
    """A store whose writes of points do not arrive before they are let."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.late: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name != "upsert":
            return call

        def upsert(collection: str, *arguments: Any, **more: Any) -> None:
            if collection == ITEMS:
                call(collection, *arguments, **more)
                return
            self.late.append(lambda: call(collection, *arguments, **more))
            raise IndexAwayError("cut off")

        return upsert


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)


def cut_off(index: FaceIndex, store: Store, etag: str, faces: int) -> CutOff:
    """A writer of another service that announced its points and was cut off while it wrote them."""
    broken: Any = CutOff(store)
    claim = index.claim("images", "a.jpg")
    found: list[tuple[Vector, Payload]] = [(np.ones(4, np.float32), {})] * faces
    item = {"bucket": "images", "key": "a.jpg", "etag": etag, "status": "indexed"}
    with pytest.raises(IndexAwayError):
        Changes(broken, INFO.model_id).make([Change(claim, item, found)])
    return broken  # type: ignore[no-any-return]


def points(index: FaceIndex) -> int:
    return index.records.points("images", "a.jpg")


def test_points_that_arrive_after_a_deletion_find_their_places_taken(index: FaceIndex, store: Store) -> None:
    writer = cut_off(index, store, "v1", 3)
    index.delete("images", "a.jpg")
    writer.late.pop()()
    assert points(index) == 0
    assert index.records.strays() == ([], None)
    assert index.records.count_faces(index.collection) == 0
    put(index, "a.jpg", "v1", 3)  # the same again is there again
    assert points(index) == 3


def test_neither_after_another_version_was_there_in_between(index: FaceIndex, store: Store) -> None:
    writer = cut_off(index, store, "v1", 3)
    put(index, "a.jpg", "v2", 2)
    put(index, "a.jpg", "v1", 1)  # in the place of one of them
    index.delete("images", "a.jpg")
    writer.late.pop()()
    assert points(index) == 0


def test_points_that_arrive_after_a_newer_version_do_not_join_it(index: FaceIndex, store: Store) -> None:
    writer = cut_off(index, store, "v1", 3)
    put(index, "a.jpg", "v2", 2)
    writer.late.pop()()
    assert points(index) == 2


def test_what_a_writer_did_not_complete_is_not_whole_until_it_is_done_again(index: FaceIndex, store: Store) -> None:
    put(index, "a.jpg", "v1", 2)
    cut_off(index, store, "v2", 3).late.pop()()
    assert points(index) == 5
    assert index.held(index.claim("images", "a.jpg")) is None
    assert not index.records.lookup("images", ["a.jpg"])["a.jpg"]["whole"]
    put(index, "a.jpg", "v1", 2)  # as the bucket has it again
    assert points(index) == 2
    assert index.held(index.claim("images", "a.jpg"))
    assert index.records.lookup("images", ["a.jpg"])["a.jpg"]["whole"]


def test_a_writer_that_is_at_it_is_given_time_to_complete(
    index: FaceIndex, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 10 * module.LOOK_INTERVAL)
    cut_off(index, store, "v1", 1)
    pauses: list[float] = []
    index._pause = pauses.append
    index.delete("images", "a.jpg")
    assert len(pauses) == 10


def test_what_keeps_late_ones_out_is_swept_when_nobody_can_be_late(index: FaceIndex, store: Store) -> None:
    cut_off(index, store, "v1", 3)
    index.delete("images", "a.jpg")
    put(index, "b.jpg", "v1", 1)
    blank, hidden = Where(having={"item_id": NOBODY}), Where(having={"status": "absent"})
    index._changes.sweep()
    assert (store.count(index.collection, blank), store.count(ITEMS, hidden)) == (3, 1)
    later = index._now() + RETENTION + 1
    Changes(store, INFO.model_id, now=lambda: later).sweep()
    assert (store.count(index.collection, blank), store.count(ITEMS, hidden)) == (0, 0)
    assert index.records.count() == 1


def test_changes_of_many_items_are_made_together_and_each_by_itself(index: FaceIndex, store: Store) -> None:
    changes = Changes(store, INFO.model_id)
    keys = [f"{number}.jpg" for number in range(20)]
    claims = {key: index.claim("images", key) for key in keys}
    put(index, "7.jpg", "newer", 1)
    face: list[tuple[Vector, Payload]] = [(np.ones(4, np.float32), {})]
    results = changes.make(
        [
            Change(claim, {"bucket": "images", "key": key, "etag": "v1", "status": "indexed"}, face)
            for key, claim in claims.items()
        ]
    )
    overtaken = [key for key, result in zip(keys, results, strict=True) if isinstance(result, OvertakenError)]
    assert overtaken == ["7.jpg"]
    said = index.records.lookup("images", keys)
    assert {said[key]["etag"] for key in keys if key != "7.jpg"} == {"v1"}
    assert all(record["whole"] for record in said.values())
    assert said["7.jpg"]["etag"] == "newer"


def test_a_claim_says_what_was_there(index: FaceIndex) -> None:
    assert index.held(index.claim("images", "a.jpg")) is None
    put(index, "a.jpg", "v1", 1)
    claim = index.claim("images", "a.jpg")
    assert isinstance(claim, Claim)
    held = index.held(claim)
    assert held is not None
    assert held["etag"] == "v1"


def test_a_claim_of_nothing_leaves_nothing_and_is_overtaken_by_whoever_was_faster(
    index: FaceIndex, store: Store
) -> None:
    first, second = (index.claim("images", "a.jpg") for _ in range(2))
    assert store.count(ITEMS, Where()) == 0
    index.put({"etag": "v1", "status": "indexed"}, [], first)
    with pytest.raises(OvertakenError):
        index.put({"etag": "v2", "status": "indexed"}, [], second)
    record = index.records.get("images", "a.jpg")
    assert record is not None
    assert record["etag"] == "v1"


def test_a_claim_of_nothing_does_not_outlive_what_would_keep_it_out(index: FaceIndex, store: Store) -> None:
    now = [0.0]
    slow = Changes(store, INFO.model_id, lambda: now[0])
    item = item_id("images", "a.jpg")
    claim = Claim("images", "a.jpg", item, slow.claim([item])[item])
    change = Change(claim, {"bucket": "images", "key": "a.jpg", "etag": "v1", "status": "indexed"})
    now[0] = RETENTION  # it came and went meanwhile, and what told of that was swept
    [made] = slow.make([change])
    assert isinstance(made, OvertakenError)
    assert store.count(ITEMS, Where()) == 0
    now[0] = 60
    [made] = slow.make([change])
    assert not isinstance(made, OvertakenError)
