"""Hundreds of hostile files go through; each gets its verdict, and the good ones between them are indexed."""

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.local import tools
from tests import media
from tests.faults.corpus import Hostile, corpus
from tests.fixtures import JSON, Pipeline, eventually, standing

pytestmark = pytest.mark.timeout(1800)

#: The table of the docs is of this seed.
SEED = int(os.environ.get("POISON_SEED", "20"))

#: Good pictures among the hostile files.
GOOD = 10

#: Seconds for everything to have a verdict: an object that ends its process is tried again for over six minutes.
PATIENCE = 900

DOCS = tools.ROOT / "docs" / "poison.md"

Photos = dict[str, bytes]
Records = dict[tuple[str, str], JSON]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECONCILE_INTERVAL", "0")
        with standing(tmp_path_factory.mktemp("poison")) as found:
            yield found


def test_every_hostile_file_has_its_verdict_and_every_good_one_its_faces(
    poisoned: Pipeline, photos: Photos, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = list(corpus(photos, SEED))
    assert len(hostile) >= 500
    assert len({(file.bucket, file.key) for file in hostile}) == len(hostile)
    good = {f"good/{number}.jpg": media.jpeg(media.portrait(photos)) + bytes([number]) for number in range(GOOD)}
    order: list[Hostile] = [*hostile, *(Hostile("good", "images", key, data) for key, data in good.items())]
    random.Random(SEED).shuffle(order)

    started = time.monotonic()
    etags = {}
    for file in order:
        etags[file.bucket, file.key] = poisoned.put(file.bucket, file.key, file.data)
    verdicts = wait_for_all(poisoned, etags)
    table = Counter((file.what, verdict(verdicts[file.bucket, file.key])) for file in hostile)
    with capsys.disabled():
        sys.stderr.write(f"\n  {len(order)} files in {time.monotonic() - started:.0f} s\n")
        if report := os.environ.get("POISON_REPORT"):
            Path(report).write_text(as_markdown(table))

    for key in good:
        assert poisoned.item("images", key)["points"] == 1, key
    named = [file for file in hostile if file.what == "sound picture, hostile name"]
    for file in named:
        assert verdicts["images", file.key]["face_count"] == 1, file.key
    for item in verdicts.values():
        assert item["status"] == "indexed" or item["reason"].endswith("."), item
    assert poisoned.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 0
    assert poisoned.call("GET", "webhook/events/dead")[1]["dead_letters"] == 0
    for process in poisoned.stack.processes.values():
        assert process.running(), process.name
    etag = poisoned.put("images", "afterwards.jpg", good["good/0.jpg"])
    assert poisoned.indexed("images", "afterwards.jpg", etag)["points"] == 1
    assert documented() == Counter(file.what for file in hostile)


def test_a_process_that_a_decoder_ends_takes_one_picture_with_it(poisoned: Pipeline, photos: Photos) -> None:
    """A decoder's crash cannot be had on demand, so the engine's processes are ended while they work."""
    for number in range(6):
        poisoned.put("images", f"crash/{number}.jpg", photos["group.jpg"] + bytes([number]))
    leader = psutil.Process(poisoned.stack.processes["gpu-worker"].pid)
    ended: set[int] = set()
    deadline = time.monotonic() + 30
    while len(ended) < 3 and time.monotonic() < deadline:
        for child in leader.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "app.gpu.infer" in child.cmdline() and child.cpu_percent(0.1) > 5:  # busy, on a busy machine too
                    child.kill()
                    ended.add(child.pid)
    assert len(ended) >= 3
    for number in range(6):
        assert poisoned.indexed("images", f"crash/{number}.jpg", timeout=200)["points"] > 1


def wait_for_all(poisoned: Pipeline, etags: dict[tuple[str, str], str]) -> Records:
    """The records of all these objects, once each is of the version that was uploaded."""

    def probe() -> Records | None:
        records: Records = {}
        after: str | None = ""
        while after is not None:
            answer = poisoned.call("GET", f"gpu_worker/items?limit=1000{after and f'&after={after}'}")[1]
            records |= {(record["bucket"], record["key"]): record for record in answer["items"]}
            after = answer["after"]
        done = all(name in records and records[name]["etag"] == etag for name, etag in etags.items())
        time.sleep(1)
        return records if done else None

    return eventually(probe, "a verdict on every file", PATIENCE)


def verdict(record: JSON) -> str:
    """What became of an object, in a word."""
    return str(record["reason_code"] or "indexed")


def as_markdown(table: Counter[tuple[str, str]]) -> str:
    """The table of the docs: what a file is, how many there are, what became of them."""
    lines = ["| files | number | what became of them |", "|---|---|---|"]
    for what in dict.fromkeys(what for what, _ in table):
        outcomes = {outcome: count for (kind, outcome), count in sorted(table.items()) if kind == what}
        told = ", ".join(f"{count} `{outcome}`" for outcome, count in outcomes.items())
        lines.append(f"| {what} | {sum(outcomes.values())} | {told} |")
    return "\n".join([*lines, ""])


def documented() -> Counter[str]:
    """How many files of each kind the docs speak of; another build of an encoder may change a verdict."""
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| [^|]+ \|$", DOCS.read_text(), re.M)
    return Counter({what: int(number) for what, number in rows})
