"""A person on screen for a minute is one point, not sixty."""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from app.gpu.engines.dlib import DlibEngine
from app.worker import tracks
from app.worker.faces import FoundFace, Model
from app.worker.tracks import Sighting, Tracker, between, overlap, points, sharpness
from tests import media

EUCLID = Model("m", "euclid", 0.5, 1600)
COSINE = Model("m", "cosine", 0.5, 1600)


def face(person: int, *, x: float = 0, side: float = 100, score: float = 1, noise: float = 0.02) -> Sighting:
    """A face of a person, with an embedding a little different each time."""
    embedding = np.random.default_rng(person).normal(size=64)
    embedding = embedding / np.linalg.norm(embedding) + np.random.normal(scale=noise, size=64)
    return Sighting(FoundFace((x, 0, x + side, side), [(x, 0)] * 5, score, embedding.astype(np.float32)))


@pytest.mark.parametrize("model", [EUCLID, COSINE])
def test_one_person_for_a_minute_is_one_track(model: Model) -> None:
    tracker = Tracker(model)
    for second in range(60):
        tracker.add([face(1, x=second * 50)], second)
    [point] = points(tracker.tracks)
    assert (point["first_seen_s"], point["last_seen_s"], point["frames_seen"]) == (0, 59, 60)


@pytest.mark.parametrize("model", [EUCLID, COSINE])
def test_two_people_who_cross_stay_two(model: Model) -> None:
    tracker = Tracker(model)
    for second in range(20):
        tracker.add([face(1, x=second * 50), face(2, x=1000 - second * 50)], second)
    assert [track.seen for track in tracker.tracks] == [20, 20]


def test_someone_who_comes_back_after_a_cut_is_the_same_person() -> None:
    tracker = Tracker(EUCLID)
    for second, person in enumerate([1, 1, 1, 2, 2, 2, 1, 1]):
        tracker.add([face(person)], second)
    assert [(track.first_time, track.last_time, track.seen) for track in tracker.tracks] == [(0, 7, 5), (3, 5, 3)]


def test_a_face_turned_away_for_some_frames_is_the_same_person() -> None:
    tracker = Tracker(EUCLID)
    for second in range(12):
        tracker.add([] if 4 <= second < 8 else [face(1)], second)
    [track] = tracker.tracks
    assert track.seen == 8


def test_two_faces_of_one_frame_are_never_one_person() -> None:
    tracker = Tracker(EUCLID)
    for second in range(5):
        tracker.add([face(1, x=0), face(1, x=500)], second)
    assert [track.seen for track in tracker.tracks] == [5, 5]


def test_a_repeated_frame_counts_for_those_who_are_in_it() -> None:
    tracker = Tracker(EUCLID)
    tracker.add([face(1)], 0)
    tracker.add([face(2)], 1)
    tracker.repeat(2)
    tracker.repeat(3)
    assert [(track.last_time, track.seen) for track in tracker.tracks] == [(0, 1), (3, 3)]


def test_the_best_picture_of_a_person_is_kept() -> None:
    tracker = Tracker(EUCLID)
    for second, (side, score) in enumerate([(40, 1.0), (120, 0.9), (120, 0.3), (20, 2.0)]):
        tracker.add([face(1, side=side, score=score)], second)
    [point] = points(tracker.tracks)
    assert point["best_seen_s"] == 1
    assert point["box"][2] == 120


def test_a_face_in_the_same_place_may_differ_a_little_more() -> None:
    near = np.zeros(64, np.float32)
    near[0] = 0.55  # beyond the link distance of 0.5, within its slack
    zero = np.zeros(64, np.float32)
    for x, expected in ((10.0, 1), (900.0, 2)):
        tracker = Tracker(EUCLID)
        tracker.add([Sighting(FoundFace((0, 0, 100, 100), [], 1, zero))], 0)
        tracker.add([Sighting(FoundFace((x, 0, x + 100, 100), [], 1, near))], 1)
        assert len(tracker.tracks) == expected


def test_a_crowd_beyond_the_bound_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "MAX_TRACKS", 3)
    tracker = Tracker(EUCLID)
    tracker.add([face(person, x=person * 200) for person in range(5)], 0)
    assert (len(tracker.tracks), tracker.dropped) == (3, 2)


def test_distances_are_what_they_are_called() -> None:
    a, b = np.array([[3, 0]], np.float32), np.array([[0, 4], [3, 0]], np.float32)
    assert between(a, b, "euclid").tolist() == [[5.0, 0.0]]
    assert between(a, b, "cosine") == pytest.approx(np.array([[1.0, 0.0]]))


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 0, 30, 10)) == 0


Photos = dict[str, bytes]
DLIB = Model("dlib", "euclid", 0.5, 1600)


@pytest.fixture(scope="module")
def engine() -> DlibEngine:
    """The real engine: what embeddings of blurred and of different faces are like is its to say."""
    package = find_spec("face_recognition_models")
    assert package is not None
    assert package.origin is not None
    return DlibEngine(Path(package.origin).parent / "models")


def seen(engine: DlibEngine, picture: Image.Image) -> list[Sighting]:
    """The faces that the engine finds in a frame."""
    pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB")))
    [found] = engine.analyse([pixels])
    return [
        Sighting(
            FoundFace(one.box, [(float(x), float(y)) for x, y in one.landmarks], one.score, one.embedding),
            sharpness(pixels, one.box),
        )
        for one in found
    ]


def blurred(picture: Image.Image, radius: float) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(radius))


def group(photos: Photos) -> Image.Image:
    return Image.open(BytesIO(photos["group.jpg"])).convert("RGB")


def followed(engine: DlibEngine, frames: list[Image.Image]) -> Tracker:
    tracker = Tracker(DLIB)
    for second, frame in enumerate(frames):
        tracker.add(seen(engine, frame), second)
    tracker.finish()
    return tracker


@pytest.mark.parametrize("radius", [2, 3, 4])
def test_people_whose_first_frame_is_blurred_are_one_point_each(
    engine: DlibEngine, photos: Photos, radius: float
) -> None:
    sharp = group(photos)
    people = len(seen(engine, sharp))
    at_first = len(seen(engine, blurred(sharp, radius)))
    tracker = followed(engine, [blurred(sharp, radius), sharp, sharp, sharp])
    assert people == 6
    assert sorted(track.seen for track in tracker.tracks) == [3] * (people - at_first) + [4] * at_first
    assert not any(track.poor for track in tracker.tracks)
    assert all(track.best_time >= 1 for track in tracker.tracks)


def test_a_blur_on_the_way_makes_nobody_a_second_person(engine: DlibEngine, photos: Photos) -> None:
    sharp = group(photos)
    tracker = followed(engine, [sharp, blurred(sharp, 4), sharp, blurred(sharp, 4), sharp])
    assert len(tracker.tracks) == 6


def test_the_six_of_a_group_stay_six_however_they_come(engine: DlibEngine, photos: Photos) -> None:
    sharp = group(photos)
    half = sharp.width // 2
    parts = [sharp.crop((0, 0, half, sharp.height)), sharp.crop((half - 40, 0, sharp.width, sharp.height))]
    tracker = followed(engine, [*parts, *parts, sharp])
    assert len(tracker.tracks) == 6


def test_another_person_in_the_same_place_is_another_person(engine: DlibEngine, photos: Photos) -> None:
    one = media.portrait(photos).resize((220, 240))
    other = media.stranger(photos).resize((220, 240))
    frames = [media.scene((320, 280), (picture, 50, 20)) for picture in (one, one, other, other, one)]
    tracker = followed(engine, frames)
    assert sorted(track.seen for track in tracker.tracks) == [2, 3]


def test_who_was_seen_in_one_blurred_frame_only_is_marked(engine: DlibEngine, photos: Photos) -> None:
    sharp = group(photos)
    tracker = followed(engine, [blurred(sharp.crop((680, 300, 900, 540)), 3.5)])
    [point] = points(tracker.tracks)
    assert point["poor"] is True
    tracker = followed(engine, [sharp.crop((680, 300, 900, 540))])
    [point] = points(tracker.tracks)
    assert "poor" not in point


def test_a_compressed_face_is_not_taken_for_a_blurred_one(engine: DlibEngine, photos: Photos) -> None:
    for quality in (30, 60, 90):
        picture = Image.open(BytesIO(media.jpeg(group(photos), quality=quality)))
        assert not any(one.poor for one in seen(engine, picture))
