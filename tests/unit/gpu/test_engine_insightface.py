"""The insightface engine, through the real insightface and the real onnxruntime, on stand-in packs."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import insightface.utils.storage
import numpy as np
import pytest
from insightface.utils import face_align

from app.gpu.engines import packs
from app.gpu.engines.base import EngineUnavailableError, Image
from app.gpu.engines.insightface import GPU_BATCHES, InsightFaceEngine, _similarity, _template, load
from app.gpu.settings import FaceSettings
from tests.unit.gpu.onnx_packs import write_pack

#: Every shape a pack comes in: the detector's size fixed or not, the recogniser's batch fixed or not.
VARIANTS = [
    pytest.param({"static_detector": static, "batch": batch}, id=f"{'static' if static else 'dynamic'}-batch-{batch}")
    for static in (False, True)
    for batch in (None, 1, 4)
]

BOTH_PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def settings(model_dir: Path, **values: Any) -> FaceSettings:
    return FaceSettings(engine="insightface", model_dir=model_dir, model_pack="blob", **values)


def engine(tmp_path: Path, **variant: Any) -> InsightFaceEngine:
    write_pack(tmp_path / "blob", **variant)
    return load(settings(tmp_path))


def picture(size: tuple[int, int], *squares: tuple[int, int, int]) -> Image:
    """Black with a textured bright square for each (left, top, side); `size` is (width, height).

    The stand-in detector finds a square whose edges, at 640 or 128 pixels for the longest side, lie on its grid.
    """
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for number, (left, top, side) in enumerate(squares):
        texture = np.random.default_rng(number).integers(215, 256, (4, 4, 3), np.uint8)
        tiles = np.kron(texture, np.ones((side // 4 + 1, side // 4 + 1, 1), np.uint8))
        image[top : top + side, left : left + side] = tiles[:side, :side]
    return image


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("size", "squares"),
    [((1280, 640), [(96, 64, 128), (896, 416, 128)]), ((480, 960), [(48, 96, 96), (240, 768, 192)])],
    ids=["landscape", "portrait"],
)
def test_small_faces_are_found_where_they_are(
    tmp_path: Path, variant: dict[str, Any], size: tuple[int, int], squares: list[tuple[int, int, int]]
) -> None:
    found = sorted(engine(tmp_path, **variant).analyse([picture(size, *squares)])[0], key=lambda face: face.box)
    assert len(found) == len(squares)
    for face, (left, top, side) in zip(found, squares, strict=True):
        assert face.box == pytest.approx((left, top, left + side, top + side), abs=1)
        assert face.landmarks.dtype == np.float32
        nose = (left + side / 2, top + side / 2)
        eyes = [(left + side / 4, top + side / 4), (left + side * 3 / 4, top + side / 4)]
        np.testing.assert_allclose(face.landmarks[:3], [*eyes, nose], atol=1)
        assert 0.5 <= face.score <= 1
        assert face.embedding.shape == (512,)
        assert face.embedding.dtype == np.float32
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_face_that_fills_the_picture_is_found(tmp_path: Path, variant: dict[str, Any]) -> None:
    (face,) = engine(tmp_path, **variant).analyse([picture((700, 700), (0, 0, 700))])[0]
    assert face.box == pytest.approx((0, 0, 700, 700), abs=1)
    np.testing.assert_allclose(face.landmarks[:3], [(175, 175), (525, 175), (350, 350)], atol=1)


def test_a_face_found_at_both_sizes_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = engine(tmp_path, static_detector=True)
    detect = squares._detector._model.detect
    monkeypatch.setattr(squares._detector, "_detect_reduced", lambda bgr, _native: detect(bgr))
    assert len(squares.analyse([picture((640, 640), (128, 128, 128))])[0]) == 1


@pytest.mark.parametrize("static", [False, True])
def test_one_detector_size_alone_misses_a_face_that_fills_the_picture(tmp_path: Path, static: bool) -> None:
    """Holds the test above to account: without the small size there is nothing to find."""
    model = engine(tmp_path, static_detector=static)._detector._model
    assert len(model.detect(picture((700, 700), (0, 0, 700)), input_size=(640, 640))[0]) == 0


def test_the_models_see_blue_where_the_picture_is_blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = engine(tmp_path)
    crops: list[Image] = []
    get_feat = squares._recogniser.get_feat

    def watched(batch: list[Image]) -> object:
        crops.extend(batch)
        return get_feat(batch)

    monkeypatch.setattr(squares._recogniser, "get_feat", watched)
    image = picture((640, 640), (128, 128, 128))
    image[:, :, 0] = image[:, :, 0] * 0.6  # less red
    squares.analyse([image])
    blue, _, red = crops[0][56, 56]
    assert blue > 1.5 * red


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_gives_what_each_picture_gives(tmp_path: Path, variant: dict[str, Any]) -> None:
    squares = engine(tmp_path, **variant)
    images = [picture((640, 640), *[(128 * at, 128 * row, 128) for at in (0, 2)]) for row in range(3)]
    images.insert(1, picture((200, 100)))
    together = squares.analyse(images)
    assert [len(faces) for faces in together] == [2, 0, 2, 2]
    for image, faces in zip(images, together, strict=True):
        for one, other in zip(faces, squares.analyse([image])[0], strict=True):
            assert one.box == other.box
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)


def test_a_detector_that_takes_several_images_is_given_them_at_once(tmp_path: Path) -> None:
    singles, several = engine(tmp_path / "one"), engine(tmp_path / "other", detector_batch="real")
    assert not singles._detector.batched
    assert several._detector.batched
    images = [
        picture((640, 640), (128, 128, 128)),
        picture((300, 200)),
        picture((1280, 700), (0, 0, 256), (512, 256, 256)),
        picture((500, 900), (0, 0, 500)),
        picture((6400, 60)),
    ] * 4  # more than one batch
    runs: list[int] = []
    session = several._detector._model.session

    def watched(names: object, feed: dict[str, Any]) -> object:
        runs.append(len(*feed.values()))
        return session.run(names, feed)

    several._detector._model.session = SimpleNamespace(run=watched)
    found = several._detector.detect_all(images)
    assert runs == [16, 16, 4, 4], "each of two sizes, in batches of a few sizes only"
    for (boxes, landmarks), (boxes_alone, landmarks_alone) in zip(
        found, map(singles._detector.detect, images), strict=True
    ):
        np.testing.assert_allclose(boxes, boxes_alone, atol=1e-3)
        np.testing.assert_allclose(landmarks, landmarks_alone, atol=1e-3)
    assert [len(boxes) for boxes, _ in found[:5]] == [1, 0, 2, 1, 0]


def test_a_detector_that_only_says_it_takes_several_images_is_not_believed(tmp_path: Path) -> None:
    squares = engine(tmp_path, detector_batch="false")
    assert not squares._detector.batched
    images = [picture((640, 640), (128, 128, 128)), picture((640, 640), (0, 0, 128), (256, 256, 128))]
    assert [len(faces) for faces in squares.analyse(images)] == [1, 2]


@pytest.mark.parametrize("size", [112, 224, 128])
def test_a_face_is_cut_out_as_insightface_does(size: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        landmarks = (random.random((5, 2)) * 300 + 50).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-image's, at insightface's use of it
            expected = face_align.estimate_norm(landmarks, size)
        np.testing.assert_allclose(_similarity(landmarks, _template(size)), expected, atol=1e-4)


def test_many_threads_get_what_one_gets(tmp_path: Path) -> None:
    squares = engine(tmp_path)
    images = [picture((640, 640), *[(128 * at, 128 * row, 128) for at in (0, 2)]) for row in range(4)]
    alone = [squares.analyse([image])[0] for image in images]
    with ThreadPoolExecutor(8) as threads:
        for number, [faces] in enumerate(threads.map(lambda n: squares.analyse([images[n % 4]]), range(64))):
            for one, other in zip(faces, alone[number % 4], strict=True):
                assert one.box == other.box
                np.testing.assert_array_equal(one.embedding, other.embedding)


def test_no_pictures_give_nothing(tmp_path: Path) -> None:
    assert engine(tmp_path).analyse([]) == []


@pytest.mark.parametrize("count", [1, 2, 8, 9, 33, 70])
def test_padding_a_batch_changes_no_embedding(tmp_path: Path, count: int) -> None:
    squares = engine(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)
    single = squares._embed(list(noise))
    squares._batches = GPU_BATCHES
    np.testing.assert_allclose(squares._embed(list(noise)), single, atol=1e-5)


def test_a_gpu_sees_a_few_batch_sizes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = engine(tmp_path)
    squares._batches = GPU_BATCHES
    seen = set()
    get_feat = squares._recogniser.get_feat

    def watched(crops: list[Image]) -> object:
        seen.add(len(crops))
        return get_feat(crops)

    monkeypatch.setattr(squares._recogniser, "get_feat", watched)
    crops = [np.full((112, 112, 3), shade, np.uint8) for shade in range(1, 71)]
    for count in range(1, 71):
        assert squares._embed(crops[:count]).shape == (count, 512)
    assert seen == set(GPU_BATCHES)


def test_other_content_has_another_embedding(tmp_path: Path) -> None:
    one, other = engine(tmp_path).analyse([picture((640, 640), (0, 0, 128), (256, 256, 128))])[0]
    assert not np.allclose(one.embedding, other.embedding, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 1000), (20_000, 100)])
def test_pictures_of_any_shape_are_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    assert engine(tmp_path).analyse([picture(size)]) == [[]]


def test_boxes_stay_within_a_strip(tmp_path: Path) -> None:
    """100 times as wide as high: shrunk to 128 pixels, it would be less than a pixel high."""
    squares = engine(tmp_path)
    squares._detector._model.det_thresh = 0.0  # everything is a face
    faces = squares.analyse([picture((6400, 60))])[0]
    assert faces
    for face in faces:
        left, top, right, bottom = face.box
        assert 0 <= left < right <= 6400
        assert 0 <= top < bottom <= 60


@pytest.mark.parametrize(
    "landmarks",
    [[0.0] * 10, [float("nan")] * 10, [float("inf"), *[1.0] * 9]],
    ids=["in one point", "not a number", "infinite"],
)
def test_a_face_without_usable_landmarks_is_dropped(tmp_path: Path, landmarks: list[float]) -> None:
    assert engine(tmp_path, landmarks=landmarks).analyse([picture((640, 640), (128, 128, 128))]) == [[]]


def test_a_face_without_an_embedding_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = engine(tmp_path)
    monkeypatch.setattr(squares._recogniser, "get_feat", lambda crops: np.zeros((len(crops), 512), np.float32))
    assert squares.analyse([picture((640, 640), (128, 128, 128))]) == [[]]


def test_a_higher_least_score_keeps_fewer_faces(tmp_path: Path) -> None:
    image = picture((640, 640), (128, 128, 128))
    assert len(engine(tmp_path).analyse([image])[0]) == 1
    assert load(settings(tmp_path, min_score=0.9999)).analyse([image]) == [[]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_session_runs_on_one_thread_of_the_cpu(tmp_path: Path, variant: dict[str, Any]) -> None:
    squares = engine(tmp_path, **variant)
    before = len(squares.sessions)
    squares.analyse([picture((640, 640), (128, 128, 128))])
    assert len(squares.sessions) == before, "a session was opened with the first picture"
    for session in squares.sessions:
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert session.get_providers() == ["CPUExecutionProvider"]


def test_the_engine_says_what_it_is(tmp_path: Path) -> None:
    write_pack(tmp_path / "Blob")
    info = load(FaceSettings(model_dir=tmp_path, model_pack="Blob")).info
    files = b"".join((tmp_path / "Blob" / name).read_bytes() for name in ("det_blob.onnx", "rec_blob.onnx"))
    assert info.model_id == f"blob-{sha256(files).hexdigest()[:12]}"
    assert (info.engine, info.device, info.embedding_size, info.distance) == ("insightface", "cpu", 512, "cosine")


def test_the_model_id_follows_the_files_and_not_where_they_lie(tmp_path: Path) -> None:
    ids = [
        load(settings(write_pack(tmp_path / where / "blob", seed=seed).parent)).info.model_id
        for where, seed in (("one", 0), ("two", 0), ("three", 1))
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("layout", ["blob", "blob/blob", "models/blob", "models/blob/blob"])
def test_every_layout_of_packs_is_known(tmp_path: Path, layout: str) -> None:
    write_pack(tmp_path / layout)
    assert load(settings(tmp_path)).info.embedding_size == 512


def write_manifest(tmp_path: Path, **recognition: Any) -> Path:
    pack = tmp_path / "blob"
    write_pack(pack / "weights")
    tasks = {
        "detection": {"file": "weights/det_blob.onnx"},
        "recognition": {"file": "weights/rec_blob.onnx", **recognition},
    }
    manifest = {"manifest_version": 2, "model_id": "blob", "license": "MODEL.LICENSE", "tasks": tasks}
    (pack / "manifest.json").write_text(json.dumps(manifest))
    return pack


def test_a_pack_with_a_manifest_is_read_as_it_says(tmp_path: Path) -> None:
    write_manifest(tmp_path, preprocessing={"mean": 0.0, "std": 255.0})
    squares = load(settings(tmp_path))
    assert squares._recogniser.input_std == 255
    assert len(squares.analyse([picture((640, 640), (128, 128, 128))])[0]) == 1


def test_a_file_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, sha256="0" * 64)
    with pytest.raises(EngineUnavailableError, match="SHA-256 mismatch"):
        load(settings(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda pack: (pack / "rec_blob.onnx").unlink(), "no recognition model"),
        (lambda pack: (pack / "det_blob.onnx").unlink(), "no detector"),
        (lambda pack: (pack / "det_blob.onnx").write_bytes(b"not a model"), "cannot be loaded"),
    ],
    ids=["no recogniser", "no detector", "damaged"],
)
def test_a_pack_that_cannot_be_used_is_refused(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    spoil(write_pack(tmp_path / "blob"))
    with pytest.raises(EngineUnavailableError, match=reason) as refused:
        load(settings(tmp_path))
    assert str(tmp_path / "blob") in str(refused.value)


def test_a_gpu_that_onnxruntime_was_not_built_for_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "blob")
    with pytest.raises(EngineUnavailableError, match=r"DEVICE=cuda.*CPUExecutionProvider.*onnxruntime-gpu"):
        load(settings(tmp_path, device="cuda"))


def test_a_silent_fallback_to_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack(tmp_path / "blob")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: BOTH_PROVIDERS)
    with pytest.raises(EngineUnavailableError, match=r"DEVICE=cuda, but GPU 3 .*fell back"):
        load(settings(tmp_path, device="cuda", gpu_id=3))


def test_one_session_on_the_cpu_is_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recogniser's arena may be the one that no longer fits the GPU."""
    write_pack(tmp_path / "blob")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: BOTH_PROVIDERS)
    providers = iter([BOTH_PROVIDERS] * 3 + [BOTH_PROVIDERS[1:]] * 9)

    class Session:
        def get_providers(self) -> list[str]:
            return next(providers)

    monkeypatch.setattr(InsightFaceEngine, "sessions", [Session()] * 4)
    with pytest.raises(EngineUnavailableError, match="fell back"):
        load(settings(tmp_path, device="cuda"))


def test_auto_takes_the_cpu_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_pack(tmp_path / "blob")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: BOTH_PROVIDERS)
    with caplog.at_level(logging.WARNING):
        assert load(settings(tmp_path)).info.device == "cpu"
    assert "GPU 0 cannot be used, the CPU is" in caplog.text


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What insightface's downloader is asked for; it answers with a zip of a pack."""
    asked: list[str] = []

    def download(url: str, path: str, overwrite: bool) -> None:
        asked.append(url)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if "broken" in url:
            target.write_bytes(b"PK half a zip")
            return
        pack = write_pack(target.parent / "zipped")
        subprocess.run([sys.executable, "-m", "zipfile", "-c", path, *map(str, pack.glob("*.onnx"))], check=True)

    monkeypatch.setattr(insightface.utils.storage, "download_file", download)
    return asked


def test_a_pack_is_never_fetched_without_the_licence_acknowledged(tmp_path: Path, downloads: list[str]) -> None:
    with pytest.raises(EngineUnavailableError, match="INSIGHTFACE_LICENSE") as refused:
        load(settings(tmp_path))
    assert downloads == []
    assert str(tmp_path / "blob") in str(refused.value)


def test_an_acknowledged_licence_fetches_the_pack_once_and_leaves_nothing_else(
    tmp_path: Path, downloads: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    for _ in range(2):
        load(settings(models, insightface_license="non-commercial"))
    assert [url.rpartition("/")[2] for url in downloads] == ["blob.zip"]
    assert [path.name for path in models.iterdir()] == ["blob"]
    assert capfd.readouterr().out == ""


def test_a_broken_download_is_reported_and_not_taken_for_a_pack(tmp_path: Path, downloads: list[str]) -> None:
    broken = FaceSettings(model_dir=tmp_path, model_pack="broken", insightface_license="non-commercial")
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match="could not be fetched"):
            packs.find(broken)
    assert len(downloads) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_engine_writes_nothing_home_and_prints_nothing(tmp_path: Path) -> None:
    """onnxruntime's telemetry keeps a device id and a database there, and sends them, unless it is told not to."""
    write_pack(tmp_path / "packs" / "blob")
    home = tmp_path / "home"
    home.mkdir()
    script = (
        "import numpy as np\n"
        "from app.gpu.engines import load\n"
        "from app.gpu.settings import FaceSettings\n"
        "settings = FaceSettings()\n"
        "image = np.zeros((640, 640, 3), np.uint8)\n"
        "image[128:256, 128:256] = 255\n"
        "assert len(load(settings).analyse([image])[0]) == 1\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **environment,
            "HOME": str(home),
            "ENGINE": "insightface",
            "MODEL_DIR": str(tmp_path / "packs"),
            "MODEL_PACK": "blob",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


def test_onnxruntime_is_quiet_whoever_imports_it_first() -> None:
    script = "import os\nfrom app.gpu.engines import onnx_sessions\nassert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
