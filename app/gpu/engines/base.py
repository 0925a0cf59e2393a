"""The protocol every face engine speaks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

#: An image: height × width × 3, RGB, 8 bits a channel, C-contiguous.
Image = NDArray[np.uint8]


class EngineUnavailableError(Exception):
    """The engine cannot run as configured: a model is missing, a GPU was required and is not there."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face in an image; coordinates in pixels of the array that was analysed."""

    #: Left, top, right, bottom.
    box: tuple[float, float, float, float]
    #: The engine's landmarks as (x, y), float32, shape (n, 2).
    landmarks: NDArray[np.float32]
    #: The detector's confidence, in the detector's own scale; higher is surer.
    score: float
    #: float32, shape (`EngineInfo.embedding_size`,).
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is, for `/health`, the index and the face tracker."""

    engine: str
    #: Pack name and digest of the model files, e.g. `buffalo_l-1a2b3c4d5e6f`; part of the collection's name.
    model_id: str
    #: What inference really runs on: `cpu`, `cuda:0`.
    device: str
    embedding_size: int
    #: How embeddings are compared.
    distance: Literal["cosine", "euclid"]
    #: Two faces nearer than this are taken for one person within one video.
    link_distance: float
    #: Longest side in pixels that shows the engine everything it can use; decoders may reduce to it.
    max_side: int
    #: The least score of a face that is kept.
    min_score: float = 0.0
    #: Most images it takes in one call.
    batch: int = 1
    #: Calls it may have under way at once.
    threads: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Engine(Protocol):
    """Detects and embeds faces; one instance per process, used by one thread at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        """Find and embed the faces of each image, in the order given."""
        ...
