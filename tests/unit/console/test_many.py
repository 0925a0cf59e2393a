"""A page takes as long with a million jobs as with a hundred."""

import json
import time
from statistics import median

import pytest

from app.console.audit import AUDIT
from app.webhook.queueing import DEAD_LETTERS
from tests.unit.console import standin
from tests.unit.console.conftest import Console

FEW, MANY = 100, 1_000_000

#: Jobs of each kind that are remembered at most (MAX_FAILED_JOBS), and dead letters and entries of the audit log.
REMEMBERED, BURIED, AUDITED = 20_000, 10_000, 100_000

PAGES = ("/", "/objects", "/trouble", "/actions", "/audit")

#: Times a page is asked for; the middle one counts.
TIMES = 3


def fill(console: Console, jobs: int) -> None:
    """So many jobs waiting, and as many of everything else as is kept."""
    for number in range(min(jobs, 500)):  # what pages read of jobs
        standin.fail(console.redis, f"{number}.jpg", f"failed-{number}", f"ValueError: bad number {number}")
    console.enqueue("next.jpg", "next")
    with console.redis.pipeline(transaction=False) as pipe:
        for start in range(0, jobs, 10_000):
            ids = [f"waiting-{number}" for number in range(start, min(jobs, start + 10_000))]
            pipe.rpush("rq:queue:facial_recognition", *ids)
        for kind in ("failed", "finished"):
            # Behind those that are read, in the order of their ends.
            pipe.zadd(f"rq:{kind}:facial_recognition", {f"{kind}-id-{n}": n for n in range(min(jobs, REMEMBERED))})
        letter = json.dumps({"at": "2026-11-01T10:00:00+00:00", "reason": "no key", "record": "{}"})
        pipe.rpush(DEAD_LETTERS, *[letter] * min(jobs, BURIED))
        entry = json.dumps(dict.fromkeys(("address", "how", "what", "about", "outcome"), "x") | {"at": "2026-11-01"})
        pipe.rpush(AUDIT, *[entry] * min(jobs, AUDITED))
        pipe.execute()


def seconds(console: Console) -> dict[str, float]:
    browser, taken = console.browser(), {}
    for page in PAGES:
        each = []
        for _ in range(TIMES):
            began = time.perf_counter()
            assert browser.get(page).status_code == 200
            each.append(time.perf_counter() - began)
        taken[page] = median(each)
    return taken


def test_pages_take_as_long_with_a_million_jobs_as_with_a_hundred(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(console, FEW)
    few = seconds(console)
    console.redis.flushall()
    fill(console, MANY)
    many = seconds(console)
    assert int(console.redis.llen("rq:queue:facial_recognition")) > MANY
    with capsys.disabled():
        for page in PAGES:
            print(f"\n{page}: {few[page] * 1000:.0f} ms with {FEW:,} jobs, {many[page] * 1000:.0f} ms with {MANY:,}")
    for page in PAGES:
        # Trouble reads the newest thousand failed jobs and dead events, and no more.
        assert many[page] < (1.5 if page == "/trouble" else 0.25), page
