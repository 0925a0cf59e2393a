"""From the bytes of a picture to the planes that engines look at; runs in a decoder process.

Nothing is decoded before its format and the number of pixels that will be decoded are known to be acceptable.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pillow_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.common.errors import PermanentError
from app.common.media import HEAD_BYTES, Kind, sniff
from app.gpu import animations, jpegs, sidedata, views
from app.gpu.faces import Image as Pixels
from app.gpu.views import Plane

pillow_heif.register_heif_opener()
# Our own limit is checked before decoding; Pillow's only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None

#: The only decoders a picture can reach (a phone's MPO opens as JPEG).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF", "BMP")
Image.init()

ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")

#: What decides whether a picture is damaged.
DECODER = f"pillow {PIL.__version__}, pillow-heif {pillow_heif.__version__}, simplejpeg {simplejpeg.__version__}"

ORIENTATION = 0x0112

#: Three channels of 8 bits.
PIXEL = np.dtype("V3")

#: From the pixels as stored to upright ones, by EXIF's orientation.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How a picture is decoded."""

    #: Most pixels decoded of one picture.
    max_pixels: int
    #: The engine's side, `EngineInfo.max_side`.
    max_side: int
    #: Called with the number of pixels before they are decoded; may wait until there is room for them.
    admit: Callable[[int], None] = lambda _pixels: None


class Canvas:
    """Memory that planes are put into, one after another."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self._used = 0

    def put(self, pixels: Pixels, *, whole: bool = True, frame: int | None = None) -> Plane:
        """Copy a plane's pixels, unless they lie there already: see `free`.

        Raises:
            PermanentError: there is no room for them; limits and memory do not fit.
        """
        plane = Plane(self._used, pixels.shape[0], pixels.shape[1], whole, frame)
        if plane.end > len(self.memory):
            raise PermanentError("too_many_pixels", "The picture takes more memory than its pixels should.")
        _as_items(plane.pixels(self.memory))[...] = _as_items(pixels)  # numpy leaves it out where both are one
        self._used = plane.end
        return plane

    @property
    def free(self) -> memoryview:
        """Memory where the next plane begins."""
        return self.memory[self._used :]


def _as_items(pixels: Pixels) -> NDArray[np.void]:
    """Pixels as one item each: those that are turned are copied in half the time."""
    items: NDArray[np.void] = pixels.view(PIXEL)[..., 0]
    return items


@dataclass(slots=True)
class Picture:
    """A picture, upright, ready for an engine."""

    #: Size in pixels of the upright picture as stored; boxes are given in these.
    width: int
    height: int
    planes: list[Plane]
    #: What was ignored or not looked at.
    notes: list[str] = field(default_factory=list)


def decode(data: bytes, limits: Limits, canvas: Canvas) -> Picture:
    """Decode a picture upright, a JPEG at the scale that is needed, and put its planes on the canvas.

    What lies beside the pixels is optional: where a decoder stumbles over it, it is left out, and a note says so.

    Raises:
        PermanentError: not a picture, of a format or size that is not accepted, or damaged.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        picture = _leniently(data, limits, canvas)
    # Pillow warns of much that it does not mind; this is of what EXIF is made of.
    if ignored := [warning for warning in said if Path(warning.filename).stem == "TiffImagePlugin"]:
        picture.notes.append(f"Parts of the EXIF data are damaged and were ignored: {ignored[0].message}.")
    return picture


def _leniently(data: bytes, limits: Limits, canvas: Canvas) -> Picture:
    try:
        return _decode(data, limits, canvas)
    except PermanentError as error:
        if error.code not in ("damaged", "truncated") or (lean := sidedata.without(data)) in (None, data):
            raise
        try:
            picture = _decode(lean, limits, canvas)
        except PermanentError:
            raise error from None
        picture.notes.insert(0, f"What lies beside the pixels was ignored, because of this: {error}")
        return picture


def _decode(data: bytes, limits: Limits, canvas: Canvas) -> Picture:
    image = _open(data)
    width, height = image.size
    try:
        if image.format in ("JPEG", "MPO"):
            return _jpeg(data, image, limits, canvas)
        _bound(width * height, limits, width, height)
        if image.format in ANIMATED and getattr(image, "is_animated", False):
            limits.admit(width * height * animations.most_looked_at(width * height, limits.max_pixels))
            return _animation(image, limits, canvas)
        limits.admit(width * height)
        pixels = rgb(image)
        notes: list[str] = []
        upright = _upright(image, notes)
        return _planes(upright(pixels), limits, canvas, notes)
    except (MemoryError, PermanentError):
        raise
    except Exception as error:
        # Decoders raise whatever they like on damaged data: OSError, SyntaxError, ValueError, EOFError …
        raise _damaged(image.format, error) from error


def _open(data: bytes) -> Image.Image:
    """Read the header; no pixel is decoded here."""
    kind = sniff(data[:HEAD_BYTES])
    if kind is Kind.EMPTY:
        raise PermanentError("empty", "The object is empty (0 bytes).")
    if kind is not Kind.IMAGE:
        what = "is of no known media format" if kind is Kind.UNKNOWN else f"holds {kind}, not a picture"
        raise PermanentError("not_an_image", f"The object {what}; accepted are {', '.join(FORMATS)}.")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PermanentError(
            "damaged", "The picture's header is damaged; it cannot be opened.", {"decoder": DECODER}
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(None, error) from error


def _bound(pixels: int, limits: Limits, width: int, height: int, times: int = 1) -> None:
    """Refuse a picture of this size where so many pixels are too many, or so many `times` too many."""
    if pixels > times * limits.max_pixels:
        most = f"{times} times the {limits.max_pixels}" if times > 1 else f"the {limits.max_pixels}"
        raise PermanentError(
            "too_many_pixels",
            f"The picture has {width} × {height} pixels, more than {most} that MAX_IMAGE_PIXELS allows.",
            {"MAX_IMAGE_PIXELS": limits.max_pixels},
        )


def _upright(image: Image.Image, notes: list[str]) -> Callable[[Pixels], Pixels]:
    """How a picture's pixels are turned upright."""
    orientation = 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        stored = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
        if stored and not stored.startswith((b"II", b"MM")):  # of a JPEG Pillow says nothing
            raise ValueError("it does not begin with II or MM")
    except MemoryError:
        raise
    except Exception as error:
        notes.append(f"The EXIF data is damaged and was ignored, its orientation too: {_said(error)}.")
    return UPRIGHT.get(orientation, _as_stored)


def _as_stored(pixels: Pixels) -> Pixels:
    return pixels


def _turned(width: int, height: int, upright: Callable[[Pixels], Pixels]) -> tuple[int, int]:
    """A size, upright."""
    return (height, width) if upright(np.empty((1, 2, 0), np.uint8)).shape[0] == 2 else (width, height)


def _jpeg(data: bytes, image: Image.Image, limits: Limits, canvas: Canvas) -> Picture:
    width, height = image.size
    _bound(width * height, limits, width, height, jpegs.WRITTEN)
    scale = jpegs.eighths(width, height, limits.max_side, limits.max_pixels)
    size = jpegs.size(width, height, scale)
    _bound(size[0] * size[1], limits, width, height)
    # A progressive one's coefficients are all kept in memory.
    limits.admit(width * height if image.info.get("progressive") else size[0] * size[1])
    notes: list[str] = []
    upright = _upright(image, notes)
    # Turned pixels cannot take the place of those that they are turned from.
    pixels = jpegs.decode(data, image.mode, *size, notes, canvas.free if upright is _as_stored else None)
    if pixels is None:  # Pillow, which halves, says what is wrong with it, or bears it
        image.draft(None, size)
        _bound(image.width * image.height, limits, width, height)
        pixels = rgb(image)
    picture = _planes(upright(pixels), limits, canvas, notes)
    picture.width, picture.height = _turned(width, height, upright)
    if scale < 8 and views.is_wide(width, height, limits.max_side):
        picture.notes.append(_reduced(f"{scale}/8"))
    return picture


def rgb(image: Image.Image) -> Pixels:
    """Decode a frame to 8-bit RGB, as stored."""
    image.load()
    if image.mode.startswith(("I", "F")):
        image = _reduce_depth(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _reduce_depth(image: Image.Image) -> Image.Image:
    """More than 8 bits a channel to 8: Pillow's own conversion would clip to white.

    The depth in use is taken from the brightest pixel, because 10-, 12- and 14-bit pictures come in 16-bit files.
    """
    values = np.asarray(image).astype(np.float32)
    values -= min(0.0, float(values.min()))
    bits = max(8, int(np.ceil(np.log2(float(values.max()) + 1))))
    return Image.fromarray((values / 2 ** (bits - 8)).astype(np.uint8))


def _animation(image: Image.Image, limits: Limits, canvas: Canvas) -> Picture:
    notes: list[str] = []
    upright = _upright(image, notes)

    def look() -> Pixels:
        pixels = upright(rgb(image))
        return reduced(pixels, _whole_divisor(pixels, limits.max_side))

    sample = animations.sample(image, look, limits.max_pixels)
    planes = [canvas.put(pixels, frame=number) for number, pixels in sample.frames]
    return Picture(*_turned(*image.size, upright), planes, [*notes, sample.note])


# Planes.


def _planes(pixels: Pixels, limits: Limits, canvas: Canvas, notes: list[str]) -> Picture:
    """The planes of an upright picture."""
    height, width = pixels.shape[:2]
    side = limits.max_side
    if not views.is_wide(width, height, side):
        return Picture(width, height, [canvas.put(reduced(pixels, _whole_divisor(pixels, side)))], notes)
    first = 1
    while views.count(-(-width // first), -(-height // first), side) > views.MAX_VIEWS:
        first += 1
    if first > 1:
        notes.append(_reduced(f"1/{first}"))
    base = reduced(pixels, first)
    *tiled, whole = views.divisors(base.shape[1], base.shape[0], side)
    planes = [canvas.put(reduced(base, divisor), whole=False) for divisor in tiled]
    planes.append(canvas.put(reduced(base, whole)))
    return Picture(width, height, planes, notes)


def reduced(pixels: Pixels, divisor: int) -> Pixels:
    """Pixels averaged over squares of this side."""
    if divisor == 1:
        return pixels
    image: NDArray[np.uint8] = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(divisor))
    return image


def _whole_divisor(pixels: Pixels, side: int) -> int:
    height, width = pixels.shape[:2]
    return max(1, int(max(height, width)) // side)


def _reduced(scale: str) -> str:
    return f"The picture is too large to be looked at at full scale; it was looked at at {scale} of it."


def _damaged(image_format: str | None, error: Exception) -> PermanentError:
    truncated = "truncated" in str(error) or "end of file" in str(error).lower()
    what = "truncated" if truncated else "damaged"
    return PermanentError(what, f"The {image_format or 'picture'} is {what}: {_said(error)}.", {"decoder": DECODER})


def _said(error: Exception) -> str:
    """What a decoder said, which may quote what it read."""
    return (str(error) or type(error).__name__)[:500]
