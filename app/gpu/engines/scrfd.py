"""insightface's detector at two sizes, whatever shape the model has, and only faces a recogniser can be given."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.gpu.engines.base import Image

#: A side in pixels at which the detector finds a face that fills the picture, and one for small faces.
SMALL, LARGE = 128, 640

#: insightface's resize to SMALL must leave the shorter side a pixel; beyond this ratio it gets a margin.
MAX_ASPECT = 64

#: Boxes with score, shape (n, 5), and landmarks, shape (n, 5, 2).
Found = tuple[NDArray[np.float32], NDArray[np.float32]]


class Detector:
    """insightface's SCRFD, ready to run."""

    def __init__(self, model: Any, min_score: float) -> None:
        self._model = model
        model.prepare(ctx_id=0, input_size=[(SMALL, SMALL), (LARGE, LARGE)], det_thresh=min_score)
        # insightface opens a session per size at first use: better now than with the first picture.
        model.detect(np.zeros((LARGE, LARGE, 3), np.uint8))

    @property
    def file(self) -> str:
        return str(self._model.model_file)

    @property
    def sessions(self) -> list[Any]:
        return [self._model.session, *self._model.resolution_sessions.values()]

    def detect(self, bgr: Image) -> Found:
        """Faces by falling score, clipped to the picture, without those that have no size there."""
        framed = _within_aspect(bgr)
        boxes, landmarks = self._model.detect(framed)
        native = self._model.static_input_size
        if native is not None and min(native) > SMALL:
            # insightface runs a model of one fixed size at that size only.
            boxes, landmarks = self._merge((boxes, landmarks), self._detect_reduced(framed, native))
        height, width = bgr.shape[:2]
        boxes[:, :4] = boxes[:, :4].clip(0, (width, height, width, height))
        real = (
            (boxes[:, 2] - boxes[:, 0] >= 1)
            & (boxes[:, 3] - boxes[:, 1] >= 1)
            & np.isfinite(landmarks).all(axis=(1, 2))
            # Landmarks in one point give the recogniser's crop no scale.
            & (np.ptp(landmarks, axis=1).max(axis=1) >= 1)
        )
        return boxes[real], landmarks[real].astype(np.float32)

    def _detect_reduced(self, bgr: Image, native: tuple[int, int]) -> Found:
        """What the size SMALL would find: the picture reduced to it, in a corner of the model's own size."""
        scale = SMALL / max(bgr.shape[:2])
        reduced = cv2.resize(bgr, (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))))
        canvas = np.zeros((native[1], native[0], 3), np.uint8)
        canvas[: reduced.shape[0], : reduced.shape[1]] = reduced
        boxes, landmarks = self._model.detect(canvas)
        boxes[:, :4] /= scale
        return boxes, landmarks / scale

    def _merge(self, *passes: Found) -> Found:
        boxes = np.concatenate([boxes for boxes, _ in passes])
        landmarks = np.concatenate([landmarks for _, landmarks in passes])
        keep = self._model.nms(boxes)
        return boxes[keep], landmarks[keep]


def _within_aspect(bgr: Image) -> Image:
    """Black added to the right or below, as insightface does anyway, until the picture is not too narrow."""
    height, width = bgr.shape[:2]
    least = -(-max(height, width) // MAX_ASPECT)
    if min(height, width) >= least:
        return bgr
    return np.pad(bgr, ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0)))
