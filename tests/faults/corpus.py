"""Hostile files: damaged at random, bombs, impossible sizes, two formats at once, names that nobody would choose.

Every file is made from a seed, so that the table of what becomes of them can be made again.
"""

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests import media

Photos = dict[str, bytes]

#: Files damaged at random, of each format.
MUTATIONS = 40


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file: what it is, where it goes, and its bytes."""

    what: str
    bucket: str
    key: str
    data: bytes


def corpus(photos: Photos, seed: int) -> Iterator[Hostile]:
    """The files, in order of what they are."""
    rng = random.Random(seed)
    for what, (bucket, suffix, data) in sound_files(photos).items():
        for number in range(MUTATIONS):
            yield Hostile(f"mutated {what}", bucket, f"mutated/{what} {number}{suffix}", mutate(data, rng))
    for number, (what, suffix, data) in enumerate(bombs()):
        yield Hostile(what, "images", f"bombs/{number}{suffix}", data)
    for number, (what, bucket, suffix, data) in enumerate(absurd(photos)):
        yield Hostile(what, bucket, f"absurd/{number}{suffix}", data)
    for number, (what, suffix, data) in enumerate(polyglots(photos)):
        yield Hostile(what, "images", f"polyglots/{number}{suffix}", data)
    face = media.jpeg(media.portrait(photos))
    for number, name in enumerate(names()):
        yield Hostile("sound picture, hostile name", "images", name, face + struct.pack(">I", number))
    for number in range(10):
        yield Hostile("noise", "images", f"noise/{number}.jpg", rng.randbytes(5000))


def sound_files(photos: Photos) -> dict[str, tuple[str, str, bytes]]:
    """A sound file of each format that is damaged: bucket, suffix, bytes."""
    face = media.portrait(photos)

    def saved(name: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        face.save(buffer, name, **options)
        return buffer.getvalue()

    def frames() -> Iterator[Image.Image]:
        return (media.scene((320, 240), (face, 10 + n * 2, 15)) for n in range(10))

    return {
        "JPEG": ("images", ".jpg", saved("JPEG")),
        "progressive JPEG": ("images", ".jpg", saved("JPEG", progressive=True)),
        "PNG": ("images", ".png", saved("PNG")),
        "WebP": ("images", ".webp", saved("WEBP")),
        "GIF": ("images", ".gif", saved("GIF")),
        "BMP": ("images", ".bmp", saved("BMP")),
        "HEIC": ("images", ".heic", saved("HEIF")),
        "AVIF": ("images", ".avif", saved("AVIF")),
        "MP4": ("videos", ".mp4", media.video(frames())),
        "MKV": ("videos", ".mkv", media.video(frames(), container="matroska")),
        "WebM": ("videos", ".webm", media.video(frames(), container="webm", codec="libvpx-vp9")),
        "MPEG-TS": ("videos", ".ts", media.video(frames(), container="mpegts", codec="mpeg2video")),
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of the ways in which files are damaged, and in some in which they are not."""
    changed = bytearray(data)
    how: Callable[[bytearray, random.Random], None] = rng.choice(
        [_flip_bits, _flip_header, _cut, _zeroes, _repeat, _remove, _extremes, _shuffle]
    )
    how(changed, rng)
    return bytes(changed)


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 10, 200])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 4, 16])):
        data[rng.randrange(4, min(200, len(data)))] = rng.randrange(256)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _zeroes(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice([16, 512, 4096])
    data[at : at + length] = bytes(len(data[at : at + length]))


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice([4, 64, 2048])
    data[at:at] = data[at : at + length] * rng.choice([1, 20])


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(4, len(data))
    del data[at : at + rng.choice([1, 7, 300])]


def _extremes(data: bytearray, rng: random.Random) -> None:
    """Numbers in the headers as large, or as negative, as they go."""
    for _ in range(rng.choice([1, 3, 8])):
        at = rng.randrange(4, max(5, min(2000, len(data) - 4)))
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])


def _shuffle(data: bytearray, rng: random.Random) -> None:
    size = max(1, len(data) // 16)
    parts = [bytes(data[at : at + size]) for at in range(size, len(data), size)]
    rng.shuffle(parts)
    data[size:] = b"".join(parts)


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Small files that say they are large, or are."""
    for side in (20_000, 50_000, 100_000, 2**31 - 1):
        yield "bomb: PNG of many pixels", ".png", png(side, side, b"\0" * 1000)
    for width, height in ((1, 2**31 - 1), (2**31 - 1, 1), (300_000, 300)):
        yield "bomb: PNG of many pixels", ".png", png(width, height, b"\0" * 1000)
    # Within the limit, and every pixel there.
    yield "large PNG within the limit", ".png", png(9_900, 9_900, b"\0" * (9_900 * 9_901))
    yield (
        "bomb: PNG with a compressed comment",
        ".png",
        _with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8), 9)),
    )
    yield (
        "bomb: PNG with a compressed profile",
        ".png",
        _with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8), 9)),
    )
    for width, height in ((65_535, 65_535), (65_500, 65_500), (65_535, 1)):
        yield "bomb: JPEG of many pixels", ".jpg", _jpeg_of(width, height)
        yield (
            "bomb: GIF of many pixels",
            ".gif",
            b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(50),
        )
    for width, height in ((2**31 - 1, 2**31 - 1), (-(2**31), -1), (40_000, -40_000)):
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield "bomb: BMP of many pixels", ".bmp", b"BM" + struct.pack("<IHHI", 10**6, 0, 0, 54) + header + bytes(100)
    frames = [Image.new("P", (500, 500), n % 250) for n in range(400)]
    yield "GIF of 400 frames", ".gif", _animation(frames)
    yield "gzip bomb", ".jpg", gzip.compress(bytes(10**7))
    yield "zip bomb", ".jpg", _zip({f"{n}.bin": bytes(10**6) for n in range(20)})


def absurd(photos: Photos) -> Iterator[tuple[str, str, str, bytes]]:
    """Durations, frame rates and sizes that cannot be meant."""
    face = media.portrait(photos)

    def movie(**options: Any) -> bytearray:
        return bytearray(media.video((media.scene((320, 240), (face, 10 + n, 15)) for n in range(8)), **options))

    for scale, duration in ((1, 2**32 - 1), (2**32 - 1, 1), (0, 1000), (1000, 0)):
        yield (
            "absurd duration, MP4",
            "videos",
            ".mp4",
            _patched(movie(), b"mvhd", 16, struct.pack(">II", scale, duration)),
        )
        yield (
            "absurd duration, MP4",
            "videos",
            ".mp4",
            _patched(movie(), b"mdhd", 16, struct.pack(">II", scale, duration)),
        )
    for delta in (0, 1, 2**32 - 1):
        yield "absurd frame rate, MP4", "videos", ".mp4", _patched(movie(), b"stts", 16, struct.pack(">I", delta))
    for count in (0, 2**31, 2**32 - 1):
        for box in (b"stts", b"stsc", b"stsz", b"stco"):
            at = 16 if box == b"stsz" else 12
            yield "absurd table, MP4", "videos", ".mp4", _patched(movie(), box, at - 4, struct.pack(">I", count))
    for size in ((65_535, 65_535), (1, 1), (0, 0)):
        yield "absurd size, MP4", "videos", ".mp4", _patched(movie(), b"avc1", 28, struct.pack(">HH", *size))
    for rate in (1, 1000):
        frames = [media.numbered((64, 64), n) for n in range(30)]
        yield f"frame rate of {rate}", "videos", ".mkv", media.video(frames, fps=rate, container="matroska")
    nested = b""
    for _ in range(2000):
        nested = struct.pack(">I4s", len(nested) + 8, b"moov") + nested
    yield "boxes 2,000 deep", "videos", ".mp4", _ftyp() + nested
    yield "box larger than the file", "videos", ".mp4", _ftyp() + struct.pack(">I4sQ", 1, b"moov", 2**63)
    yield "box of no size", "videos", ".mp4", _ftyp() + struct.pack(">I4s", 4, b"moov") * 100
    yield "playlist that calls itself a video", "videos", ".mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "list of files that calls itself a video", "videos", ".mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "subtitles that call themselves a video", "videos", ".mkv", b"1\n00:00:00,000 --> 99:00:00,000\nhello\n"
    exif = Image.Exif()
    exif[0x0112] = 99
    yield "orientation that does not exist", "images", ".jpg", media.jpeg(face, exif=exif)
    yield "picture of one pixel", "images", ".png", _saved(Image.new("RGB", (1, 1)), "PNG")
    yield "picture of one row", "images", ".png", _saved(Image.new("RGB", (20_000, 1)), "PNG")


def polyglots(photos: Photos) -> Iterator[tuple[str, str, bytes]]:
    """Two formats in one file."""
    face, clip = media.jpeg(media.portrait(photos)), media.video(media.numbered((64, 64), n) for n in range(5))
    picture = _saved(media.portrait(photos), "PNG")
    page = b"<html><script>alert(1)</script></html>"
    others = {
        "zip": _zip({"a": b"b"}),
        "page": page,
        "program": b"\x7fELF" + bytes(100),
        "video": clip,
        "picture": picture,
    }
    for name, other in others.items():
        yield f"JPEG, then {name}", ".jpg", face + other
        yield f"PNG, then {name}", ".png", picture + other
        yield f"{name}, then JPEG", ".jpg", other + face
        yield f"GIF's signature, then {name}", ".gif", b"GIF89a" + other
        yield f"WebP's signature, then {name}", ".webp", b"RIFF\xff\xff\xff\xffWEBP" + other
    yield "drawing that names a file", ".svg", b'<svg><image href="file:///etc/passwd"/></svg>'
    yield "PostScript", ".jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "PDF", ".jpg", b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n"
    yield "TIFF", ".tif", b"II*\0\x08\0\0\0" + bytes(100)


def names() -> Iterator[str]:
    """Keys that an S3 store takes and that something behind it may stumble over."""
    yield from (
        "names/new\nline.jpg",
        "names/carriage\rreturn.jpg",
        "names/tab\t.jpg",
        "names/..hidden/..jpg",
        "names/...",
        "names/\x1b[31mred\x1b[0m.jpg",
        "names/\x07bell\x08.jpg",
        "names/'single' \"double\" `back`.jpg",
        "names/$(reboot);rm -rf ~ && echo |.jpg",
        "names/%2e%2e%2fetc%2fpasswd",
        "names/%00.jpg",
        "names/%.jpg",
        "names/100% + 1 = a&b?c=d#e.jpg",
        "names/{{7*7}} ${7*7} <%= 7*7 %>.jpg",
        "names/<img src=x onerror=alert(1)>.jpg",
        "names/' OR 1=1; --.jpg",
        "names/\u202egpj.exe",
        "names/\u200b\ufeff.jpg",
        "names/e\u0301.jpg",
        "names/\u00e9.jpg",
        "names/\U0001f600.jpg",
        "names/" + "\u00fc" * 120 + ".jpg",
        "names/ leading and trailing ",
        "names/CON.jpg",
        "names/*.jpg",
        "names/-rf",
        "names/" + "/".join(["d" * 200] * 5)[:1018],
        "names/*?[a-z].jpg",
        "names/a:b|c.jpg",
        "names/~root/.jpg",
    )


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG that says it is of a size, with so much of it."""
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _with_chunk(name: bytes, data: bytes) -> bytes:
    sound = png(10, 10, bytes(110))
    return sound[:33] + _chunk(name, data) + sound[33:]


def _jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that says it is of another size than it is."""
    data = bytearray(media.jpeg(Image.new("RGB", (64, 64))))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _animation(frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _patched(data: bytearray, box: bytes, at: int, value: bytes) -> bytes:
    """A file with other bytes so far behind a box's name."""
    start = data.index(box) + at
    data[start : start + len(value)] = value
    return bytes(data)


def _ftyp() -> bytes:
    return struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom")


def _saved(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()
