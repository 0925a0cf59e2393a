"""Targets 10, 11 and 12: what comes with size. One pipeline, more and more objects in its bucket and its index.

Objects that only make up the number are put into the bucket packed together, with nobody told, and into the index
with a face that is known; those that are measured come in as events.
"""

import io
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3
from minio import Minio
from minio.commonconfig import SnowballObject
from minio.datatypes import Object

from app.common import comparison
from app.common.wire import MSGPACK, pack, pack_embedding
from app.worker.reconcile import PAGE
from app.worker.settings import WorkerSettings
from infra import contract
from tests.bench import CORES, engines, servers
from tests.bench.measure import Figure, Target, compared, in_turn
from tests.bench.pictures import numbered, portrait
from tests.bench.pipelines import through
from tests.bench.report import COSTS
from tests.bench.servers import Pipeline
from tests.bench.sizes import Sizes
from tests.bench.usage import cpu_of, memory_of, overhead, spent

#: Objects in one request to MinIO.
PACKED = 1000

#: A face that is known.
FACE = {
    "box": [0.0, 0.0, 1.0, 1.0],
    "score": 1.0,
    "embedding": pack_embedding(np.ones(engines.EMBEDDING_SIZE, np.float32)),
}

#: Seconds within which workers have forgotten the jobs beyond those that they are to remember.
FORGOTTEN = 20

#: New objects before anything is measured.
WARM_UP = 200

#: Pages after which a comparison holds as much as it ever will: those listed, looked up and forgotten at once.
WARM_PAGES = 10

#: Seconds of a comparison.
PATIENCE = 1800


def objects(sizes: Sizes) -> Iterator[Figure]:
    """Cost per new object at each size; at the largest, a comparison of everything with nothing to do.

    In turn with each, new objects go through a second pipeline that is nearly empty: a machine is not equally busy
    for as long as the first one takes to fill.
    """
    costs: dict[str, float] = {}
    beside: dict[str, float] = {}
    with (
        servers.scratch() as directory,
        servers.scratch() as elsewhere,
        servers.pipeline(directory, engines.NOTHING) as found,
        servers.pipeline(elsewhere, engines.NOTHING) as empty,
    ):
        stage, small = Stage(found), Stage(empty)
        for one in (stage, small):
            one.measure(WARM_UP)
        stage.compare()
        memory: list[dict[str, float]] = []
        for number in sizes.objects:
            stage.fill(number)
            both = in_turn(
                sizes.rounds, *(partial(one.measure, sizes.new_objects) for one in (stage, small)), warm_up=False
            )
            costs[str(number)], beside[str(number)] = map(statistics.median, both)
            if number >= WARM_PAGES * PAGE and not memory:
                few = f"{number:,}"
                for _ in range(2 * CORES):  # an idle worker is asked after the others, so each has its turn
                    stage.compare()
                memory.append(memory_of(found.pids))
        memory.append(memory_of(found.pids))
        compared_and_listed = in_turn(sizes.rounds, stage.compare, stage.bare_listing)
        memory.append(memory_of(found.pids))
    most = f"{sizes.objects[-1]:,}"
    what = f"CPU ms per new object with up to {most} objects in bucket and index, the dearest"
    ratios = {number: costs[number] / beside[number] for number in costs}
    dearest = max(ratios, key=lambda number: ratios[number])
    more: dict[str, Any] = {COSTS: costs, "in a pipeline nearly empty, in turn": beside, "ratio": ratios}
    pair = [costs[dearest]], [beside[dearest]]
    yield compared(12, "cost-per-object", what, "in a pipeline nearly empty", Target(most=1.2), "ms", pair, more)
    what = f"objects/s compared with the index, {most} of them, nothing to do"
    told = {name: " → ".join(f"{one[name]:.0f}" for one in memory) for name in memory[-1]}
    more = {f"MB after comparing {few} objects, with {most}, and after comparing those": told}
    listing = "MinIO's bare listing"
    yield compared(10, "comparison", what, listing, Target(least=0.5), "objects/s", compared_and_listed, more)
    workers = [memory[2]["worker"] / memory[0]["worker"]]
    what = f"memory of the workers after comparing {most} objects"
    yield Figure(10, "comparison-memory", what, f"after comparing {few}", Target(most=1.05), workers)


def images(sizes: Sizes) -> Iterator[Figure]:
    """Memory of every service after many images against after fewer, when all are warm.

    Warm is who has started every thread, remembers as many jobs as it may, and has collected garbage at its leisure.
    """
    remembered = str(sizes.first_images)
    with (
        servers.scratch() as directory,
        servers.pipeline(directory, engines.NOTHING, MAX_FINISHED_JOBS=remembered) as found,
    ):
        stage = Stage(found)
        memory: list[dict[str, float]] = []
        for number in (sizes.first_images, sizes.warm_images, sizes.images):
            stage.put(number - stage.there)
            time.sleep(FORGOTTEN)
            memory.append(memory_of(found.pids))
    first, warm, last = memory
    for name in sorted(first):
        what, label = f"MB of {name} after {sizes.images:,} images", f"memory-{name.lower().replace(' ', '-')}"
        pair, beside = (last[name], warm[name]), f"after {sizes.warm_images:,}"
        more = {f"MB after the first {sizes.first_images:,}": first[name]}
        yield Figure(11, label, what, beside, Target(most=1.05), [pair[0] / pair[1]], *pair, "MB", more)


class Stage:
    """A pipeline that is filled, and measured."""

    def __init__(self, found: Pipeline) -> None:
        self._found = found
        self._minio: Minio = servers.store(found.minio)
        self._numbers = count()
        #: Objects in bucket and index.
        self.there = 0
        self._http = urllib3.PoolManager(maxsize=8)
        self._model_id = self._http.request("GET", f"{found.face_url}/health").json()["model_id"]

    def measure(self, number: int) -> float:
        """Put new objects in; return CPU milliseconds of each, decoding left out."""
        before = cpu_of(self._found.pids)
        self.put(number)
        return overhead(spent(before, cpu_of(self._found.pids), number))

    def put(self, number: int) -> None:
        """Put new objects in as pictures, a thousand at a time."""
        for first in range(0, number, PACKED):
            some = islice(self._numbers, min(PACKED, number - first))
            through(self._found, self._minio, [(f"new/{at:08}.jpg", numbered(portrait(), at)) for at in some])
        self.there += number

    def fill(self, number: int) -> None:
        """Have so many objects in bucket and index, with nobody told of them."""
        arns = [contract.target_arn(target) for target in (contract.DURABLE_TARGET, contract.HINT_TARGET)]
        contract.unsubscribe(self._minio, "images", arns)
        with ThreadPoolExecutor(8) as pool:
            while (missing := number - self.there) > 0:
                some = list(islice(self._numbers, min(PACKED, missing)))
                self._upload([f"old/{at:08}.jpg" for at in some])
                self.there += len(some)
                known = self._minio.list_objects("images", start_after=f"old/{some[0] - 1:08}.jpg", prefix="old/")
                list(pool.map(self._index, known))
        contract.subscribe(self._minio, "images", arns)

    def compare(self) -> float:
        """Compare bucket and index as the hourly comparison does; return objects/s.

        The first one of a day, which looks at every record too, is the one that warms up.
        """
        connection = servers.connected(self._found.redis_url)
        ended = self._told("end_timestamp_seconds")
        comparison.begin(connection, WorkerSettings(redis_url=self._found.redis_url))
        connection.close()
        deadline = time.monotonic() + PATIENCE
        while self._told("end_timestamp_seconds") == ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The comparison did not end within {PATIENCE} s.")
            time.sleep(0.1)
        [differences], [seconds] = self._told("differences"), self._told("seconds")
        if differences:
            raise RuntimeError(f"There were {differences:.0f} differences where there should be none.")
        return self.there / max(seconds, 0.01)

    def bare_listing(self) -> float:
        """List the bucket, and no more; return objects/s."""
        started = time.perf_counter()
        listed = sum(1 for _ in self._minio.list_objects("images", recursive=True))
        return listed / (time.perf_counter() - started)

    def _upload(self, keys: list[str]) -> None:
        """Put objects of a byte into the bucket, packed in one request."""
        packed = [SnowballObject(key, data=io.BytesIO(b"x"), length=1) for key in keys]
        self._minio.upload_snowball_objects("images", packed)

    def _index(self, listed: Object) -> None:
        """Put one face that is known into the index."""
        known = {
            "etag": listed.etag,
            "size": listed.size,
            "kind": "image",
            "model_id": self._model_id,
            "faces": [FACE],
        }
        url = f"{self._found.face_url}/items/images/{quote(str(listed.object_name))}"
        answer = self._http.request("PUT", url, body=pack(known), headers={"Content-Type": MSGPACK})
        if answer.status != 200:
            raise RuntimeError(f"The face service answered {answer.status}: {answer.data!r}")

    def _told(self, name: str) -> list[float]:
        return servers.samples(f"{self._found.webhook_url}/metrics", f"lookingglass_reconcile_{name}")
