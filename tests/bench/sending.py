"""Events as MinIO sends them: one after the other, over one connection."""

import http.client
import json
import sys
import time
from urllib.parse import quote, urlsplit

from infra.contract import WEBHOOK_PATH

PUT = "s3:ObjectCreated:Put"


def send(webhook_url: str, keys: list[str], size: int = 100_000) -> float:
    """Tell a webhook of new objects in `images`; return events/s."""
    parts = urlsplit(webhook_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    started = time.perf_counter()
    for key in keys:
        connection.request("POST", WEBHOOK_PATH, _document(key, size), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"{webhook_url} answered {answer.status}: {text.decode()}")
    rate = len(keys) / (time.perf_counter() - started)
    connection.close()
    return rate


def _document(key: str, size: int) -> bytes:
    of_object = {"key": quote(key), "size": size, "sequencer": f"{time.time_ns():X}"}
    record = {"eventName": PUT, "s3": {"bucket": {"name": "images"}, "object": of_object}}
    return json.dumps({"EventName": PUT, "Key": f"images/{key}", "Records": [record]}).encode()
