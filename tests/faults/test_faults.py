"""Processes are killed, kept away, filled up and misled while a crawler works; the index agrees with the bucket.

`FAULT_OBJECTS` is the number of objects a fault meets, `FAULT_RECONCILE=1` compares buckets and index as soon as the
fault is over, `FAULT_SEED` repeats a run. `python -m tests.faults` runs the full size and prints the table.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_plus

import pytest

from infra.local import tools
from tests.faults import load
from tests.faults.crew import SERVICES, Crew, crew, freeze
from tests.fixtures import JSON, Pipeline, eventually
from tests.pipeline.test_reconcile import events_lost, operate

pytestmark = pytest.mark.timeout(1800)

OBJECTS = int(os.environ.get("FAULT_OBJECTS", "60"))
RECONCILE_AT_ONCE = os.environ.get("FAULT_RECONCILE") == "1"
SEED = int(os.environ.get("FAULT_SEED", random.randrange(2**32)))
FULL = OBJECTS >= 1000

#: Seconds for which a crawler works, and for which something is away.
LOAD_SECONDS = OBJECTS / 12
DOWN_SECONDS = 60 if FULL else 6

#: Seconds to wait for agreement without a comparison: on a machine of two cores a job takes up to half a second.
PATIENCE = 300 + OBJECTS / 2

#: Seconds between two looks at all objects.
LOOK = 3 if FULL else 0.5

Photos = dict[str, bytes]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at a random moment of the load."""

    strike: Callable[[Crew, random.Random], None]
    #: What holds for the whole load.
    during: Callable[[Crew], AbstractContextManager[None]] = lambda _: nullcontext()


def soon(probe: Callable[[], Seen | None], seconds: float = 20) -> Seen | None:
    """Look closely until a probe sees something, but not for ever: the load may be over."""
    deadline = time.monotonic() + seconds
    while not (seen := probe()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return seen


def kill(*names: str) -> Fault:
    return Fault(lambda crew, _: crew.kill(*names))


def down(name: str) -> Fault:
    def strike(crew: Crew, _: random.Random) -> None:
        with crew.without(name):
            crew.tend(DOWN_SECONDS)

    return Fault(strike)


def kill_two(crew: Crew, rng: random.Random) -> None:
    names = rng.sample(SERVICES, 2)
    print("killed:", *names)
    crew.kill(*names)


def kill_scheduler(crew: Crew, _: random.Random) -> None:
    crew.kill_schedulers()


def kill_a_worker_that_has_just_taken_a_job(crew: Crew, _: random.Random) -> None:
    def taken() -> bool:
        keys = crew.found.redis.keys("rq:queue:*:intermediate")
        return any(crew.found.redis.llen(key) for key in keys)

    soon(taken)
    crew.kill("worker-1", "worker-2")


def kill_a_worker_in_the_middle(crew: Crew, _: random.Random) -> None:
    offsets = crew.log_offsets()
    if found := soon(lambda: crew.begun(offsets)):
        found[0].kill()


def kill_a_worker_that_has_written_the_index(crew: Crew, _: random.Random) -> None:
    """MinIO is held while the picture is analysed, so the worker stands still at its last look at the bucket."""
    picture = Path(tools.cache_dir() / "photos" / "group.jpg").read_bytes()
    offsets = crew.log_offsets()
    etag = crew.found.put("images", "late.jpg", picture)
    found = soon(lambda: crew.begun(offsets, "Processing image upload images/late.jpg"))
    time.sleep(0.15)  # its bytes are read by now; analysing takes longer
    go_on = freeze(crew.processes["minio"])
    try:
        written = soon(lambda: crew.found.item("images", "late.jpg").get("item", {}).get("etag") == etag)
        if found:
            found[0].kill()
    finally:
        go_on()
    print("index written before the worker's end:", bool(written))
    crew.found.minio.remove_object("images", "late.jpg")


def fill_redis(crew: Crew, _: random.Random) -> None:
    crew.found.redis.config_set("maxmemory", 1)
    crew.tend(DOWN_SECONDS)
    crew.found.redis.config_set("maxmemory", 0)


def stop_everything(crew: Crew, _: random.Random) -> None:
    ended = [crew.processes[name] for name in SERVICES]
    for process in ended:
        process.signal(signal.SIGTERM)
    for process in ended:
        assert process.process is not None
        assert process.process.wait(process.grace) is not None


def nothing(_crew: Crew, _rng: random.Random) -> None:
    """What goes wrong holds for the whole load."""


@contextmanager
def changed(crew: Crew, name: str, command: list[str]) -> Iterator[None]:
    """A time in which a process is started by another command."""
    process = crew.processes[name]
    before = process.command
    process.stop()
    process.command = command
    process.start()
    crew.ready()
    try:
        yield
    finally:
        process.stop()
        process.command = before
        process.start()
        crew.ready()


@contextmanager
def clock_off(crew: Crew) -> Iterator[None]:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("faketime is not on PATH: apt-get install faketime")
    with changed(crew, "worker-1", [faketime, "-f", "+1h", *crew.processes["worker-1"].command]):
        yield
        assert "clock is +3600 s off" in crew.processes["worker-1"].log.read_text()


@contextmanager
def little_room_for_events(crew: Crew) -> Iterator[None]:
    """MinIO's queue directory on a file system with room for some events, in a mount namespace of its own."""
    directory = crew.found.stack.directory / "data" / "events"
    mount = f'mount -t tmpfs -o size=32k tmpfs "{directory}" && exec "$@"'
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace cannot be had here: unshare --mount --map-root-user is refused")
    with changed(crew, "minio", [*unshare, *crew.processes["minio"].command]):
        with crew.without("webhook"):
            yield
        time.sleep(6)  # two looks of MinIO at its directory, which is gone with it


FAULTS = {
    "kill -9 webhook": kill("webhook"),
    "kill -9 Redis": kill("redis"),
    "kill -9 MinIO": kill("minio"),
    "kill -9 face service": kill("gpu-worker"),
    "kill -9 scheduler": Fault(kill_scheduler),
    "kill -9 worker, job taken": Fault(kill_a_worker_that_has_just_taken_a_job),
    "kill -9 worker, in the middle": Fault(kill_a_worker_in_the_middle),
    "kill -9 worker, index written": Fault(kill_a_worker_that_has_written_the_index),
    "kill -9 two at once": Fault(kill_two),
    "kill -9 everything": kill(*SERVICES),
    "webhook down": down("webhook"),
    "Redis down": down("redis"),
    "face service down": down("gpu-worker"),
    "Redis full": Fault(fill_redis),
    "disk full under MinIO's events": Fault(nothing, little_room_for_events),
    "SIGTERM everything": Fault(stop_everything),
    "worker's clock an hour ahead": Fault(nothing, clock_off),
}

#: After these some events may be missing until the next comparison; after all others none. MinIO takes uploads
#: for a moment after its start before it knows where events go.
MAY_LOSE = {
    "kill -9 MinIO",
    "kill -9 two at once",
    "kill -9 everything",
    "SIGTERM everything",
    "disk full under MinIO's events",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with crew(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture(scope="module")
def faces(broken: Crew, photos: Photos) -> dict[str, int]:
    counts = load.faces_of(broken.found, photos)
    assert counts == {"one face": 1, "two faces": 2, "no face": 0, "no picture": 0, "video": 1}
    return counts


@pytest.mark.parametrize("name", FAULTS)
def test_the_index_agrees_with_the_bucket_after(
    broken: Crew, photos: Photos, faces: dict[str, int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clear(broken.found)
    fault, rng = FAULTS[name], random.Random(f"{SEED} {name}")
    crawler = load.Crawler(broken.found, photos, rng, OBJECTS, LOAD_SECONDS)
    logged = broken.log_offsets()
    print("seed", SEED)
    with fault.during(broken):
        crawler.start()
        broken.tend(rng.uniform(0.1, 0.6) * LOAD_SECONDS)
        fault.strike(broken, rng)
        while crawler.is_alive():
            broken.tend(0.2)
    broken.ready()
    over = time.monotonic()
    if RECONCILE_AT_ONCE:
        operate(broken.found, "reconcile", "--wait")
    lost = settle(broken, crawler, faces)
    agreed = time.monotonic() - over
    figures = {
        "fault": name,
        "objects": OBJECTS,
        "uploads": crawler.uploads,
        "uploads tried again": crawler.tries_again,
        "lost before reconcile": len(lost),
        "seconds to agreement": round(agreed, 1),
        "processed twice": needless(broken, logged),
        "failed jobs": broken.found.call("GET", "webhook/jobs/failed")[1]["failed_jobs"],
    }
    reconciling = time.monotonic()
    done = operate(broken.found, "reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    left = eventually_agreed(broken.found, crawler, faces)
    figures["reconcile"] = done.stderr.strip()
    figures["seconds of reconcile"] = round(time.monotonic() - reconciling, 1)
    record(figures, capsys)
    assert left == []
    assert lost == [] or name in MAY_LOSE
    assert figures["failed jobs"] == 0
    assert broken.found.call("GET", "gpu_worker/items?reason_code=quarantined")[1]["items"] == []


def test_every_event_three_times_and_in_any_order(
    broken: Crew, photos: Photos, faces: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    clear(broken.found)
    rng = random.Random(SEED)
    crawler = load.Crawler(broken.found, photos, rng, OBJECTS, LOAD_SECONDS)
    with events_lost(broken.found):
        crawler.run()
    events = [event(step, number) for number, step in enumerate(crawler.plan)] * 3
    rng.shuffle(events)
    over = time.monotonic()
    for at in range(0, len(events), 20):
        body = {"Records": events[at : at + 20]}
        assert broken.found.call("POST", "webhook/webhook/minio", body, **broken.found.token())[0] == 200
    lost = settle(broken, crawler, faces)
    figures = {"fault": "every event three times, shuffled", "objects": OBJECTS, "lost before reconcile": len(lost)}
    record({**figures, "seconds to agreement": round(time.monotonic() - over, 1)}, capsys)
    assert lost == []


def test_a_damaged_event_file_is_seen_within_a_minute_and_mended_by_one_command(
    broken: Crew, photos: Photos, faces: dict[str, int]
) -> None:
    found = broken.found
    clear(found)
    crawler = load.Crawler(found, photos, random.Random(SEED), 5, 1)
    with broken.without("webhook"):
        crawler.run()
        files = sorted((found.stack.directory / "data" / "events").rglob("*.event"))
        files[0].write_bytes(files[0].read_bytes()[:200])
        files[1].write_bytes(b"")
    broken.ready()

    def sign() -> JSON | None:
        """Crawlers go on meanwhile."""
        found.put("images", "afterwards.jpg", b"something new")
        time.sleep(1)
        health = found.call("GET", "webhook/health")[1]
        return health if health["events"]["held_back_s"] else None

    health = eventually(sign, "a sign", 60)
    assert "mend-event-queue.sh" in health["events"]["problem"]
    url = f"{found.outputs['webhook_url']}/metrics"
    metrics = found.http.request("GET", url, headers=found.token()).data.decode()
    assert "lookingglass_events_held_back_seconds 2" in metrics
    script = tools.ROOT / "scripts" / "mend-event-queue.sh"
    mended = subprocess.run(
        [script, found.stack.directory / "data" / "events"], capture_output=True, text=True, check=True
    )
    assert "2 were damaged" in mended.stdout
    eventually(lambda: not found.call("GET", "webhook/health")[1]["events"]["held_back_s"], "events again", 30)
    found.minio.remove_object("images", "afterwards.jpg")
    assert operate(found, "reconcile", "--wait").returncode == 0
    assert eventually_agreed(found, crawler, faces) == []


def settle(broken: Crew, crawler: load.Crawler, faces: dict[str, int]) -> list[str]:
    """Wait for agreement, or until nothing more is to come; return what differs then."""
    deadline, quiet = time.monotonic() + PATIENCE, 0
    while (lost := load.disagreements(broken.found, crawler.expected, faces)) and time.monotonic() < deadline:
        quiet = quiet + 1 if idle(broken.found) else 0
        if quiet > 10 / LOOK:
            break
        broken.tend(LOOK)
    print("\n".join(lost[:20]))
    return lost


def idle(found: Pipeline) -> bool:
    """Whether no job is to come and MinIO has no event left."""
    stats = found.call("GET", "webhook/queue/stats")[1]["queues"].values()
    jobs = sum(queue[state] for queue in stats for state in ("queued_jobs", "started_jobs", "scheduled_jobs"))
    return not jobs and not any((found.stack.directory / "data" / "events").rglob("*.event"))


def eventually_agreed(found: Pipeline, crawler: load.Crawler, faces: dict[str, int]) -> list[str]:
    """What still differs after a comparison, whose last jobs may be ending."""
    for _ in range(20):
        if not (left := load.disagreements(found, crawler.expected, faces)):
            break
        time.sleep(1)
    return left


def clear(found: Pipeline) -> None:
    """Empty the buckets and see the index follow."""
    load.remove_all(found)
    if load.disagreements(found, {}, {}):
        operate(found, "reconcile", "--wait")
    eventually(lambda: load.disagreements(found, {}, {}) == [], "an empty index", 60 + OBJECTS / 5)


def event(step: load.Step, number: int) -> dict[str, object]:
    """What MinIO would say of a step."""
    name = "s3:ObjectCreated:Put" if step.kind else "s3:ObjectRemoved:Delete"
    entry = {"key": quote_plus(step.key), "sequencer": f"{number:016X}"}
    return {"eventName": name, "s3": {"bucket": {"name": step.bucket}, "object": entry}}


def needless(broken: Crew, offsets: dict[str, int]) -> int:
    """How many versions of objects were analysed again after they had been."""
    done: Counter[tuple[str, str, str]] = Counter()
    for worker in broken.workers:
        with worker.log.open(errors="replace") as log:
            log.seek(offsets[worker.name])
            for line in log:
                if '"status": "indexed"' in line and '"outcome"' in line:
                    outcome = json.loads(line)["outcome"]
                    done[outcome["bucket"], outcome["object"], outcome["etag"]] += 1
    return sum(times - 1 for times in done.values())


def record(figures: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """Keep the figures of a run for the table, and show them."""
    if report := os.environ.get("FAULT_REPORT"):
        with Path(report).open("a") as file:
            file.write(json.dumps({**figures, "seed": SEED}) + "\n")
    with capsys.disabled():
        sys.stderr.write(f"\n  {json.dumps(figures)}\n")
