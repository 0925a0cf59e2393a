"""The protocol every face engine speaks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from app.gpu.faces import Face, Image

__all__ = ["Engine", "EngineInfo", "EngineUnavailableError", "Face", "Image"]


class EngineUnavailableError(Exception):
    """The engine cannot run as configured: a model is missing, a GPU was required and is not there."""


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
    #: Longest side in pixels that shows the engine all it can use; decoders reduce to it, and not to half of it.
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
    """Detects and embeds faces; one instance per process, used by `EngineInfo.threads` threads."""

    @property
    def info(self) -> EngineInfo: ...

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        """Find and embed the faces of each image, in the order given."""
        ...
