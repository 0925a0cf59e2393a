"""The embedded engine, on real faces."""

import io

import numpy as np
import pytest
from PIL import Image

from app.gpu.engines.base import EngineUnavailableError
from app.gpu.engines.dlib import DlibEngine, load
from app.gpu.settings import FaceSettings
from infra.local.photos import FACES


@pytest.fixture(scope="module")
def engine() -> DlibEngine:
    return load(FaceSettings())


def pixels(photo: bytes, crop: tuple[int, int, int, int] | None = None, side: int | None = None) -> np.ndarray:
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    image = image.crop(crop) if crop else image
    return np.asarray(image.resize((side, side)) if side else image)


@pytest.mark.parametrize("name", sorted(FACES))
def test_every_face_of_a_photo_is_found(engine: DlibEngine, photos: dict[str, bytes], name: str) -> None:
    [faces] = engine.analyse([pixels(photos[name])])
    assert len(faces) == FACES[name]
    assert all(face.embedding.shape == (engine.info.embedding_size,) for face in faces)
    assert all(face.landmarks.shape == (5, 2) for face in faces)


@pytest.mark.parametrize("side", [None, 64, 300, 2400])
def test_a_face_that_fills_the_picture_is_found_at_any_size(
    engine: DlibEngine, photos: dict[str, bytes], side: int | None
) -> None:
    [faces] = engine.analyse([pixels(photos["astronaut.png"], (180, 70, 270, 165), side)])
    assert len(faces) == 1


def test_one_person_is_nearer_to_herself_than_to_others(engine: DlibEngine, photos: dict[str, bytes]) -> None:
    [[one], [again], group] = engine.analyse(
        [
            pixels(photos["astronaut.png"]),
            pixels(photos["astronaut.png"], (130, 20, 320, 230)),
            pixels(photos["group.jpg"]),
        ]
    )
    near = np.linalg.norm(one.embedding - again.embedding)
    assert near < engine.info.link_distance
    assert all(np.linalg.norm(one.embedding - other.embedding) > engine.info.link_distance for other in group)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (3, 5), (80, 80), (1700, 20)])
def test_a_picture_of_any_shape_without_a_face_has_none(engine: DlibEngine, shape: tuple[int, int]) -> None:
    assert engine.analyse([np.zeros((*shape, 3), np.uint8)]) == [[]]


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailableError, match="ENGINE=insightface"):
        load(FaceSettings(device="cuda"))
