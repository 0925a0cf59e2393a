"""A page takes as long with a hundred thousand objects in a real index as with a hundred, in a browser too.

`MANY_ITEMS=1000000` has it tried with a million, which takes minutes.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException

from app.common.items import item_id
from app.console.objects import ROWS
from app.console.pages import create_app
from app.console.parts import Parts
from app.console.session import Guarded
from app.gpu.api import create_app as face_app
from app.gpu.engines.base import EngineInfo
from app.gpu.index import ITEMS, FaceIndex
from app.gpu.index.edge import EdgeStore
from app.gpu.index.store import Point
from app.gpu.service import FaceService
from app.gpu.service import Parts as FaceParts
from app.gpu.settings import FaceSettings
from tests.chromium import Browser, chromium
from tests.fixtures import eventually
from tests.unit.console import standin
from tests.unit.console.conftest import Console, console_on

FEW, MANY = 100, int(os.environ.get("MANY_ITEMS", 100_000))

#: When the first was indexed; the others followed second by second.
FIRST = datetime(2026, 11, 1, tzinfo=UTC)

INFO = EngineInfo("dlib", "dlib-1", "cpu", 128, "euclid", 0.6, 1600)

#: Pages, each of which is read until it is full or nothing more is found, and the one that reads the most: records of
#: a beginning that the index cannot choose by.
PAGES = (
    "/",
    "/objects",
    "/objects?status=rejected",
    "/objects?bucket=images&prefix=7",
    "/object?bucket=images&object=77.jpg",
    "/trouble",
    "/actions",
    "/audit",
    "/objects?since=2026-11-01T00:00:50",
    "/objects?until=2026-11-01T00:00:09",
    "/objects?since=2026-11-02T00:00&status=rejected",
    "/objects?since=2027-01-01T00:00",
    "/objects?status=rejected&prefix=none",
)

#: Seconds that any may take when it is quickest, and until a browser shows one on a machine that is busy.
MOST = 1.0
SHOWN = 15.0


@contextmanager
def console_over(console: Console, directory: Path, count: int) -> Iterator[Guarded]:
    """A console whose face service, the real one but for its engine, holds so many objects."""
    store = EdgeStore(directory)
    index = FaceIndex(store, INFO)
    index.prepare()
    for start in range(0, count, 5000):
        store.upsert(ITEMS, [_point(number) for number in range(start, min(count, start + 5000))])
    service = object.__new__(FaceService)
    pool: Any = SimpleNamespace(info=INFO, problem=None, state=lambda: {"processes": 1})
    service._parts = FaceParts(pool, index)
    service._settings = FaceSettings()
    with standin.served(face_app(service, FaceSettings())) as url:
        wanted = console.parts.settings.model_copy(update={"gpu_worker_url": url})
        with closing(Parts(wanted)) as parts:
            parts.bucket = console.bucket  # type: ignore[assignment]
            yield create_app(wanted, parts)
    index.close()


def _point(number: int) -> Point:
    bucket, key = "images", f"{number}.jpg"
    if number % 10:
        record = standin.record(bucket, key, face_count=0)
    else:
        record = standin.rejected(bucket, key, "damaged", "The JPEG is damaged.")
    record["indexed_at"] = (FIRST + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    return Point(item_id(bucket, key), None, {**record, "item_id": item_id(bucket, key)})


def seconds(app: Guarded) -> dict[str, float]:
    """How long each page takes at its quickest, to somebody who signed in."""
    browser, taken = app.test_client(), {}
    assert browser.post("/sign-in", data={"token": standin.TOKEN}).status_code == 303
    for page in PAGES:
        each = []
        for _ in range(3):
            began = time.perf_counter()
            answer = browser.get(page)
            each.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert "does not answer" not in answer.text
        taken[page] = min(each)
    return taken


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, redis_port: int) -> Iterator[Guarded]:
    """A console over many objects, which take a while to write."""
    with console_on(redis_port) as console, console_over(console, tmp_path_factory.mktemp("many"), MANY) as app:
        yield app


def test_pages_take_as_long_with_a_hundred_thousand_objects_as_with_a_hundred(
    many: Guarded, redis_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_many = seconds(many)
    with console_on(redis_port) as console, console_over(console, tmp_path, FEW) as app:
        of_few = seconds(app)
    with capsys.disabled():
        for page in PAGES:
            few, more = of_few[page] * 1000, of_many[page] * 1000
            print(f"\n{page}: {few:.1f} ms with {FEW:,} objects, {more:.1f} ms with {MANY:,}")
    assert {page: taken for page, taken in of_many.items() if taken > MOST} == {}


def rows(browser: Browser) -> set[str]:
    """The objects of a list that is shown; none while it is replaced."""
    try:
        return {row.text for row in browser.all("tbody th")}
    except StaleElementReferenceException:
        return set()


def test_in_a_browser_a_hundred_thousand_objects_are_found_page_by_page(many: Guarded, tmp_path: Path) -> None:
    with standin.served(many) as url, chromium(url, tmp_path) as browser:
        browser.sign_in(standin.TOKEN)
        browser.shows(f"{MANY:,} objects")
        browser.go("/objects?status=rejected")
        seen = rows(browser)
        for number in range(2, 5):
            began = time.monotonic()
            browser.press("Next page")
            eventually(lambda: rows(browser) and not seen & rows(browser), "the next page")
            assert time.monotonic() - began < SHOWN
            seen.update(rows(browser))
            assert len(seen) == number * ROWS
        browser.go("/objects?until=2026-11-01T00:00:09")
        assert rows(browser) == {f"images/{number}.jpg" for number in range(10)}
        browser.go("/trouble")
        browser.shows(f"{MANY // 10:,}")
        for page in PAGES:
            browser.go(page)
            shown = browser.run("return performance.getEntriesByType('navigation')[0].domComplete")
            assert shown < SHOWN * 1000, page
        browser.picture("many-objects")
        assert browser.complaints() == []
