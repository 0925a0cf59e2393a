"""`python -m app.gpu`: the face service."""

import os
from contextlib import ExitStack

from flask import Flask

from app.common import logs
from app.common.server import Server
from app.common.settings import load
from app.gpu.api import create_app
from app.gpu.pool import HELD_PER_PROCESS, TURN_TIMEOUT, WAITING_PER_PROCESS
from app.gpu.service import FaceService
from app.gpu.settings import FaceSettings

#: Threads beyond those that pictures can take, so that health and look-ups always find one.
SPARE_THREADS = 16

#: Seconds for a picture to come, once it is its turn.
BODY_SECONDS = 60


def main() -> None:
    """Serve until told to stop. One process: the embedded index belongs to it alone."""
    logs.set_up("gpu")
    settings = load(FaceSettings)
    closing = ExitStack()

    def create() -> Flask:
        service = FaceService(settings)
        closing.callback(service.close)
        return create_app(service, settings)

    most_processes = settings.engine_processes or os.cpu_count() or 1
    Server(
        create,
        bind=f"{settings.gpu_worker_host}:{settings.gpu_worker_port}",
        body_seconds=TURN_TIMEOUT + BODY_SECONDS,
        workers=1,
        threads=(HELD_PER_PROCESS + WAITING_PER_PROCESS) * most_processes + SPARE_THREADS,
        # Pictures in work are finished before the process ends.
        graceful_timeout=settings.analysis_timeout + 10,
        timeout=settings.analysis_timeout + 60,
        worker_exit=lambda _server, _worker: closing.close(),
    ).run()


if __name__ == "__main__":
    main()
