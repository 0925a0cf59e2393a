"""A job makes the index agree with the bucket, whatever happens to the object meanwhile.

The store and the face service are stand-ins here, so that an object can change at an exact moment; the pipeline
tests run the real ones.
"""

from collections.abc import Callable
from typing import Any

import pytest

from app.common.errors import PermanentError, TransientError
from app.worker.converge import MAX_ROUNDS, Context, converge
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion

JPEG = b"\xff\xd8\xff\xe0 a picture"


class Bucket:
    """Stands in for `Store`: one object, None when it is gone."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.meddle: Callable[[], None] | None = None

    def stat(self, bucket: str, key: str) -> ObjectVersion | None:
        if self.data is None:
            return None
        return ObjectVersion(bucket, key, str(hash(self.data)), len(self.data), None, "", "")

    def read(self, version: ObjectVersion, offset: int = 0, length: int = 0) -> bytes:
        if self.data is None or version.etag != str(hash(self.data)):
            raise ObjectChangedError
        return self.data[offset : offset + length] if length else self.data


class Faces:
    """Stands in for `FaceClient`: remembers what it was last told."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.item: dict[str, Any] | None = None
        self.puts = 0
        #: Called in the middle of every put: what happens to the object meanwhile.
        self.meanwhile: list[Callable[[], None]] = []

    def is_current(self, version: ObjectVersion) -> bool:
        return self.item is not None and self.item["etag"] == version.etag

    def put_image(self, version: ObjectVersion, data: bytes) -> dict[str, Any]:
        self.puts += 1
        if b"broken" in data:
            raise PermanentError("damaged", "The JPEG is damaged.")
        if b"away" in data:
            raise TransientError("The face service does not answer.")
        return self._put(version, "indexed")

    def put_rejection(self, version: ObjectVersion, error: PermanentError) -> dict[str, Any]:
        return self._put(version, "rejected")

    def delete(self, bucket: str, key: str) -> int:
        removed = 0 if self.item is None else 1
        self._meanwhile()
        self.item = None
        return removed

    def _put(self, version: ObjectVersion, status: str) -> dict[str, Any]:
        self._meanwhile()
        self.item = {"status": status, "etag": version.etag}
        return self.item

    def _meanwhile(self) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()


def world(data: bytes | None) -> tuple[Bucket, Faces, Context]:
    bucket = Bucket(data)
    faces = Faces(bucket)
    return bucket, faces, Context(WorkerSettings(), bucket, faces)  # type: ignore[arg-type]


def indexed_etag(bucket: Bucket) -> str:
    return str(hash(bucket.data))


def test_a_picture_is_indexed_once() -> None:
    _, faces, context = world(JPEG)
    assert converge(context, "images", "a.jpg")["status"] == "indexed"
    assert converge(context, "images", "a.jpg")["status"] == "unchanged"
    assert faces.puts == 1


def test_an_object_that_is_gone_leaves_the_index() -> None:
    bucket, faces, context = world(JPEG)
    converge(context, "images", "a.jpg")
    bucket.data = None
    assert converge(context, "images", "a.jpg")["deleted_points"] == 1
    assert faces.item is None


def test_an_object_replaced_while_it_is_processed_ends_up_in_its_new_version() -> None:
    bucket, faces, context = world(JPEG)
    faces.meanwhile = [lambda: setattr(bucket, "data", JPEG + b" replaced")]
    assert converge(context, "images", "a.jpg")["status"] == "indexed"
    assert faces.item is not None
    assert faces.item["etag"] == indexed_etag(bucket)


def test_an_object_deleted_while_it_is_processed_is_not_left_behind() -> None:
    bucket, faces, context = world(JPEG)
    faces.meanwhile = [lambda: setattr(bucket, "data", None)]
    assert converge(context, "images", "a.jpg")["status"] == "deleted"
    assert faces.item is None


def test_an_object_put_back_while_it_is_removed_is_not_lost() -> None:
    bucket, faces, context = world(None)
    faces.item = {"status": "indexed", "etag": "old"}
    faces.meanwhile = [lambda: setattr(bucket, "data", JPEG)]
    assert converge(context, "images", "a.jpg")["status"] == "indexed"
    assert faces.item["etag"] == indexed_etag(bucket)


def test_an_object_that_never_rests_is_left_to_a_later_try() -> None:
    bucket, faces, context = world(JPEG)
    faces.meanwhile = [
        lambda n=n: setattr(bucket, "data", JPEG + b" version %d" % n)  # type: ignore[misc]
        for n in range(MAX_ROUNDS)
    ]
    with pytest.raises(TransientError, match="changed"):
        converge(context, "images", "a.jpg")


def test_what_can_never_be_processed_is_recorded_and_not_tried_again() -> None:
    _, faces, context = world(JPEG + b" broken")
    assert converge(context, "images", "a.jpg")["status"] == "rejected"
    assert converge(context, "images", "a.jpg")["status"] == "unchanged"
    assert faces.puts == 1


@pytest.mark.parametrize("data", [b"", b"a text", b"ID3 a song"])
def test_what_is_no_picture_and_no_video_is_rejected(data: bytes) -> None:
    _, _, context = world(data)
    assert converge(context, "images", "a.jpg")["status"] == "rejected"


def test_a_picture_beyond_the_limit_is_rejected_unread() -> None:
    _, faces, context = world(JPEG)
    small = Context(WorkerSettings(max_image_bytes=1024), context.store, context.faces)
    context.store.data = JPEG + b"\0" * 1024  # type: ignore[attr-defined]
    assert converge(small, "images", "a.jpg")["status"] == "rejected"
    assert faces.puts == 0


def test_what_is_away_for_a_while_is_no_verdict_on_the_object() -> None:
    _, faces, context = world(JPEG + b" away")
    with pytest.raises(TransientError):
        converge(context, "images", "a.jpg")
    assert faces.item is None
