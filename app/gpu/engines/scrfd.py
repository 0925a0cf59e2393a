"""insightface's detector at two sizes, whatever shape the model has, and only faces a recogniser can be given."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.gpu.engines.base import Image

#: A side in pixels at which the detector finds a face that fills the picture, and one for small faces.
SMALL, LARGE = 128, 640

#: insightface's resize to SMALL must leave the shorter side a pixel; beyond this ratio it gets a margin.
MAX_ASPECT = 64

#: Images that go through a model at once, where it can take several: CUDA's arena grows with every new number.
BATCHES = (1, 4, 8, 16)

#: How far what a model finds in an image may differ by what is beside it in its batch.
TOLERANCE = 1e-3

#: Boxes with score, shape (n, 5), and landmarks, shape (n, 5, 2).
Found = tuple[NDArray[np.float32], NDArray[np.float32]]


class Detector:
    """insightface's SCRFD, ready to run."""

    def __init__(self, model: Any, min_score: float) -> None:
        self._model = model
        model.prepare(ctx_id=0, input_size=[(SMALL, SMALL), (LARGE, LARGE)], det_thresh=min_score)
        # insightface opens a session per size at first use: better now than with the first picture.
        model.detect(np.zeros((LARGE, LARGE, 3), np.uint8))
        #: Whether several images may go through the model at once. The shipped ones have a batch of 1 baked in, some
        #: only where it does not show (deepinsight/insightface issues 2878, 2879).
        self.batched = _declares_batch(model) and self._keeps_images_apart()

    @property
    def file(self) -> str:
        return str(self._model.model_file)

    @property
    def sessions(self) -> list[Any]:
        return [self._model.session, *self._model.resolution_sessions.values()]

    def detect_all(self, images: Sequence[Image]) -> list[Found]:
        """As `detect`, for each image; all at once where the model can."""
        if not self.batched or len(images) < 2:
            return [self.detect(image) for image in images]
        found: list[Found] = []
        for at in range(0, len(images), BATCHES[-1]):
            framed = [_within_aspect(image) for image in images[at : at + BATCHES[-1]]]
            answers = {size: self._run(framed, size) for size in self._model.input_sizes}
            for number, image in enumerate(framed):
                boxes, landmarks = _answering(self._model, answers, number).detect(image)
                found.append(_real(boxes, landmarks, images[at + number].shape))
        return found

    def detect(self, bgr: Image) -> Found:
        """Faces by falling score, clipped to the picture, without those that have no size there."""
        framed = _within_aspect(bgr)
        boxes, landmarks = self._model.detect(framed)
        native = self._model.static_input_size
        if native is not None and min(native) > SMALL:
            # insightface runs a model of one fixed size at that size only.
            boxes, landmarks = self._merge((boxes, landmarks), self._detect_reduced(framed, native))
        return _real(boxes, landmarks, bgr.shape)

    def _run(self, images: Sequence[Image], size: tuple[int, int]) -> list[NDArray[np.float32]]:
        """The model's outputs for a batch of images, each scaled to a size as insightface does."""
        batch = next(batch for batch in BATCHES if batch >= len(images))
        canvases = np.zeros((batch, size[1], size[0], 3), np.uint8)
        for canvas, image in zip(canvases, images, strict=False):
            ratio = image.shape[0] / image.shape[1]
            tall = ratio > size[1] / size[0]
            width, height = (int(size[1] / ratio), size[1]) if tall else (size[0], int(size[0] * ratio))
            canvas[:height, :width] = cv2.resize(image, (width, height))
        mean = self._model.input_mean
        blob = cv2.dnn.blobFromImages(
            list(canvases), 1 / self._model.input_std, size, (mean, mean, mean), swapRB=True
        )
        outputs: list[NDArray[np.float32]] = self._model.session.run(
            self._model.output_names, {self._model.input_name: blob}
        )
        return outputs

    def _keeps_images_apart(self) -> bool:
        """Whether a batch gives for each image what the image gives alone."""
        noise = list(np.random.default_rng(0).integers(0, 256, (3, SMALL, SMALL, 3), np.uint8))
        try:
            together = self._run(noise, (SMALL, SMALL))
            alone = [self._run([image], (SMALL, SMALL)) for image in noise]
        except Exception:  # of onnxruntime, where a graph takes no batch
            return False
        return all(
            len(batch) > number
            and batch[number].shape == one[0].shape
            and np.allclose(batch[number], one[0], atol=TOLERANCE)
            for number, outputs in enumerate(alone)
            for batch, one in zip(together, outputs, strict=True)
        )

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


def _declares_batch(model: Any) -> bool:
    """Whether a model of any size says that it takes any number of images, and answers for each."""
    return model.static_input_size is None and model.batched and not isinstance(model.input_shape[0], int)


class _Session:
    """In the place of onnxruntime's: has the answer already."""

    def __init__(self, outputs: list[NDArray[np.float32]]) -> None:
        self._outputs = outputs

    def run(self, _names: object, _feed: object) -> list[NDArray[np.float32]]:
        return self._outputs


def _answering(model: Any, answers: dict[tuple[int, int], list[NDArray[np.float32]]], number: int) -> Any:
    """insightface's detector that does not run its model again for an image of a batch; what follows is its own."""
    alike = copy(model)
    alike._session_for_input_size = lambda size: _Session([output[number : number + 1] for output in answers[size]])
    alike._prepare_input_blob = lambda _image, size: np.empty((1, 3, size[1], size[0]), np.float32)
    return alike


def _real(boxes: NDArray[np.float32], landmarks: NDArray[np.float32], shape: tuple[int, ...]) -> Found:
    """Faces clipped to a picture of this shape, without those that have no size there."""
    height, width = shape[:2]
    boxes[:, :4] = boxes[:, :4].clip(0, (width, height, width, height))
    real = (
        (boxes[:, 2] - boxes[:, 0] >= 1)
        & (boxes[:, 3] - boxes[:, 1] >= 1)
        & np.isfinite(landmarks).all(axis=(1, 2))
        # Landmarks in one point give the recogniser's crop no scale.
        & (np.ptp(landmarks, axis=1).max(axis=1) >= 1)
    )
    return boxes[real], landmarks[real].astype(np.float32)
