"""An engine process, started by `app.gpu.inference`: `python -m app.gpu.infer CHANNEL LOADER SETTINGS`.

It never meets a byte of a stranger's file: what it is asked are rectangles of pixels in slots, and what it answers is
data. Over the channel it says what it loaded, and only if that is what the service runs is it given slots, and a line
for each call that it may have under way.
"""

import json
import logging
import mmap
import os
import signal
import sys
import threading
from importlib import import_module
from multiprocessing.connection import Connection
from socket import recv_fds, socket
from typing import Any

import msgpack
import numpy as np

from app.common import logs
from app.gpu.engines.base import Engine, EngineUnavailableError, Face, Image
from app.gpu.settings import EngineSettings

#: Most bytes of the message that comes with the descriptors, and most descriptors; Linux sends no more at once.
MAX_MESSAGE, MAX_FDS = 2**12, 253


def main(arguments: list[str]) -> None:
    """Load the engine, and serve until the service ends."""
    channel_fd, loader, settings = arguments
    # The service ends its processes itself; a Ctrl-C in the terminal must not end a picture in the middle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up("gpu")
    channel = socket(fileno=int(channel_fd))
    try:
        engine = _load(loader, EngineSettings.model_validate_json(settings))
    except EngineUnavailableError as error:
        _say(channel, problem=str(error))
        return
    except Exception as error:
        logging.getLogger(__name__).exception("The engine could not be loaded")
        _say(channel, problem=f"The engine could not be loaded: {type(error).__name__}: {error}")
        return
    _say(channel, info=engine.info.as_dict())
    if not (given := _given(channel)):
        return
    lines, slots = given
    for line in lines:
        threading.Thread(target=_serve, args=(line, engine, slots), daemon=True).start()
    channel.recv(1)  # until the service ends, or lets go of this process
    os._exit(0)  # whatever is under way


def _load(loader: str, settings: EngineSettings) -> Engine:
    module, _, name = loader.partition(":")
    engine: Engine = getattr(import_module(module), name)(settings)
    return engine


def _say(channel: socket, **message: Any) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _given(channel: socket) -> tuple[list[Connection], list[memoryview]] | None:
    """The lines and the slots that the service gives; None if it lets go of this process."""
    message, fds, _, _ = recv_fds(channel, MAX_MESSAGE, MAX_FDS)
    if not message:
        return None
    said = json.loads(message)
    lines, slots = fds[: said["lines"]], fds[said["lines"] :]
    return [Connection(fd) for fd in lines], [
        memoryview(mmap.mmap(fd, said["slot_bytes"], prot=mmap.PROT_READ)) for fd in slots
    ]


def _serve(line: Connection, engine: Engine, slots: list[memoryview]) -> None:
    """Answer the calls of one line, one after the other."""
    while True:
        try:
            asked = line.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        line.send_bytes(_answer(asked, engine, slots))


def _answer(asked: bytes, engine: Engine, slots: list[memoryview]) -> bytes:
    try:
        found = engine.analyse([_pixels(slots, *view) for view in msgpack.unpackb(asked)])
    except MemoryError:
        return _pack({"failed": "it ran out of memory"})
    except Exception as error:
        logging.getLogger(__name__).exception("The engine failed")
        return _pack({"failed": f"{type(error).__name__}: {error}"})
    return _pack({"faces": [[_packed(face) for face in faces] for faces in found]})


def _pixels(
    slots: list[memoryview],
    slot: int,
    offset: int,
    height: int,
    width: int,
    left: int,
    top: int,
    right: int,
    bottom: int,
) -> Image:
    """A rectangle of the plane of this height and width in a slot, as an array of its own lines."""
    plane = np.frombuffer(slots[slot], np.uint8, height * width * 3, offset).reshape(height, width, 3)
    return np.ascontiguousarray(plane[top:bottom, left:right])


def _packed(face: Face) -> tuple[list[float], bytes, float, bytes]:
    landmarks, embedding = (np.asarray(array, "<f4").tobytes() for array in (face.landmarks, face.embedding))
    return [float(edge) for edge in face.box], landmarks, float(face.score), embedding


def _pack(message: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(message)
    return packed


if __name__ == "__main__":
    main(sys.argv[1:])
