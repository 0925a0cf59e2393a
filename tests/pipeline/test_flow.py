"""From an upload to faces in the index, and true to the bucket for as long as the bucket lives."""

import io

import pytest
from minio.commonconfig import ENABLED, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.versioningconfig import VersioningConfig
from PIL import Image

from infra.local.photos import FACES
from tests.fixtures import Pipeline, eventually


@pytest.fixture(scope="module")
def portrait(photos: dict[str, bytes]) -> bytes:
    """A small photo of one face, quick to analyse."""
    image = Image.open(io.BytesIO(photos["astronaut.png"])).convert("RGB").crop((130, 20, 320, 230))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def recoloured(photo: bytes, shade: int) -> bytes:
    """Another version of a photo: the same face, other bytes."""
    return photo + bytes([shade]) * 8


@pytest.mark.parametrize("name", sorted(FACES))
def test_every_face_of_a_photo_is_indexed(running: Pipeline, photos: dict[str, bytes], name: str) -> None:
    etag = running.put("images", f"flow/{name}", photos[name])
    found = running.indexed("images", f"flow/{name}", etag)
    assert found["item"]["face_count"] == found["points"] == FACES[name]
    assert found["item"]["size"] == len(photos[name])
    width, height = found["item"]["width"], found["item"]["height"]
    for face in found["faces"]:
        left, top, right, bottom = face["box"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert face["etag"] == etag


@pytest.mark.parametrize(
    "key",
    [
        "a b.jpg",
        "a+b.jpg",
        "100%.jpg",
        "%2F.jpg",
        "ü/ñ/日本/😀.jpg",
        "a&b=c?d#e.jpg",
        "..hidden/...jpg",
        "quote\"'.jpg",
        "<script>.jpg",
        "semi;colon$(touch x).jpg",
        "/".join("k" * 200 for _ in range(5)) + "/" + "k" * 19,  # 1,024 bytes; a segment has at most 255
    ],
)
def test_any_key_finds_its_way(running: Pipeline, portrait: bytes, key: str) -> None:
    etag = running.put("images", key, portrait)
    assert running.indexed("images", key, etag)["item"]["key"] == key
    running.minio.remove_object("images", key)
    running.gone("images", key)


def test_an_overwritten_photo_is_indexed_once_in_its_new_version(
    running: Pipeline, photos: dict[str, bytes], portrait: bytes
) -> None:
    running.indexed("images", "over.jpg", running.put("images", "over.jpg", photos["group.jpg"]))
    etag = running.put("images", "over.jpg", portrait)
    found = running.indexed("images", "over.jpg", etag)
    assert found["points"] == 1
    assert {face["etag"] for face in found["faces"]} == {etag}


def test_a_photo_overwritten_again_and_again_ends_up_as_it_is_last(running: Pipeline, portrait: bytes) -> None:
    for shade in range(8):
        etag = running.put("images", "busy.jpg", recoloured(portrait, shade))
    assert running.indexed("images", "busy.jpg", etag)["points"] == 1
    running.idle()
    assert running.item("images", "busy.jpg")["item"]["etag"] == etag


def test_an_object_deleted_before_or_while_it_is_processed_leaves_nothing(running: Pipeline, portrait: bytes) -> None:
    for shade in range(6):
        running.put("images", f"brief/{shade}.jpg", recoloured(portrait, shade))
    errors = running.minio.remove_objects("images", [DeleteObject(f"brief/{shade}.jpg") for shade in range(6)])
    assert not list(errors)
    running.idle()
    for shade in range(6):
        running.gone("images", f"brief/{shade}.jpg")


def test_objects_of_one_name_in_two_buckets_are_two_items(running: Pipeline, portrait: bytes) -> None:
    for bucket in ("images", "videos"):
        running.indexed(bucket, "twin.jpg", running.put(bucket, "twin.jpg", portrait))
    running.minio.remove_object("videos", "twin.jpg")
    running.gone("videos", "twin.jpg")
    assert running.item("images", "twin.jpg")["points"] == 1


def test_a_copy_and_a_multipart_upload_count_as_uploads(running: Pipeline, portrait: bytes) -> None:
    running.put("images", "original.jpg", portrait)
    running.minio.copy_object("images", "copy.jpg", CopySource("images", "original.jpg"))
    running.indexed("images", "copy.jpg")
    large = portrait + b"\0" * (6 * 2**20)
    etag = running.put("images", "parts.jpg", large, part_size=5 * 2**20)
    assert "-" in etag
    assert running.indexed("images", "parts.jpg", etag)["points"] == 1


def test_a_changed_tag_is_no_upload(running: Pipeline, portrait: bytes) -> None:
    running.indexed("images", "tagged.jpg", running.put("images", "tagged.jpg", portrait))
    before = running.log("webhook").count("tagged.jpg")
    tags = Tags.new_object_tags()
    tags["seen"] = "yes"
    running.minio.set_object_tags("images", "tagged.jpg", tags)
    running.indexed("images", "after-tag.jpg", running.put("images", "after-tag.jpg", portrait))
    assert running.log("webhook").count("tagged.jpg") - before <= 1  # the durable target may still deliver the upload


def test_a_delete_marker_removes_and_taking_it_away_brings_back(running: Pipeline, portrait: bytes) -> None:
    if not running.minio.bucket_exists("images"):
        pytest.fail("the image bucket is gone")
    running.minio.set_bucket_versioning("videos", VersioningConfig(ENABLED))
    etag = running.put("videos", "versioned.jpg", portrait)
    assert running.indexed("videos", "versioned.jpg", etag)["item"]["version_id"]
    running.minio.remove_object("videos", "versioned.jpg")
    running.gone("videos", "versioned.jpg")
    marker = next(
        version
        for version in running.minio.list_objects("videos", "versioned.jpg", include_version=True)
        if version.is_delete_marker
    )
    running.minio.remove_object("videos", "versioned.jpg", version_id=marker.version_id)
    assert running.indexed("videos", "versioned.jpg", etag)["points"] == 1


def test_a_priority_upload_is_put_in_front(running: Pipeline, photos: dict[str, bytes], portrait: bytes) -> None:
    for number in range(10):
        running.put("images", f"crowd/{number}.jpg", photos["group.jpg"])
    running.put("images", "urgent.jpg", portrait, metadata={"priority": "high"})
    running.indexed("images", "urgent.jpg")
    waiting = [number for number in range(10) if not running.item("images", f"crowd/{number}.jpg").get("current")]
    assert len(waiting) >= 4
    eventually(
        lambda: all(running.item("images", f"crowd/{number}.jpg").get("current") for number in range(10)),
        "the crowd indexed",
    )
