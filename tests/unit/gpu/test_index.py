"""The index holds exactly the faces of the current version of each item.

Both ways of finding an item's points are run: the embedded index's own, and the filters a Qdrant server gets,
which qdrant-client's local mode evaluates too.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from app.common.items import item_id
from app.gpu.engines.base import EngineInfo
from app.gpu.index import ALIAS, ITEMS, FaceIndex

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
    index.put(item, [([float(n), 0.0, 0.0, 1.0], {"box": [n, n, n + 1, n + 1]}) for n in range(faces)])


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
    other.put({"bucket": "images", "key": "a.jpg", "etag": "v1"}, [([1.0, 0.0, 0.0], {})])
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
    index.put({"bucket": "videos", "key": "v.mp4", "etag": "v1", "status": "rejected"}, [])
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
    index.put({"bucket": "videos", "key": "a.jpg", "etag": "v1"}, [])
    assert index.count("images", "a.jpg") == 2
    index.delete("videos", "a.jpg")
    assert index.count("images", "a.jpg") == 2
