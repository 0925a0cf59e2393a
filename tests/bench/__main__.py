"""`make bench`: speed as a ratio, ours and the plainest build in turn, in one run on one machine."""

import argparse
import io
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import redis
import simplejpeg
import urllib3

from app.gpu.engines import load
from app.gpu.engines.base import Engine
from app.gpu.settings import FaceSettings
from infra.local import tools
from infra.local.photos import photos
from infra.local.processes import ChildProcess
from infra.local.stack import Stack
from tests import media
from tests.fixtures import free_port, local_settings

#: Each pair is run this often, in turn, and the median of the ratios is what counts.
ROUNDS = 5

WEBHOOKS = {
    "ours": ["app.webhook"],
    "plain": ["gunicorn", "tests.bench.plain:app", "--workers", "2", "--threads", "4", "--worker-class", "gthread"],
}


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1000, help="events per round (1000)")
    parser.add_argument("--images", type=int, default=40, help="images per round (40)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(
            "events/s, one sender", "plain Flask + gunicorn + Queue.enqueue", *events(Path(scratch), arguments.events)
        )
        compare("images/s", "a bare loop per core around the engine", *images(Path(scratch), arguments.images))


def compare(what: str, against: str, ours: list[float], theirs: list[float]) -> None:
    """Print the medians and the median ratio of two series taken in turn."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    print(f"{what}: {statistics.median(ours):.1f}; {against}: {statistics.median(theirs):.1f}")
    print(f"  ratio {statistics.median(ratios):.2f} (of {len(ratios)}: {min(ratios):.2f} to {max(ratios):.2f})")


def events(scratch: Path, count: int) -> tuple[list[float], list[float]]:
    """Events/s of both webhooks."""
    with redis_server(scratch) as url, webhook("ours", scratch, url) as ours, webhook("plain", scratch, url) as plain:
        connection = redis.Redis.from_url(url)
        rates: dict[str, list[float]] = {ours: [], plain: []}
        for at in range(ROUNDS + 1):
            for target, seen in rates.items():
                connection.flushall()
                rate = send(target, count)
                if at:  # the first round warms up
                    seen.append(rate)
        connection.close()
        return rates[ours], rates[plain]


def send(url: str, count: int) -> float:
    """Send events one after the other over one connection, as MinIO does; return events/s."""
    http = urllib3.PoolManager(retries=False)
    started = time.perf_counter()
    for number in range(count):
        document = {
            "EventName": "s3:ObjectCreated:Put",
            "Key": f"images/{number}.jpg",
            "Records": [
                {
                    "eventName": "s3:ObjectCreated:Put",
                    "s3": {
                        "bucket": {"name": "images"},
                        "object": {"key": f"{number}.jpg", "size": 100_000, "sequencer": f"{time.time_ns():X}"},
                    },
                }
            ],
        }
        answer = http.request("POST", url, body=json.dumps(document), headers={"Content-Type": "application/json"})
        if answer.status != 200:
            sys.exit(f"{url} answered {answer.status}: {answer.data!r}")
    rate = count / (time.perf_counter() - started)
    http.clear()
    return rate


def images(scratch: Path, count: int) -> tuple[list[float], list[float]]:
    """Images/s of the whole pipeline, from the first upload to the last one indexed, and of bare loops."""
    face = media.jpeg(media.portrait({name: path.read_bytes() for name, path in photos().items()}))
    ours, theirs = [], []
    cores = os.cpu_count() or 1
    with Stack(local_settings(scratch / "stack", workers=cores)) as stack:
        http = urllib3.PoolManager()
        for at in range(ROUNDS + 1):
            rate = through_pipeline(stack, http, [face + f"{at} {n}".encode() for n in range(count)])
            if at:
                ours.append(rate)
                with ProcessPoolExecutor(cores, multiprocessing.get_context("fork")) as pool:
                    list(pool.map(loop, [(face, 1)] * cores))  # loads the models
                    started = time.perf_counter()
                    list(pool.map(loop, [(face, count // cores)] * cores))
                    theirs.append(count // cores * cores / (time.perf_counter() - started))
    return ours, theirs


def through_pipeline(stack: Stack, http: urllib3.PoolManager, pictures: list[bytes]) -> float:
    """Upload pictures and wait until the index has every one of them; return images/s."""
    client, url = stack.minio(), stack.outputs["gpu_worker_url"]
    before = http.request("GET", f"{url}/health").json()["index"]["items"]
    started = time.perf_counter()
    for picture in pictures:
        key = f"bench/{time.time_ns()}.jpg"
        client.put_object("images", key, io.BytesIO(picture), len(picture))
    while http.request("GET", f"{url}/health").json()["index"]["items"] < before + len(pictures):
        time.sleep(0.2)
    return len(pictures) / (time.perf_counter() - started)


def loop(work: tuple[bytes, int]) -> None:
    """Decode and analyse one picture again and again."""
    picture, count = work
    engine = _engine()
    for _ in range(count):
        engine.analyse([simplejpeg.decode_jpeg(picture, "RGB")])


@cache
def _engine() -> Engine:
    return load(FaceSettings())


@contextmanager
def redis_server(scratch: Path) -> Iterator[str]:
    """A Redis of its own."""
    port = free_port()
    command = [
        str(tools.redis_server()),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(scratch),
    ]
    url = f"redis://127.0.0.1:{port}/0"
    with running(ChildProcess("redis", command, dict(os.environ), scratch / "redis.log"), port):
        yield url


@contextmanager
def webhook(name: str, scratch: Path, redis_url: str) -> Iterator[str]:
    """One of the webhooks, with as many processes and threads as the other."""
    port = free_port()
    environment = {**os.environ, "REDIS_URL": redis_url, "WEBHOOK_PORT": str(port), "WEBHOOK_WORKERS": "2"}
    environment |= {"PYTHONPATH": str(tools.ROOT), "LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", *WEBHOOKS[name]]
    if name == "plain":
        command += ["--bind", f"127.0.0.1:{port}", "--log-level", "warning", "--no-control-socket"]
    with running(ChildProcess(name, command, environment, scratch / f"{name}.log"), port):
        yield f"http://127.0.0.1:{port}/webhook/minio"


@contextmanager
def running(process: ChildProcess, port: int) -> Iterator[None]:
    """A process, from when its port answers until the block is left."""

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    process.start()
    try:
        process.wait_until(ready, 30)
        yield
    finally:
        process.stop()


if __name__ == "__main__":
    main()
