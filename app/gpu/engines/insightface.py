"""insightface: SCRFD and ArcFace packs on onnxruntime, on a GPU or, one thread per process, on the CPU."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from insightface.app import FaceAnalysis
from insightface.utils import face_align
from numpy.typing import NDArray

from app.gpu.engines import files, onnx_sessions, packs
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face, Image
from app.gpu.engines.scrfd import Detector
from app.gpu.settings import EngineSettings

log = logging.getLogger(__name__)

#: insightface's own default: what the detector gives at least this score is a face.
MIN_SCORE = 0.5

#: Batch sizes the recogniser sees on a GPU: CUDA's arena grows with every new one (immich issue 31675). On the CPU
#: there is little gain in batches, and padding two faces to eight takes more than three times as long as the two.
GPU_BATCHES = (1, 8, 32, 64)

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

    def __init__(self, directory: Path, name: str, gpu_id: int | None, min_score: float) -> None:
        """Load the pack `name` in `directory`; with a GPU, `info.device` says whether it is really used.

        Raises:
            EngineUnavailableError: the pack cannot be used.
        """
        try:
            with files.unchanged(directory), warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")  # onnxruntime's about missing providers; `load` finds them itself
                detector, self._recogniser = _models(directory, gpu_id)
                self._detector = Detector(detector, min_score)
                fixed = _fixed_batch(self._recogniser)
                embedding_size = self._recogniser.get_feat([self._blank()] * (fixed or 1)).shape[-1]
                model_id = packs.model_id(name, (self._detector.file, self._recogniser.model_file))
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
        )

    @property
    def sessions(self) -> list[Any]:
        """Every onnxruntime session there is."""
        return [*self._detector.sessions, self._recogniser.session]

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        bgr = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        detections = [
            Detection(number, box, landmarks)
            for number, image in enumerate(bgr)
            for box, landmarks in zip(*self._detector.detect(image), strict=True)
        ]
        embeddings = self._embed([self._crop(bgr[found.image], found.landmarks) for found in detections])
        faces: list[list[Face]] = [[] for _ in images]
        for found, embedding in zip(detections, embeddings, strict=True):
            if np.isfinite(embedding).all():
                left, top, right, bottom, score = (float(value) for value in found.box)
                faces[found.image].append(Face((left, top, right, bottom), found.landmarks, score, embedding))
        return faces

    def _crop(self, bgr: Image, landmarks: NDArray[np.float32]) -> Image:
        with warnings.catch_warnings():
            # scikit-image's, at insightface's use of it.
            warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)
            crop: Image = face_align.norm_crop(bgr, landmark=landmarks, image_size=self._recogniser.input_size[0])
        return crop

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
    pack, name = packs.find(settings), settings.model_pack
    min_score = MIN_SCORE if settings.min_score is None else settings.min_score
    if settings.device != "cpu" and onnx_sessions.CUDA in offered:
        problem = "onnxruntime fell back to the CPU"
        try:
            engine = InsightFaceEngine(pack, name, settings.gpu_id, min_score)
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
    return InsightFaceEngine(pack, name, None, min_score)


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
