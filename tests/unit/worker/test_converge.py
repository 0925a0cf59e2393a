"""A job makes the index agree with the bucket, whatever happens to the object meanwhile.

The store and the face service are stand-ins here, so that an object can change at an exact moment; the pipeline
tests run the real ones.
"""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from app.common.errors import PermanentError, TransientError
from app.common.media import HEAD_BYTES
from app.worker.converge import MAX_ROUNDS, Context, VideoFoundError, converge, give_up
from app.worker.settings import WorkerSettings
from app.worker.store import Body, ObjectVersion, UnreadableError

#: The same bytes whenever it is called: they name the tests.
compressed = partial(gzip.compress, mtime=0)

JPEG = b"\xff\xd8\xff\xe0 a picture"


class Bucket:
    """Stands in for `Store`: one object, None when it is gone."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.encoding = ""
        self.denied = False
        self.requests = 0

    def time(self) -> float:
        return float(self.requests)

    def now(self, bucket: str, key: str) -> ObjectVersion | None:
        self.requests += 1
        if self.data is None:
            return None
        return ObjectVersion(bucket, key, str(hash(self.data)), len(self.data), None, "")

    @contextmanager
    def get(self, bucket: str, key: str) -> Iterator[Body | None]:
        version = self.now(bucket, key)
        if version is None or self.data is None:
            yield None
            return
        if self.denied:
            raise UnreadableError(version, "The object is there but cannot be read.")
        yield Body(version, self.encoding, Rest(self.data[HEAD_BYTES:]), self.data[:HEAD_BYTES])  # type: ignore[arg-type]


class Rest:
    """Stands in for a response whose first bytes were read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, amount: int, *, decode_content: bool) -> bytes:
        assert not decode_content
        piece, self.data = self.data[:amount], self.data[amount:]
        return piece


class Faces:
    """Stands in for `FaceClient`: remembers what it was last told."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.item: dict[str, Any] | None = None
        self.puts = 0
        self.calls = 0
        self.sent = b""
        #: Called in the middle of every put: what happens to the object meanwhile.
        self.meanwhile: list[Callable[[], None]] = []

    def is_current(self, version: ObjectVersion, judging: dict[str, Any]) -> bool:
        return self.item is not None and self.item["etag"] == version.etag

    def put_image(self, version: ObjectVersion, data: bytes) -> dict[str, Any]:
        self.calls += 1
        self.sent = data
        if self.is_current(version, {}):
            return {"item": self.item, "unchanged": True}
        self.puts += 1
        if b"broken" in data:
            raise PermanentError("damaged", "The JPEG is damaged.")
        if b"away" in data:
            raise TransientError("The face service does not answer.")
        return {"item": self._put(version, "indexed")}

    def put_rejection(self, version: ObjectVersion, error: PermanentError) -> dict[str, Any]:
        item = self._put(version, "rejected")
        item.update(reason=str(error), reason_code=error.code, judged_by=error.judged_by)
        return item

    def delete(self, bucket: str, key: str, looked_at: float = 0.0) -> int:
        self.calls += 1
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


def test_a_new_picture_takes_two_requests_to_the_bucket_and_one_to_the_face_service() -> None:
    bucket, faces, context = world(JPEG)
    converge(context, "images", "a.jpg")
    assert (bucket.requests, faces.calls) == (2, 1)


def test_a_deletion_takes_two_requests_to_the_bucket_and_one_to_the_face_service() -> None:
    bucket, faces, context = world(None)
    converge(context, "images", "a.jpg")
    assert (bucket.requests, faces.calls) == (2, 1)


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


def test_an_object_that_cannot_be_read_is_rejected_and_says_when_it_was_looked_at() -> None:
    bucket, faces, context = world(JPEG)
    bucket.denied = True
    assert converge(context, "images", "a.jpg")["status"] == "rejected"
    assert faces.item is not None
    assert faces.item["reason_code"] == "unreadable"
    assert faces.item["judged_by"].keys() == {"MINIO_USER", "looked"}
    bucket.denied = False
    assert converge(context, "images", "a.jpg")["status"] in ("indexed", "unchanged")


def test_an_object_that_stands_for_a_folder_is_no_picture() -> None:
    _, faces, context = world(b"")
    assert converge(context, "images", "folder/")["status"] == "ignored"
    assert faces.item is None


PICTURE = b"\xff\xd8\xff\xe0" + bytes(5000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "aws-chunked,gzip", "br", "nonsense"])
def test_a_picture_whose_encoding_is_untrue_goes_through_as_it_is_stored(encoding: str) -> None:
    bucket, faces, context = world(PICTURE)
    bucket.encoding = encoding
    assert converge(context, "images", "a.jpg")["status"] == "indexed"
    assert faces.sent == PICTURE


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (compressed(PICTURE), "gzip"),
        (compressed(PICTURE), ""),
        (compressed(PICTURE), "aws-chunked,gzip"),
        (zlib.compress(PICTURE), "deflate"),
        (zlib.compress(PICTURE)[2:-4], "deflate"),
    ],
)
def test_a_picture_that_is_really_compressed_is_unpacked(data: bytes, encoding: str) -> None:
    bucket, faces, context = world(data)
    bucket.encoding = encoding
    assert converge(context, "images", "a.jpg")["status"] == "indexed"
    assert faces.sent == PICTURE


@pytest.mark.parametrize(
    ("data", "encoding", "code"),
    [
        (compressed(b"\x1aE\xdf\xa3" + bytes(900)), "gzip", "compressed"),
        (b"\x0b\x80" + bytes(90), "br", "compressed"),
        (compressed(b"a text"), "gzip", "unsupported"),
        (compressed(PICTURE)[:-9], "gzip", "truncated"),
        (compressed(PICTURE + bytes(10_000)), "gzip", "too_many_bytes"),
    ],
)
def test_what_is_compressed_and_no_picture_within_the_limit_is_rejected(
    data: bytes, encoding: str, code: str
) -> None:
    bucket, faces, context = world(data)
    bucket.encoding = encoding
    small = Context(WorkerSettings(max_image_bytes=10_000), context.store, context.faces)
    assert converge(small, "images", "a.jpg")["status"] == "rejected"
    assert faces.item is not None
    assert faces.item["reason_code"] == code


def test_a_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bucket, faces, context = world(compressed(b"\xff\xd8\xff\xe0" + bytes(300 * 2**20)))
    bucket.encoding = "gzip"
    tracemalloc.start()
    try:
        converge(Context(WorkerSettings(max_image_bytes=2**20), context.store, context.faces), "images", "a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert faces.item is not None
    assert faces.item["reason_code"] == "too_many_bytes"


def test_a_video_is_not_opened_where_it_must_not_be() -> None:
    _, _, context = world(b"\x1aE\xdf\xa3 a video")
    with pytest.raises(VideoFoundError):
        converge(context, "videos", "a.bin", videos=False)


def test_a_verdict_on_an_object_that_is_gone_removes_it_and_comes_to_an_end() -> None:
    bucket, faces, context = world(None)
    faces.item = {"status": "indexed", "etag": "old"}
    assert give_up(context, "images", "a.jpg", PermanentError("quarantined", "It did harm."))["status"] == "deleted"
    assert faces.item is None
    assert bucket.requests == 2


def test_a_verdict_is_on_the_version_that_is_there() -> None:
    bucket, faces, context = world(JPEG)
    faces.meanwhile = [lambda: setattr(bucket, "data", JPEG + b" put again")]
    give_up(context, "images", "a.jpg", PermanentError("quarantined", "It did harm."))
    assert faces.item is not None
    assert faces.item["etag"] == indexed_etag(bucket)


@pytest.mark.parametrize("data", [b"", b"a text", b"ID3 a song"])
def test_what_is_no_picture_and_no_video_is_rejected(data: bytes) -> None:
    _, _, context = world(data)
    assert converge(context, "images", "a.jpg")["status"] == "rejected"


def test_what_is_of_no_known_format_is_told_which_are() -> None:
    _, faces, context = world(b"a text")
    converge(context, "images", "a.jpg")
    reason = str((faces.item or {})["reason"])
    assert all(name in reason for name in ("JPEG", "HEIC", "MP4", "WMV"))


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
