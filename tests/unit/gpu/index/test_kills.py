"""Processes that share an index on a server, killed and stopped at any moment, never make it lie."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient
from werkzeug.serving import make_server

from app.common.items import item_id
from app.common.wire import OvertakenError
from app.gpu.index import ITEMS, FaceIndex, IndexAwayError
from app.gpu.index.layout import face_collections
from app.gpu.index.server import connect
from app.gpu.index.store import Where
from tests.qdrant_server import create_app
from tests.unit.gpu.index.conftest import INFO, put

KEYS = ("a.jpg", "b.jpg", "c.jpg")

#: How long they are let loose.
SECONDS = 8.0

#: Makes the index agree with a directory that stands for the bucket, again and again, as workers do.
WRITER = """
import random, sys, time
from pathlib import Path
from tests.unit.gpu.index.test_kills import KEYS, opened, agree

index = opened(sys.argv[1])
print("ready", flush=True)
while True:
    agree(index, Path(sys.argv[2]), random.choice(KEYS))
"""


def opened(url: str) -> FaceIndex:
    index = FaceIndex(connect(url, None), INFO)
    index.prepare()
    return index


def agree(index: FaceIndex, bucket: Path, key: str) -> None:
    """Look at an object and do what follows, once; others may be faster."""
    looked_at = time.time()
    try:
        version = (bucket / key).read_text()
    except FileNotFoundError:
        version = ""
    try:
        if version:
            put(index, key, version, faces_of(version), looked_at=looked_at)
        else:
            index.delete("images", key, looked_at=looked_at)
    except (OvertakenError, IndexAwayError):
        pass


def faces_of(version: str) -> int:
    return int(version) % 4


@pytest.fixture
def url() -> Iterator[str]:
    client = QdrantClient(":memory:", force_disable_check_same_thread=True)
    server = make_server("127.0.0.1", 0, create_app(client), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()
    client.close()


class Crew:
    """Two writers, which are replaced when they are killed."""

    def __init__(self, url: str, bucket: Path) -> None:
        self._command = [sys.executable, "-c", WRITER, url, str(bucket)]
        self.writers = [self._start(), self._start()]
        self.stopped: list[int] = []

    def harm(self, chance: random.Random) -> None:
        """Kill, stop or let go on one of them."""
        number = chance.randrange(2)
        writer = self.writers[number]
        if number in self.stopped:
            self.stopped.remove(number)
            writer.send_signal(signal.SIGCONT)
        elif chance.random() < 0.5:
            self.stopped.append(number)
            writer.send_signal(signal.SIGSTOP)
        else:
            self._end(writer)
            self.writers[number] = self._start()

    def end(self) -> None:
        for number in list(self.stopped):
            self.writers[number].send_signal(signal.SIGCONT)
        time.sleep(0.3)  # what they had in hand goes out
        for writer in self.writers:
            self._end(writer)

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        return subprocess.Popen(self._command, stdout=subprocess.PIPE, env=environment)

    def _end(self, writer: "subprocess.Popen[bytes]") -> None:
        writer.kill()
        writer.communicate()


def test_what_was_proved_gone_stays_gone_whoever_is_killed_or_stopped(url: str, tmp_path: Path) -> None:
    chance = random.Random(4)
    index = opened(url)
    crew = Crew(url, tmp_path)
    for writer in crew.writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    until, version, proved = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < until:
        key = chance.choice(KEYS)
        version += 1
        (tmp_path / "new").write_text(str(version))
        (tmp_path / "new").replace(tmp_path / key)
        time.sleep(chance.uniform(0, 0.2))
        crew.harm(chance)
        (tmp_path / key).unlink()
        index.delete("images", key, looked_at=time.time())
        for _ in range(4):
            assert (index.records.get("images", key), index.records.points("images", key)) == (None, 0)
            time.sleep(0.02)
            proved += 1
    crew.end()
    assert proved > 20
    for number, key in enumerate(KEYS):
        (tmp_path / key).write_text(str(1000 + number))
        agree(index, tmp_path, key)
        record = index.records.get("images", key)
        assert record is not None
        assert (record["etag"], index.records.is_whole(record)) == (str(1000 + number), True)
        assert index.records.points("images", key) == faces_of(record["etag"])
    held = [point for name in face_collections(connect(url, None)) for point in _all(url, name)]
    assert {point["item_id"] for point in held} <= {*(item_id("images", key) for key in KEYS), "nobody"}
    assert index.records.count() == len(KEYS)
    assert ITEMS in connect(url, None).collections()
    index.close()


def _all(url: str, collection: str) -> list[dict[str, object]]:
    return list(connect(url, None).page(collection, Where(), limit=10_000)[0].values())
