"""Whether a frame shows anything, and anything new, to an engine that finds small faces."""

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from app.worker.converting import converted

#: Frames are compared as grey pictures, a pixel for each square of this side in the frame as the engine gets it.
BLOCK = 8
#: What must change: a square of this many blocks, 24 pixels, a little over half of the smallest face that an engine
#: finds (40 pixels), so that wherever such a face appears it covers one whole.
CHANGED = 3
#: Grey levels, of 0 to 255, that such a square must change by on average, beside what changes everywhere: noise,
#: and light that flickers. In much noise it is more, up to a bound.
LEAST_CHANGE = 4.0
MOST_CHANGE = 10.0
NOISES = 3.0
#: Grey levels by which light flickers; more is a light that was switched.
MOST_FLICKER = 16.0

#: A frame that is sharper than the one before by this factor, in the energy of its finest detail, shows more.
SHARPER = 1.25
#: Energy, in squared grey levels, that tells nothing: that of noise.
NO_DETAIL = 4.0

#: A frame whose blocks differ by less than this, in grey levels, is of one colour: black, white or empty.
BLANK_RANGE = 12

#: height × width in blocks, grey levels.
Thumbnail = NDArray[np.int16]


def thumbnail(frame: VideoFrame, max_side: int) -> Thumbnail:
    """A frame as it is compared; `max_side` is the longest side of the frames that the engine gets."""
    side = BLOCK * max(1.0, max(frame.width, frame.height) / max_side)
    size = max(CHANGED, round(frame.width / side)), max(CHANGED, round(frame.height / side))
    return converted(frame, *size, "gray", "AREA").to_ndarray().astype(np.int16)


def is_blank(one: Thumbnail) -> bool:
    """Whether there is nothing in it but one colour."""
    return int(one.max()) - int(one.min()) < BLANK_RANGE


def shows_the_same(one: Thumbnail, before: Thumbnail) -> bool:
    """Whether no face can have come, gone, moved or become clearer since the frame before."""
    if one.shape != before.shape or _detail(one) > SHARPER * _detail(before) + NO_DETAIL:
        return False
    difference = (one - before).astype(np.float32)
    light = float(np.median(difference))
    changed = _means(np.abs(difference - light))
    if abs(light) > MOST_FLICKER:
        return False
    bound = min(LEAST_CHANGE + NOISES * float(np.median(changed)), MOST_CHANGE)
    return float(changed.max()) < bound


def _means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over all squares of `CHANGED` × `CHANGED`."""
    height, width = (side - CHANGED + 1 for side in values.shape)
    rows = np.add.reduce([values[:, at : at + width] for at in range(CHANGED)])
    return np.asarray(np.add.reduce([rows[at : at + height] for at in range(CHANGED)]) / np.float32(CHANGED**2))


def _detail(one: Thumbnail) -> float:
    """Energy of what differs from block to block."""
    inner = 4 * one[1:-1, 1:-1] - one[:-2, 1:-1] - one[2:, 1:-1] - one[1:-1, :-2] - one[1:-1, 2:]
    return float(np.mean(inner.astype(np.float32) ** 2))
