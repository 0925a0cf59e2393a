"""The demo's pictures: a video made of the photos, and one sheet with every face drawn on it."""

import io
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

#: Size and length of the video.
FRAME = (960, 540)
FPS = 25
SECONDS = 16

#: Width of a picture on the sheet, in pixels, and of its caption's line.
SHEET_WIDTH = 720
CAPTION = 28

COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ff851b", "#b10dc9", "#ffdc00")


def photo_of_one(pictures: dict[str, Path]) -> bytes:
    """A portrait, cut out of the astronaut's photo."""
    buffer = io.BytesIO()
    _open(pictures["astronaut.png"]).crop((120, 0, 400, 300)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def walk_past(pictures: dict[str, Path]) -> bytes:
    """A video in which one person crosses the picture and another passes by for some seconds."""
    one = _open(pictures["astronaut.png"]).crop((100, 0, 400, 300))
    other = _open(pictures["group.jpg"]).crop((420, 220, 620, 460))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w") as output:
            stream = output.add_stream("libx264", rate=FPS)
            stream.width, stream.height = FRAME
            stream.pix_fmt = "yuv420p"
            for number in range(FPS * SECONDS):
                frame = Image.new("RGB", FRAME, "slategray")
                frame.paste(one, (20 + number, 60 + number // 4))
                if 100 < number < 330:
                    frame.paste(other, (760 - 2 * (number - 100), 280))
                output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
            output.mux(stream.encode(None))
        return file.read()


def draw(objects: dict[str, tuple[bytes, dict[str, Any]]], path: Path) -> None:
    """Draw the faces of each object, given as its bytes and the index's answer, on one sheet."""
    tiles = [tile for key, (data, answer) in objects.items() for tile in _tiles(key, data, answer)]
    columns = 2
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    sheet = Image.new(
        "RGB",
        (SHEET_WIDTH * columns, sum(max(tile.height for tile in row) for row in rows)),
        "white",
    )
    y = 0
    for row in rows:
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * SHEET_WIDTH, y))
        y += max(tile.height for tile in row)
    sheet.save(path, quality=90)


def counted(faces: int) -> str:
    """`1 face`, `2 faces`."""
    return f"{faces} face" if faces == 1 else f"{faces} faces"


def _tiles(key: str, data: bytes, answer: dict[str, Any]) -> list[Image.Image]:
    faces = answer["faces"]
    if answer["item"]["kind"] == "image":
        picture = ImageOps.exif_transpose(_open(io.BytesIO(data)))
        return [_tile(picture, [(face, f"{face['score']:.2f}") for face in faces], f"{key}: {counted(len(faces))}")]
    tiles = []
    for number, face in enumerate(faces):
        seen = f"{face['first_seen_s']:.0f} to {face['last_seen_s']:.0f} s, in {face['frames_seen']} frames"
        frame = _frame_at(data, face["best_seen_s"])
        tiles.append(_tile(frame, [(face, seen)], f"{key}: person {number + 1} of {len(faces)}, at their best"))
    return tiles


def _tile(picture: Image.Image, faces: list[tuple[dict[str, Any], str]], caption: str) -> Image.Image:
    scale = SHEET_WIDTH / picture.width
    tile = Image.new("RGB", (SHEET_WIDTH, round(picture.height * scale) + CAPTION), "white")
    tile.paste(picture.resize((SHEET_WIDTH, tile.height - CAPTION)), (0, CAPTION))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(16)
    pen.text((6, 4), caption, "black", font)
    for number, (face, label) in enumerate(faces):
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = (edge * scale for edge in face["box"])
        pen.rectangle((left, top + CAPTION, right, bottom + CAPTION), outline=colour, width=3)
        for x, y in face["landmarks"]:
            pen.ellipse((x * scale - 2, y * scale - 2 + CAPTION, x * scale + 2, y * scale + 2 + CAPTION), fill=colour)
        at = (left, bottom + CAPTION + 2)
        pen.rectangle(pen.textbbox(at, label, font), fill="black")
        pen.text(at, label, "white", font)
    return tile


def _frame_at(data: bytes, seconds: float) -> Image.Image:
    with av.open(io.BytesIO(data), mode="r") as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= seconds - 1 / (2 * FPS):
                return Image.fromarray(frame.to_ndarray(format="rgb24"))
    raise ValueError(f"the video has no frame at {seconds} s")


def _open(source: Path | io.BytesIO) -> Image.Image:
    return Image.open(source).convert("RGB")
