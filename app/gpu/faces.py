"""What goes in and comes out of an engine; imported by decoders too, so it knows nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: An image: height × width × 3, RGB, 8 bits a channel, C-contiguous.
Image = NDArray[np.uint8]


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
    #: The frame of an animation in which it was seen best.
    frame: int | None = None
