"""`python -m tests.bench.found`: what an engine finds, by height and turn of the face, and what wide pictures cost.

Prints the tables of docs/engines.md, or those named (`heights`, `turns`, `wide`, `scales`), for the engine that
ENGINE, MODEL_DIR and MODEL_PACK choose.
"""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psutil
import simplejpeg
from PIL import Image

from app.gpu import views
from app.gpu.decoding import Decoders
from app.gpu.engines import load
from app.gpu.engines.base import Engine
from app.gpu.faces import Face
from app.gpu.settings import FaceSettings
from infra.local.photos import photos as fetch_photos
from tests.bench.scenes import Head, Placed, found_of, heads, scene, wide

HEIGHTS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 240, 320)
SIZES = ((640, 480), (1280, 960), (1600, 1200), (4000, 3000), (8000, 2000))
TURNS = (0, 10, 20, 30, 45, 60, 90, 180)
WIDE = ((4000, 3000), (6000, 1000), (8000, 2000), (12_000, 3000), (30_000, 3000), (1080, 15_000))
#: Widths to which the group of six is scaled.
SCALED = (1280, 1700, 2100, 2600, 3200, 4032, 5000, 6400)

#: Faces looked for, for each number of a table: two of each head.
FACES = 14


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a picture."""

    faces: list[Face]
    views: int
    #: CPU time in seconds.
    decoding: float
    looking: float


Row = tuple[str, Iterable[str]]
Look = Callable[[bytes], Seen]


def main() -> None:
    """Print the tables."""
    settings = FaceSettings()
    engine = load(settings)
    photos = {name: path.read_bytes() for name, path in fetch_photos().items()}
    known = heads(photos)
    print(f"Engine `{engine.info.engine}`, model `{engine.info.model_id}`, side {engine.info.max_side}.\n")
    with closing(Decoders(settings, number=1, slots=1, max_side=engine.info.max_side)) as decoders:

        def look(data: bytes) -> Seen:
            return _look(data, decoders, engine)

        wide_columns = ("found at once", "found in parts", "views", "decoding (CPU s)", "looking (CPU s)")
        tables: dict[str, tuple[str, Sequence[object], Iterable[Row]]] = {
            "heights": ("Face's height (px) in a picture of", HEIGHTS, _by_height(known, look)),
            "turns": ("In-plane turn (degrees), faces of", TURNS, _by_turn(known, look)),
            "wide": ("Picture", wide_columns, _wide(photos, engine, look)),
            "scales": ("Group of six, scaled to", SCALED, _scaled(photos["group.jpg"], engine, look)),
        }
        for name in sys.argv[1:] or tables:
            _table(*tables[name])


def _look(data: bytes, decoders: Decoders, engine: Engine) -> Seen:
    info = engine.info
    decoder = psutil.Process(decoders.pids[0])
    before = decoder.cpu_times()
    with decoders.decode(data) as decoded:
        after, started = decoder.cpu_times(), time.process_time()
        looked = views.views(decoded.planes, info.max_side)
        found = [(view, engine.analyse([view.pixels(decoded.slot.memory)])[0]) for view in looked]
        faces = views.faces(found, (decoded.width, decoded.height), info.distance, info.link_distance)
        decoding = after.user + after.system - before.user - before.system
        return Seen(faces, len(looked), decoding, time.process_time() - started)


def _by_height(known: list[Head], look: Look) -> Iterator[Row]:
    for width, height in SIZES:
        yield f"{width} × {height}", (_share(known, look, (width, height), of) for of in HEIGHTS)


def _by_turn(known: list[Head], look: Look) -> Iterator[Row]:
    for height in (96, 160):
        yield f"{height} px", (_share(known, look, (1600, 1200), height, turned) for turned in TURNS)


def _share(known: list[Head], look: Look, size: tuple[int, int], height: int, turned: float = 0) -> str:
    """The share of faces found, each head twice, in as many pictures as have room for them; – if none has."""
    found = missing = 0
    for seed in range(FACES):
        left = FACES - found - missing
        picture, placed = scene(known, size, [height] * left, turned=turned, seed=seed)
        if not placed:
            return "–"
        seen = look(_jpeg(picture))
        hits = sum(found_of(one, seen.faces) > 0 for one in placed)
        found, missing = found + hits, missing + len(placed) - hits
        if found + missing == FACES:
            break
    return f"{100 * found / (found + missing):.0f} %"


def _wide(photos: dict[str, bytes], engine: Engine, look: Look) -> Iterator[Row]:
    for size in WIDE:
        data, placed = wide(photos, size)
        seen, [at_once] = look(data), engine.analyse([simplejpeg.decode_jpeg(data, "RGB")])
        found = (f"{_found(placed, faces)} of {len(placed)}" for faces in (at_once, seen.faces))
        yield f"{size[0]} × {size[1]}", (*found, str(seen.views), f"{seen.decoding:.2f}", f"{seen.looking:.1f}")


def _found(placed: Sequence[Placed], faces: list[Face]) -> int:
    return sum(found_of(one, faces) > 0 for one in placed)


def _scaled(group: bytes, engine: Engine, look: Look) -> Iterator[Row]:
    photo = Image.open(io.BytesIO(group)).convert("RGB")
    files = [_jpeg(photo.resize((width, width * photo.height // photo.width))) for width in SCALED]
    before = [engine.analyse([_halved(data, engine.info.max_side)])[0] for data in files]
    after = [look(data).faces for data in files]
    yield "faces, decoded in halves by Pillow", (str(len(faces)) for faces in before)
    yield "faces, decoded in eighths", (str(len(faces)) for faces in after)
    yield (
        "distance of their embeddings, at most",
        (f"{_apart(*pair):.2f}" for pair in zip(before, after, strict=True)),
    )


def _halved(data: bytes, side: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Decoded as it was before: at a half, a quarter or an eighth that leaves no less than the engine's side."""
    image = Image.open(io.BytesIO(data))
    shrink = min(1, side / max(image.size))
    image.draft("RGB", (round(image.width * shrink), round(image.height * shrink)))
    return np.asarray(image)


def _apart(before: list[Face], after: list[Face]) -> float:
    """How far the embedding of a face moved, of the face that moved most."""
    return max(min(float(np.linalg.norm(one.embedding - other.embedding)) for other in after) for one in before)


def _jpeg(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    return data.getvalue()


def _table(what: str, columns: Sequence[object], rows: Iterable[Row]) -> None:
    print(f"| {what} | " + " | ".join(map(str, columns)) + " |")
    print("|---" + "|--:" * len(columns) + "|")
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()


if __name__ == "__main__":
    main()
