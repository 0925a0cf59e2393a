"""Engines that take a known time: what surrounds them is measured against it.

Named to a face service by `BENCH_ENGINE`, see `tests.bench.stand_in`.
"""

import math
import time
from collections.abc import Sequence
from threading import Lock

import numpy as np

from app.gpu.engines.base import EngineInfo, Face, Image
from app.gpu.settings import EngineSettings

#: What loads each, as `module:function`.
BUSY, CARD, SLOW_CARD, NOTHING = (f"tests.bench.engines:{name}" for name in ("busy", "card", "slow_card", "nothing"))

#: Seconds of one core that a picture takes, as SCRFD-500m and MobileFaceNet do.
BUSY_SECONDS = 0.015

#: Seconds that a batch takes the simulated card: so much, and so much for each picture.
CARD_SECONDS, CARD_SECONDS_EACH = 0.003, 0.0006
CARD_BATCH = 32
#: Calls that it is given at once, of which it computes one at a time: the next waits at the card, as with real ones.
CARD_THREADS = 2
#: How much slower the slow one is, so that two cores can feed it.
SLOWER = 10

EMBEDDING_SIZE = 512


class Timed:
    """Satisfies `Engine`: one face a picture, after its time."""

    def __init__(self, device: str, settings: EngineSettings, batch: int = 1, threads: int = 1) -> None:
        self.info = EngineInfo(
            engine="timed",
            model_id=f"timed-{device.partition(':')[0]}",
            device=device,
            embedding_size=EMBEDDING_SIZE,
            distance="cosine",
            link_distance=0.6,
            max_side=2048,
            batch=settings.engine_batch or batch,
            threads=settings.engine_threads or threads,
        )
        self._embedding = np.ones(EMBEDDING_SIZE, np.float32)

    def analyse(self, images: Sequence[Image]) -> list[list[Face]]:
        self._take_time(len(images))
        return [[self._face(image)] for image in images]

    def _take_time(self, images: int) -> None:
        """No time at all."""

    def _face(self, image: Image) -> Face:
        height, width = image.shape[:2]
        return Face((0, 0, width, height), np.zeros((5, 2), np.float32), float(image[0, 0, 0]), self._embedding)


class Busy(Timed):
    """Keeps a core busy: a small network on a CPU."""

    def _take_time(self, images: int) -> None:
        end = time.thread_time() + BUSY_SECONDS * images
        while time.thread_time() < end:
            math.factorial(500)


class Card(Timed):
    """A simulation, no card: asleep for as long as one would compute, so that its host has the cores to feed it."""

    def __init__(self, settings: EngineSettings, slower: int = 1) -> None:
        super().__init__("cuda:0", settings, CARD_BATCH, CARD_THREADS)
        self._slower = slower
        self._computing = Lock()

    def _take_time(self, images: int) -> None:
        with self._computing:
            time.sleep(self._slower * (CARD_SECONDS + CARD_SECONDS_EACH * images))


def nothing(settings: EngineSettings) -> Timed:
    return Timed("cpu", settings)


def busy(settings: EngineSettings) -> Busy:
    return Busy("cpu", settings)


def card(settings: EngineSettings) -> Card:
    return Card(settings)


def slow_card(settings: EngineSettings) -> Card:
    return Card(settings, SLOWER)
