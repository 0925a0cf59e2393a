"""Which frames of an animation are looked at: a few, evenly spread, none without content."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from app.gpu.faces import Image as Pixels

#: Frames looked at.
MOST = 16

#: Frames walked through: so many, or so many times the pixels of the largest picture. Most formats know no other way
#: to a frame than through those before it.
MOST_WALKED = 2000
WALKED_PIXELS = 4

#: A frame none of whose colours deviates more than this from its mean shows nothing.
FLAT = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Frames by their numbers, and what there is to say of the rest."""

    frames: list[tuple[int, Pixels]]
    note: str


def most_looked_at(frame_pixels: int, max_pixels: int) -> int:
    """How many frames of so many pixels are looked at, at most: no more pixels in all than one picture may have."""
    return max(1, min(MOST, max_pixels // max(1, frame_pixels)))


def sample(image: Image.Image, look: Callable[[], Pixels], max_pixels: int) -> Sample:
    """Walk through an animation, however long it turns out to be; `look` gives the pixels of the frame it is at."""
    first = look()
    most = most_looked_at(first.shape[0] * first.shape[1], max_pixels)
    kept: list[tuple[int, Pixels]] = []
    walked, stride, due, ending = 0, 1, True, ""
    pixels = first
    while True:
        due = due or walked % stride == 0
        if due and not _is_flat(pixels):
            kept.append((walked, pixels))
            due = False
        if len(kept) == 2 * most:
            kept, stride = kept[::2], stride * 2
        walked += 1
        if walked == MOST_WALKED or (walked + 1) * image.width * image.height > WALKED_PIXELS * max_pixels:
            ending = ", beyond which it was not decoded"
            break
        try:
            image.seek(walked)
            pixels = look()
        except EOFError:
            break
        except MemoryError:
            raise
        except Exception as error:
            ending = f", beyond which it is damaged: {str(error)[:500] or type(error).__name__}"
            break
    spread = [kept[at * len(kept) // most] for at in range(most)] if len(kept) > most else kept or [(0, first)]
    total = f"the first {walked}{ending}" if ending else str(walked)
    return Sample(spread, f"An animation: {len(spread)} of its frames were looked at, of {total}.")


def _is_flat(pixels: Pixels) -> bool:
    step = max(1, max(pixels.shape[:2]) // 64)
    return float(pixels[::step, ::step].std(axis=(0, 1)).max()) < FLAT
