"""A decoder process, started by `app.gpu.decoding`: `python -m app.gpu.decode CHANNEL MAX_PIXELS MAX_SIDE SLOT_FD…`.

It meets strangers' bytes, so it is given nothing else: an environment without secrets, no model, a channel to the
face service, and slots to put pixels into. Once started it can open nothing any more, no file and no connection, and
can reach no other process.

The channel carries, from the service, `{"slot", "bytes", "seconds"}` as a line of JSON and then the picture; back go
lines of JSON, see `app.gpu.decoding`.
"""

import importlib
import json
import mmap
import os
import resource
import signal
import sys
import time
from io import BytesIO
from socket import socket
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from app.common.errors import PermanentError
from app.gpu import images
from app.gpu.confine import confine
from app.gpu.slots import slot_bytes

#: Memory in bytes that one picture may take beside what the process holds: a part for every pixel that is allowed
#: (WebP, the greediest format, was seen to take 22), and one for what does not grow with the picture.
MEMORY_PER_PIXEL = 40
MEMORY = 2**30

#: Seconds beyond a picture's time after which the kernel ends a decoder that the service did not end.
GRACE = 5

#: Decoders import these when a picture wants them, and then nothing can be opened any more.
LATE = (
    *(f"encodings.{name}" for name in ("ascii", "latin_1", "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32")),
    *(f"PIL.{name}" for name in ("ImageCms", "ImageColor", "ImagePalette", "MpoImagePlugin", "TiffImagePlugin")),
    "xml.etree.ElementTree",
)


def main(arguments: list[str]) -> None:
    """Serve until the channel ends."""
    channel_fd, max_pixels, max_side, *slot_fds = (int(argument) for argument in arguments)
    channel = socket(fileno=channel_fd)
    memory = [memoryview(mmap.mmap(fd, slot_bytes(max_pixels))) for fd in slot_fds]
    _warm_up()
    status = os.open("/proc/self/statm", os.O_RDONLY)
    confine()
    _say(channel, kind="ready", decoder=images.DECODER)
    with channel.makefile("rb") as requests:
        while request := _next(requests):
            slot, seconds, data = request
            _bound_memory(status, max_pixels)
            _say(channel, **_answer(data, memory[slot], _limits(channel, requests, seconds, max_pixels, max_side)))


def _next(requests: BinaryIO) -> tuple[int, float, bytes] | None:
    head = requests.readline()
    if not head:
        return None
    asked = json.loads(head)
    return asked["slot"], asked["seconds"], requests.read(asked["bytes"])


def _limits(channel: socket, requests: BinaryIO, seconds: float, max_pixels: int, max_side: int) -> images.Limits:
    def admit(pixels: int) -> None:
        if pixels <= max_side**2:
            return  # for so many there is room in each slot
        # Waiting for room is not the picture's time.
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        _say(channel, kind="admit", pixels=pixels)
        if not requests.readline():
            sys.exit()
        signal.setitimer(signal.ITIMER_REAL, left or seconds + GRACE)

    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
    return images.Limits(max_pixels, max_side, admit)


def _answer(data: bytes, memory: memoryview, limits: images.Limits) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        picture = images.decode(data, limits, images.Canvas(memory))
    except PermanentError as error:
        return {"kind": "rejected", "code": error.code, "message": error.message, "judged_by": error.judged_by}
    except MemoryError:
        return {"kind": "out_of_memory"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {
        "kind": "decoded",
        "width": picture.width,
        "height": picture.height,
        "planes": [
            {"offset": p.offset, "height": p.height, "width": p.width, "whole": p.whole, "frame": p.frame}
            for p in picture.planes
        ],
        "notes": picture.notes,
        "decode_ms": (time.perf_counter() - started) * 1000,
    }


def _say(channel: socket, **message: Any) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _warm_up() -> None:
    """Have everything loaded that decoding needs."""
    for name in LATE:
        importlib.import_module(name)
    sample = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    for format_name in images.FORMATS:
        buffer = BytesIO()
        sample.save(buffer, format_name, exif=exif)
        canvas = images.Canvas(memoryview(bytearray(2**10)))
        images.decode(buffer.getvalue(), images.Limits(max_pixels=2**10, max_side=64), canvas)


def _bound_memory(status: int, max_pixels: int) -> None:
    """Have a picture that wants more memory than any picture needs fail, before the machine runs out of it.

    Counted from what the process holds by now: were the limit fixed, whatever libraries keep from picture to picture
    would at last have sound ones look damaged.
    """
    held = int(os.pread(status, 256, 0).split()[5]) * mmap.PAGESIZE
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY + MEMORY_PER_PIXEL * max_pixels, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
