"""A worker killed right after it took a job leaves the job where it is found again, also on several queues."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from rq.intermediate_queue import IntermediateQueue
from rq.serializers import JSONSerializer

from app.common.jobs import queue
from app.worker.reliable import ReliableQueue, ReliableWorker
from infra.local import tools
from infra.local.processes import ChildProcess
from tests.fixtures import free_port

QUEUES = ["facial_recognition", "video_processing", "cleanup"]

#: How often a worker is killed at the pop.
KILLS = 200


@pytest.fixture
def connection(tmp_path: Path) -> Iterator["redis.Redis"]:
    try:
        server = str(tools.redis_server())
    except tools.ToolError as error:
        pytest.skip(str(error))
    port = free_port()
    command = [server, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    process = ChildProcess("redis", command, dict(os.environ), tmp_path / "redis.log")
    process.start()
    connection = redis.Redis(port=port)

    def ready() -> bool:
        try:
            return bool(connection.ping())
        except redis.ConnectionError:
            return False

    process.wait_until(ready, 20)
    yield connection
    connection.close()
    process.stop()


def take_and_die(port: int) -> None:
    connection = redis.Redis(port=port)
    queues = [queue(name, connection) for name in QUEUES]
    ReliableQueue.dequeue_any(queues, None, connection, serializer=JSONSerializer)
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_job_is_lost_when_workers_on_several_queues_are_killed_at_the_pop(
    connection: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    port = connection.connection_pool.connection_kwargs["port"]
    ids = {queue(QUEUES[number % 3], connection).enqueue("builtins.abs", -number).id for number in range(KILLS)}
    context = multiprocessing.get_context("fork")
    for _ in range(KILLS):
        victim = context.Process(target=take_and_die, args=(port,))
        victim.start()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
    queues = [queue(name, connection) for name in QUEUES]
    assert all(len(one) == 0 for one in queues)
    found = {job_id for one in queues for job_id in IntermediateQueue(one.key, connection).get_job_ids()}
    assert found == ids

    # RQ gives a job a minute before it takes it back; here it need not.
    monkeypatch.setattr(IntermediateQueue, "should_be_cleaned_up", lambda *_: True)
    worker = ReliableWorker(QUEUES, connection=connection, queue_class=ReliableQueue, serializer=JSONSerializer)
    worker.clean_registries()  # type: ignore[no-untyped-call]
    for one in queues:
        one.release_maintenance_lock()  # type: ignore[no-untyped-call]
    worker.clean_registries()  # type: ignore[no-untyped-call]
    assert all(not IntermediateQueue(one.key, connection).get_job_ids() for one in queues)
    assert {job_id for one in queues for job_id in one.failed_job_registry.get_job_ids()} == ids


def test_a_job_that_wants_too_much_memory_ends_alone(connection: "redis.Redis") -> None:
    target = queue(QUEUES[0], connection)
    greedy = target.enqueue("builtins.bytearray", 4 * 2**30)
    modest = target.enqueue("builtins.abs", -1)
    worker = ReliableWorker(QUEUES, connection=connection, queue_class=ReliableQueue, serializer=JSONSerializer)
    worker.job_memory = psutil.Process().memory_info().vms + 2 * 2**30
    worker.work(burst=True, logging_level=None)
    result = greedy.latest_result()
    assert result is not None
    assert "MemoryError" in (result.exc_string or "")
    assert modest.return_value() == 1


def test_queues_are_served_in_order_and_jobs_cleared_when_done(connection: "redis.Redis") -> None:
    ids = [queue(name, connection).enqueue("builtins.abs", -1).id for name in reversed(QUEUES)]
    worker = ReliableWorker(QUEUES, connection=connection, queue_class=ReliableQueue, serializer=JSONSerializer)
    taken = [ReliableQueue.dequeue_any(worker.queues, None, connection, serializer=JSONSerializer) for _ in range(3)]
    assert [found[0].id for found in taken if found] == ids[::-1]
    for name in QUEUES:
        connection.delete(f"rq:queue:{name}:intermediate")
        queue(name, connection).enqueue("builtins.abs", -1)
    worker.work(burst=True, logging_level=None)
    for name in QUEUES:
        assert len(queue(name, connection)) == 0
        assert connection.llen(f"rq:queue:{name}:intermediate") == 0
        assert queue(name, connection).finished_job_registry.get_job_count() == 1
