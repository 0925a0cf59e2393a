"""insightface: SCRFD and ArcFace packs on onnxruntime, on a GPU or, one thread per process, on the CPU."""

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from insightface.app import FaceAnalysis
from insightface.utils import ensure_available, face_align
from numpy.typing import NDArray

from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face, Image
from app.gpu.settings import FaceSettings

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

#: A size that finds small faces and one that finds a face that fills the picture, as (width, height).
DETECTOR_SIZES = ((128, 128), (640, 640))

#: Batch sizes the recogniser ever sees: CUDA's arena grows with every new one and never shrinks.
BATCHES = (1, 8, 32, 64)

MIN_SCORE = 0.5

#: Cosine distance within which ArcFace embeddings are of one person: a similarity of 0.4.
LINK_DISTANCE = 0.6

#: The detector sees 640 pixels; the recogniser cuts 112 out of the picture, which a face of a twentieth of the
#: longest side still has at this size.
MAX_SIDE = 2048


class InsightFaceEngine:
    """Satisfies `Engine`."""

    def __init__(self, directory: Path, name: str, providers: Sequence[Any], device: str, min_score: float) -> None:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")  # onnxruntime's about providers: what is true of them is checked below
            models = FaceAnalysis(
                str(directory),
                allowed_modules=["detection", "recognition"],
                providers=list(providers),
                sess_options=_session_options(),
            ).models
        missing = {"detection", "recognition"} - models.keys()
        if missing:
            raise EngineUnavailableError(f"The pack in {directory} has no model for {' and '.join(sorted(missing))}.")
        self._detector, self._recogniser = models["detection"], models["recognition"]
        self._detector.prepare(ctx_id=0, input_size=list(DETECTOR_SIZES), det_thresh=min_score)
        if not getattr(self._detector, "use_kps", True):
            raise EngineUnavailableError(f"The detector in {directory} finds no landmarks; recognition needs them.")
        self._one_by_one = self._recogniser.input_shape[0] == 1
        self.info = EngineInfo(
            engine="insightface",
            model_id=f"{name.lower()}-{_digest(self._detector.model_file, self._recogniser.model_file)}",
            device=device if self._providers() == {CUDA} else "cpu",
            embedding_size=int(self._recogniser.output_shape[-1]),
            distance="cosine",
            link_distance=LINK_DISTANCE,
            max_side=MAX_SIDE,
        )

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        bgr = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        found = [self._detect(image) for image in bgr]
        crops = [
            face_align.norm_crop(image, landmark=landmarks, image_size=self._recogniser.input_size[0])
            for image, (_, all_landmarks) in zip(bgr, found, strict=True)
            for landmarks in all_landmarks
        ]
        embeddings = iter(self._embed(crops))
        return [
            [
                Face(_box(box), np.asarray(landmarks, np.float32), float(box[4]), next(embeddings))
                for box, landmarks in zip(boxes, all_landmarks, strict=True)
            ]
            for boxes, all_landmarks in found
        ]

    def _detect(self, bgr: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes with score, shape (n, 5), and landmarks, shape (n, 5, 2), clipped to the picture."""
        boxes, landmarks = self._detector.detect(bgr)
        native = getattr(self._detector, "static_input_size", None)
        if native is not None and max(native) > min(DETECTOR_SIZES)[0]:
            boxes, landmarks = self._merge((boxes, landmarks), self._detect_small(bgr, native))
        height, width = bgr.shape[:2]
        boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width)
        boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height)
        whole = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        return boxes[whole], landmarks[whole]

    def _detect_small(self, bgr: Image, native: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the small detector size would find, for a model with one fixed size, which sees the large one only."""
        small = min(DETECTOR_SIZES)[0]
        scale = small / max(bgr.shape[:2])
        reduced = cv2.resize(bgr, (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))))
        canvas = np.zeros((native[1], native[0], 3), np.uint8)
        canvas[: reduced.shape[0], : reduced.shape[1]] = reduced
        boxes, landmarks = self._detector.detect(canvas)
        boxes[:, :4] /= scale
        return boxes, landmarks / scale

    def _merge(
        self, *passes: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        boxes = np.concatenate([boxes for boxes, _ in passes])
        landmarks = np.concatenate([landmarks for _, landmarks in passes])
        order = np.argsort(-boxes[:, 4], kind="stable")
        keep = order[self._detector.nms(boxes[order])] if len(order) else order
        return boxes[keep], landmarks[keep]

    def _embed(self, crops: list[Image]) -> NDArray[np.float32]:
        """Embeddings of unit length, shape (n, embedding size)."""
        if not crops:
            return np.zeros((0, self.info.embedding_size), np.float32)
        if self._one_by_one:
            raw = np.concatenate([self._recogniser.get_feat([crop]) for crop in crops])
        else:
            raw = np.concatenate(
                [self._embed_batch(crops[at : at + BATCHES[-1]]) for at in range(0, len(crops), BATCHES[-1])]
            )
        unit: NDArray[np.float32] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _embed_batch(self, crops: list[Image]) -> NDArray[np.float32]:
        size = next(size for size in BATCHES if size >= len(crops))
        padded = crops + [np.zeros_like(crops[0])] * (size - len(crops))
        embeddings: NDArray[np.float32] = self._recogniser.get_feat(padded)[: len(crops)]
        return embeddings

    def _providers(self) -> set[str]:
        """The provider each session really runs on."""
        return {model.session.get_providers()[0] for model in (self._detector, self._recogniser)}


def load(settings: FaceSettings) -> InsightFaceEngine:
    """The engine with the pack `MODEL_PACK` out of `MODEL_DIR`, on the device that `DEVICE` asks for.

    Raises:
        EngineUnavailableError: the pack is not there, or the GPU is not.
    """
    available = onnxruntime.get_available_providers()
    if settings.device == "cuda" and CUDA not in available:
        raise EngineUnavailableError(
            f"DEVICE=cuda, but this onnxruntime offers only {', '.join(available)}: "
            "install onnxruntime-gpu instead of onnxruntime, or set DEVICE=cpu."
        )
    on_gpu = settings.device != "cpu" and CUDA in available
    providers = [_cuda(settings.gpu_id), CPU] if on_gpu else [CPU]
    engine = InsightFaceEngine(
        _pack(settings),
        settings.model_pack,
        providers,
        f"cuda:{settings.gpu_id}",
        MIN_SCORE if settings.min_score is None else settings.min_score,
    )
    if settings.device == "cuda" and engine.info.device == "cpu":
        # onnxruntime says nothing of it (onnxruntime issue 23372).
        raise EngineUnavailableError(
            f"DEVICE=cuda, but onnxruntime fell back to the CPU: GPU {settings.gpu_id} is not there, or its driver "
            "does not fit this onnxruntime's CUDA. Compare nvidia-smi with GPU_ID, or set DEVICE=cpu."
        )
    return engine


def _cuda(gpu_id: int) -> tuple[str, dict[str, str]]:
    return CUDA, {"device_id": str(gpu_id), "arena_extend_strategy": "kSameAsRequested"}


def _session_options() -> onnxruntime.SessionOptions:
    # More threads per session slow these small models down; the service runs a process per core instead.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _pack(settings: FaceSettings) -> Path:
    """The directory of the pack's models."""
    name = settings.model_pack
    # As the packs unpack (some hold a directory of their own name), and as insightface itself lays them out.
    candidates = [
        settings.model_dir / way for way in (name, f"{name}/{name}", f"models/{name}", f"models/{name}/{name}")
    ]
    for candidate in candidates:
        if any(candidate.glob("*.onnx")):
            return candidate
    if settings.insightface_license == "non-commercial":
        with redirect_stdout(StringIO()):
            fetched = Path(ensure_available("models", name, root=str(settings.model_dir)))
        return next(directory for directory in (fetched, fetched / name) if any(directory.glob("*.onnx")))
    raise EngineUnavailableError(
        f"The model pack {name} is not in MODEL_DIR={settings.model_dir}: put its .onnx files into "
        f"{candidates[0]}. insightface's pretrained packs are for non-commercial use only; to have one fetched on "
        "those terms, set INSIGHTFACE_LICENSE=non-commercial."
    )


def _digest(*files: str) -> str:
    digest = hashlib.sha256()
    for file in files:
        with Path(file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _box(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(edge) for edge in box[:4])
    return left, top, right, bottom
