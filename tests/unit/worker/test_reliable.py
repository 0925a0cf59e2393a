"""A worker killed right after it took a job leaves the job where it is found again, also on several queues."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from rq import Callback, Retry
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from app.common.inspection import finished
from app.common.jobs import FUNCTIONS, REFUSED_JOBS, queue
from app.worker import jobs
from app.worker.reliable import GuardedJob, ReliableQueue, ReliableWorker, deaths
from infra.local import tools
from infra.local.processes import ChildProcess
from tests.fixtures import eventually, free_port

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


@pytest.fixture(autouse=True)
def _functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs may call here, beside ours."""
    mine = {f"{__name__}.{function.__name__}" for function in (here, hang, count_lives)}
    monkeypatch.setattr(
        GuardedJob, "functions", FUNCTIONS | {"builtins.abs", "builtins.bytearray", "builtins.dict"} | mine
    )


def here() -> int:
    """A job that says where it runs."""
    return os.getpid()


def hang() -> None:
    """A job that does not end by itself."""
    time.sleep(120)


def count_lives() -> int:
    """A job that says how many processes it has ended."""
    return deaths()


def worker_of(connection: "redis.Redis", **options: Any) -> ReliableWorker:
    return ReliableWorker(
        QUEUES, connection=connection, queue_class=ReliableQueue, serializer=JSONSerializer, **options
    )


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
    worker = worker_of(connection)
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
    worker = worker_of(connection)
    worker.job_memory = psutil.Process().memory_info().vms + 2 * 2**30
    worker.work(burst=True, logging_level=None)
    result = greedy.latest_result()
    assert result is not None
    assert "MemoryError" in (result.exc_string or "")
    assert modest.return_value() == 1


def test_queues_are_served_in_order_and_jobs_cleared_when_done(connection: "redis.Redis") -> None:
    ids = [queue(name, connection).enqueue("builtins.abs", -1).id for name in reversed(QUEUES)]
    worker = worker_of(connection)
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


def test_a_job_runs_in_the_worker_s_process_or_in_one_of_its_own(connection: "redis.Redis") -> None:
    target = queue(QUEUES[0], connection)
    name = f"{__name__}.here"
    inside, apart = target.enqueue(name), target.enqueue(name, job_id="apart")
    worker = worker_of(connection)
    worker.forks = lambda job: job.id == "apart"
    worker.work(burst=True, logging_level=None)
    assert inside.return_value() == os.getpid()
    assert apart.return_value() not in (None, os.getpid())


def test_a_job_in_the_worker_s_process_asks_redis_no_more_than_five_times(connection: "redis.Redis") -> None:
    target = queue(QUEUES[0], connection)
    target.enqueue("builtins.abs", -1)
    worker = worker_of(connection)
    worker.forks = lambda _job: False
    worker.note_success = jobs.note_success
    worker.work(burst=True, logging_level=None)  # what is asked for once
    number = 50
    for _ in range(number):
        target.enqueue("builtins.abs", -1)
    asked = []
    send = redis.Connection.send_packed_command

    def count(connection: redis.Connection, *args: Any, **options: Any) -> None:
        asked.append(1)
        send(connection, *args, **options)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.Connection, "send_packed_command", count)
        worker.work(burst=True, logging_level=None)
    assert target.finished_job_registry.get_job_count() == number + 1
    assert len(asked) / number < 5 + 60 / number  # and what a worker asks for when it begins and ends


@pytest.mark.parametrize("forks", [True, False])
def test_what_was_done_is_counted_once(connection: "redis.Redis", forks: bool) -> None:
    target = queue(QUEUES[0], connection)
    for outcome in ({"object": "a.jpg", "status": "indexed"}, {"object": "b.mp4", "status": "forwarded"}, {}):
        target.enqueue("builtins.dict", **outcome)
    worker = worker_of(connection)
    worker.forks = lambda _job: forks
    worker.note_success = jobs.note_success
    worker.work(burst=True, logging_level=None)
    assert finished(connection)["day"] == 1


def run_until_killed(port: int) -> None:
    connection = redis.Redis(port=port)
    worker = worker_of(connection, job_monitoring_interval=1)
    worker.forks = lambda _job: False
    worker.work(burst=True, logging_level=None)


def test_a_worker_killed_in_a_job_counts_as_a_death_of_that_job(connection: "redis.Redis") -> None:
    target = queue(QUEUES[0], connection)
    job = target.enqueue(f"{__name__}.hang", retry=Retry(3))
    port = connection.connection_pool.connection_kwargs["port"]
    victim = multiprocessing.get_context("fork").Process(target=run_until_killed, args=(port,))
    victim.start()
    eventually(lambda: job.get_status() == JobStatus.STARTED, "the job started")
    time.sleep(5)  # longer than three signs of life: a worker at work is not taken for dead
    worker = worker_of(connection, job_monitoring_interval=1)
    worker.clean_registries()  # type: ignore[no-untyped-call]
    assert job.get_status() == JobStatus.STARTED
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    time.sleep(4.5)
    worker.clean_registries()  # type: ignore[no-untyped-call]
    job.refresh()  # type: ignore[no-untyped-call]
    assert (job.get_status(), job.retries_left, job.meta["deaths"]) == (JobStatus.QUEUED, 2, 1)
    job.func_name = f"{__name__}.count_lives"
    job.save()
    worker.forks = lambda _job: False
    worker.work(burst=True, logging_level=None)
    assert job.return_value() == 1


def test_a_job_that_names_another_function_is_refused_unread_and_counted(
    connection: "redis.Redis", tmp_path: Path
) -> None:
    target = queue(QUEUES[0], connection)
    proof = tmp_path / "proof"
    refused = [
        target.enqueue("os.system", f"touch {proof}", retry=Retry(3)),
        target.enqueue("no.such.module", job_id="unknown"),
        target.enqueue("builtins.abs", -1, on_success=Callback("os.getpid"), job_id="called-back"),
    ]
    connection.hset("rq:job:unknown", "data", b"\x80\x04no JSON")
    connection.hset("rq:job:no-job", mapping={"data": "[]", "status": "no such status"})
    connection.lpush(target.key, "no-job", "nowhere")
    good = target.enqueue("builtins.abs", -2)
    worker = worker_of(connection)
    worker.work(burst=True, logging_level=None)
    assert not proof.exists()
    assert {job.id for job in refused[:2]} == set(target.failed_job_registry.get_job_ids())
    result = refused[0].latest_result()
    assert result is not None
    assert "none of our functions" in (result.exc_string or "")
    assert refused[2].return_value() == 1  # what else it names was not called, or it would have failed
    assert connection.hget(REFUSED_JOBS, target.name) == b"3"
    assert connection.llen(target.intermediate_queue_key) == 0
    assert good.return_value() == 2


@pytest.mark.parametrize(
    ("function", "key", "event", "apart"),
    [
        ("route_processing_job", "a.jpg", "s3:ObjectCreated:Put", False),
        ("route_processing_job", "a.mp4", "s3:ObjectCreated:Put", True),
        ("route_processing_job", "a.mp4", "s3:ObjectRemoved:Delete", False),
        ("process_video_upload", "a.jpg", "", True),
    ],
)
def test_only_what_may_open_a_video_runs_apart(
    connection: "redis.Redis", function: str, key: str, event: str, apart: bool
) -> None:
    kwargs = {"bucket": "images", "object": key, "event": event}
    job = queue(QUEUES[0], connection).enqueue(f"app.worker.jobs.{function}", kwargs=kwargs)
    assert jobs.forks(job) is apart
