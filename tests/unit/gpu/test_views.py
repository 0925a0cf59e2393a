"""However wide a picture is, every face is whole in some view, at a size that the engine finds, and counts once."""

import io
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.gpu import views
from app.gpu.decoding import Decoders
from app.gpu.engines.dlib import DlibEngine, load
from app.gpu.faces import Face
from app.gpu.images import Canvas, Limits, decode
from app.gpu.settings import FaceSettings
from app.gpu.slots import slot_bytes
from app.gpu.views import Plane, View
from tests.bench.scenes import Placed, found_of, wide

SIDE = 320
#: The smallest face that an engine finds in a picture of its side.
SMALLEST = SIDE // 20


def planes(width: int, height: int) -> list[Plane]:
    """Those that decoders make of a picture of this size."""
    if not views.is_wide(width, height, SIDE):
        return [Plane(0, height, width)]
    *tiled, whole = views.divisors(width, height, SIDE)
    return [Plane(0, -(-height // by), -(-width // by), whole=False) for by in tiled] + [
        Plane(0, -(-height // whole), -(-width // whole))
    ]


@settings(max_examples=300, deadline=None)
@given(
    long=st.integers(2 * SIDE, 20_000),
    ratio=st.floats(2, 30),
    tall=st.booleans(),
    share=st.floats(0, 1),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_face_in_a_wide_picture_is_whole_in_a_view_that_shows_it_large_enough(
    long: int, ratio: float, tall: bool, share: float, at: tuple[float, float]
) -> None:
    short = max(SMALLEST, int(long / ratio))
    width, height = (short, long) if tall else (long, short)
    assume(views.is_wide(width, height, SIDE) and views.count(width, height, SIDE) <= views.MAX_VIEWS)
    face = SMALLEST + share * (short - SMALLEST)
    left, top = at[0] * (width - face), at[1] * (height - face)
    sizes = []
    for view in views.views(planes(width, height), SIDE):
        x, y = width / view.plane.width, height / view.plane.height
        if (
            view.left * x <= left
            and view.top * y <= top
            and left + face <= view.right * x
            and top + face <= view.bottom * y
        ):
            sizes.append(face / max(x, y) * min(1, SIDE / max(view.right - view.left, view.bottom - view.top)))
    # An engine's smallest, or, where the scale is a quarter of the one before, what has room in the overlap of that.
    assert max(sizes, default=0) >= min(SMALLEST, face) * 0.95


@given(width=st.integers(1, 100_000), height=st.integers(1, 100_000))
def test_no_picture_takes_more_views_than_the_budget_once_it_is_decoded(width: int, height: int) -> None:
    assume(width * height <= 10**6)
    memory = memoryview(bytearray(slot_bytes(10**6)))
    data = io.BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    picture = decode(data.getvalue(), Limits(10**6, 32), Canvas(memory))
    number = len(views.views(picture.planes, 32))
    assert number == sum(views.number(plane, 32) for plane in picture.planes)
    assert number <= views.MAX_VIEWS


def face(box: tuple[float, float, float, float], score: float = 1.0, person: int = 0) -> Face:
    embedding = np.zeros(8, np.float32)
    embedding[person] = 1
    return Face(box, np.array([[box[0], box[1]]], np.float32), score, embedding)


def merged(*found: tuple[View, Face], size: tuple[int, int] = (1000, 200)) -> list[Face]:
    return views.faces([(view, [seen]) for view, seen in found], size, "euclid", 0.5)


FULL = Plane(0, 200, 1000, whole=False)
LEFT, RIGHT = View(FULL, 0, 0, 400, 200), View(FULL, 300, 0, 700, 200)
WHOLE = View(Plane(0, 100, 500), 0, 0, 500, 100)


def test_boxes_and_landmarks_are_in_pixels_of_the_picture() -> None:
    [in_part] = merged((RIGHT, face((100, 20, 150, 70))))
    assert in_part.box == (400, 20, 450, 70)
    assert in_part.landmarks.tolist() == [[400, 20]]
    [in_whole] = merged((WHOLE, face((100, 20, 150, 70))))
    assert in_whole.box == (200, 40, 300, 140)
    assert in_whole.landmarks.tolist() == [[200, 40]]


def test_a_face_in_several_views_counts_once_as_the_surest() -> None:
    [seen] = merged(
        (LEFT, face((310, 50, 390, 130), 0.7)),
        (RIGHT, face((12, 52, 88, 128), 0.9)),
        (WHOLE, face((156, 26, 196, 66), 0.8)),
    )
    assert seen.score == 0.9


def test_a_whole_face_is_taken_before_a_surer_part_of_it() -> None:
    [seen] = merged((RIGHT, face((0, 50, 60, 130), 0.9)), (LEFT, face((280, 50, 360, 130), 0.6)))
    assert seen.box == (280, 50, 360, 130)


def test_two_people_side_by_side_stay_two() -> None:
    boxes = [face((310, 50, 350, 100)), face((352, 50, 392, 100))]
    again = [face((10, 50, 50, 100)), face((52, 50, 92, 100))]
    assert len(views.faces([(LEFT, boxes), (RIGHT, again)], (1000, 200), "euclid", 0.5)) == 2


def test_what_an_engine_finds_twice_in_one_view_is_its_own_affair() -> None:
    assert len(views.faces([(WHOLE, [face((0, 0, 50, 50)), face((5, 5, 55, 55))])], (1000, 200), "euclid", 0.5)) == 2


def test_of_an_animation_each_person_is_taken_once_from_the_frame_that_shows_them_best() -> None:
    frames = [View(Plane(0, 100, 100, frame=number), 0, 0, 100, 100) for number in (3, 9, 12)]
    found = [
        (frames[0], [face((0, 0, 50, 50), 0.5, person=1)]),
        (frames[1], [face((0, 0, 50, 50), 0.9, person=1), face((50, 0, 99, 50), 0.6, person=2)]),
        (frames[2], [face((0, 0, 50, 50), 0.8, person=2)]),
    ]
    seen = views.faces(found, (100, 100), "euclid", 0.5)
    assert [(one.frame, one.score) for one in seen] == [(9, 0.9), (12, 0.8)]


@pytest.fixture(scope="module")
def engine() -> DlibEngine:
    return load(FaceSettings())


@pytest.fixture(scope="module")
def decoders(engine: DlibEngine) -> Iterator[Decoders]:
    with closing(Decoders(FaceSettings(), number=1, slots=1, max_side=engine.info.max_side)) as decoders:
        yield decoders


@pytest.mark.parametrize("size", [(12_000, 3000), (6000, 1000), (1080, 15_000)])
def test_faces_of_83_to_312_pixels_in_wide_pictures_are_all_found(
    photos: dict[str, bytes], engine: DlibEngine, decoders: Decoders, size: tuple[int, int]
) -> None:
    scene: list[Placed]
    data, scene = wide(photos, size)
    assert len(scene) >= 10
    with decoders.decode(data) as decoded:
        looked = views.views(decoded.planes, engine.info.max_side)
        found = [(view, engine.analyse([view.pixels(decoded.slot.memory)])[0]) for view in looked]
        faces = views.faces(found, (decoded.width, decoded.height), engine.info.distance, engine.info.link_distance)
    assert [found_of(placed, faces) for placed in scene] == [1] * len(scene)
    assert len(faces) == len(scene)
