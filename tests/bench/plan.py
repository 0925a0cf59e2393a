"""`python -m tests.bench.plan`: what the plan in docs/hosts.md says that is no mere product, by simulation.

A day on which more photos come at one hour than at another runs through what was put up for its mean: MinIO's sender
of events, Redis, cards. What waits where, and for how long, is what this tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY = 86_400

#: Days that are simulated. The first does not count, for it begins with nothing waiting, and neither do the last
#: hours, of which not all that came has passed.
DAYS = 4
UNCOUNTED_AT_END = DAY // 2

#: By how much of its mean a day's busiest hour is above it, and its quietest below.
SWING = 0.5

#: Crawlers that come back with what they gathered: how often in a day, with how many seconds' worth of its mean, and
#: how much faster than that they upload it.
RETURNS, RETURN_S, RETURN_SPEED = 6, 600, 4

#: What the plan reckons with, a second: events of a MinIO node, jobs of a Redis, photos of a card.
EVENTS, JOBS, CARD = 800.0, 1500.0, 130.0

#: Photos a second, and for each what the plan puts up: MinIO nodes, Redises, cards.
PLAN = {10: (1, 1, 1), 100: (1, 1, 1), 1000: (2, 1, 8), 10_000: (19, 7, 77)}

#: How much more than the mean is put up.
SPARE = (1.1, 1.25, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a photo's way that works off so many a second, in order."""

    name: str
    a_second: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the photos that count."""

    #: Most photos that waited before each stage.
    most_waiting: dict[str, float]
    #: Seconds from a photo's upload until it had passed all stages: of half of them, and of 99 in a hundred, at most.
    half_s: float
    most_s: float


def arrivals(a_second: float, days: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Photos that come in each second: a wave a day, crawlers that come back, and chance; `a_second` on average."""
    at = np.arange(days * DAY)
    gathered = RETURNS * RETURN_S / DAY
    wave = a_second * (1 - gathered) * (1 - SWING * np.cos(2 * np.pi * at / DAY))
    coming = random.poisson(wave).astype(np.float64)
    lasts = RETURN_S // RETURN_SPEED
    for start in random.integers(0, len(at) - lasts, RETURNS * days):
        coming[start : start + lasts] += a_second * RETURN_SPEED
    return coming


def run(coming: NDArray[np.float64], stages: Sequence[Stage]) -> Outcome:
    """Send what comes in each second through the stages, one after the other."""
    counted = slice(DAY, len(coming) - UNCOUNTED_AT_END)
    leaving, most = coming, {}
    for stage in stages:
        leaving, waiting = through(leaving, stage.a_second)
        most[stage.name] = float(waiting[counted].max())
    # All in order: a photo has passed in the second in which as many have as had come with it.
    passed = np.searchsorted(np.cumsum(leaving) + 1e-3, np.cumsum(coming)[counted])
    seconds = passed - np.arange(len(coming))[counted]
    half, slow = np.quantile(seconds, (0.5, 0.99), weights=coming[counted], method="inverted_cdf")
    return Outcome(most, float(half), float(slow))


def through(coming: NDArray[np.float64], a_second: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What leaves a stage in each second, and what waits in it then: Lindley's recursion, all seconds at once."""
    net = np.cumsum(coming - a_second)
    waiting = net - np.minimum(np.minimum.accumulate(net), 0.0)
    return coming - np.diff(waiting, prepend=0.0), waiting


def main() -> None:
    """Print both tables of the plan."""
    random = np.random.default_rng(0)
    print("| photos a second | waiting with MinIO | with Redis | before the cards | half, and 99 %, indexed within |")
    print("|---|---|---|---|---|")
    for rate, (nodes, redises, cards) in PLAN.items():
        stages = [Stage("MinIO", nodes * EVENTS), Stage("Redis", redises * JOBS), Stage("cards", cards * CARD)]
        found = run(arrivals(rate, DAYS, random), stages)
        waiting = " | ".join(f"{found.most_waiting[stage.name]:,.0f}" for stage in stages)
        print(f"| {rate:,} | {waiting} | {_time(found.half_s)}, {_time(found.most_s)} |")
    print("\n| put up, of the mean | most that waits, in minutes of the mean | half, and 99 %, indexed within |")
    print("|---|---|---|")
    for spare in SPARE:
        found = run(arrivals(100, DAYS, random), [Stage("all", 100 * spare)])
        minutes = found.most_waiting["all"] / (100 * 60)
        print(f"| {spare:g} | {minutes:.0f} | {_time(found.half_s)}, {_time(found.most_s)} |")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
