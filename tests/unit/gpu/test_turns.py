"""Pictures wait their turn, and neither kind of work keeps the other out."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from app.common.wire import BusyError
from app.gpu.turns import Lane, Turns
from tests.fixtures import eventually


class Crowd:
    """Threads that come one after the other, and the order in which they got their turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.threads: list[threading.Thread] = []

    def come(self, lane: Lane, number: int) -> None:
        waiting = self.waiting(lane)
        self.threads.append(threading.Thread(target=self._take, args=(lane, number)))
        self.threads[-1].start()
        eventually(lambda: self.waiting(lane) > waiting, "the next one in the queue")

    def waiting(self, lane: Lane) -> int:
        return len(self.turns._queues[lane])

    def _take(self, lane: Lane, number: int) -> None:
        with self.turns.turn(lane):
            self.served.append(f"{lane} {number}")

    def leave(self) -> None:
        for thread in self.threads:
            thread.join()


def test_turns_are_given_in_the_order_they_came() -> None:
    crowd = Crowd(Turns(1, waiting=8, timeout=30))
    with crowd.turns.turn("pictures"):
        for number in range(8):
            crowd.come("pictures", number)
    crowd.leave()
    assert crowd.served == [f"pictures {number}" for number in range(8)]


def test_lanes_that_both_wait_take_turns() -> None:
    crowd = Crowd(Turns(1, waiting=8, timeout=30))
    with crowd.turns.turn("pictures"):
        for number in range(4):
            crowd.come("pictures", number)
        for number in range(2):
            crowd.come("frames", number)
    crowd.leave()
    assert crowd.served == ["pictures 0", "frames 0", "pictures 1", "frames 1", "pictures 2", "pictures 3"]


def test_a_full_lane_refuses_and_the_other_does_not() -> None:
    crowd = Crowd(Turns(1, waiting=2, timeout=30))
    with crowd.turns.turn("pictures"):
        crowd.come("pictures", 0)
        crowd.come("pictures", 1)
        with (
            pytest.raises(BusyError, match="2 pictures wait already, which is MAX_WAITING"),
            crowd.turns.turn("pictures"),
        ):
            pass
        crowd.come("frames", 0)
    crowd.leave()


def test_waiting_ends_and_leaves_no_trace() -> None:
    turns = Turns(1, waiting=2, timeout=0.05)
    too_late = pytest.raises(BusyError, match=r"not this picture's turn within 0\.05 s")
    with turns.turn("pictures"), too_late, turns.turn("frames"):
        pass
    with turns.turn("frames"):
        pass


def test_places_are_given_back_by_those_who_fail() -> None:
    turns = Turns(2, waiting=2, timeout=0.05)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), turns.turn("pictures"):
            _ = 1 / 0
    with ExitStack() as both:
        both.enter_context(turns.turn("pictures"))
        both.enter_context(turns.turn("frames"))


def test_videos_get_on_beside_many_pictures() -> None:
    """24 workers with pictures on 8 places, as many as may wait, and videos whose frames come one by one."""
    turns, stop = Turns(8, waiting=64, timeout=30), threading.Event()
    refused: list[BusyError] = []

    def pictures() -> None:
        while not stop.is_set():
            try:
                with turns.turn("pictures"):
                    time.sleep(0.01)
            except BusyError as error:
                refused.append(error)

    def video() -> int:
        for _ in range(20):
            with turns.turn("frames"):
                time.sleep(0.01)
        return 20

    with ThreadPoolExecutor(28) as pool:
        workers = [pool.submit(pictures) for _ in range(24)]
        videos = [pool.submit(video) for _ in range(4)]
        assert [video.result(30) for video in videos] == [20] * 4
        stop.set()
        for worker in workers:
            worker.result(30)
    assert not refused


def test_no_place_is_lost_or_made_under_a_crowd() -> None:
    places, turns = 3, Turns(3, waiting=64, timeout=0.02)
    inside, most, lock = 0, 0, threading.Lock()

    def take(number: int) -> None:
        nonlocal inside, most
        try:
            with turns.turn("frames" if number % 3 else "pictures"):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.001 * (number % 5))
                with lock:
                    inside -= 1
        except BusyError:
            pass

    with ThreadPoolExecutor(32) as crowd:
        list(crowd.map(take, range(2000)))
    assert most == places
    assert turns._free == places
