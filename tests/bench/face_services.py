"""Targets 3 and 7: the face service alone, before many clients."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from threading import Lock, local

import numpy as np

from app.gpu.settings import EngineSettings
from tests.bench import engines, servers
from tests.bench.client import Connection
from tests.bench.loops import bare_loops
from tests.bench.measure import Figure, Target, compared, in_turn, percentile
from tests.bench.pictures import group, numbered, portrait
from tests.bench.sizes import Sizes
from tests.bench.usage import BY_CPU, cpu_of, overhead, spent

CLIENTS = (1, 4, 16, 32)
#: Clients of the card: a batch at work, and one that fills meanwhile.
CARD_CLIENTS = 2 * engines.CARD_BATCH

#: Face services at once.
SERVICES = (1, 2, 4)

ALL_CORES = "bare loops on all cores"

#: Seconds after which a client comes again that was told to.
AGAIN = 0.1


@dataclass(slots=True)
class Clients:
    """Put pictures, each client one after the other over a connection of its own."""

    url: str
    picture: bytes
    #: Seconds that each picture took, and how many were told to come again.
    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    _numbers: Iterator[int] = field(default_factory=count)
    _lock: Lock = field(default_factory=Lock)
    _own: local = field(default_factory=local)

    def rate(self, requests: int, clients: int) -> float:
        """Images/s of so many clients."""
        self.seconds, self.refused = [], 0
        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            list(pool.map(lambda _: self._put(), range(requests)))
            return requests / (time.perf_counter() - started)

    def _put(self) -> None:
        started, number = time.perf_counter(), next(self._numbers)
        path = f"/items/images/{number}.jpg?etag={number}"
        while (status := self._ask(path, numbered(self.picture, number))) != 200:
            if status != 503:
                raise RuntimeError(f"The face service answered {status}.")
            with self._lock:
                self.refused += 1
            time.sleep(AGAIN)
        with self._lock:
            self.seconds.append(time.perf_counter() - started)

    def _ask(self, path: str, body: bytes) -> int:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = Connection(self.url)
        status, _ = connection.ask("PUT", path, body, "image/jpeg")
        return int(status)


def clients(sizes: Sizes) -> Iterator[Figure]:
    """Images/s of the face service with the stand-in pack, at several numbers of clients."""
    picture = group()
    with (
        servers.scratch() as directory,
        servers.face_service(directory, {"BENCH_ENGINE": engines.BUSY}, "tests.bench.stand_in") as (url, pid),
        bare_loops(engines.BUSY, picture) as loops,
    ):
        sent = Clients(url, picture)
        refused: dict[int, list[float]] = {number: [] for number in CLIENTS}
        slowest: dict[int, float] = {}
        used: dict[int, dict[str, float]] = {}

        def ours(number: int) -> float:
            before = cpu_of({"face service": pid})
            rate = sent.rate(sizes.requests, number)
            used[number] = spent(before, cpu_of({"face service": pid}), sizes.requests)
            refused[number].append(100 * sent.refused / sizes.requests)
            slowest[number] = 1000 * percentile(sent.seconds, 0.99)
            return rate

        def bare() -> float:
            return loops.rate(picture, sizes.requests)

        *rates, theirs = in_turn(sizes.rounds, *(partial(ours, number) for number in CLIENTS), bare)
        one_loop = loops.rate(picture, sizes.requests // 2, 1)
    for number, mine in zip(CLIENTS, rates, strict=True):
        more = {"p99 ms": slowest[number], "CPU ms per image": used[number]}
        more |= {"CPU ms outside decoding and engine": overhead(used[number])}
        more |= {BY_CPU: loops.cpu_ms / sum(used[number].values())}
        what = f"images/s of the face service, stand-in pack of 15 ms, {number} client{'s' * (number > 1)}"
        if number == 1:  # who sends one after the other cannot use two cores
            of_one = [one_loop] * len(mine)
            yield compared(3, "clients-1", what, "one bare loop", Target(), "images/s", (mine, of_one), more)
        else:
            pair = mine, theirs
            yield compared(3, f"clients-{number}", what, ALL_CORES, Target(least=0.9), "images/s", pair, more)
    most = [statistics.fmean(values) for values in refused.values()]
    what = f"answers of 503 per hundred images, at {', '.join(map(str, CLIENTS))} clients"
    yield Figure(3, "refused", what, "images", Target(most=1), [max(most)])


def simulated_card(sizes: Sizes) -> Iterator[Figure]:
    """Whether a card would be kept busy; a simulation, asleep for as long as a card would compute."""
    for name, loader, slower in (("card", engines.CARD, 1), ("slow-card", engines.SLOW_CARD, engines.SLOWER)):
        yield _card(name, loader, slower, sizes)


def several(sizes: Sizes) -> Iterator[Figure]:
    """Images/s of several face services with a simulated card each, against one of them.

    Each has an index of its own, where in life they share a Qdrant: it is seen whether anything else holds them back.
    """
    picture, requests = portrait(), sizes.card_requests // 3
    with servers.scratch() as directory, ExitStack() as stack:
        clients = []
        for number in range(max(SERVICES)):
            own = directory / str(number)
            own.mkdir()
            service = servers.face_service(own, {"BENCH_ENGINE": engines.SLOW_CARD}, "tests.bench.stand_in")
            clients.append(Clients(stack.enter_context(service)[0], picture))

        def rate(number: int) -> float:
            with ThreadPoolExecutor(number) as pool:
                started = time.perf_counter()
                list(pool.map(lambda one: one.rate(requests, CARD_CLIENTS), clients[:number]))
                return number * requests / (time.perf_counter() - started)

        one, *more = in_turn(sizes.rounds, *(partial(rate, number) for number in SERVICES))
    for number, rates in zip(SERVICES[1:], more, strict=True):
        what = (
            f"images/s of {number} face services, each with a simulated card a tenth as fast and an index of its own"
        )
        yield compared(7, f"services-{number}", what, "one of them", Target(), "images/s", (rates, one))


def _card(name: str, loader: str, slower: int, sizes: Sizes) -> Figure:
    picture, requests = portrait(), sizes.card_requests // (3 if slower > 1 else 1)
    with (
        servers.scratch() as directory,
        servers.face_service(directory, {"BENCH_ENGINE": loader}, "tests.bench.stand_in") as (url, pid),
    ):
        sent, batch = Clients(url, picture), [1.0]
        used: dict[str, float] = {}

        def ours() -> float:
            before, cpu = _batches(url), cpu_of({"face service": pid})
            rate = sent.rate(requests, CARD_CLIENTS)
            used.update(spent(cpu, cpu_of({"face service": pid}), requests))
            batches, images = (after - one for after, one in zip(_batches(url), before, strict=True))
            batch[0] = images / batches
            return rate

        def bare() -> float:
            return _bare(loader, round(batch[0]))

        rates = in_turn(sizes.rounds, ours, bare)
    curve = f"{slower * engines.CARD_SECONDS * 1000:g} + {slower * engines.CARD_SECONDS_EACH * 1000:g}·n ms"
    what = f"images/s of the face service, a simulated card of {curve}, {CARD_CLIENTS} clients"
    beside = "the same simulation alone, in batches of that size"
    more = {"mean batch": batch[0], "CPU ms per image": used}
    return compared(7, name, what, beside, Target(least=0.9), "images/s", rates, more)


def _batches(url: str) -> tuple[float, float]:
    """How many batches engines took, and how many pictures were in them."""
    metric = "lookingglass_engine_batch_views"
    return (
        sum(servers.samples(f"{url}/metrics", f"{metric}_count")),
        sum(servers.samples(f"{url}/metrics", f"{metric}_sum")),
    )


def _bare(loader: str, batch: int) -> float:
    engine = getattr(engines, loader.partition(":")[2])(EngineSettings())
    pixels = np.zeros((8, 8, 3), np.uint8)
    started, calls = time.perf_counter(), 20
    for _ in range(calls):
        engine.analyse([pixels] * batch)
    return batch * calls / (time.perf_counter() - started)
