"""Media the tests make: videos of any kind, and files that are not what they seem."""

import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pillow_heif
from PIL import Image, ImageDraw

pillow_heif.register_heif_opener()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def portrait(photos: dict[str, bytes]) -> Image.Image:
    """One face, 190 × 210 pixels, out of the astronaut's photo: quick to analyse."""
    return Image.open(io.BytesIO(photos["astronaut.png"])).convert("RGB").crop((130, 20, 320, 230))


def stranger(photos: dict[str, bytes]) -> Image.Image:
    """Another one, out of the group's photo."""
    return Image.open(io.BytesIO(photos["group.jpg"])).convert("RGB").crop((420, 220, 620, 460))


def scene(size: tuple[int, int], *placed: tuple[Image.Image, int, int], background: str = "slategray") -> Image.Image:
    """A frame with pictures placed on it."""
    frame = Image.new("RGB", size, background)
    for picture, x, y in placed:
        frame.paste(picture, (x, y))
    return frame


def numbered(size: tuple[int, int], number: int) -> Image.Image:
    """A frame that differs from every other one."""
    frame = Image.new("RGB", size, (40 + number * 37 % 180, 40 + number * 59 % 180, 40 + number * 83 % 180))
    ImageDraw.Draw(frame).rectangle((number * 13 % size[0], 0, number * 13 % size[0] + 9, size[1]), "white")
    return frame


def video(
    frames: Iterable[Image.Image],
    *,
    fps: int = 10,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    faststart: bool = False,
    codec_options: dict[str, str] | None = None,
    mux_options: dict[str, str] | None = None,
) -> bytes:
    """Frames encoded as a video; `rotation` is stored as a phone stores it, in degrees counter-clockwise."""
    options = {**(mux_options or {}), **({"movflags": "faststart"} if faststart else {})}
    with tempfile.NamedTemporaryFile(suffix=".video") as file:  # faststart moves the index in the file itself
        _encode(file.name, frames, fps, container, codec, pix_fmt, rotation, options, codec_options or {})
        return file.read()


def _encode(
    path: str,
    frames: Iterable[Image.Image],
    fps: int,
    container: str,
    codec: str,
    pix_fmt: str,
    rotation: int,
    options: dict[str, str],
    codec_options: dict[str, str],
) -> None:
    with av.open(path, "w", format=container, options=options) as output:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = output.add_stream(codec, rate=fps, options=codec_options)
                stream.width, stream.height = frame.size
                stream.pix_fmt = pix_fmt
                if rotation:
                    stream.set_display_rotation(rotation)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        output.mux(stream.encode(None))


def audio(container: str = "mp4", codec: str = "aac", seconds: int = 1, cover: bytes | None = None) -> bytes:
    """A tone; with a cover, the picture that players show beside a song."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=44_100)
        picture: Any = None
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            image = Image.open(io.BytesIO(cover))
            picture.width, picture.height = image.size
            picture.pix_fmt = "yuvj420p"
            picture.time_base = Fraction(1, 90_000)
            picture.disposition = av.stream.Disposition.attached_pic
        wave = np.sin(np.arange(1024 * 43 * seconds) / 20).astype(np.float32)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate = 44_100
            frame.pts = start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if cover:
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = picture, 0, 0, True
            output.mux(packet)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    """A PNG that says it has side × side pixels, in a few kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side // 8 + 1) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def streams(
    *lanes: Iterable[Image.Image],
    fps: int = 10,
    container: str = "mp4",
    codec: str = "libx264",
    rotations: Sequence[int] = (),
) -> bytes:
    """A file with several streams of pictures, side by side in time."""
    with tempfile.NamedTemporaryFile(suffix=".video") as file, av.open(file.name, "w", format=container) as output:
        iterators, encoders = [iter(lane) for lane in lanes], []
        first = [next(lane) for lane in iterators]
        for number, picture in enumerate(first):
            stream: Any = output.add_stream(codec, rate=fps)
            stream.width, stream.height = picture.size
            stream.pix_fmt = "yuv420p"
            if rotations and rotations[number]:
                stream.set_display_rotation(rotations[number])
            encoders.append(stream)
        for number, picture in enumerate(first):
            output.mux(encoders[number].encode(_frame(picture)))
        live = set(range(len(iterators)))
        while live:
            for number in sorted(live):
                picture = next(iterators[number], None)  # type: ignore[assignment]
                if picture is None:
                    live.discard(number)
                else:
                    output.mux(encoders[number].encode(_frame(picture)))
        for stream in encoders:
            output.mux(stream.encode(None))
        output.close()  # the index is written last
        return file.read()


def repacked(data: bytes, container: str, change: Callable[[Any], Iterable[Any]]) -> bytes:
    """A video's packets, changed one by one, in a container that may be another."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(buffer, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            for one in change(packet):
                one.stream = stream
                output.mux(one)
    return buffer.getvalue()


def timed(times: Iterable[float], size: tuple[int, int] = (160, 120), container: str = "mp4") -> bytes:
    """A video whose frames are shown at these times, in seconds."""
    base = Fraction(1, 1000)
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        with av.open(file.name, "w", format=container) as output:
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = base
            for number, time in enumerate(times):
                frame = _frame(numbered(size, number))
                frame.pts, frame.time_base = round(time * 1000), base
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return file.read()


def live(frames: Iterable[Image.Image], fps: int = 25) -> bytes:
    """A WebM written as it is recorded: nothing in it says how long it is."""
    written = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return written.write(data)

    with av.open(Pipe(), "w", format="webm", options={"live": "1"}) as output:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = output.add_stream("libvpx", rate=fps, options={"deadline": "realtime", "cpu-used": "8"})
                stream.width, stream.height = frame.size
                stream.pix_fmt = "yuv420p"
            output.mux(stream.encode(_frame(frame)))
        output.mux(stream.encode(None))
    return written.getvalue()


def stating(matroska: bytes, seconds: float) -> bytes:
    """A Matroska file that states another duration."""
    at = matroska.index(b"\x44\x89\x88") + 3
    return matroska[:at] + struct.pack(">d", seconds * 1000) + matroska[at + 8 :]


def all_key(avi: bytes) -> bytes:
    """An AVI whose index calls every frame a key frame."""
    changed, at = bytearray(avi), avi.rindex(b"idx1")
    for entry in range(at + 8, at + 8 + struct.unpack_from("<I", avi, at + 4)[0], 16):
        changed[entry + 4] |= 0x10
    return bytes(changed)


def emptied(avi: bytes, every: int) -> bytes:
    """An AVI, without its index, in which only one frame of so many has data: the others are as before."""
    begin, end = avi.index(b"movi") + 4, avi.rindex(b"idx1")
    body, at, number = bytearray(), begin, 0
    while at + 8 <= end:
        name, size = avi[at : at + 4], struct.unpack_from("<I", avi, at + 4)[0]
        chunk = avi[at : at + 8 + size + size % 2]
        body += name + bytes(4) if name[2:] == b"dc" and number % every else chunk
        number += name[2:] == b"dc"
        at += len(chunk)
    changed = bytearray(avi[:begin] + body)
    struct.pack_into("<I", changed, avi.rindex(b"LIST", 0, begin) + 4, 4 + len(body))
    struct.pack_into("<I", changed, 4, len(changed) - 8)
    return bytes(changed)


def _frame(picture: Image.Image) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
