"""While workers are paused no job is taken, not even by one that waits for it already."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, suspension
from rq.exceptions import DequeueTimeout

from app.worker.pausing import PausableQueue
from tests.redis_server import redis_server


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Redis"]:
    directory: Path = tmp_path_factory.mktemp("redis")
    with redis_server(directory) as port, closing(Redis(port=port)) as connected:
        yield connected


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_no_job_is_taken_until_they_go_on(connection: "Redis", names: list[str]) -> None:
    queues = [PausableQueue(name, connection=connection) for name in names]
    taken: list[str] = []

    def wait_for_a_job() -> None:
        if found := PausableQueue.dequeue_any(queues, 10, connection):
            taken.append(found[0].id)

    waiting = threading.Thread(target=wait_for_a_job)
    waiting.start()
    suspension.suspend(connection)
    time.sleep(2.2)  # what was waited for when it was looked last
    job = Queue(names[-1], connection=connection).enqueue("os.getpid")
    time.sleep(1)
    assert taken == []
    assert PausableQueue.dequeue_any(queues, None, connection) is None
    suspension.resume(connection)
    waiting.join(5)
    assert taken == [job.id]


def test_waiting_ends_in_time(connection: "Redis") -> None:
    queues = [PausableQueue("empty", connection=connection)]
    for begin in (suspension.resume, suspension.suspend):
        begin(connection)
        began = time.monotonic()
        with pytest.raises(DequeueTimeout):
            PausableQueue.dequeue_any(queues, 2, connection)
        assert 1.5 < time.monotonic() - began < 4
