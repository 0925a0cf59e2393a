"""dlib: the embedded engine. HOG detector, 5-point predictor, ResNet descriptor, from pip, on the CPU.

The weights are in the public domain (CC0), in the package `face_recognition_models`.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import dlib
import numpy as np

from app.gpu.engines import files
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face, Image
from app.gpu.settings import EngineSettings

PREDICTOR = "shape_predictor_5_face_landmarks.dat"
DESCRIPTOR = "dlib_face_recognition_resnet_model_v1.dat"

#: The detector's window is 80 pixels: pictures up to this side are doubled, so that faces of 40 are found.
UPSAMPLE_BELOW = 720
#: Larger pictures are reduced to this side: at 80 pixels a face still has what the 150-pixel descriptor needs.
MAX_SIDE = 1600
#: A face cut off by the picture's edge is found only with room around it; this share of a side is added.
PADDING = 0.25
#: Scores start at 0; a little above it drops most false alarms and keeps faces half turned away.
MIN_SCORE = 0.25


class DlibEngine:
    """Satisfies `Engine`."""

    def __init__(self, model_dir: Path, min_score: float = MIN_SCORE) -> None:
        predictor, descriptor = model_dir / PREDICTOR, model_dir / DESCRIPTOR
        with files.unchanged(model_dir):
            digest = hashlib.sha256(predictor.read_bytes() + descriptor.read_bytes()).hexdigest()[:12]
            self._predictor = dlib.shape_predictor(str(predictor))
            self._descriptor = dlib.face_recognition_model_v1(str(descriptor))
        self._min_score = min_score
        self._detector = dlib.get_frontal_face_detector()
        self.info = EngineInfo(
            engine="dlib",
            model_id=f"dlib_resnet_v1-{digest}",
            device="cpu",
            embedding_size=128,
            distance="euclid",
            # dlib's own threshold for one person is 0.6; inside one video a stricter one keeps strangers apart.
            link_distance=0.5,
            max_side=MAX_SIDE,
            min_score=min_score,
        )

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        return [self._analyse(image) for image in images]

    def _analyse(self, image: Image) -> list[Face]:
        height, width = image.shape[:2]
        scale = max(1.0, max(height, width) / MAX_SIDE)
        if scale > 1:
            image = dlib.resize_image(image, rows=round(height / scale), cols=round(width / scale))
        rows, columns = image.shape[:2]
        pad = round(PADDING * min(rows, columns))
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        upsample = 1 if max(rows, columns) <= UPSAMPLE_BELOW else 0
        boxes, scores, _ = self._detector.run(padded, upsample, self._min_score)
        return [
            self._embed(padded, box, score, pad, scale, (width, height))
            for box, score in zip(boxes, scores, strict=True)
        ]

    def _embed(
        self,
        padded: Image,
        box: "dlib.rectangle",
        score: float,
        pad: int,
        scale: float,
        size: tuple[int, int],
    ) -> Face:
        shape = self._predictor(padded, box)
        embedding = self._descriptor.compute_face_descriptor(padded, shape)
        corners = [(edge - pad) * scale for edge in (box.left(), box.top(), box.right(), box.bottom())]
        width, height = size
        return Face(
            box=(max(0.0, corners[0]), max(0.0, corners[1]), min(width, corners[2]), min(height, corners[3])),
            landmarks=(np.array([(p.x, p.y) for p in shape.parts()], np.float32) - pad) * np.float32(scale),
            score=float(score),
            embedding=np.array(embedding, np.float32),
        )


def load(settings: EngineSettings) -> DlibEngine:
    """The engine with the weights that pip installed.

    Raises:
        EngineUnavailableError: the weights are not installed, or a GPU is required.
    """
    if settings.device == "cuda":
        raise EngineUnavailableError(
            "DEVICE=cuda, but the engine dlib runs on the CPU only: set ENGINE=insightface or DEVICE=cpu."
        )
    # Importing the package would import pkg_resources, which no longer exists.
    package = find_spec("face_recognition_models")
    if package is None or package.origin is None:
        raise EngineUnavailableError("dlib's weights are missing: pip install face-recognition-models.")
    minimum = MIN_SCORE if settings.min_score is None else settings.min_score
    return DlibEngine(Path(package.origin).parent / "models", minimum)
