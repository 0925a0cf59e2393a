"""`python -m app.worker`: a worker, and beside it what operators do by hand."""

import argparse
import logging
import os
import secrets
import socket
import sys
import time

from redis import Redis
from rq.serializers import JSONSerializer

from app.common import logs
from app.common.jobs import trim_ended
from app.common.redis import connect, require
from app.common.settings import load
from app.worker import jobs, operate, schedule
from app.worker.pausing import PausableQueue
from app.worker.reliable import ReliableWorker
from app.worker.settings import WorkerSettings

#: Seconds without a sign of life after which a worker counts as dead and its job is taken over.
WORKER_TTL = 60
#: Seconds between a worker's signs of life while it works, and between looks for jobs that dead ones left.
HEARTBEAT = 10
MAINTENANCE = 15

#: Seconds by which a worker's clock may differ from that of Redis. Two workers judge by their own whether the other's
#: job was abandoned, after 3 × HEARTBEAT.
MOST_CLOCK_OFF = 10


def main() -> None:
    """Work, or do what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m app.worker", description="Work, or run a command.")
    operate.add_commands(parser)
    arguments = parser.parse_args()
    settings = load(WorkerSettings)
    if arguments.command:
        sys.exit(operate.run(arguments, jobs.context(), _connect(settings)))
    work(settings)


def work(settings: WorkerSettings) -> None:
    """Work until told to stop; a first SIGTERM or Ctrl-C lets the job in hand finish."""
    logs.set_up("worker")
    connection = _connect(settings)
    _check_clock(connection)
    worker = ReliableWorker(
        settings.served(),
        # A name must be free; one of a worker killed a moment ago is not yet.
        name=f"{settings.worker_name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}",
        connection=connection,
        queue_class=PausableQueue,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL,
        job_monitoring_interval=HEARTBEAT,
        maintenance_interval=MAINTENANCE,
        default_result_ttl=settings.result_ttl,
    )
    worker.job_memory = settings.job_memory_bytes
    worker.forks = jobs.forks
    worker.note_success = jobs.note_success
    worker.least_timeout = jobs.least_timeout
    worker.chores = lambda connection: _chores(connection, settings)
    logging.getLogger(jobs.__name__).info(
        "Worker %s serves %s",
        worker.name,
        ", ".join(settings.served()),
        extra={"minio": settings.minio_endpoint},
    )
    sys.exit(0 if worker.work(with_scheduler=True, logging_level=None) is not None else 1)


def _chores(connection: "Redis", settings: WorkerSettings) -> None:
    _check_clock(connection)
    trim_ended(connection, settings)
    schedule.keep_scheduled(connection, settings, settings.reconcile_interval)


def _check_clock(connection: "Redis") -> None:
    """End where this machine's clock is wrong: MinIO refuses it, and jobs would be put off by as much."""
    seconds, microseconds = connection.time()
    off = time.time() - seconds - microseconds / 1e6
    if abs(off) > MOST_CLOCK_OFF:
        sys.exit(
            f"app.worker: this machine's clock is {off:+.0f} s off that of Redis: set whichever is wrong (chrony)."
        )


def _connect(settings: WorkerSettings) -> "Redis":
    require(settings.redis_url, "app.worker")
    return connect(settings.redis_url, patient=True)


if __name__ == "__main__":
    main()
