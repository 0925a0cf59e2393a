"""Targets 2 and 8: what a worker takes for itself, where the face service answers at once."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import urllib3
from PIL import Image
from rq import Queue

from tests import media
from tests.bench import plain_worker, servers
from tests.bench.measure import Figure, Target, compared, in_turn
from tests.bench.pictures import group, numbered, padded
from tests.bench.sending import send
from tests.bench.sizes import Sizes
from tests.bench.usage import cpu_of, spent

#: Bytes of each object.
SIZE = 100_000

PLAIN = "RQ's SimpleWorker, a job that reads the object and posts it"

#: Videos: name, size, frames from one key frame to the next; at 25 frames a second.
VIDEOS = (("1080p, a key frame in 10 s", (1920, 1080), 250), ("720p, a key frame in 2 s", (1280, 720), 50))
FPS = 25


class Bench:
    """One worker between Redis, MinIO and a face service that answers at once."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.redis_url, self._redis_pid = stack.enter_context(servers.redis_server(directory))
        self._minio, self._minio_pid = stack.enter_context(servers.minio_server(directory))
        self.webhook_url, _ = stack.enter_context(servers.webhook(directory, self.redis_url))
        self._face = stack.enter_context(servers.receiver(directory))
        self.environment = servers.worker_environment(self.redis_url, self._minio, self._face)
        self.redis = servers.connected(self.redis_url)
        stack.callback(self.redis.close)
        self.store = servers.store(self._minio)
        self._http = urllib3.PoolManager()
        #: CPU milliseconds per job, and requests to the face service and commands to Redis per job, of the last run.
        self.used: dict[str, float] = {}

    def work_off(self, module: str, jobs: int) -> float:
        """Have a worker work off what is queued, from the first answer of the face service on; return jobs/s."""
        self._counts("DELETE")
        commands = self._commands()
        with servers.workers(self.directory, 1, self.environment, module) as crew:
            pids = {"redis": self._redis_pid, "MinIO": self._minio_pid, **crew}
            before = cpu_of(pids)
            while self._counts().get("PUT /items", 0) < jobs:
                time.sleep(0.02)
            after = cpu_of(pids)
        counts = self._counts()
        self.used = {f"CPU ms of {name}": value for name, value in spent(before, after, jobs).items()}
        self.used["Redis commands"] = (self._commands() - commands) / jobs
        times = counts["times"]
        return float((jobs - 1) / (times["last PUT /items"] - times["first PUT /items"]))

    def until_indexed(self, key: str) -> float:
        """Seconds from the event of an object to what is put into the index."""
        self._counts("DELETE")
        started = time.perf_counter()
        send(self.webhook_url, [key])
        while not self._counts().get("PUT /items"):
            time.sleep(0.005)
        return time.perf_counter() - started

    def frames(self) -> int:
        """Frames that the face service was asked about."""
        return int(self._counts().get("POST /faces", 0))

    def _counts(self, method: str = "GET") -> dict[str, Any]:
        return dict(self._http.request(method, f"{self._face}/counts").json())

    def _commands(self) -> int:
        return int(self.redis.info("stats")["total_commands_processed"])


def one_worker(sizes: Sizes) -> Iterator[Figure]:
    """Jobs/s of one worker with objects of 100 kB."""
    keys = [f"{number}.jpg" for number in range(sizes.jobs)]
    with servers.scratch() as directory, ExitStack() as stack:
        bench = Bench(directory, stack)
        for number, key in enumerate(keys):
            bench.store.put_object("images", key, io.BytesIO(padded(numbered(group(), number), SIZE)[:SIZE]), SIZE)
        more = {}

        def ours() -> float:
            bench.redis.flushall()
            send(bench.webhook_url, keys, SIZE)
            rate = bench.work_off("app.worker", len(keys))
            more["ours, per job"] = bench.used
            return rate

        def plain() -> float:
            bench.redis.flushall()
            queue = Queue(plain_worker.QUEUE, connection=bench.redis)
            for key in keys:
                queue.enqueue(plain_worker.job, "images", key)
            rate = bench.work_off("tests.bench.plain_worker", len(keys))
            more["plain, per job"] = bench.used
            return rate

        rates = in_turn(sizes.rounds, ours, plain)
    what = "jobs/s of one worker, objects of 100 kB, a face service that answers at once"
    yield compared(2, "jobs", what, PLAIN, Target(least=0.9), "jobs/s", rates, more)


def videos(sizes: Sizes) -> Iterator[Figure]:
    """A video's job, from event to index, against decoding the video and converting the frames that are sampled."""
    with servers.scratch() as directory, ExitStack() as stack:
        bench = Bench(directory, stack)
        stack.enter_context(servers.workers(directory, 1, bench.environment))
        for name, size, key_interval in VIDEOS:
            options = {"g": str(key_interval), "preset": "veryfast", "crf": "26"}
            data = media.video(_moving(sizes.video_s * FPS, size), fps=FPS, codec_options=options)
            key = f"{size[1]}.mp4"
            bench.store.put_object("images", key, io.BytesIO(data), len(data))
            seconds = in_turn(sizes.rounds, partial(_plain, data), partial(bench.until_indexed, key))
            more = {"frames sampled": bench.frames(), "frames a second of the video": FPS}
            what = f"a {sizes.video_s} s video, {name}: seconds of decoding alone, over those of its whole job"
            # Seconds of the plain one first: the ratio is one of speeds.
            beside = "the job: fetched, sampled, compared, sent, tracked, put"
            yield compared(8, f"video-{size[1]}p", what, beside, Target(least=0.8), "s", seconds, more)


def _plain(data: bytes) -> float:
    """Decode on all cores what leads to a frame a second, and convert these; return seconds."""
    started = time.perf_counter()
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = len(os.sched_getaffinity(0))
        due = 0.0
        for frame in container.decode(stream):
            if (frame.time or 0.0) >= due:
                due = (frame.time or 0.0) + 1
                frame.to_ndarray(format="rgb24")
    return time.perf_counter() - started


def _moving(frames: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """A camera that moves over a landscape."""
    width, height = size
    coarse = np.random.default_rng(0).integers(0, 255, (height // 8 + 40, width // 8 + 200, 3), np.uint8)
    landscape = Image.fromarray(coarse).resize((width + 1600, height + 320), Image.Resampling.BICUBIC)
    for number in range(frames):
        left, top = 3 * number % 1500, number % 300
        yield landscape.crop((left, top, left + width, top + height))
