"""Frames in other sizes and colours."""

import threading

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

_own = threading.local()


def converted(frame: VideoFrame, width: int, height: int, to: str, interpolation: str | None = None) -> VideoFrame:
    """A frame in a size and a format by its name in ffmpeg; each thread prepares itself for a size once."""
    reformatters: dict[str, VideoReformatter] = _own.__dict__
    reformatter = reformatters.get(to) or reformatters.setdefault(to, VideoReformatter())
    return reformatter.reformat(frame, width, height, format=to, interpolation=interpolation)
