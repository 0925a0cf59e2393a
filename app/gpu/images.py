"""From the bytes of a picture to the pixels an engine sees.

Nothing is decoded before its format, its size in bytes and its size in pixels are known to be acceptable.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from app.common.errors import PermanentError
from app.common.media import Kind, sniff
from app.gpu.engines.base import Image as Pixels

pillow_heif.register_heif_opener()
# Our own limit is checked before decoding; Pillow's only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None

#: The only decoders a picture can reach (a phone's MPO opens as JPEG).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF", "BMP")
Image.init()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture, upright, ready for an engine."""

    #: height × width × 3, RGB.
    pixels: Pixels
    #: Size in pixels of the upright picture as stored; boxes are given in these.
    width: int
    height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Factors (x, y) from coordinates in `pixels` to coordinates in the stored picture."""
        return self.width / self.pixels.shape[1], self.height / self.pixels.shape[0]


def decode(data: bytes, *, max_pixels: int, max_side: int) -> DecodedImage:
    """Decode a picture upright, a large JPEG at reduced scale.

    `max_side` is the longest side in pixels the engine has a use for: a JPEG is reduced by the largest power of
    two that leaves at least that much.

    Raises:
        PermanentError: not a picture, of a format or size that is not accepted, or damaged.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise PermanentError(
            "too_many_pixels",
            f"The picture has {width} × {height} pixels, more than the {max_pixels} that MAX_IMAGE_PIXELS allows.",
        )
    if image.format in ("JPEG", "MPO") and max(width, height) > max_side:
        shrink = max_side / max(width, height)
        image.draft(None, (max(1, round(width * shrink)), max(1, round(height * shrink))))
    try:
        upright = ImageOps.exif_transpose(_to_rgb(image))
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever they like on damaged data: OSError, SyntaxError, ValueError, EOFError …
        raise _damaged(image.format, error) from error
    if (upright.width < upright.height and width > height) or (upright.width > upright.height and width < height):
        width, height = height, width
    return DecodedImage(np.ascontiguousarray(upright), width, height)


def _open(data: bytes) -> Image.Image:
    """Read the header; no pixel is decoded here."""
    kind = sniff(data[:512])
    if kind is Kind.EMPTY:
        raise PermanentError("empty", "The object is empty (0 bytes).")
    if kind is not Kind.IMAGE:
        what = "is of no known media format" if kind is Kind.UNKNOWN else f"holds {kind}, not a picture"
        raise PermanentError("not_an_image", f"The object {what}; accepted are {', '.join(FORMATS)}.")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PermanentError("damaged", "The picture's header is damaged; it cannot be opened.") from error
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(None, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame to 8-bit RGB, keeping the EXIF orientation."""
    image.load()
    if image.mode.startswith(("I", "F")):
        return _reduce_depth(image)
    return image.convert("RGB")


def _reduce_depth(image: Image.Image) -> Image.Image:
    """More than 8 bits a channel to 8: Pillow's own conversion would clip to white.

    The depth in use is taken from the brightest pixel, because 10-, 12- and 14-bit pictures come in 16-bit files.
    """
    values = np.asarray(image).astype(np.float32)
    values -= min(0.0, float(values.min()))
    bits = max(8, int(np.ceil(np.log2(float(values.max()) + 1))))
    reduced = Image.fromarray((values / 2 ** (bits - 8)).astype(np.uint8)).convert("RGB")
    reduced.info, reduced.getexif()[0x0112] = image.info, image.getexif().get(0x0112, 1)
    return reduced


def _damaged(image_format: str | None, error: Exception) -> PermanentError:
    truncated = "truncated" in str(error) or "end of file" in str(error).lower()
    what = "truncated" if truncated else "damaged"
    return PermanentError(what, f"The {image_format or 'picture'} is {what}: {error or type(error).__name__}.")
