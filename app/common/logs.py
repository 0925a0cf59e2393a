"""Structured logs: one JSON object a line on standard error, with the phrases operators search for."""

import logging
import os
import sys

from pythonjsonlogger.json import JsonFormatter


def set_up(service: str) -> None:
    """Send every logger of this process to standard error as JSON; `LOG_LEVEL` sets the level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), handlers=[handler], force=True)
    # Their INFO is a line per request, poll, or step of a job.
    for chatty in ("httpx", "httpcore", "urllib3", "rq.scheduler", "rq.worker", "rq.job"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
