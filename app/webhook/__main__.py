"""`python -m app.webhook`: the webhook."""

import os
import tempfile
from typing import Any

from flask import Flask
from redis import Redis

from app.common import logs
from app.common.server import Server
from app.common.settings import load
from app.webhook.settings import WebhookSettings

#: Seconds for Redis to connect and to answer before MinIO is told to come back.
REDIS_TIMEOUT = 5

#: Seconds for an event document of a few kB to come.
BODY_SECONDS = 15


def main() -> None:
    """Serve until told to stop."""
    logs.set_up("webhook")
    settings = load(WebhookSettings)
    with tempfile.TemporaryDirectory(prefix="lookingglass-metrics-") as metrics_dir:
        # Read when prometheus_client is first imported, which is in the worker processes.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
        Server(
            lambda: _create(settings),
            bind=f"{settings.webhook_host}:{settings.webhook_port}",
            body_seconds=BODY_SECONDS,
            workers=settings.webhook_workers,
            threads=settings.webhook_threads,
            child_exit=_forget_process,
        ).run()


def _create(settings: WebhookSettings) -> Flask:
    from app.webhook.api import create_app

    connection = Redis.from_url(
        settings.redis_url, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT
    )
    return create_app(settings, connection)


def _forget_process(_server: Any, worker: Any) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
