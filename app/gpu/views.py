"""How a picture is looked at: in one view or in overlapping parts, and each face once.

An engine reduces what it is given to a side of its own (`EngineInfo.max_side`). That is right for an ordinary
picture; of a panorama it would leave nothing. So the planes of a wide picture hold it at full scale and, for what is
larger there than an overlap, at quarters of the scale before, down to the whole of it; each plane is looked at in
tiles. Every engine gets the same plan, in terms of its own side.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.gpu.faces import Face, Image

#: Changes whenever the same picture would be looked at otherwise; part of what a record was judged by.
VERSION = 1

#: A picture at least so many times as long as high, or as high as long, is wide ...
WIDE = 2
#: ... if it is so much larger than an engine's side that reducing it loses faces.
LARGE = 1.5

#: Share of a tile's side that it has in common with the next: a face up to that size is whole in one of the two.
OVERLAP = 1 / 4
#: From one plane to the next: faces from an engine's smallest to four times it fit into the overlap.
STEP = 4

#: Most views of one picture; beyond it, its full scale is not looked at.
MAX_VIEWS = 96

#: Boxes that share so much of their union, or of the smaller one, are of one face.
SAME_UNION, SAME_SMALLER = 0.35, 0.65

#: A box so near in pixels to where a view was cut may be of a part of a face.
CUT_MARGIN = 3


@dataclass(frozen=True, slots=True)
class Plane:
    """Pixels of a picture at one scale: height × width × 3 bytes of RGB from `offset` on in its slot."""

    offset: int
    height: int
    width: int
    #: Looked at as a whole, not in tiles.
    whole: bool = True
    #: Which frame of an animation.
    frame: int | None = None

    @property
    def end(self) -> int:
        """Where its bytes end in the slot."""
        return self.offset + self.height * self.width * 3

    def pixels(self, memory: memoryview) -> Image:
        """The plane's pixels in its slot's memory, not copied."""
        return np.frombuffer(memory[self.offset : self.end], np.uint8).reshape(self.height, self.width, 3)


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of a plane that an engine looks at in one go."""

    plane: Plane
    left: int
    top: int
    right: int
    bottom: int

    def pixels(self, memory: memoryview) -> Image:
        """The view's pixels in its slot's memory; copied only where an engine could not read them in place."""
        plane = self.plane.pixels(memory)
        return np.ascontiguousarray(plane[self.top : self.bottom, self.left : self.right])

    def place(self, face: Face, size: tuple[int, int]) -> Face:
        """A face found in this view, in pixels of the upright picture of (width, height) `size`."""
        x, y = size[0] / self.plane.width, size[1] / self.plane.height
        left, top, right, bottom = face.box
        return replace(
            face,
            box=((left + self.left) * x, (top + self.top) * y, (right + self.left) * x, (bottom + self.top) * y),
            landmarks=(face.landmarks + np.array((self.left, self.top), np.float32)) * np.array((x, y), np.float32),
            frame=self.plane.frame,
        )

    def cuts(self, face: Face) -> bool:
        """Whether a face found in this view lies at an edge that is not the picture's."""
        left, top, right, bottom = face.box
        return (
            (self.left > 0 and left < CUT_MARGIN)
            or (self.top > 0 and top < CUT_MARGIN)
            or (self.right < self.plane.width and right > self.right - self.left - CUT_MARGIN)
            or (self.bottom < self.plane.height and bottom > self.bottom - self.top - CUT_MARGIN)
        )


def is_wide(width: int, height: int, side: int) -> bool:
    """Whether a picture is looked at in parts by an engine of this side."""
    long, short = max(width, height), min(width, height)
    return long >= WIDE * short and long > LARGE * side


def divisors(width: int, height: int, side: int) -> list[int]:
    """By how much a wide picture is reduced for each of its planes, the last of which is looked at as a whole."""
    whole = max(1, max(width, height) // side)
    found = [1]
    while found[-1] * STEP < whole:
        found.append(found[-1] * STEP)
    return [*found, whole]


def count(width: int, height: int, side: int) -> int:
    """How many views a wide picture of this size takes."""
    *tiled, _ = divisors(width, height, side)
    return 1 + sum(_tiles(-(-width // divisor), side) * _tiles(-(-height // divisor), side) for divisor in tiled)


def number(plane: Plane, side: int) -> int:
    """How many views a plane has."""
    return 1 if plane.whole else _tiles(plane.width, side) * _tiles(plane.height, side)


def views(planes: Iterable[Plane], side: int) -> list[View]:
    """The views of a picture's planes for an engine of this side."""
    return [view for plane in planes for view in _views(plane, side)]


def faces(
    found: Sequence[tuple[View, Sequence[Face]]],
    size: tuple[int, int],
    distance: Literal["cosine", "euclid"],
    link_distance: float,
) -> list[Face]:
    """The faces of a picture of (width, height) `size`, in its pixels, from what was found in its views.

    Each face counts once, however many views it is in, and of an animation each person.
    """
    frames: dict[int | None, list[tuple[View, Face]]] = {}
    for view, seen in found:
        frames.setdefault(view.plane.frame, []).extend((view, face) for face in seen)
    return _people([_once(pairs, size) for pairs in frames.values()], distance, link_distance)


def _once(found: Sequence[tuple[View, Face]], size: tuple[int, int]) -> list[Face]:
    """Faces of one still picture or frame: of those that are one face, the one not cut, and of those the surest."""
    ranked = sorted(found, key=lambda pair: (pair[0].cuts(pair[1]), -pair[1].score))
    kept: list[tuple[View, Face]] = []
    for view, face in ranked:
        placed = view.place(face, size)
        if not any(other is not view and _same(placed, seen) for other, seen in kept):
            kept.append((view, placed))
    return [face for _, face in kept]


def _people(
    frames: Sequence[Sequence[Face]], distance: Literal["cosine", "euclid"], link_distance: float
) -> list[Face]:
    """Of the faces of several frames each person's best: nearer than `link_distance` is one person."""
    known: list[Face] = []
    for seen in frames:
        before = len(known)
        for face in seen:
            near = [
                (_distance(face.embedding, other.embedding, distance), at) for at, other in enumerate(known[:before])
            ]
            nearest, at = min(near, default=(math.inf, -1))
            if nearest > link_distance:
                known.append(face)
            elif face.score > known[at].score:
                known[at] = face
    return known


def _views(plane: Plane, side: int) -> Iterator[View]:
    if plane.whole:
        yield View(plane, 0, 0, plane.width, plane.height)
        return
    for top, bottom in _spans(plane.height, side):
        for left, right in _spans(plane.width, side):
            yield View(plane, left, top, right, bottom)


def _tiles(length: int, side: int) -> int:
    overlap = round(side * OVERLAP)
    return 1 if length <= side else -(-(length - overlap) // (side - overlap))


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """A length in equal overlapping parts, none longer than a side."""
    if length <= side:
        return [(0, length)]
    overlap, number = round(side * OVERLAP), _tiles(length, side)
    part = -(-(length + (number - 1) * overlap) // number)
    starts = [round(at * (length - part) / (number - 1)) for at in range(number)]
    return [(start, start + part) for start in starts]


def _same(one: Face, other: Face) -> bool:
    width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    if width <= 0 or height <= 0:
        return False
    shared, areas = width * height, [(box[2] - box[0]) * (box[3] - box[1]) for box in (one.box, other.box)]
    return shared > SAME_UNION * (sum(areas) - shared) or shared > SAME_SMALLER * min(areas)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32], metric: str) -> float:
    if metric == "euclid":
        return float(np.linalg.norm(one - other))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1 - float(one @ other) / lengths if lengths else math.inf
