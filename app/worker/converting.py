"""Frames in other sizes and colours."""

import threading

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

_own = threading.local()


def converted(
    frame: VideoFrame, width: int, height: int, to: str, interpolation: str | None = None
) -> NDArray[np.uint8]:
    """A frame's pixels in a size and a format by its name in ffmpeg; each thread prepares itself for a size once."""
    if not hasattr(_own, "reformatter"):
        _own.reformatter = VideoReformatter()
    made = _own.reformatter.reformat(frame, width, height, format=to, interpolation=interpolation)
    return np.asarray(made.to_ndarray(), np.uint8)
