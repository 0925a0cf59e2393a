"""How a comparison goes through a bucket; the pipeline tests show what it finds."""

import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from app.common.items import item_id
from app.worker import reconcile
from app.worker.converge import Context
from app.worker.listing import Listed
from app.worker.settings import WorkerSettings

MODEL = "model-a"


class Bucket:
    """Stands in for `Store`: lists pages of one object each, and says which were begun."""

    def __init__(self, *pages: Listed) -> None:
        self._pages = pages
        self.begun: list[str] = []
        self.looked_for: list[str] = []
        #: Set when the listing stands at a page.
        self.reached = threading.Condition()

    def pages(self, bucket: str, after: str | None, _limit: int) -> Iterator[list[Listed]]:
        for listed in self._pages if bucket == "images" else ():
            if after is None or listed.key > after:
                with self.reached:
                    self.begun.append(listed.key)
                    self.reached.notify_all()
                yield [listed]

    def absent(self, _bucket: str, keys: list[str]) -> list[str]:
        self.looked_for += keys
        there = {listed.key for listed in self._pages}
        return [key for key in keys if key not in there]

    def wait_for(self, key: str) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: key in self.begun, timeout=10)


class Faces:
    """Stands in for `FaceClient`: knows what it is given."""

    def __init__(self, bucket: Bucket, **said: dict[str, Any]) -> None:
        self._bucket, self._said = bucket, said
        self.asked: list[dict[str, str | None]] = []
        #: What the listing is to reach before the page with a key is looked up.
        self.awaits: dict[str, str] = {}

    def model_id(self) -> str:
        return MODEL

    def count_items(self, bucket: str) -> int:
        return len(self._said) if bucket == "images" else 0

    def item_ids(self, bucket: str, after: str | None) -> tuple[list[str], str | None]:
        records, following = self.records(bucket, after)
        return [record["item_id"] for record in records], following

    def records(self, bucket: str, after: str | None) -> tuple[list[dict[str, str]], str | None]:
        """A hundred of the records, in the order of their ids, from an id on."""
        known = [{"item_id": item_id(bucket, key), "key": key} for key in self._said if bucket == "images"]
        ordered = sorted(known, key=lambda record: record["item_id"])
        page = [record for record in ordered if record["item_id"] >= (after or "")]
        return page[:100], page[100]["item_id"] if len(page) > 100 else None

    def strays(self, _after: str | None) -> tuple[list[Any], None]:
        return [], None

    def differing(self, _bucket: str, versions: dict[str, str | None], _judging: Any) -> dict[str, Any]:
        self.asked.append(versions)
        for key in versions:
            assert key not in self.awaits or self._bucket.wait_for(self.awaits[key])
        return {
            key: said
            for key, etag in versions.items()
            if not (said := self._said.get(key)) or not said["current"] or said["etag"] != etag
        }


def context(bucket: Bucket, faces: Faces) -> Context:
    return Context(WorkerSettings(), cast(Any, bucket), cast(Any, faces))


def start(found: Context, *, thorough: bool = False) -> reconcile.Position:
    return reconcile.start(found.settings, thorough=thorough)


def known(etag: str, **more: Any) -> dict[str, Any]:
    return {"etag": etag, "model_id": MODEL, "current": True} | more


def test_a_page_is_listed_while_the_one_before_is_looked_up_and_no_more() -> None:
    bucket = Bucket(*(Listed(key, "v1", 1) for key in "abcd"))
    faces = Faces(bucket, a=known("v1"))
    faces.awaits = {"a": "b", "b": "c"}
    found = context(bucket, faces)
    pages = reconcile.pages(found, start(found))
    next(pages)
    assert bucket.begun == ["a", "b"]
    differences, following = next(pages)
    assert [difference.key for difference in differences] == ["b"]
    assert bucket.begun == ["a", "b", "c"]
    again = reconcile.pages(found, cast(reconcile.Position, following))
    assert [difference.key for difference in next(again)[0]] == ["c"]


def test_each_difference_has_its_reason() -> None:
    bucket = Bucket(
        Listed("changed", "v2", 1),
        Listed("folder/", "v1", 0),
        Listed("incomplete", "v1", 1),
        Listed("judged", "v1", 1),
        Listed("left/", "v1", 0),
        Listed("missing", "v1", 1),
        Listed("model", "v1", 1),
        Listed("same", "v1", 1),
    )
    said = {
        "changed": known("v1"),
        "incomplete": known("v1", current=False, judged_otherwise=False),
        "judged": known("v1", current=False, judged_otherwise=True),
        "left/": known("v1"),
        "model": known("v1", current=False, model_id="model-b"),
        "same": known("v1"),
    }
    found = context(bucket, Faces(bucket, **said))
    compared = [(list(page), at) for page, at in reconcile.pages(found, start(found))]
    assert {one.key: one.why for page, _ in compared for one in page} == {
        "changed": "changed",
        "incomplete": "incomplete",
        "judged": "judgement",
        "left/": "orphan",
        "missing": "missing",
        "model": "model",
    }
    last = [at for _, at in compared if at and at.bucket == "images"][-1]
    assert last.known == len(said)


@pytest.mark.parametrize("orphans", [0, 1, 3])
def test_records_without_an_object_are_looked_for_where_they_may_be(orphans: int) -> None:
    keys = [f"{number:04}.jpg" for number in range(1000)]
    bucket = Bucket(*(Listed(key, "v1", 1) for key in keys[orphans:]))
    faces = Faces(bucket, **{key: known("v1") for key in keys})
    found = context(bucket, faces)
    position: reconcile.Position | None = start(found, thorough=True)
    differences: list[reconcile.Difference] = []
    while position:  # each page by another step, which knows what JSON holds
        position = reconcile.Position(*json.loads(json.dumps(position)))
        page, position = next(reconcile.pages(found, position))
        differences += page
    assert sorted(one.key for one in differences if one.why == "orphan") == keys[:orphans]
    assert len(differences) == orphans
    assert orphans <= len(bucket.looked_for) < 50
    assert len(set(bucket.looked_for)) == len(bucket.looked_for)


def test_a_comparison_that_an_earlier_version_began_looks_at_every_record() -> None:
    bucket = Bucket(Listed("there", "v1", 1))
    faces = Faces(bucket, gone=known("v1"), there=known("v1"))
    found = context(bucket, faces)
    for began in (["images", "records", None, 1, True, None], ["images", "objects", "there", 1, True, None]):
        bucket.looked_for.clear()
        differences = [one for page, _ in reconcile.pages(found, reconcile.Position(*began)) for one in page]
        assert [(one.key, one.why) for one in differences] == [("gone", "orphan")]
        assert sorted(bucket.looked_for) == ["gone", "there"]
