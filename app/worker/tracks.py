"""Faces linked over the frames of a video: a person on screen for a minute is one point, not sixty."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.worker.faces import FoundFace, Model

#: How much further than the model's link distance a face may be from a track whose place it is in.
SAME_PLACE_SLACK = 1.25
#: Overlap (intersection over union) from which two boxes are in the same place.
SAME_PLACE_OVERLAP = 0.3

#: Beyond this side in pixels a face is no better for being larger: descriptors see 112 to 150.
USEFUL_SIDE = 150

#: Most tracks in one video; a crowd beyond it is counted, not stored.
MAX_TRACKS = 2000

Vector = NDArray[np.float32]


@dataclass(slots=True)
class Track:
    """One person, as far as position and embedding tell."""

    best: FoundFace
    best_time: float
    first_time: float
    last_time: float
    #: Mean of the embeddings so far, which new faces are compared with, and of how many.
    mean: Vector
    count: int = 1
    #: Frames it was in, repeated ones included.
    seen: int = 1

    def add(self, face: FoundFace, time: float) -> None:
        """Extend the track by a face."""
        self.count += 1
        self.mean = (self.mean + (face.embedding - self.mean) / self.count).astype(np.float32)
        self.seen += 1
        self.last_time = time
        if quality(face) > quality(self.best):
            self.best, self.best_time = face, time


@dataclass(slots=True)
class Tracker:
    """Links faces into tracks, frame by frame, in order of time."""

    model: Model
    tracks: list[Track] = field(default_factory=list)
    #: Faces that were left out because there were too many tracks.
    dropped: int = 0
    #: The tracks in the last frame that was looked at, and where.
    _present: list[tuple[Track, FoundFace]] = field(default_factory=list)

    def add(self, faces: list[FoundFace], time: float) -> None:
        """Link the faces of the next frame."""
        present = []
        for face, track in self._assign(faces):
            if track is not None:
                track.add(face, time)
            elif len(self.tracks) < MAX_TRACKS:
                track = Track(face, time, time, time, mean=face.embedding)
                self.tracks.append(track)
            else:
                self.dropped += 1
                continue
            present.append((track, face))
        self._present = present

    def repeat(self, time: float) -> None:
        """The next frame shows what the last one did."""
        for track, _ in self._present:
            track.last_time = time
            track.seen += 1

    def _assign(self, faces: list[FoundFace]) -> list[tuple[FoundFace, Track | None]]:
        """Give each face the nearest track within reach; no track takes two faces of one frame."""
        if not faces or not self.tracks:
            return [(face, None) for face in faces]
        distances = self._distances(faces)
        taken: dict[int, int] = {}
        used: set[int] = set()
        for flat in np.argsort(distances, axis=None):
            row, column = divmod(int(flat), len(self.tracks))
            if not np.isfinite(distances[row, column]):
                break
            if row not in taken and column not in used:
                taken[row] = column
                used.add(column)
        return [(face, self.tracks[taken[n]] if n in taken else None) for n, face in enumerate(faces)]

    def _distances(self, faces: list[FoundFace]) -> NDArray[np.float64]:
        """Distances of faces (rows) to tracks (columns), infinite where they cannot be one person."""
        means = np.stack([track.mean for track in self.tracks])
        distances = between(np.stack([face.embedding for face in faces]), means, self.model.distance)
        reach = np.full(distances.shape, self.model.link_distance)
        columns = {id(track): column for column, track in enumerate(self.tracks)}
        for row, face in enumerate(faces):
            for track, before in self._present:
                if overlap(face.box, before.box) >= SAME_PLACE_OVERLAP:
                    reach[row, columns[id(track)]] *= SAME_PLACE_SLACK
        return np.where(distances < reach, distances, np.inf)


def points(tracks: list[Track]) -> list[dict[str, Any]]:
    """Tracks as the face service takes them: the best face of each, and when it was seen."""
    return [
        {
            "box": track.best.box,
            "landmarks": track.best.landmarks,
            "score": track.best.score,
            "embedding": track.best.embedding.tolist(),
            "first_seen_s": round(track.first_time, 3),
            "last_seen_s": round(track.last_time, 3),
            "best_seen_s": round(track.best_time, 3),
            "frames_seen": track.seen,
        }
        for track in tracks
    ]


def quality(face: FoundFace) -> float:
    """How good a picture of the face it is: sure and large."""
    left, top, right, bottom = face.box
    return face.score * min(USEFUL_SIDE, max(0.0, min(right - left, bottom - top)))


def between(faces: NDArray[np.float32], others: NDArray[np.float32], distance: str) -> NDArray[np.float64]:
    """Distances between embeddings, shape (n, d) and (m, d) to (n, m)."""
    faces, others = faces.astype(np.float64), others.astype(np.float64)
    if distance == "cosine":
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        return np.asarray(1.0 - faces @ others.T)
    squares = (faces**2).sum(1)[:, None] + (others**2).sum(1)[None, :] - 2 * faces @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
