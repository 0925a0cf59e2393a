"""Faces linked over the frames of a video: a person on screen for a minute is one point, not sixty.

Faces are linked as they come; at the end tracks are merged that turn out to be one person by place, time and
embedding. Two faces of one frame are never one person.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.worker.faces import FoundFace, Model

#: How much further than the model's link distance a face may be from a track whose place it is in.
SAME_PLACE_SLACK = 1.25
#: The same, where one of two tracks is of poor frames alone: blurred by three to five pixels, faces of 100 to 125
#: pixels were seen 0.4 to 0.73 from themselves with dlib, whose link distance is 0.5.
POOR_SLACK = 1.6
#: Overlap (intersection over union) from which two boxes are in the same place.
SAME_PLACE_OVERLAP = 0.3
#: Looks that may lie between the end of a track and the beginning of the one that goes on in its place.
GAP_LOOKS = 2

#: Beyond this side in pixels a face is no better for being larger: descriptors see 112 to 150.
USEFUL_SIDE = 150
#: Share of a face's contrast that is in its finest detail: sharp ones have 0.2 to 0.5, and below this, embeddings
#: are nearer to strangers' than to the person's own.
POOR_SHARPNESS = 0.015
#: From here on a face is no better for being sharper.
USEFUL_SHARPNESS = 0.1
#: Weight of a poor face in its track's mean.
POOR_WEIGHT = 0.1

#: Side in pixels to which faces are brought to see how sharp they are.
SHARPNESS_SIDE = 64

#: Most tracks in one video; a crowd beyond it is counted, not stored.
MAX_TRACKS = 2000

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A face in one frame, in pixels of its stream's frames as shown."""

    face: FoundFace
    sharpness: float = 1.0

    @property
    def poor(self) -> bool:
        return self.sharpness < POOR_SHARPNESS

    @property
    def quality(self) -> float:
        """How good a picture of the face it is: sure, large and sharp."""
        left, top, right, bottom = self.face.box
        size = min(USEFUL_SIDE, max(0.0, min(right - left, bottom - top)))
        return self.face.score * size * min(1.0, max(self.sharpness, 0.001) / USEFUL_SHARPNESS)


@dataclass(slots=True)
class Track:
    """One person, as far as position and embedding tell."""

    best: Sighting
    best_time: float
    first_time: float
    last_time: float
    #: Mean of the embeddings so far, which new faces are compared with, and the sum of their weights.
    mean: Vector
    weight: float
    first: Sighting
    last: Sighting
    #: Numbers of the looks that it was in, repeated ones included.
    looks: set[int]
    #: Faces it is made of.
    count: int = 1

    @classmethod
    def of(cls, sighting: Sighting, time: float, look: int) -> "Track":
        """A track that begins."""
        return cls(
            best=sighting,
            best_time=time,
            first_time=time,
            last_time=time,
            mean=sighting.face.embedding,
            weight=_weight(sighting),
            first=sighting,
            last=sighting,
            looks={look},
        )

    @property
    def seen(self) -> int:
        """Frames it was in, repeated ones included."""
        return len(self.looks)

    @property
    def poor(self) -> bool:
        """Whether there is not one good picture of the face."""
        return self.best.poor

    def add(self, sighting: Sighting, time: float, look: int) -> None:
        """Extend the track by a face."""
        self._blend(sighting.face.embedding, _weight(sighting))
        self.count += 1
        self.looks.add(look)
        self.last, self.last_time = sighting, time
        if sighting.quality > self.best.quality:
            self.best, self.best_time = sighting, time

    def repeat(self, time: float, look: int) -> None:
        """It was there again, unchanged."""
        self.looks.add(look)
        self.last_time = time

    def merge(self, other: "Track") -> None:
        """Take over all that another track is made of."""
        self._blend(other.mean, other.weight)
        self.count += other.count
        self.looks |= other.looks
        if other.first_time < self.first_time:
            self.first, self.first_time = other.first, other.first_time
        if other.last_time > self.last_time:
            self.last, self.last_time = other.last, other.last_time
        if other.best.quality > self.best.quality:
            self.best, self.best_time = other.best, other.best_time

    def _blend(self, embedding: Vector, weight: float) -> None:
        self.weight += weight
        self.mean = (self.mean + (embedding - self.mean) * (weight / self.weight)).astype(np.float32)


@dataclass(slots=True)
class Tracker:
    """Links faces into tracks, frame by frame, in order of time."""

    model: Model
    tracks: list[Track] = field(default_factory=list)
    #: Faces that were left out because there were too many tracks.
    dropped: int = 0
    #: Number of the last frame that was looked at.
    _look: int = 0
    #: The tracks in it, and where.
    _present: list[tuple[Track, Sighting]] = field(default_factory=list)

    def add(self, sightings: list[Sighting], time: float) -> None:
        """Link the faces of the next frame."""
        self._look += 1
        present = []
        for sighting, track in self._assign(sightings):
            if track is not None:
                track.add(sighting, time, self._look)
            elif len(self.tracks) < MAX_TRACKS:
                track = Track.of(sighting, time, self._look)
                self.tracks.append(track)
            else:
                self.dropped += 1
                continue
            present.append((track, sighting))
        self._present = present

    def repeat(self, time: float) -> None:
        """The next frame shows what the last one did."""
        self._look += 1
        for track, _ in self._present:
            track.repeat(time, self._look)

    def finish(self) -> list[Track]:
        """The tracks, with those merged that are one person; nearest first."""
        while pair := self._nearest_pair():
            kept, merged = pair
            kept.merge(merged)
            self.tracks = [track for track in self.tracks if track is not merged]
        return self.tracks

    def _nearest_pair(self) -> tuple[Track, Track] | None:
        if len(self.tracks) < 2:
            return None
        means = np.stack([track.mean for track in self.tracks])
        distances = between(means, means, self.model.distance)
        distances[np.tril_indices(len(self.tracks))] = np.inf
        near = np.argwhere(distances < POOR_SLACK * self.model.link_distance)
        for row, column in sorted(near.tolist(), key=lambda pair: float(distances[pair[0], pair[1]])):
            one, other = self.tracks[row], self.tracks[column]
            if distances[row, column] < self._reach(one, other):
                return one, other
        return None

    def _reach(self, one: Track, other: Track) -> float:
        """How near two tracks must be to be one person."""
        if not one.looks.isdisjoint(other.looks):
            return 0.0
        if one.poor or other.poor:
            # What is told by poor frames alone is told by place and time, or not at all.
            return self.model.link_distance * POOR_SLACK if _beside(one, other) else 0.0
        return self.model.link_distance * (SAME_PLACE_SLACK if _goes_on(one, other) else 1.0)

    def _assign(self, sightings: list[Sighting]) -> list[tuple[Sighting, Track | None]]:
        """Give each face the nearest track within reach; no track takes two faces of one frame."""
        if not sightings or not self.tracks:
            return [(sighting, None) for sighting in sightings]
        distances = self._distances(sightings)
        taken: dict[int, int] = {}
        used: set[int] = set()
        for flat in np.argsort(distances, axis=None):
            row, column = divmod(int(flat), len(self.tracks))
            if not np.isfinite(distances[row, column]):
                break
            if row not in taken and column not in used:
                taken[row] = column
                used.add(column)
        return [(one, self.tracks[taken[n]] if n in taken else None) for n, one in enumerate(sightings)]

    def _distances(self, sightings: list[Sighting]) -> NDArray[np.float64]:
        """Distances of faces (rows) to tracks (columns), infinite where they cannot be one person."""
        means = np.stack([track.mean for track in self.tracks])
        distances = between(np.stack([one.face.embedding for one in sightings]), means, self.model.distance)
        reach = np.full(distances.shape, self.model.link_distance)
        columns = {id(track): column for column, track in enumerate(self.tracks)}
        for row, sighting in enumerate(sightings):
            for track, before in self._present:
                if overlap(sighting.face.box, before.face.box) >= SAME_PLACE_OVERLAP:
                    reach[row, columns[id(track)]] *= SAME_PLACE_SLACK
        return np.where(distances < reach, distances, np.inf)


def points(tracks: list[Track]) -> list[dict[str, Any]]:
    """Tracks as the face service takes them: the best face of each, and when it was seen."""
    return [
        {
            "box": track.best.face.box,
            "landmarks": track.best.face.landmarks,
            "score": track.best.face.score,
            "embedding": track.best.face.embedding.tolist(),
            "first_seen_s": round(track.first_time, 3),
            "last_seen_s": round(track.last_time, 3),
            "best_seen_s": round(track.best_time, 3),
            "frames_seen": track.seen,
            **({"poor": True} if track.poor else {}),
        }
        for track in tracks
    ]


def sharpness(pixels: NDArray[np.uint8], box: tuple[float, float, float, float]) -> float:
    """Share of the contrast of a face, in a frame's pixels (height × width × 3), that is in its finest detail.

    That of the face brought to `SHARPNESS_SIDE`: the variance of its Laplacian against that of its grey levels.
    """
    left, top = (max(0, int(edge)) for edge in box[:2])
    right, bottom = int(box[2]), int(box[3])
    grey = pixels[top:bottom, left:right].astype(np.float32).mean(2)
    if min(grey.shape) < 8:
        return 0.0
    step = max(1, round(min(grey.shape) / SHARPNESS_SIDE))
    rows, columns = (side // step * step for side in grey.shape)
    grey = grey[:rows, :columns].reshape(rows // step, step, columns // step, step).mean((1, 3))
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(inner.var() / max(1.0, float(grey.var())))


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


def _goes_on(one: Track, other: Track) -> bool:
    """Whether one track begins where and about when the other ends."""
    earlier, later = (one, other) if one.first_time <= other.first_time else (other, one)
    gap = min(later.looks) - max(earlier.looks)
    return 0 < gap <= GAP_LOOKS and overlap(earlier.last.face.box, later.first.face.box) >= SAME_PLACE_OVERLAP


def _beside(one: Track, other: Track) -> bool:
    """Whether two tracks were in one place, in looks next to each other."""
    if not any(look + gap in other.looks for look in one.looks for gap in range(-GAP_LOOKS, GAP_LOOKS + 1)):
        return False
    return any(
        overlap(mine.face.box, others.face.box) >= SAME_PLACE_OVERLAP
        for mine in (one.first, one.last)
        for others in (other.first, other.last)
    )


def _weight(sighting: Sighting) -> float:
    return POOR_WEIGHT if sighting.poor else 1.0
