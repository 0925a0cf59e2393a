"""Changes of many requests are made together, by one of them, and each hears of its own."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest

from app.common.wire import OvertakenError
from app.gpu.index.batches import MOST_CHANGES, Batches
from app.gpu.index.changes import Change, Claim
from app.gpu.index.store import IndexAwayError, Payload


class Slow:
    """Changes that take until they are let go, and remember what was made together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def claim(self, items: list[str]) -> dict[str, Payload]:
        return {item: {"revision": item} for item in items}

    def make(self, changes: list[Change]) -> list[Payload | OvertakenError]:
        self.batches.append([change.claim.item_id for change in changes])
        self.go.acquire()
        if self.failure:
            raise self.failure
        return [
            OvertakenError("late") if change.claim.key == "late" else {"key": change.claim.key} for change in changes
        ]


def change(key: str, number: int = 0) -> Change:
    return Change(Claim("images", key, key, {"revision": str(number)}), {"etag": str(number)})


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def batches(slow: Slow) -> Any:
    made: Any = slow
    batches = Batches(made)
    yield batches
    slow.go.release(1000)
    batches.close()


def settle(batches: Batches, waiting: int) -> None:
    while len(batches._waiting) < waiting:
        threading.Event().wait(0.001)


def test_what_waits_is_made_together_and_nothing_waits_for_more(slow: Slow, batches: Batches) -> None:
    with ThreadPoolExecutor(20) as askers:
        first = askers.submit(batches.make, change("first"))
        while not slow.batches:
            threading.Event().wait(0.001)
        others = [askers.submit(batches.make, change(str(number))) for number in range(10)]
        settle(batches, 10)
        slow.go.release(2)
        assert first.result()["key"] == "first"
        assert {other.result()["key"] for other in others} == {str(number) for number in range(10)}
    assert [len(batch) for batch in slow.batches] == [1, 10]


def test_two_changes_of_one_item_are_made_one_after_the_other(slow: Slow, batches: Batches) -> None:
    with ThreadPoolExecutor(3) as askers:
        first = askers.submit(batches.make, change("first"))
        while not slow.batches:
            threading.Event().wait(0.001)
        twice = [askers.submit(batches.make, change("same", number)) for number in range(2)]
        settle(batches, 2)
        slow.go.release(3)
        assert all(answer.result()["key"] for answer in (first, *twice))
    assert slow.batches == [["first"], ["same"], ["same"]]


def test_each_hears_of_its_own(slow: Slow, batches: Batches) -> None:
    slow.go.release(10)
    assert batches.claim("a") == {"revision": "a"}
    assert batches.make(change("b"))["key"] == "b"
    with pytest.raises(OvertakenError):
        batches.make(change("late"))


def test_a_failure_is_told_to_who_asked_and_the_next_are_made(slow: Slow, batches: Batches) -> None:
    slow.go.release(10)
    slow.failure = IndexAwayError("away")
    with pytest.raises(IndexAwayError):
        batches.make(change("a"))
    slow.failure = None
    assert batches.make(change("a"))["key"] == "a"


def test_a_batch_is_bounded(slow: Slow, batches: Batches) -> None:
    with ThreadPoolExecutor(MOST_CHANGES + 11) as askers:
        first = askers.submit(batches.make, change("first"))
        while not slow.batches:
            threading.Event().wait(0.001)
        others = [askers.submit(batches.make, change(str(number))) for number in range(MOST_CHANGES + 10)]
        settle(batches, len(others))
        slow.go.release(10)
        assert all(answer.result()["key"] for answer in (first, *others))
    assert [len(batch) for batch in slow.batches] == [1, MOST_CHANGES, 10]


def test_who_is_alone_waits_for_no_other_thread(slow: Slow, batches: Batches) -> None:
    slow.go.release()
    assert batches.call(threading.get_ident) == threading.get_ident()


def test_nobody_is_forgotten_however_many_come_at_once(slow: Slow, batches: Batches) -> None:
    slow.go.release(100_000)
    with ThreadPoolExecutor(16) as askers:
        answers = askers.map(lambda n: batches.make(change(str(n % 7), n))["key"], range(3000), timeout=60)
        assert list(answers) == [str(number % 7) for number in range(3000)]
    assert sum(map(len, slow.batches)) == 3000
    assert all(len(set(batch)) == len(batch) for batch in slow.batches)


class PanicError(BaseException):
    """As what a panic in Qdrant Edge is raised as."""


def test_a_panic_is_told_to_all_who_waited(slow: Slow, batches: Batches) -> None:
    def said(key: str) -> str:
        try:
            return str(batches.make(change(key))["key"])
        except PanicError:
            return "panic"

    with ThreadPoolExecutor(4) as askers:
        first = askers.submit(said, "first")
        while not slow.batches:
            threading.Event().wait(0.001)
        others = [askers.submit(said, str(number)) for number in range(3)]
        settle(batches, 3)
        slow.failure = PanicError()
        slow.go.release(2)
        assert {answer.result(10) for answer in (first, *others)} == {"panic"}


def test_what_failed_is_let_go_of_at_once(slow: Slow, batches: Batches) -> None:
    class Picture:
        pass

    picture = Picture()
    there = weakref.ref(picture)
    slow.failure = IndexAwayError("down")
    slow.go.release()
    gc.disable()
    try:
        with pytest.raises(IndexAwayError):
            batches.make(Change(Claim("images", "a", "a", {}), {"picture": picture}))
        slow.failure = None
        del picture
        assert there() is None
    finally:
        gc.enable()


def test_it_is_closed_when_all_that_waited_is_done(slow: Slow, batches: Batches) -> None:
    with ThreadPoolExecutor(4) as askers:
        answers = [askers.submit(batches.make, change("same", number)) for number in range(3)]
        while len(batches._waiting) < 2:
            threading.Event().wait(0.001)
        closing = askers.submit(batches.close)
        slow.go.release(2)
        with pytest.raises(FutureTimeoutError):
            closing.result(0.3)
        slow.go.release()
        closing.result(10)
        assert all(answer.done() for answer in answers)
