"""An engine for tests of what surrounds engines: it does what the first pixel of a view tells it.

Loaded in real engine processes, as `tests.unit.gpu.stand_ins:load`. Its model is the text of `MODEL_DIR/model`.
"""

import os
import resource
import time
from collections.abc import Sequence

import numpy as np

from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face, Image
from app.gpu.settings import EngineSettings

LOADER = "tests.unit.gpu.stand_ins:load"

#: What the first number of a view may say; everything else is a face of that score.
DIE, RAISE, HANG, SLEEP, DIE_IN_COMPANY, FAULTS = 250, 251, 252, 253, 254, 255


class StandIn:
    """Satisfies `Engine`."""

    def __init__(self, settings: EngineSettings, model: str) -> None:
        self.info = EngineInfo(
            engine="stand-in",
            model_id=model,
            device=os.environ.get("STAND_IN_DEVICE", "cpu"),
            embedding_size=2,
            distance="euclid",
            link_distance=0.1,
            max_side=640,
            batch=settings.engine_batch or 1,
            threads=settings.engine_threads or 1,
        )

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        told = [int(image[0, 0, 0]) for image in images]
        if DIE in told or (DIE_IN_COMPANY in told and len(told) > 1):
            os._exit(9)
        if RAISE in told:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if HANG in told:
            time.sleep(600)
        if SLEEP in told:
            time.sleep(0.5)
        return [[self._face(image, len(images))] for image in images]

    def _face(self, image: Image, company: int) -> Face:
        """A face that tells of the view: its size as box, its first number as score, and who was beside it."""
        height, width = image.shape[:2]
        return Face(
            box=(0, 0, width, height),
            landmarks=np.array([(1, 2), (3, 4)], np.float32),
            score=page_faults() if image[0, 0, 0] == FAULTS else float(image[0, 0, 0]),
            embedding=np.array([company, os.getpid()], np.float32),
        )


def page_faults() -> float:
    """How many it costs to allocate what an engine may for a picture."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _blobs = [np.ones(10 * 2**20, np.uint8) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def load(settings: EngineSettings) -> StandIn:
    """Fails where there is no model."""
    model = settings.model_dir / "model"
    if not model.exists():
        raise EngineUnavailableError(f"There is no {model}.")
    return StandIn(settings, model.read_text())


def end(_settings: EngineSettings) -> StandIn:
    """Ends its process, as one that is killed while it loads."""
    os._exit(3)
