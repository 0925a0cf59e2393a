"""`python -m tests.bench.still`: people who enter still scenes unseen, and what seeing them costs in frames.

Scenes are generated, encoded and decoded; in each a real face enters, at a random place, in sizes from the smallest
that an engine finds. Reported is the share of entries that were taken for "the same", and of looks at scenes in which
nothing happened that were taken for a change.
"""

import io
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image, ImageFilter

from app.worker.comparing import Thumbnail, shows_the_same, thumbnail
from infra.local.photos import photos
from tests import media

SIZE = (1600, 900)
MAX_SIDE = 1600
#: Sides in pixels of the faces that enter, and how often each does.
SIDES, ENTRIES = (40, 60, 80, 150), 10
#: Name of a scene: standard deviation of its noise, its flicker in grey levels, x264's quality.
SCENES = {"clean": (0, 0, 23), "noisy": (6, 0, 23), "flickering": (3, 6, 23), "compressed hard": (4, 0, 38)}


def main() -> None:
    portrait = media.portrait({name: path.read_bytes() for name, path in photos().items()}).crop((35, 50, 165, 190))
    print(f"| scene | {' | '.join(f'{side} px missed' for side in SIDES)} | still looks sent |\n|---|" + "---|" * 5)
    for name, (noise, flicker, quality) in SCENES.items():
        missed = [_missed(portrait, side, noise, flicker, quality) for side in SIDES]
        sent = _sent(noise, flicker, quality)
        print(f"| {name} | {' | '.join(f'{share:.0%}' for share in missed)} | {sent:.0%} |")


def _missed(face: Image.Image, side: int, noise: float, flicker: float, quality: int) -> float:
    random = np.random.default_rng(side)
    entering = face.resize((side, side * 14 // 13))
    same = 0
    for entry in range(ENTRIES):
        room = _room(entry)
        place = tuple(int(random.integers(0, limit - 2 * side)) for limit in SIZE)
        with_face = room.copy()
        with_face.paste(entering, (place[0], place[1]))
        before, after = _decoded([room] * 6 + [with_face] * 6, noise, flicker, quality, entry)
        same += shows_the_same(after, before)
    return same / ENTRIES


def _sent(noise: float, flicker: float, quality: int) -> float:
    changes = 0
    for entry in range(ENTRIES):
        before, after = _decoded([_room(entry)] * 12, noise, flicker, quality, entry)
        changes += not shows_the_same(after, before)
    return changes / ENTRIES


def _room(number: int) -> Image.Image:
    """A background with light and some texture."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(60, 200, (9, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    fine = Image.fromarray(random.integers(0, 255, (225, 400, 3), np.uint8)).resize(SIZE)
    return Image.blend(coarse, fine.filter(ImageFilter.GaussianBlur(2)), 0.15)


def _decoded(
    pictures: list[Image.Image], noise: float, flicker: float, quality: int, seed: int
) -> tuple[Thumbnail, Thumbnail]:
    """Thumbnails of the third and the last frame, after compression."""
    options = {"crf": str(quality), "preset": "veryfast"}
    data = media.video(_filmed(pictures, noise, flicker, seed), codec_options=options)
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(video=0))
    return thumbnail(frames[2], MAX_SIDE), thumbnail(frames[-1], MAX_SIDE)


def _filmed(pictures: list[Image.Image], noise: float, flicker: float, seed: int) -> Iterator[Image.Image]:
    random = np.random.default_rng(seed)
    for number, picture in enumerate(pictures):
        light = flicker * (number % 3 - 1)
        pixels = np.asarray(picture, np.float32) + light
        if noise:
            pixels += random.normal(0, noise, pixels.shape).astype(np.float32)
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
