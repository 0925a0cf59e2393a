"""Events as MinIO sends them: one after the other, over one connection."""

import json
import sys
import time
from contextlib import closing
from urllib.parse import quote

from infra.contract import WEBHOOK_PATH
from tests.bench.client import Connection

PUT = "s3:ObjectCreated:Put"


def send(webhook_url: str, keys: list[str], size: int = 100_000) -> float:
    """Tell a webhook of new objects in `images`; return events/s."""
    with closing(Connection(webhook_url)) as connection:
        started = time.perf_counter()
        for key in keys:
            status, text = connection.ask("POST", WEBHOOK_PATH, _document(key, size), "application/json")
            if status != 200:
                sys.exit(f"{webhook_url} answered {status}: {text.decode()}")
        return len(keys) / (time.perf_counter() - started)


def _document(key: str, size: int) -> bytes:
    of_object = {"key": quote(key), "size": size, "sequencer": f"{time.time_ns():X}"}
    record = {"eventName": PUT, "s3": {"bucket": {"name": "images"}, "object": of_object}}
    return json.dumps({"EventName": PUT, "Key": f"images/{key}", "Records": [record]}).encode()
