"""A picture, reduced and upright, for people to look at.

Pictures are strangers' bytes. Each is decoded by a process of its own, `python -m app.console.preview`, that is given
no secret and little time and memory; its death costs one look.
"""

import resource
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

from app.console.upstream import RefusedError

#: The longer side of what is shown, in pixels, and its JPEG quality.
SIDE = 1280
QUALITY = 85

#: Most pixels that are decoded: what the index holds was within MAX_IMAGE_PIXELS, whose default this is.
MOST_PIXELS = 100_000_000

#: Seconds and bytes of memory that one picture may take.
SECONDS = 15
MEMORY = 3 * 2**30

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF", "BMP")

ROOT = Path(__file__).parents[2]

#: Pictures decoded at once, over all pages.
_turn = threading.BoundedSemaphore(2)


def preview(data: bytes) -> bytes:
    """A picture as a JPEG of at most `SIDE` pixels a side, upright.

    Raises:
        RefusedError: it cannot be shown.
    """
    command = [sys.executable, "-m", "app.console.preview"]
    with _turn:
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=SECONDS, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
            )
        except subprocess.TimeoutExpired as error:
            raise RefusedError(f"The picture takes more than {SECONDS} s to be decoded.", 422) from error
    if done.returncode:
        raise RefusedError("The picture cannot be decoded here; what was found in it stands below.", 422)
    return done.stdout


def reduce(data: bytes) -> bytes:
    """What the process does."""
    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        image.draft("RGB", (SIDE, SIDE))
        image.thumbnail((SIDE, SIDE))
        shown = ImageOps.exif_transpose(image).convert("RGB")
    out = BytesIO()
    shown.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def main() -> None:
    """Reduce what comes on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    sys.stdout.buffer.write(reduce(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
