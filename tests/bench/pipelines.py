"""Targets 4 and 5: from bucket to index, all services on the same cores, and what that costs beside the engine."""

import io
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import redis
from minio import Minio

from app.common.inspection import finished
from tests.bench import engines, servers
from tests.bench.loops import bare_loops
from tests.bench.measure import Figure, Target, compared, in_turn
from tests.bench.pictures import group, numbered, portrait
from tests.bench.report import EACH, MINIO_ALONE
from tests.bench.servers import Pipeline
from tests.bench.sizes import Sizes
from tests.bench.usage import BY_CPU, cpu_of, overhead, spent

#: Seconds between two looks at how many are indexed.
LOOK = 0.1

#: Seconds for the last ones to be indexed, at the least.
PATIENCE = 120


def dlib(sizes: Sizes) -> Iterator[Figure]:
    """Images/s with dlib."""
    yield from _compared("dlib", None, portrait(), sizes.dlib_photos, 0.9, sizes)


def stand_in(sizes: Sizes) -> Iterator[Figure]:
    """Images/s with the stand-in pack, and the CPU time of everything beside it."""
    yield from _compared("stand-in", engines.BUSY, group(), sizes.photos, 0.75, sizes)


def through(found: Pipeline, client: Minio, pictures: list[tuple[str, bytes]]) -> float:
    """Upload pictures and wait until the index has every one of them; return images/s.

    Redis is asked first, which costs nearly nothing: the face service would be measured answering.
    """
    with servers.connected(found.redis_url) as connection:
        ended, due = _ended(connection) + len(pictures), found.indexed() + len(pictures)
        started = time.perf_counter()
        for key, picture in pictures:
            client.put_object("images", key, io.BytesIO(picture), len(picture))
        while _ended(connection) < ended or found.indexed() < due:
            if time.perf_counter() - started > PATIENCE + len(pictures):
                raise TimeoutError(
                    f"{due - found.indexed():.0f} of {len(pictures)} pictures never reached the index."
                )
            time.sleep(LOOK)
        return len(pictures) / (time.perf_counter() - started)


def _ended(connection: "redis.Redis") -> int:
    return int(finished(connection)["day"])


def _compared(
    name: str, engine: str | None, picture: bytes, number: int, least: float, sizes: Sizes
) -> Iterator[Figure]:
    used: list[dict[str, float]] = []
    numbers = count()
    with (
        servers.scratch() as directory,
        servers.pipeline(directory, engine) as found,
        bare_loops(engine or "app.gpu.engines:load", picture) as loops,
    ):
        client = servers.store(found.minio)

        def ours() -> float:
            pictures = [(f"{at}.jpg", numbered(picture, at)) for at in (next(numbers) for _ in range(number))]
            before = cpu_of(found.pids)
            rate = through(found, client, pictures)
            used.append(spent(before, cpu_of(found.pids), number))
            return rate

        rates = in_turn(sizes.rounds, ours, lambda: loops.rate(picture, number))
        alone = _minio_alone(found, client, picture, number) if engine else {}
    what = f"images/s from bucket to index, {number} photos, {name}, all services on the same cores"
    more: dict[str, Any] = {EACH: used[-1], BY_CPU: loops.cpu_ms / sum(used[-1].values())}
    yield compared(4, f"pipeline-{name}", what, "bare loops", Target(least=least), "images/s", rates, more)
    if engine:
        outside = [overhead(one) for one in used[1:]]
        what = "CPU ms of all processes, outside decoding and engine, per new image"
        more = {EACH: sorted(used[1:], key=overhead)[len(outside) // 2], MINIO_ALONE: alone}
        yield Figure(5, "cpu-outside", what, "–", Target(most=8), outside, more=more)


def _minio_alone(found: Pipeline, client: Minio, picture: bytes, number: int) -> dict[str, float]:
    """CPU milliseconds that MinIO takes for an image of which nobody is told: stored; read, with one more look."""

    def cost(request: Callable[[str], Any]) -> float:
        before = cpu_of({"MinIO": found.pids["MinIO"]})
        for at in range(number):
            request(f"{at}.jpg")
        return spent(before, cpu_of({"MinIO": found.pids["MinIO"]}), number)["MinIO"]

    def give(key: str) -> None:
        with client.get_object("untold", key) as response:
            response.read()
        client.stat_object("untold", key)

    client.make_bucket("untold")
    return {
        "upload": cost(lambda key: client.put_object("untold", key, io.BytesIO(picture), len(picture))),
        "read": cost(give),
    }
