"""A person on screen for a minute is one point, not sixty."""

import numpy as np
import pytest

from app.worker import tracks
from app.worker.faces import FoundFace, Model
from app.worker.tracks import Tracker, between, overlap, points

EUCLID = Model("m", "euclid", 0.5, 1600)
COSINE = Model("m", "cosine", 0.5, 1600)


def face(person: int, *, x: float = 0, side: float = 100, score: float = 1, noise: float = 0.02) -> FoundFace:
    """A face of a person, with an embedding a little different each time."""
    embedding = np.random.default_rng(person).normal(size=64)
    embedding = embedding / np.linalg.norm(embedding) + np.random.normal(scale=noise, size=64)
    return FoundFace((x, 0, x + side, side), [(x, 0)] * 5, score, embedding.astype(np.float32))


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
        tracker.add([FoundFace((0, 0, 100, 100), [], 1, zero)], 0)
        tracker.add([FoundFace((x, 0, x + 100, 100), [], 1, near)], 1)
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
