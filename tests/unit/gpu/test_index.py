"""The index holds exactly the faces of the current version of each item.

Both ways of finding an item's points are run: the embedded index's own, and the filters a Qdrant server gets,
which qdrant-client's local mode evaluates too.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from app.common.items import item_id
from app.common.wire import OvertakenError
from app.gpu.engines.base import EngineInfo
from app.gpu.index import ALIAS, INDEX_ERRORS, ITEMS, FaceIndex

INFO = EngineInfo("dlib", "model-a", "cpu", 4, "euclid", 0.5, 1600)
OTHER_INFO = EngineInfo("dlib", "model-b", "cpu", 3, "cosine", 0.5, 1600)


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture(params=[True, False], ids=["embedded", "server"])
def index(client: QdrantClient, request: pytest.FixtureRequest) -> FaceIndex:
    index = FaceIndex(client, INFO, embedded=request.param)
    # Payload indexes are for the server; local mode warns of them.
    index._index_payload = lambda *_: None  # type: ignore[method-assign]
    index.prepare()
    return index


def put(index: FaceIndex, key: str, etag: str, faces: int) -> None:
    item = {"bucket": "images", "key": key, "etag": etag, "status": "indexed"}
    with index.claim("images", key) as claim:
        index.put(item, [([float(n), 0.0, 0.0, 1.0], {"box": [n, n, n + 1, n + 1]}) for n in range(faces)], claim)


def test_a_new_version_replaces_the_faces_of_the_old(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "b.jpg", "v1", 1)
    put(index, "a.jpg", "v2", 2)
    record = index.get("images", "a.jpg")
    assert record is not None
    assert (record["etag"], record["face_count"]) == ("v2", 2)
    assert index.count("images", "a.jpg") == 2
    assert index.count("images", "b.jpg") == 1
    assert [face["etag"] for face in index.faces(record)] == ["v2", "v2"]


def test_the_same_version_twice_is_there_once(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "a.jpg", "v1", 3)
    assert index.count("images", "a.jpg") == 3


def test_fewer_faces_of_the_same_version_leave_none_behind(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 3)
    put(index, "a.jpg", "v1", 0)
    assert index.count("images", "a.jpg") == 0


def test_a_deleted_item_leaves_nothing_under_any_model(index: FaceIndex, client: QdrantClient) -> None:
    put(index, "a.jpg", "v1", 3)
    other = FaceIndex(client, OTHER_INFO, embedded=True)
    other.prepare()
    with other.claim("images", "a.jpg") as claim:
        other.put({"bucket": "images", "key": "a.jpg", "etag": "v1"}, [([1.0, 0.0, 0.0], {})], claim)
    assert other.count("images", "a.jpg") == 4
    assert other.delete("images", "a.jpg") == 4
    assert other.get("images", "a.jpg") is None
    assert other.count("images", "a.jpg") == 0


def test_deleting_what_is_not_there_is_no_error(index: FaceIndex) -> None:
    assert index.delete("images", "never.jpg") == 0


def test_readers_stay_on_the_alias_of_the_first_model(index: FaceIndex, client: QdrantClient) -> None:
    assert index.alias_target() == index.collection
    put(index, "a.jpg", "v1", 2)
    FaceIndex(client, OTHER_INFO, embedded=True).prepare()
    assert client.count(ALIAS).count == 2


def test_records_are_listed_by_page_bucket_and_status(index: FaceIndex) -> None:
    for n in range(5):
        put(index, f"{n}.jpg", "v1", 0)
    with index.claim("videos", "v.mp4") as claim:
        index.put({"bucket": "videos", "key": "v.mp4", "etag": "v1", "status": "rejected"}, [], claim)
    first, after = index.page(bucket="images", limit=3)
    rest, end = index.page(bucket="images", limit=3, after=after)
    assert sorted(record["key"] for record in first + rest) == [f"{n}.jpg" for n in range(5)]
    assert end is None
    assert [record["key"] for record in index.page(status="rejected")[0]] == ["v.mp4"]


def test_the_embedded_index_knows_its_points_after_a_restart(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    index = FaceIndex(client, INFO, embedded=True)
    index.prepare()
    put(index, "a.jpg", "v1", 3)
    index.close()
    client = QdrantClient(path=str(tmp_path))
    reopened = FaceIndex(client, INFO, embedded=True)
    reopened.prepare()
    put(reopened, "a.jpg", "v2", 1)
    assert reopened.count("images", "a.jpg") == 1
    assert client.retrieve(ITEMS, [item_id("images", "a.jpg")])
    reopened.close()


def test_objects_of_one_name_in_two_buckets_are_two_items(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 2)
    with index.claim("videos", "a.jpg") as claim:
        index.put({"bucket": "videos", "key": "a.jpg", "etag": "v1"}, [], claim)
    assert index.count("images", "a.jpg") == 2
    index.delete("videos", "a.jpg")
    assert index.count("images", "a.jpg") == 2


def test_a_disk_that_fills_up_is_an_outage_and_leaves_nothing_behind(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    index = FaceIndex(client, INFO, embedded=True)
    index.prepare()
    put(index, "a.jpg", "v1", 1)
    storage = client._client.collections[index.collection].storage.storage  # type: ignore[attr-defined]
    pages = storage.execute("PRAGMA page_count").fetchone()[0]
    storage.execute(f"PRAGMA max_page_count = {pages + 2}")  # as a full disk would, it refuses the next page
    with pytest.raises(INDEX_ERRORS, match="full"):
        put(index, "a.jpg", "v2", 200)
    assert index.count("images", "a.jpg") > 1
    storage.execute("PRAGMA max_page_count = 100000")
    put(index, "a.jpg", "v3", 2)
    assert index.count("images", "a.jpg") == 2
    client.close()


def test_what_was_found_too_late_brings_nothing_back(index: FaceIndex) -> None:
    put(index, "a.jpg", "v1", 1)
    late = {"bucket": "images", "key": "a.jpg", "etag": "v1", "status": "indexed"}
    with index.claim("images", "a.jpg") as claim:
        index.delete("images", "a.jpg")
        with pytest.raises(OvertakenError):
            index.put(late, [([1.0, 0.0, 0.0, 1.0], {})], claim)
    assert (index.get("images", "a.jpg"), index.count("images", "a.jpg")) == (None, 0)
    with index.claim("images", "a.jpg") as claim:
        put(index, "a.jpg", "v2", 2)
        put(index, "b.jpg", "v1", 1)
        with pytest.raises(OvertakenError):
            index.put(late, [([1.0, 0.0, 0.0, 1.0], {})], claim)
    assert index.count("images", "a.jpg") == 2
