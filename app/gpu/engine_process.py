"""An engine process, as the service sees it: started, told apart from others by what it loaded, and asked.

Both ways go plain data (JSON, msgpack), and pixels through slots. See `app.gpu.infer` for its inside.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from socket import send_fds, socketpair
from typing import Any, NamedTuple, Protocol

import msgpack
import numpy as np

from app.common.settings import SECRET_WORDS
from app.gpu import environment
from app.gpu.ends import end_seen
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face
from app.gpu.settings import EngineSettings, FaceSettings

ROOT = Path(__file__).resolve().parents[2]

#: Seconds for an engine to load its models; a large pack on a cold disk and a new CUDA context take a while.
LOAD_TIMEOUT = 300

#: Most bytes in which a process says what it loaded.
MAX_LINE = 2**16


class Memory(Protocol):
    """A slot: pixels that the engine may read."""

    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...


class Pixels(NamedTuple):
    """A rectangle of a plane of pixels in a slot, at which an engine looks in one go."""

    #: Number of the slot, where in it the plane begins in bytes, and the plane's size in pixels.
    slot: int
    offset: int
    height: int
    width: int
    #: The rectangle.
    left: int
    top: int
    right: int
    bottom: int


class NotAskedError(Exception):
    """The process had ended before it was asked anything."""


class FailedError(Exception):
    """The process ended over a question, or its engine failed; the message says how."""


class EngineProcess:
    """A process that loads an engine; `loaded`, then `give`, then `ask` from as many threads as there are lines."""

    def __init__(self, settings: FaceSettings, loader: str) -> None:
        self._channel, theirs = socketpair()
        told = settings.model_copy(update={"model_dir": settings.model_dir.absolute()}).model_dump_json(
            include=set(EngineSettings.model_fields)
        )
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "app.gpu.infer", str(theirs.fileno()), loader, told],
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._lines: list[Connection] = []

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def loaded(self) -> EngineInfo:
        """What the engine is, once its models are loaded.

        Raises:
            EngineUnavailableError: they cannot be.
        """
        deadline, said = time.monotonic() + LOAD_TIMEOUT, b""
        while not said.endswith(b"\n"):
            self._channel.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                more = self._channel.recv(MAX_LINE)
            except TimeoutError as error:
                raise EngineUnavailableError(
                    f"The engine process did not load its models within {LOAD_TIMEOUT} s."
                ) from error
            except OSError:
                more = b""
            if not more:
                raise EngineUnavailableError(
                    f"The engine process ended while it loaded its models: {end_seen(self._popen)}."
                )
            said += more
        answer = json.loads(said)
        if "problem" in answer:
            raise EngineUnavailableError(answer["problem"])
        return EngineInfo(**answer["info"])

    def give(self, slots: Sequence[Memory], lines: int) -> list[Connection]:
        """Let it see these slots, and have as many calls under way as there are lines; return the lines.

        Raises:
            NotAskedError: it has ended.
        """
        pairs = [socketpair() for _ in range(lines)]
        self._lines = [Connection(ours.detach()) for ours, _ in pairs]
        message = json.dumps({"lines": lines, "slot_bytes": slots[0].size}).encode()
        try:
            send_fds(
                self._channel, [message], [*(theirs.fileno() for _, theirs in pairs), *(slot.fd for slot in slots)]
            )
        except OSError as error:
            raise NotAskedError from error
        finally:
            for _, theirs in pairs:
                theirs.close()
        return self._lines

    def ask(self, line: Connection, views: Sequence[Pixels], seconds: float) -> list[list[Face]]:
        """The faces in each view; one call at a time on each line.

        Raises:
            NotAskedError: the process had ended before.
            FailedError: it ended over these views, or its engine failed.
            TimeoutError: it took longer than `seconds`.
        """
        try:
            line.send_bytes(msgpack.packb(views))
        except OSError as error:
            raise NotAskedError from error
        try:
            if not _comes(line, seconds):
                raise TimeoutError
            answer = msgpack.unpackb(line.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise FailedError(f"The engine process ended: {end_seen(self._popen)}") from error
        if "failed" in answer:
            raise FailedError(f"The engine failed: {answer['failed']}")
        return [[_face(*face) for face in faces] for faces in answer["faces"]]

    def wait(self) -> None:
        """Wait until it has ended."""
        self._popen.wait()

    def end(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Give back what led to it, when nobody asks any more."""
        self.end()
        self._channel.close()
        for line in self._lines:
            line.close()


def _comes(line: Connection, seconds: float) -> bool:
    """Whether something comes in time; `Connection.poll` takes ten times as long to set itself up."""
    coming = select.poll()
    coming.register(line, select.POLLIN)
    return bool(coming.poll(seconds * 1000))


def _face(box: list[float], landmarks: bytes, score: float, embedding: bytes) -> Face:
    left, top, right, bottom = box
    return Face(
        box=(left, top, right, bottom),
        landmarks=np.frombuffer(landmarks, "<f4").reshape(-1, 2),
        score=score,
        embedding=np.frombuffer(embedding, "<f4"),
    )


def _environment() -> dict[str, str]:
    """The service's own, without what may hold a secret."""
    return {**environment.ENVIRONMENT, **dict(_unsuspicious(os.environ))}


def _unsuspicious(variables: Any) -> Iterator[tuple[str, str]]:
    for name, value in variables.items():
        if not any(word in name.upper() for word in SECRET_WORDS):
            yield name, value
