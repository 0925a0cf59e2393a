"""insightface: SCRFD and ArcFace packs on onnxruntime, on a GPU or, one thread per process, on the CPU."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from insightface.app import FaceAnalysis
from insightface.utils import face_align
from numpy.typing import NDArray

from app.gpu.engines import files, onnx_sessions, packs
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face, Image
from app.gpu.engines.scrfd import Detector
from app.gpu.settings import EngineSettings

log = logging.getLogger(__name__)

# Each process, or each of its threads, has one core.
cv2.setNumThreads(1)

#: insightface's own default: what the detector gives at least this score is a face.
MIN_SCORE = 0.5

#: Batch sizes the recogniser sees on a GPU: CUDA's arena grows with every new one (immich issue 31675). On the CPU
#: there is little gain in batches, and padding two faces to eight takes more than three times as long as the two.
GPU_BATCHES = (1, 8, 32, 64)

#: Images in a call, and calls under way at once, on a GPU. Shipped detectors take one image at a time, so it is the
#: calls that keep a card busy: onnxruntime gives each thread a stream of its own. More images in a call fill the
#: recogniser's batches.
GPU_BATCH, GPU_THREADS = 8, 4

#: Cosine distance within which ArcFace embeddings are of one person: a similarity of 0.4.
LINK_DISTANCE = 0.6

#: The detector sees 640 pixels and finds faces from about 20 of them on. The recogniser cuts its 112 pixels out of
#: the whole picture: at this side even the smallest face found has 64 of them, and larger ones all they need.
MAX_SIDE = 2048


class Detection(NamedTuple):
    """A face found in one image of a batch."""

    image: int
    #: Left, top, right, bottom, score.
    box: NDArray[np.float32]
    #: Shape (5, 2).
    landmarks: NDArray[np.float32]


class InsightFaceEngine:
    """Satisfies `Engine`."""

    def __init__(self, directory: Path, gpu_id: int | None, settings: EngineSettings) -> None:
        """Load the pack in `directory`; with a GPU, `info.device` says whether it is really used.

        Raises:
            EngineUnavailableError: the pack cannot be used.
        """
        min_score = MIN_SCORE if settings.min_score is None else settings.min_score
        try:
            with files.unchanged(directory), warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")  # onnxruntime's about missing providers; `load` finds them itself
                detector, self._recogniser = _models(directory, gpu_id)
                self._detector = Detector(detector, min_score)
                fixed = _fixed_batch(self._recogniser)
                embedding_size = self._recogniser.get_feat([self._blank()] * (fixed or 1)).shape[-1]
                model_id = packs.model_id(settings.model_pack, (self._detector.file, self._recogniser.model_file))
        except EngineUnavailableError:
            raise
        except Exception as error:  # of insightface, onnx and onnxruntime, which share no class
            reason = str(error) or "no detector that insightface knows"  # an assertion without words
            raise EngineUnavailableError(
                f"The model pack in {directory} cannot be loaded ({reason}): "
                "it has to hold the unchanged .onnx files of one insightface pack."
            ) from error
        on_gpu = gpu_id is not None and onnx_sessions.all_on_gpu(self.sessions)
        #: Ascending.
        self._batches: tuple[int, ...] = (fixed,) if fixed else GPU_BATCHES if on_gpu else (1,)
        self.info = EngineInfo(
            engine="insightface",
            model_id=model_id,
            device=f"cuda:{gpu_id}" if on_gpu else "cpu",
            embedding_size=embedding_size,
            distance="cosine",
            link_distance=LINK_DISTANCE,
            max_side=MAX_SIDE,
            min_score=min_score,
            batch=settings.engine_batch or (GPU_BATCH if on_gpu else 1),
            threads=settings.engine_threads or (GPU_THREADS if on_gpu else 1),
        )

    @property
    def sessions(self) -> list[Any]:
        """Every onnxruntime session there is."""
        return [*self._detector.sessions, self._recogniser.session]

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        bgr = [_bgr(image) for image in images]
        detections = [
            Detection(number, box, landmarks)
            for number, detected in enumerate(self._detector.detect_all(bgr))
            for box, landmarks in zip(*detected, strict=True)
        ]
        embeddings = self._embed([self._crop(bgr[found.image], found.landmarks) for found in detections])
        faces: list[list[Face]] = [[] for _ in images]
        for found, embedding in zip(detections, embeddings, strict=True):
            if np.isfinite(embedding).all():
                left, top, right, bottom, score = (float(value) for value in found.box)
                faces[found.image].append(Face((left, top, right, bottom), found.landmarks, score, embedding))
        return faces

    def _crop(self, bgr: Image, landmarks: NDArray[np.float32]) -> Image:
        """The face upright in the size that the recogniser sees, as `face_align.norm_crop`, but for any thread."""
        size = self._recogniser.input_size[0]
        crop = cv2.warpAffine(bgr, _similarity(landmarks, _template(size)), (size, size), borderValue=0.0)
        return crop.astype(np.uint8, copy=False)

    def _embed(self, crops: list[Image]) -> NDArray[np.float32]:
        """Embeddings of unit length, shape (n, embedding size); not finite where the model gave zeros."""
        if not crops:
            return np.zeros((0, self.info.embedding_size), np.float32)
        most = self._batches[-1]
        raw = np.concatenate([self._embed_batch(crops[at : at + most]) for at in range(0, len(crops), most)])
        with np.errstate(invalid="ignore"):
            unit: NDArray[np.float32] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return unit.astype(np.float32)

    def _embed_batch(self, crops: list[Image]) -> NDArray[np.float32]:
        size = next(size for size in self._batches if size >= len(crops))
        padded = crops + [self._blank()] * (size - len(crops))
        embeddings: NDArray[np.float32] = self._recogniser.get_feat(padded)[: len(crops)]
        return embeddings

    def _blank(self) -> Image:
        width, height = self._recogniser.input_size
        return np.zeros((height, width, 3), np.uint8)


def _bgr(image: Image) -> Image:
    """As OpenCV likes it, and by OpenCV: numpy takes twenty times as long to turn channels around."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)


def _template(size: int) -> NDArray[np.float32]:
    """Where a face's landmarks are in a square of this side that ArcFace sees."""
    scale, margin = (size / 112, 0.0) if size % 112 == 0 else (size / 128, 8.0)
    template: NDArray[np.float32] = (face_align.arcface_dst + np.array((margin, 0), np.float32)) * np.float32(scale)
    return template


def _similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64]:
    """The 2 × 3 matrix that turns, scales and shifts points as near to others as it can (least squares)."""
    here, there = (points.astype(np.float64) @ (1, 1j) for points in (source, target))
    apart = here - here.mean()
    turn = (apart.conj() @ (there - there.mean())) / (apart.conj() @ apart)
    shift = there.mean() - turn * here.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def load(settings: EngineSettings) -> InsightFaceEngine:
    """The engine with the pack `MODEL_PACK` out of `MODEL_DIR`, on the device that `DEVICE` asks for.

    Raises:
        EngineUnavailableError: the pack is not there or cannot be used, or the GPU is required and not there.
    """
    required = settings.device == "cuda"
    offered = onnx_sessions.available()
    if required and onnx_sessions.CUDA not in offered:
        raise EngineUnavailableError(
            f"DEVICE=cuda, but this onnxruntime offers only {', '.join(offered)}: "
            "install onnxruntime-gpu instead of onnxruntime, or set DEVICE=cpu."
        )
    pack = packs.find(settings)
    if settings.device != "cpu" and onnx_sessions.CUDA in offered:
        problem = "onnxruntime fell back to the CPU"
        try:
            engine = InsightFaceEngine(pack, settings.gpu_id, settings)
            if engine.info.device != "cpu":
                return engine
        except EngineUnavailableError as error:  # on the CPU it may run
            problem = str(error).rstrip(".")
        if required:
            raise EngineUnavailableError(
                f"DEVICE=cuda, but GPU {settings.gpu_id} cannot be used: {problem}. Compare nvidia-smi with GPU_ID "
                "and the driver with onnxruntime's CUDA, or set DEVICE=cpu."
            )
        log.warning("GPU %d cannot be used, the CPU is: %s.", settings.gpu_id, problem)
    return InsightFaceEngine(pack, None, settings)


def _models(directory: Path, gpu_id: int | None) -> tuple[Any, Any]:
    """The pack's detector and recogniser, as insightface knows them."""
    models = FaceAnalysis(
        str(directory),
        allowed_modules=["detection", "recognition"],
        providers=onnx_sessions.providers(gpu_id),
        sess_options=onnx_sessions.options(),
    ).models
    if "recognition" not in models:
        raise EngineUnavailableError(f"The model pack in {directory} has no recognition model.")
    if not models["detection"].use_kps:
        raise EngineUnavailableError(f"The detector in {directory} gives no landmarks; recognition needs them.")
    return models["detection"], models["recognition"]


def _fixed_batch(recogniser: Any) -> int | None:
    """The one batch size a recogniser takes, if it takes one only."""
    declared = recogniser.input_shape[0]
    return declared if isinstance(declared, int) else None
