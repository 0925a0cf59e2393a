"""The index holds exactly the faces of the current version of each item, whatever it is kept in."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.common.items import item_id
from app.common.wire import ConflictError, OvertakenError
from app.gpu.index import ALIAS, ITEMS, FaceIndex, Payload, Store, Vector
from app.gpu.index.layout import NOBODY, points_of
from app.gpu.index.store import Point, Where
from tests.unit.gpu.index.conftest import INFO, OTHER_INFO, put, vector


def test_a_new_version_replaces_the_faces_of_the_old(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "b.jpg", "v1", 1)
    put(index, "a.jpg", "v2", 2)
    record = index.records.get("images", "a.jpg")
    assert record is not None
    assert (record["etag"], record["face_count"]) == ("v2", 2)
    assert index.records.points("images", "a.jpg") == 2
    assert index.records.points("images", "b.jpg") == 1
    assert [face["etag"] for face in index.records.faces(record)] == ["v2", "v2"]


def test_the_same_version_twice_is_there_once(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "a.jpg", "v1", 3)
    assert index.records.points("images", "a.jpg") == 3


def test_fewer_faces_of_the_same_version_leave_none_behind(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "a.jpg", "v1", 0)
    assert index.records.points("images", "a.jpg") == 0


def test_what_writers_keep_for_each_other_is_not_told(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 1, looked_at=5.0)
    record = index.records.get("images", "a.jpg")
    assert record is not None
    assert set(record) == {
        *("bucket", "key", "etag", "status", "item_id", "model_id", "face_count", "looked_at"),
    }
    assert set(index.records.faces(record)[0]) == {"box", "bucket", "key", "etag", "item_id", "face"}


def test_a_deleted_item_leaves_nothing_under_any_model(index: FaceIndex, store: Store) -> None:
    put(index, "a.jpg", "v1", 3)
    other = FaceIndex(store, OTHER_INFO)
    other.prepare()
    put(other, "a.jpg", "v1", 1, size=3)
    assert other.records.points("images", "a.jpg") == 4
    assert other.delete("images", "a.jpg") == 4
    assert other.records.get("images", "a.jpg") is None
    assert other.records.points("images", "a.jpg") == 0
    assert (other.records.count(), other.records.page()) == (0, ([], None))
    assert other.records.lookup("images", ["a.jpg"]) == {}


def test_deleting_what_is_not_there_is_no_error(index: FaceIndex) -> None:
    assert index.delete("images", "never.jpg") == 0
    assert index.records.count() == 0


def test_a_new_version_under_another_model_leaves_nothing_of_the_old_version(index: FaceIndex, store: Store) -> None:
    put(index, "a.jpg", "v1", 3)
    other = FaceIndex(store, OTHER_INFO)
    other.prepare()
    put(other, "a.jpg", "v1", 1, size=3)
    assert store.count(index.collection, Where()) == 3  # for readers that were not switched over yet
    put(other, "a.jpg", "v2", 1, size=3)
    assert store.count(index.collection, Where()) == 0


def test_readers_stay_on_the_alias_of_the_first_model_until_all_is_of_the_second(
    index: FaceIndex, store: Store
) -> None:
    assert index.alias_target() == index.collection
    put(index, "a.jpg", "v1", 2)
    other = FaceIndex(store, OTHER_INFO)
    other.prepare()
    assert store.alias(ALIAS) == index.collection
    with pytest.raises(ConflictError, match="model-a"):  # the first service is still at work
        other.switch_readers()
    with pytest.raises(ConflictError, match="in use"):
        other.drop_model("model-a")
    index._presence.leave()
    other.claim("images", "coming.jpg")  # which counts neither as of one model nor as of the other
    with pytest.raises(ConflictError, match="1 items"):
        other.switch_readers()
    put(other, "a.jpg", "v1", 1, size=3)
    other.switch_readers()
    assert store.alias(ALIAS) == other.collection
    other.drop_model("model-a")
    assert [model["model_id"] for model in other.models()] == ["model-b"]


def test_services_of_two_models_notice_each_other_and_say_so(index: FaceIndex, store: Store) -> None:
    assert "other_models" not in index.state()
    twin = FaceIndex(store, INFO)
    twin.prepare()
    assert "other_models" not in index.state()
    other = FaceIndex(store, OTHER_INFO)
    other.prepare()
    assert index.state()["other_models"] == {"model-b": 1}
    assert other.state()["other_models"] == {"model-a": 2}
    assert "model-a (2)" in other.state()["problem"]


def test_records_are_listed_by_page_bucket_and_status(index: FaceIndex) -> None:
    for n in range(5):
        put(index, f"{n}.jpg", "v1", 0)
    put(index, "v.mp4", "v1", 0, "videos", status="rejected")
    index.delete("images", "gone.jpg")
    first, after = index.records.page(bucket="images", limit=3)
    rest, end = index.records.page(bucket="images", limit=3, after=after)
    assert sorted(record["key"] for record in first + rest) == [f"{n}.jpg" for n in range(5)]
    assert end is None
    assert [record["key"] for record in index.records.page(status="rejected")[0]] == ["v.mp4"]
    assert len(index.records.page()[0]) == 6
    assert (index.records.count(), index.records.count(bucket="videos")) == (6, 1)
    assert index.records.tally("bucket") == {"images": 5, "videos": 1}
    assert index.records.tally("status") == {"indexed": 5, "rejected": 1}


def test_records_are_listed_by_the_time_they_were_written_at(index: FaceIndex) -> None:
    for hour in range(5):
        at = f"2026-11-01T0{hour}:00:00.500+00:00"
        status = "rejected" if hour % 2 else "indexed"
        index.put({"etag": "v1", "status": status, "indexed_at": at}, [], index.claim("images", f"{hour}.jpg"))
    index.delete("images", "4.jpg")

    def listed(**selection: Any) -> set[str]:
        return {record["key"] for record in index.records.page(**selection)[0]}

    second = datetime(2026, 11, 1, 1, 0, 0, 500_000, UTC)
    assert listed(since=second) == {"1.jpg", "2.jpg", "3.jpg"}
    assert listed(until=second) == {"0.jpg", "1.jpg"}
    assert listed(since=second, until=second.replace(hour=2)) == {"1.jpg", "2.jpg"}
    assert listed(since=second, status="rejected") == {"1.jpg", "3.jpg"}
    assert listed(since=datetime(2026, 11, 1, 5, tzinfo=timezone(timedelta(hours=3)))) == {"2.jpg", "3.jpg"}
    first, after = index.records.page(since=second, limit=2)
    rest, end = index.records.page(since=second, limit=2, after=after)
    assert ({record["key"] for record in first + rest}, end) == ({"1.jpg", "2.jpg", "3.jpg"}, None)


def test_the_ids_of_a_bucket_s_records_are_listed_in_their_order(index: FaceIndex) -> None:
    for number in range(5):
        put(index, f"{number}.jpg", "v1", number)
    put(index, "5.jpg", "v1", 1, bucket="videos")
    index.delete("images", "3.jpg")
    index.claim("images", "6.jpg")
    expected = sorted(item_id("images", f"{number}.jpg") for number in (0, 1, 2, 4))
    assert index.records.ids("images") == (expected, None)
    assert index.records.ids("images", expected[2]) == (expected[2:], None)
    between = f"{expected[1][:-4]}ffff"
    assert index.records.ids("images", between) == (expected[2:], None)
    records, _ = index.records.page(after=between, bucket="images")
    assert [record["item_id"] for record in records] == expected[2:]


def test_objects_of_one_name_in_two_buckets_are_two_items(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 2)
    put(index, "a.jpg", "v1", 0, "videos")
    assert index.records.points("images", "a.jpg") == 2
    index.delete("videos", "a.jpg")
    assert index.records.points("images", "a.jpg") == 2


def test_what_was_found_too_late_brings_nothing_back(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 1)
    face: list[tuple[Vector, Payload]] = [(vector(1, 0, 0, 1), {})]
    claim = index.claim("images", "a.jpg")
    index.delete("images", "a.jpg")
    with pytest.raises(OvertakenError):
        index.put({"etag": "v1", "status": "indexed"}, face, claim)
    assert (index.records.get("images", "a.jpg"), index.records.points("images", "a.jpg")) == (None, 0)
    claim = index.claim("images", "a.jpg")
    put(index, "a.jpg", "v2", 2)
    put(index, "b.jpg", "v1", 1)
    with pytest.raises(OvertakenError):
        index.put({"etag": "v1", "status": "indexed"}, face, claim)
    assert index.records.points("images", "a.jpg") == 2


def test_what_was_seen_in_the_bucket_later_is_not_overwritten_by_what_was_seen_before(index: FaceIndex) -> None:
    put(index, "a.jpg", "v2", 1, looked_at=20.0)
    with pytest.raises(OvertakenError):
        index.claim("images", "a.jpg", etag="v1", looked_at=10.0)
    with pytest.raises(OvertakenError):  # it was gone, and is there again
        index.delete("images", "a.jpg", looked_at=15.0)
    index.delete("images", "a.jpg", looked_at=30.0)
    with pytest.raises(OvertakenError):
        index.claim("images", "a.jpg", etag="v2", looked_at=25.0)
    put(index, "a.jpg", "v2", 1, looked_at=35.0)
    index.delete("images", "a.jpg")  # by an operator, who looked at nothing
    assert index.records.get("images", "a.jpg") is None


def test_a_record_of_an_earlier_version_is_claimed_changed_and_deleted(index: FaceIndex, store: Store) -> None:
    identifier = item_id("images", "old.jpg")
    record = {"bucket": "images", "key": "old.jpg", "etag": "v1", "status": "indexed", "item_id": identifier}
    store.upsert(ITEMS, [Point(identifier, None, record | {"model_id": "model-a", "face_count": 1})])
    face = {"bucket": "images", "key": "old.jpg", "etag": "v1", "item_id": identifier, "face": 0}
    store.upsert(index.collection, [Point(item_id("a", "point"), vector(0, 0, 0, 1), face)])
    stale = index.claim("images", "old.jpg")
    put(index, "old.jpg", "v2", 1)
    assert index.records.points("images", "old.jpg") == 1
    with pytest.raises(OvertakenError):
        index.put({"etag": "v1", "status": "indexed"}, [], stale)
    assert index.delete("images", "old.jpg") == 1


def test_a_record_gets_other_members_and_keeps_its_faces(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 2)
    claim = index.claim("images", "a.jpg")
    assert index.held(claim)
    record = index.update(claim, {"version_id": "second"})
    assert (record["version_id"], index.records.points("images", "a.jpg")) == ("second", 2)
    assert index.records.is_whole(record)
    with pytest.raises(OvertakenError):
        index.update(claim, {"version_id": "third"})


def test_of_many_items_those_that_miss_faces_are_told_apart(index: FaceIndex, store: Store) -> None:
    for number in range(4):
        put(index, f"{number}.jpg", "v1", number)
    keys = [f"{number}.jpg" for number in range(4)]
    records = index.records.lookup("images", keys)
    assert all(record["whole"] for record in records.values())
    lost = points_of(records["2.jpg"])[1]
    store.delete(index.collection, Where(ids=[lost]))
    said = index.records.lookup("images", keys)
    assert [key for key, record in said.items() if not record["whole"]] == ["2.jpg"]
    assert index.records.points("images", "3.jpg") == 3
    store.upsert(index.collection, [Point(lost, vector(0, 0, 0, 0), {"item_id": NOBODY})])  # keeps late ones out
    said = index.records.lookup("images", keys)
    assert [key for key, record in said.items() if not record["whole"]] == ["2.jpg"]


def test_a_collection_that_vanishes_is_created_again_while_the_service_runs(index: FaceIndex, store: Store) -> None:
    put(index, "a.jpg", "v1", 2)
    put(index, "b.jpg", "v1", 1)
    store.drop(index.collection)
    assert {key: said["whole"] for key, said in index.records.lookup("images", ["a.jpg", "b.jpg"]).items()} == {
        "a.jpg": False,
        "b.jpg": False,
    }
    put(index, "a.jpg", "v1", 2)
    assert index.records.lookup("images", ["a.jpg"])["a.jpg"]["whole"]
    for collection in store.collections():  # all of it: a volume that was lost
        store.drop(collection)
    assert index.records.get("images", "a.jpg") is None
    assert index.state()["items"] == 0
    put(index, "a.jpg", "v1", 2)
    assert (index.records.count(), index.records.points("images", "a.jpg")) == (1, 2)
    assert index.alias_target() == index.collection


def test_faces_without_a_record_are_strays_and_blank_points_are_nobody_s(index: FaceIndex, store: Store) -> None:
    put(index, "a.jpg", "v1", 2)
    store.delete(ITEMS, Where(having={"bucket": "images"}))
    assert index.records.strays() == ([{"bucket": "images", "key": "a.jpg"}], None)
    index.delete("images", "a.jpg")
    assert index.records.strays() == ([], None)
