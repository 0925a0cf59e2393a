"""Face services that share an index, and workers and requests that are slow, die or arrive late, never make it lie.

Each run lets workers of two services loose on one object that is uploaded, replaced and deleted meanwhile. Chance
decides at every call of the index who goes on, whose request is lost or arrives when its sender has given up, and who
is killed. The index is a real one, and looked at after every step.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from app.common.items import item_id
from app.common.wire import OvertakenError
from app.gpu.engines.base import EngineInfo
from app.gpu.index import ITEMS, FaceIndex, IndexAwayError, Store, Vector
from app.gpu.index import face_index as module
from app.gpu.index.changes import Change, Changes
from app.gpu.index.edge import EdgeStore
from app.gpu.index.layout import ABSENT, face_collections
from app.gpu.index.store import Payload, Where
from tests.unit.gpu.index.conftest import INFO, OTHER_INFO

#: Runs, and the first one's number: `INTERLEAVINGS=20000 FIRST=1000` tries others.
RUNS, FIRST = int(os.environ.get("INTERLEAVINGS", "1000")), int(os.environ.get("FIRST", "0"))

WRITES = ("upsert", "delete")


class Killed(BaseException):
    """The process of a worker, or of its face service, is gone."""


class Lottery:
    """Runs actors as threads, one at a time, from step to step, in an order left to chance."""

    def __init__(self, chance: random.Random, check: Callable[[], None]) -> None:
        self.chance = chance
        self._check = check
        self._turns: dict[str, threading.Semaphore] = {}
        self._back = threading.Semaphore(0)
        self._ended: set[str] = set()
        self.late: list[Callable[[], object]] = []
        self.failure: BaseException | None = None
        #: Whether there is anything new to look at.
        self.changed = False

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        self._turns = {name: threading.Semaphore(0) for name in actors}
        threads = [threading.Thread(target=self._act, args=pair, daemon=True) for pair in actors.items()]
        for thread in threads:
            thread.start()
        while alive := sorted(actors.keys() - self._ended):
            if self.late and self.chance.random() < 0.1:
                self.arrive()
            else:
                self._turns[self.chance.choice(alive)].release()
                self._back.acquire()
            if self.failure:
                raise self.failure
            if self.changed:
                self._check()
                self.changed = False
        for thread in threads:
            thread.join()

    def step(self) -> None:
        self._back.release()
        self._turns[threading.current_thread().name].acquire()

    def arrive(self) -> None:
        """Let one of the late requests arrive."""
        self.late.pop(self.chance.randrange(len(self.late)))()
        self.changed = True

    def _act(self, name: str, act: Callable[[], None]) -> None:
        threading.current_thread().name = name
        self._turns[name].acquire()
        try:
            act()
        except Killed:
            pass
        except BaseException as error:
            self.failure = error
        self._ended.add(name)
        self._back.release()


class Stepped:
    """A store over a network: each call is a step, and some go wrong."""

    def __init__(self, store: Store, lottery: Lottery, trouble: float) -> None:
        self._store, self._lottery, self._trouble = store, lottery, trouble
        self.where = store.where

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def stepped(*arguments: Any, **more: Any) -> Any:
            self._lottery.step()
            self._lottery.changed |= name in WRITES
            if self._lottery.chance.random() >= self._trouble:
                return call(*arguments, **more)
            if name in WRITES:
                fate = self._lottery.chance.choice(("lost", "done", "late", "late"))
                if fate == "done":
                    call(*arguments, **more)
                if fate == "late":
                    self._lottery.late.append(lambda: call(*arguments, **more))
            raise self._lottery.chance.choice((Killed, IndexAwayError))("cut off")

        return stepped


class Alone:
    """Makes changes one by one, where `Batches` would make those of several threads together."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def claim(self, item: str) -> Payload:
        return self._changes.claim([item])[item]

    def make(self, change: Change) -> Payload:
        [result] = self._changes.make([change])
        if isinstance(result, OvertakenError):
            raise result
        return result


@dataclass
class Bucket:
    """One object over time: each upload is a version of its own."""

    time: float = 0
    uploads: int = 0
    version: int = 0
    #: Since when there is none, while there is none.
    gone_since: float | None = 0

    def look(self) -> tuple[int, float]:
        self.time += 1
        return self.version, self.time

    def upload(self) -> None:
        self.time += 1
        self.uploads += 1
        self.version, self.gone_since = self.uploads, None

    def delete(self) -> None:
        self.time += 1
        self.version = 0
        self.gone_since = self.gone_since or self.time


@dataclass
class Run:
    """One object, the workers that deal with it, and what must hold of it in the index."""

    store: Store
    key: str
    infos: tuple[EngineInfo, EngineInfo]
    bucket: Bucket = field(default_factory=Bucket)
    newest: int = 0
    #: When the object was last reported deleted, as the bucket was then and still is.
    reported_gone: float | None = None

    def faces(self, version: int) -> int:
        return (0, 2, 1, 3, 0)[version % 5]

    def work(self, index: FaceIndex, lottery: Lottery, info: EngineInfo) -> None:
        """Two jobs, one after the other."""
        self.converge(index, lottery, info)
        self.converge(index, lottery, info)

    def converge(self, index: FaceIndex, lottery: Lottery, info: EngineInfo, *, patience: int = 6) -> None:
        """What a worker does, see `app.worker.converge`; with patience at its end, it is left to its next event."""
        for _ in range(patience):
            version, looked_at = self.bucket.look()
            lottery.step()
            try:
                if version:
                    self.index(index, version, looked_at, info)
                else:
                    index.delete("b", self.key, looked_at=looked_at)
                    if self.bucket.gone_since is not None and self.bucket.gone_since < looked_at:
                        self.reported_gone, lottery.changed = looked_at, True
            except (OvertakenError, IndexAwayError):
                continue
            if self.bucket.look()[0] == version:
                return

    def index(self, index: FaceIndex, version: int, looked_at: float, info: EngineInfo) -> None:
        claim = index.claim("b", self.key, etag=str(version), looked_at=looked_at)
        record = index.held(claim)
        if record and record["etag"] == str(version):
            return
        found: list[tuple[Vector, Payload]] = [
            (np.ones(info.embedding_size, np.float32), {}) for _ in range(self.faces(version))
        ]
        index.put({"etag": str(version), "status": "indexed"}, found, claim, looked_at=looked_at)

    def check(self) -> None:
        """After every step: what was reported gone stays gone, and nothing older comes after something newer."""
        if self.bucket.gone_since is None:
            self.reported_gone = None
        record, points = self.held()
        if self.reported_gone is not None:
            assert record is None, f"brought back: {record}"
            assert points == [], f"appeared after it was gone: {points}"
        if record is not None:
            assert int(record["etag"]) >= self.newest, f"older than {self.newest}: {record}"
            self.newest = int(record["etag"])

    def check_rest(self) -> None:
        """When all is quiet: the index says what the bucket holds, and has no other points."""
        record, points = self.held()
        if not self.bucket.version:
            assert (record, points) == (None, [])
            return
        assert record is not None
        assert record["etag"] == str(self.bucket.version)
        held = [point for point in points if point["collection"] == f"faces_{record['model_id']}"]
        assert sorted(point["face"] for point in held) == list(range(record["face_count"]))
        assert {point["etag"] for point in points} <= {record["etag"]}

    def held(self) -> tuple[Payload | None, list[Payload]]:
        item = item_id("b", self.key)
        record = self.store.retrieve(ITEMS, [item]).get(item)
        points = [
            {**point, "collection": collection}
            for collection in face_collections(self.store)
            for point in self.store.page(collection, Where(having={"item_id": item}), limit=100)[0].values()
        ]
        return (None if record is None or record["status"] == ABSENT else record), points


def play(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    infos = (INFO, chance.choice((INFO, INFO, OTHER_INFO)))
    run = Run(store, f"{seed}.jpg", infos)
    lottery = Lottery(chance, run.check)
    stepped = Stepped(store, lottery, chance.choice((0.0, 0.02, 0.1)))

    def service(info: EngineInfo, over: Any) -> FaceIndex:
        pause: Callable[[float], object] = (lambda _s: lottery.step()) if over is stepped else (lambda _s: None)
        batches: Any = Alone
        return FaceIndex(over, info, batches=batches, now=lambda: run.bucket.time / 1000, pause=pause)

    def crowd() -> None:
        for _ in range(chance.randrange(1, 6)):
            chance.choice((run.bucket.upload, run.bucket.delete))()
            for _ in range(chance.randrange(12)):
                lottery.step()

    services = [service(info, stepped) for info in infos]
    actors: dict[str, Callable[[], None]] = {"bucket": crowd}
    for number in range(chance.randrange(2, 5)):
        which = number % 2
        actors[f"worker {number}"] = partial(run.work, services[which], lottery, infos[which])
    run.bucket.upload()
    lottery.run(actors)
    # The next event, or a comparison, with nobody in the way; and what was on its way arrives at last.
    calm = Lottery(chance, lambda: None)
    calm.step = lambda: None  # type: ignore[method-assign]
    for _ in range(2):
        run.converge(service(INFO, store), calm, INFO)
        run.check()
        run.check_rest()
        while lottery.late:
            lottery.arrive()
            run.check()
            run.check_rest()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = EdgeStore(tmp_path_factory.mktemp("index"))
    for info in (INFO, OTHER_INFO):
        FaceIndex(store, info).prepare()
    yield store
    store.close()


def test_no_interleaving_makes_the_index_lie(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 3 * module.LOOK_INTERVAL)
    for seed in range(FIRST, FIRST + RUNS):
        try:
            play(shared, seed)
        except AssertionError as error:
            raise AssertionError(f"run {seed}: {error}") from error
