"""The insightface engine, through the real insightface and the real onnxruntime, on stand-in packs."""

from pathlib import Path

import numpy as np
import pytest

from app.gpu.engines.base import EngineUnavailableError, Image
from app.gpu.engines.insightface import BATCHES, InsightFaceEngine, load
from app.gpu.settings import FaceSettings
from tests.unit.gpu.onnx_packs import write_pack

VARIANTS = [(False, True), (True, True), (False, False), (True, False)]


def engine(tmp_path: Path, static_detector: bool = False, batched_recogniser: bool = True) -> InsightFaceEngine:
    write_pack(tmp_path / "blob", static_detector=static_detector, batched_recogniser=batched_recogniser)
    return load(FaceSettings(engine="insightface", model_dir=tmp_path, model_pack="blob"))


def picture(size: tuple[int, int], *blobs: tuple[int, int, int]) -> Image:
    """Black with a textured bright square for each (left, top, side); `size` is (width, height)."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for number, (left, top, side) in enumerate(blobs):
        texture = np.random.default_rng(number).integers(215, 256, (4, 4, 3), np.uint8)
        tiles = np.kron(texture, np.ones((side // 4 + 1, side // 4 + 1, 1), np.uint8))
        image[top : top + side, left : left + side] = tiles[:side, :side]
    return image


@pytest.mark.parametrize(("static_detector", "batched_recogniser"), VARIANTS)
def test_small_faces_are_found_where_they_are(
    tmp_path: Path, static_detector: bool, batched_recogniser: bool
) -> None:
    found = engine(tmp_path, static_detector, batched_recogniser).analyse(
        [picture((1280, 640), (100, 60, 130), (900, 400, 130))]
    )[0]
    assert len(found) >= 2
    best = sorted(sorted(found, key=lambda face: -face.score)[:2], key=lambda face: face.box[0])
    for face, (x, y) in zip(best, [(165, 125), (965, 465)], strict=True):
        assert (face.box[0] + face.box[2]) / 2 == pytest.approx(x, abs=40)
        assert (face.box[1] + face.box[3]) / 2 == pytest.approx(y, abs=40)
        assert face.landmarks.shape == (5, 2)
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("static_detector", "batched_recogniser"), VARIANTS)
def test_a_face_that_fills_the_picture_is_found(
    tmp_path: Path, static_detector: bool, batched_recogniser: bool
) -> None:
    image = picture((700, 700), (0, 0, 700))
    found = engine(tmp_path, static_detector, batched_recogniser).analyse([image])[0]
    assert any(face.box[2] - face.box[0] > 500 for face in found)


def test_one_detector_size_alone_misses_a_face_that_fills_the_picture(tmp_path: Path) -> None:
    """Holds the test above to account: without the small size there is nothing to find."""
    found = engine(tmp_path)._detector.detect(picture((700, 700), (0, 0, 700)), input_size=(640, 640))[0]
    assert not any(box[2] - box[0] > 500 for box in found)


def test_a_batch_gives_what_each_picture_gives(tmp_path: Path) -> None:
    blobs = engine(tmp_path)
    images = [picture((640, 640), (n * 40, 100, 120)) for n in range(5)] + [picture((200, 100))]
    together = blobs.analyse(images)
    for image, faces in zip(images, together, strict=True):
        alone = blobs.analyse([image])[0]
        assert [face.box for face in faces] == [face.box for face in alone]
        for one, other in zip(faces, alone, strict=True):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
    assert together[-1] == []


def test_the_recogniser_sees_a_few_batch_sizes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = engine(tmp_path)
    seen = []
    get_feat = blobs._recogniser.get_feat

    def watched(crops: list[Image]) -> object:
        seen.append(len(crops))
        return get_feat(crops)

    monkeypatch.setattr(blobs._recogniser, "get_feat", watched)
    crops = [np.full((112, 112, 3), shade, np.uint8) for shade in range(1, 71)]
    for count in (1, 2, 8, 9, 33, 70):
        assert blobs._embed(crops[:count]).shape == (count, 512)
    assert set(seen) <= set(BATCHES)


def test_other_content_has_another_embedding(tmp_path: Path) -> None:
    blobs = engine(tmp_path)
    ramp = np.tile(np.linspace(0, 255, 112, dtype=np.uint8)[:, None, None], (1, 112, 3))
    one, other = blobs._embed([ramp, ramp[::-1].copy()])
    assert float(one @ other) < 0.9


def test_sessions_run_on_one_thread(tmp_path: Path) -> None:
    blobs = engine(tmp_path)
    blobs.analyse([picture((640, 640), (100, 100, 120))])
    sessions = [blobs._recogniser.session, blobs._detector.session, *blobs._detector.resolution_sessions.values()]
    for session in sessions:
        assert session.get_session_options().intra_op_num_threads == 1
        assert session.get_providers() == ["CPUExecutionProvider"]


def test_the_model_id_follows_the_files_and_not_where_they_lie(tmp_path: Path) -> None:
    ids = []
    for where, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_pack(tmp_path / where / "Blob", seed=seed)
        ids.append(load(FaceSettings(model_dir=tmp_path / where, model_pack="Blob")).info.model_id)
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("blob-")


@pytest.mark.parametrize("layout", ["blob", "blob/blob", "models/blob", "models/blob/blob"])
def test_every_layout_of_packs_is_known(tmp_path: Path, layout: str) -> None:
    write_pack(tmp_path / layout)
    assert load(FaceSettings(model_dir=tmp_path, model_pack="blob")).info.embedding_size == 512


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "blob")
    with pytest.raises(EngineUnavailableError, match="DEVICE=cuda"):
        load(FaceSettings(model_dir=tmp_path, model_pack="blob", device="cuda"))


def test_a_silent_fallback_to_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack(tmp_path / "blob")
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(EngineUnavailableError, match="fell back"):
        load(FaceSettings(model_dir=tmp_path, model_pack="blob", device="cuda"))
    assert load(FaceSettings(model_dir=tmp_path, model_pack="blob")).info.device == "cpu"


def test_a_pack_is_never_fetched_without_the_licence_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(_kind: str, name: str, root: str) -> str:
        fetched.append(name)
        return str(write_pack(Path(root) / "models" / name))

    monkeypatch.setattr("app.gpu.engines.insightface.ensure_available", fetch)
    with pytest.raises(EngineUnavailableError, match="INSIGHTFACE_LICENSE"):
        load(FaceSettings(model_dir=tmp_path, model_pack="blob"))
    assert fetched == []
    load(FaceSettings(model_dir=tmp_path, model_pack="blob", insightface_license="non-commercial"))
    assert fetched == ["blob"]


def test_a_pack_without_a_recogniser_is_refused(tmp_path: Path) -> None:
    (write_pack(tmp_path / "blob") / "rec_blob.onnx").unlink()
    with pytest.raises(EngineUnavailableError, match="recognition"):
        load(FaceSettings(model_dir=tmp_path, model_pack="blob"))
