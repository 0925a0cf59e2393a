"""Target 1: how fast events become jobs."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from tests.bench import servers
from tests.bench.measure import Figure, Target, compared, in_turn
from tests.bench.sending import send
from tests.bench.sizes import Sizes
from tests.bench.usage import BY_CPU, cpu_of, spent
from tests.fixtures import free_port

PLAIN = "plain Flask, gunicorn with two processes, Queue.enqueue"

#: What the plain one is told; MinIO's path is the same.
GUNICORN = ["gunicorn", "tests.bench.plain_webhook:app", "--workers", "2", "--threads", "4"]
GUNICORN += ["--worker-class", "gthread", "--log-level", "warning", "--no-control-socket"]


def one_sender(sizes: Sizes) -> Iterator[Figure]:
    """Events/s of one sequential sender, answered when Redis has the job."""
    with servers.scratch() as directory, servers.redis_server(directory) as (redis_url, redis_pid):
        connection = servers.connected(redis_url)
        with servers.webhook(directory, redis_url) as ours, _plain(directory, redis_url) as plain:
            pids = {"redis": redis_pid, "ours": ours[1], "plain": plain[1]}
            used: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}

            def measure(name: str, url: str) -> float:
                connection.flushall()
                before = cpu_of(pids)
                rate = send(url, [f"{number}.jpg" for number in range(sizes.events)])
                used[name].append(spent(before, cpu_of(pids), sizes.events))
                return rate

            rates = in_turn(sizes.rounds, lambda: measure("ours", ours[0]), lambda: measure("plain", plain[0]))
        connection.close()
    costs = {name: {part: last[-1][part] for part in (name, "redis")} for name, last in used.items()}
    more: dict[str, Any] = {f"CPU ms per event, {name}": cost for name, cost in costs.items()}
    more[BY_CPU] = sum(costs["plain"].values()) / sum(costs["ours"].values())
    what = "events/s of one sender, each answered when Redis has its job"
    yield compared(1, "events", what, PLAIN, Target(least=2), "events/s", rates, more)


def backlog(sizes: Sizes) -> Iterator[Figure]:
    """How fast what waits with MinIO is taken, when the webhook is there again."""
    number = sizes.backlog

    def drained(start: Callable[[Path, str, int], servers.Taken]) -> float:
        port = free_port()
        with (
            servers.scratch() as directory,
            servers.redis_server(directory) as (redis_url, _),
            servers.minio_server(directory, f"http://{servers.HOST}:{port}") as (minio, _),
        ):
            _upload(minio, number)
            with start(directory, redis_url, port) as taken:
                return _rate(taken, number)

    rates = in_turn(sizes.rounds, lambda: drained(_ours), lambda: drained(_nothing), warm_up=False)
    what = f"events/s, {number} of them waiting on MinIO's disk"
    yield compared(1, "backlog", what, "a receiver that does nothing", Target(least=0.3), "events/s", rates)


@contextmanager
def _plain(directory: Path, redis_url: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    command = [*GUNICORN, "--bind", f"{servers.HOST}:{port}"]
    process = servers.python("plain", command, directory, {"REDIS_URL": redis_url})
    with servers.running(process, servers.listens(port)):
        yield f"http://{servers.HOST}:{port}", process.pid


@contextmanager
def _ours(directory: Path, redis_url: str, port: int) -> Iterator[servers.Count]:
    connection = servers.connected(redis_url)
    with servers.webhook(directory, redis_url, port):
        yield lambda: int(connection.llen("rq:queue:facial_recognition"))
    connection.close()


@contextmanager
def _nothing(directory: Path, _redis_url: str, port: int) -> Iterator[servers.Count]:
    http = urllib3.PoolManager()
    with servers.receiver(directory, port) as url:
        yield lambda: int(http.request("GET", f"{url}/counts").json().get("POST /webhook", 0))
    http.clear()


def _upload(minio: str, number: int) -> None:
    """So many empty objects, with none to tell of them."""
    client = servers.store(minio)

    def put(name: int) -> None:
        client.put_object("images", f"{name}.jpg", io.BytesIO(b"x"), 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(number)))


def _rate(taken: servers.Count, number: int) -> float:
    """Events/s from the first to the last."""
    first = first_at = 0.0
    while (seen := taken()) < number:
        if seen and not first:
            first, first_at = seen, time.perf_counter()
        time.sleep(0.01)
    return (number - first) / (time.perf_counter() - first_at) if first else number / 0.01
