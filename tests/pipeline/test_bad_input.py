"""Every kind of bad input gets a clear answer, and the next good object is processed."""

import gzip
import io
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from tests import media
from tests.fixtures import Pipeline

Photos = dict[str, bytes]

BAD_OBJECTS: dict[str, tuple[str, Callable[[Photos], bytes], str]] = {
    "a text": ("notes.txt", lambda _: b"a text", "unsupported"),
    "nothing at all": ("empty.jpg", lambda _: b"", "empty"),
    "a truncated JPEG": ("cut.jpg", lambda photos: photos["group.jpg"][:60_000], "truncated"),
    "a truncated PNG": ("cut.png", lambda photos: photos["astronaut.png"][:100_000], "truncated"),
    "a PNG bomb": ("bomb.png", lambda _: media.png_bomb(50_000), "too_many_pixels"),
    "a PNG with a damaged chunk": (
        "chunk.png",
        lambda photos: photos["astronaut.png"].replace(b"IDAT", b"ID\0T", 1),
        "damaged",
    ),
    "a text that calls itself a picture": ("lies.jpg", lambda _: b"<html>not found</html>", "unsupported"),
    "an audio file that calls itself a video": ("song.mp4", lambda _: media.audio(), "no_video_stream"),
    "an audio file with a cover": (
        "cover.mp4",
        lambda photos: media.audio(cover=media.jpeg(media.portrait(photos))),
        "no_video_stream",
    ),
    "an audio file": ("song.wav", lambda _: b"RIFF\x24\0\0\0WAVEfmt ", "no_video_stream"),
    "a truncated MP4": (
        "cut.mp4",
        lambda _: media.video(media.numbered((160, 120), n) for n in range(30))[:-300],
        "damaged",
    ),
    "a playlist": ("list.m3u8", lambda _: b"#EXTM3U\n/etc/passwd\n", "unsupported"),
}


@pytest.mark.parametrize("what", BAD_OBJECTS)
def test_a_bad_object_is_rejected_with_its_reason_and_the_next_good_one_indexed(
    running: Pipeline, photos: Photos, what: str
) -> None:
    key, make, code = BAD_OBJECTS[what]
    running.indexed("images", f"bad/{key}", running.put("images", f"bad/{key}", make(photos)))
    item = running.item("images", f"bad/{key}")["item"]
    assert (item["status"], item["reason_code"], item["face_count"]) == ("rejected", code, 0)
    assert item["reason"].endswith(".")
    good = running.put("images", f"good after/{key}.jpg", media.jpeg(media.portrait(photos)))
    assert running.indexed("images", f"good after/{key}.jpg", good)["points"] == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "aws-chunked,gzip", "br"])
def test_a_picture_is_read_as_it_is_stored_whatever_its_encoding_says(
    running: Pipeline, photos: Photos, encoding: str
) -> None:
    headers = {"Content-Encoding": encoding}
    key, data = f"encoded/{encoding}.jpg", media.jpeg(media.portrait(photos))
    assert running.indexed("images", key, running.put("images", key, data, metadata=headers))["points"] == 1
    true: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "aws-chunked,gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    if compress := true.get(encoding):
        key = f"compressed/{encoding}.jpg"
        etag = running.put("images", key, compress(data), metadata=headers)
        assert running.indexed("images", key, etag)["points"] == 1


def test_a_compressed_bomb_is_rejected_within_the_limit(running: Pipeline) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(b"\xff\xd8\xff\xe0") + b"".join(packer.compress(bytes(2**20)) for _ in range(1536))
    etag = running.put("images", "inflated.jpg", bomb + packer.flush(), metadata={"Content-Encoding": "gzip"})
    assert running.indexed("images", "inflated.jpg", etag)["item"]["reason_code"] == "too_many_bytes"


def test_rejected_objects_can_be_listed_with_their_reasons(running: Pipeline) -> None:
    running.indexed("images", "listed.txt", running.put("images", "listed.txt", b"a text"))
    _, answer = running.call("GET", "gpu_worker/items?status=rejected&bucket=images")
    assert {"listed.txt": "unsupported"}.items() <= {
        item["key"]: item["reason_code"] for item in answer["items"]
    }.items()


def test_a_video_that_calls_itself_a_picture_is_a_video(running: Pipeline, photos: Photos) -> None:
    face = media.portrait(photos)
    data = media.video(media.scene((320, 240), (face, 2 * n, 10)) for n in range(30))
    found = running.indexed("images", "is-a-video.jpg", running.put("images", "is-a-video.jpg", data))
    assert found["item"]["kind"] == "video"
    assert found["points"] == 1


def test_a_picture_that_calls_itself_a_video_is_a_picture(running: Pipeline, photos: Photos) -> None:
    data = media.jpeg(media.portrait(photos))
    found = running.indexed("videos", "is-a-picture.mp4", running.put("videos", "is-a-picture.mp4", data))
    assert (found["item"]["kind"], found["points"]) == ("image", 1)


def test_people_in_a_video_are_points_with_their_times(running: Pipeline, photos: Photos) -> None:
    one, other = media.portrait(photos), media.stranger(photos)
    frames = [
        media.scene((640, 360), (one, 10 + n, 40), *([(other, 430 - n, 60)] if 60 <= n < 120 else []))
        for n in range(180)
    ]
    etag = running.put("videos", "two people.mp4", media.video(frames))
    found = running.indexed("videos", "two people.mp4", etag)
    assert found["points"] == 2
    first, second = sorted(found["faces"], key=lambda face: float(face["first_seen_s"]))
    assert first["first_seen_s"] < 1
    assert first["last_seen_s"] > 15
    assert first["frames_seen"] >= 12
    assert 5 <= second["first_seen_s"] <= 8
    assert 10 <= second["last_seen_s"] <= 12.5
    assert found["item"]["duration_s"] == pytest.approx(18, abs=0.5)


def test_a_vertical_phone_video_is_upright(running: Pipeline, photos: Photos) -> None:
    upright = media.scene((240, 320), (media.portrait(photos), 20, 60))
    data = media.video([upright.rotate(-90, expand=True)] * 20, rotation=90)
    found = running.indexed("videos", "phone.mp4", running.put("videos", "phone.mp4", data))
    assert (found["item"]["width"], found["item"]["height"]) == (240, 320)
    assert found["points"] == 1


def test_a_4k_hevc_clip_is_taken(running: Pipeline, photos: Photos) -> None:
    face = media.portrait(photos).resize((760, 840))
    frames = [media.scene((3840, 2160), (face, 400 + 40 * n, 500)) for n in range(4)]
    data = media.video(frames, fps=2, codec="libx265", pix_fmt="yuv420p10le", codec_options={"preset": "ultrafast"})
    found = running.indexed("videos", "4k.mp4", running.put("videos", "4k.mp4", data), timeout=120)
    assert (found["item"]["width"], found["item"]["height"], found["points"]) == (3840, 2160, 1)
    left, top, right, bottom = found["faces"][0]["box"]
    assert right - left > 300
    assert 500 < (top + bottom) / 2 < 1400


def test_a_video_cut_in_the_middle_is_indexed_as_far_as_it_goes_and_says_so(
    running: Pipeline, photos: Photos
) -> None:
    face = media.portrait(photos)
    data = media.video(
        [media.scene((320, 240), (face, n, 10)) for n in range(100)] * 2, faststart=True, codec_options={"g": "10"}
    )
    etag = running.put("videos", "cut in the middle.mp4", data[: len(data) // 2])
    found = running.indexed("videos", "cut in the middle.mp4", etag)
    assert found["points"] >= 1
    assert "truncated" in found["item"]["note"]


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "GIF", "HEIF", "AVIF"])
def test_a_face_is_found_in_every_format(running: Pipeline, photos: Photos, format_name: str) -> None:
    buffer = io.BytesIO()
    media.portrait(photos).save(buffer, format_name)
    key = f"formats/{format_name}"
    assert running.indexed("images", key, running.put("images", key, buffer.getvalue()))["points"] == 1


def test_a_photo_taken_sideways_is_turned_by_its_exif(running: Pipeline, photos: Photos) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    face = media.portrait(photos)
    data = media.jpeg(face.rotate(90, expand=True), exif=exif)
    found = running.indexed("images", "sideways.jpg", running.put("images", "sideways.jpg", data))
    assert (found["item"]["width"], found["item"]["height"]) == face.size
    assert found["points"] == 1


def test_an_animation_that_begins_empty_has_its_faces_and_says_in_which_frame(
    running: Pipeline, photos: Photos
) -> None:
    face = media.portrait(photos)
    frames = [Image.new("RGB", face.size, "white"), *(media.scene(face.size, (face, 0, n)) for n in range(3))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=500)
    found = running.indexed("images", "moving.gif", running.put("images", "moving.gif", buffer.getvalue()))
    assert found["points"] == 1
    assert found["faces"][0]["frame"] in (1, 2, 3)
    assert found["item"]["note"] == "An animation: 3 of its frames were looked at, of 4."


def test_faces_in_a_wide_picture_are_found_where_they_are(running: Pipeline, photos: Photos) -> None:
    face = media.portrait(photos)
    data = media.jpeg(media.scene((6000, 800), (face, 300, 300), (media.stranger(photos), 5200, 300)))
    found = running.indexed("images", "wide.jpg", running.put("images", "wide.jpg", data))
    assert found["points"] == 2
    assert sorted(round(face["box"][0], -3) for face in found["faces"]) == [0, 5000]
    assert "note" not in found["item"]


def test_a_photo_without_its_last_two_bytes_has_its_faces_and_a_note(running: Pipeline, photos: Photos) -> None:
    data = media.jpeg(media.portrait(photos))[:-2]
    found = running.indexed("images", "endless.jpg", running.put("images", "endless.jpg", data))
    assert found["points"] == 1
    assert found["item"]["note"] == "The JPEG's end is missing; all of its pixels are there."
