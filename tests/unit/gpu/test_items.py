"""What the endpoints of items do with the index; the engine is a stand-in that finds a face in every picture."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.common.errors import PermanentError
from app.common.wire import MSGPACK, pack, pack_embedding
from app.gpu import service as module
from app.gpu.analysis import Analysis
from app.gpu.api import create_app
from app.gpu.engines.base import Face
from app.gpu.service import FaceService
from app.gpu.settings import FaceSettings
from app.gpu.sizing import Sizes
from tests.unit.gpu.index.conftest import INFO

SEEN = {"etag": "v1", "size": "7", "last_modified": "2026-01-02T03:04:05+00:00", "looked_at": "100.5"}
PICTURE = b"picture"


class Pool:
    """Stands in for `EnginePool`."""

    info = INFO
    problem = None
    sizes = Sizes(processes=1, decoders=1, places=1)
    analysed: list[bytes]

    def __init__(self, _settings: FaceSettings) -> None:
        type(self).analysed = []

    def state(self) -> dict[str, Any]:
        return {"processes": 1}

    def analyse(self, data: bytes, _lane: str) -> Analysis:
        self.analysed.append(data)
        if data == b"damaged":
            raise PermanentError("damaged", "The picture is damaged.", {"decoder": "an old one"})
        face = Face((0, 0, 9, 9), np.zeros((0, 2), np.float32), 0.9, np.ones(4, np.float32))
        return Analysis(10, 10, [face], [], 1.0, 1.0)

    def close(self) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path) -> FaceSettings:
    return FaceSettings(index_dir=tmp_path)


@pytest.fixture
def service(settings: FaceSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaceService]:
    monkeypatch.setattr(module, "EnginePool", Pool)
    service = FaceService(settings)
    while service._parts is None:
        time.sleep(0.01)
    yield service
    service.close()


@pytest.fixture
def client(service: FaceService, settings: FaceSettings) -> Any:
    return create_app(service, settings).test_client()


def put(client: Any, body: bytes = PICTURE, *, key: str = "a.jpg", **version: str) -> Any:
    return client.put(f"/items/images/{key}", data=body, query_string=SEEN | version, content_type="image/jpeg")


def test_a_version_that_is_known_is_not_analysed_again(client: Any) -> None:
    assert "unchanged" not in put(client).json
    assert put(client).json["unchanged"] is True
    assert Pool.analysed == [PICTURE]


def test_what_else_is_new_of_a_known_version_is_written_down(client: Any) -> None:
    put(client)
    again = put(client, version_id="second", last_modified="2026-02-02T03:04:05+00:00", looked_at="200")
    assert again.json["unchanged"] is True
    record = client.get("/items/images/a.jpg").json["item"]
    assert (record["version_id"], record["last_modified"]) == ("second", "2026-02-02T03:04:05+00:00")
    assert record["looked_at"] == 200
    assert Pool.analysed == [PICTURE]
    assert client.get("/items/images/a.jpg").json["current"] is True


def test_a_verdict_that_depended_on_something_else_is_given_anew(client: Any) -> None:
    assert put(client, b"damaged", size="7").status_code == 422
    assert put(client, b"damaged", size="7").status_code == 422
    assert Pool.analysed == [b"damaged"] * 2
    asked = {"bucket": "images", "keys": ["a.jpg"], "judging": {}}
    said = client.post("/items/lookup", json=asked).json["items"]["a.jpg"]
    assert (said["current"], said["judged_otherwise"]) == (False, True)


def test_a_verdict_is_current_while_the_asker_s_values_are_what_it_was_judged_by(client: Any) -> None:
    known = {"etag": "v1", "reason": "Too big.", "reason_code": "too_many_bytes", "judged_by": {"LIMIT": 5}}
    client.put("/items/images/a.jpg", json=known)

    def said(**judging: int) -> dict[str, Any]:
        asked = {"bucket": "images", "keys": ["a.jpg"], "judging": judging}
        found: dict[str, Any] = client.post("/items/lookup", json=asked).json["items"]["a.jpg"]
        return found

    assert said(LIMIT=5)["current"]
    assert said()["current"]
    assert not said(LIMIT=6)["current"]
    assert said(LIMIT=6)["judged_otherwise"]


def test_the_ids_of_a_bucket_s_records_are_told(client: Any) -> None:
    put(client)
    record = client.get("/items/images/a.jpg").json["item"]
    assert client.get("/items/ids?bucket=images").json == {
        "status": "success",
        "ids": [record["item_id"]],
        "after": None,
    }
    assert client.get("/items/ids?bucket=videos").json["ids"] == []
    assert client.get("/items/ids").status_code == 400
    assert client.get("/items/ids?bucket=images&after=first").status_code == 400


def test_of_versions_only_what_differs_is_told(client: Any) -> None:
    for key in ("another.jpg", "asked.jpg", "judged.jpg", "same.jpg"):
        known = {"etag": "v1", "reason": "Too big.", "reason_code": "too_many_bytes"}
        client.put(f"/items/images/{key}", json=known | {"judged_by": {"LIMIT": 4 if key == "judged.jpg" else 5}})
    versions = {"another.jpg": "v2", "asked.jpg": None, "judged.jpg": "v1", "same.jpg": "v1", "unknown.jpg": "v1"}
    asked = {"bucket": "images", "keys": list(versions), "etags": list(versions.values()), "judging": {"LIMIT": 5}}
    told = client.post("/items/lookup", json=asked).json["items"]
    assert {key: said and said["current"] for key, said in told.items()} == {
        "another.jpg": True,
        "asked.jpg": True,
        "judged.jpg": False,
        "unknown.jpg": None,
    }
    assert client.post("/items/lookup", json=asked | {"etags": ["v1"]}).status_code == 400


def test_a_version_seen_before_a_newer_one_is_refused_before_it_is_analysed(client: Any) -> None:
    put(client, etag="v2", looked_at="200")
    late = put(client, b"older", etag="v1", looked_at="150")
    assert (late.status_code, late.json["code"]) == (409, "overtaken")
    assert Pool.analysed == [PICTURE]
    assert client.delete("/items/images/a.jpg?looked_at=150").status_code == 409
    assert client.delete("/items/images/a.jpg?looked_at=250").json["deleted_points"] == 1
    assert put(client, etag="v2", looked_at="240").status_code == 409
    assert client.get("/items/images/a.jpg").status_code == 404
    assert put(client, etag="v2", looked_at="260").status_code == 200


def test_known_faces_keep_their_embeddings_in_binary_and_as_numbers(client: Any, service: FaceService) -> None:
    face = {"box": [0, 0, 9, 9], "score": 1.0}
    packed = {"etag": "v1", "model_id": "model-a", "faces": [{**face, "embedding": pack_embedding([1, 2, 3, 4])}]}
    assert client.put("/items/videos/a.mp4", data=pack(packed), content_type=MSGPACK).status_code == 200
    plain = {**packed, "faces": [{**face, "embedding": [1, 2, 3, 4]}]}
    assert client.put("/items/videos/b.mp4", json=plain).status_code == 200
    for wrong in ([1, 2, 3], [1, 2, 3, float("nan")], ["a"] * 4, [[1, 2, 3, 4]], "text", None):
        refused = {**packed, "faces": [{**face, "embedding": wrong}]}
        assert client.put("/items/videos/c.mp4", json=refused).status_code == 400
    assert client.get("/items/videos/c.mp4").status_code == 404


@pytest.mark.parametrize(
    "member",
    [
        '"width": 1e999',
        f'"height": {10**30}',
        '"timings_ms": {"a": NaN}',
        '"frames": {"a": Infinity}',
        '"judged_by": {"a": NaN}',
        f'"judged_by": {{"a": {10**400}}}',
        f'"streams": [{{"a": {-(10**30)}}}]',
    ],
)
def test_numbers_that_no_index_could_hold_are_refused(client: Any, member: str) -> None:
    body = f'{{"etag": "v1", "reason": "none", {member}}}'
    refused = client.put("/items/videos/c.mp4", data=body, content_type="application/json")
    assert (refused.status_code, refused.json["code"]) == (400, "bad_request")
    assert client.get("/items/videos/c.mp4").status_code == 404


def test_records_are_counted_by_the_values_of_a_member(client: Any) -> None:
    put(client)
    put(client, b"damaged", key="b.jpg")
    counted = client.get("/items/count?by=reason_code").json
    assert (counted["items"], counted["by"]) == (2, {"damaged": 1})
    assert client.get("/items/count?by=status&bucket=images").json["by"] == {"indexed": 1, "rejected": 1}
    assert "by" not in client.get("/items/count").json
    assert client.get("/items/count?by=etag").status_code == 400


def test_records_are_asked_for_by_the_time_they_were_written_at(client: Any) -> None:
    put(client)
    at = client.get("/items/images/a.jpg").json["item"]["indexed_at"]

    def listed(**times: str) -> list[str]:
        return [record["key"] for record in client.get("/items", query_string=times).json["items"]]

    assert listed(since=at, until=at) == ["a.jpg"]
    assert listed(since="2100-01-01") == listed(until="2020-01-01T00:00") == []
    refused = client.get("/items?since=yesterday")
    assert (refused.status_code, refused.json["error"]) == (400, "since must be a time in ISO 8601.")
