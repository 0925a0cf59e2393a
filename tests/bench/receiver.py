"""`python -m tests.bench.receiver PORT`: a server that reads a request and answers at once.

The do-nothing receiver of events, and the face service that costs nothing: what it answers satisfies a worker. What
it was asked, it counts, and tells at `GET /counts`; `DELETE /counts` forgets it.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

#: The model that it says it runs.
MODEL = {"model_id": "none-000000000000", "distance": "cosine", "link_distance": 0.6, "max_side": 2048}
HEALTH = {"status": "healthy", "engine": "none", "device": "cpu", "embedding_size": 512, **MODEL}


class Receiver(asyncio.Protocol):
    """One connection."""

    counts: ClassVar[Counter[str]] = Counter()
    times: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end])
            length = _length(head)
            if b"expect: 100-continue" in head.lower() and len(self._data) == end + 4:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self._data) < end + 4 + length:
                return
            body = bytes(self._data[end + 4 : end + 4 + length])
            del self._data[: end + 4 + length]
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            status, answer = self._answer(method, target, body)
            text = json.dumps(answer).encode()
            self._transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(text), text)
            )

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        path = urlsplit(target).path
        if path == "/counts":
            told = {**self.counts, "times": dict(self.times)}
            if method == "DELETE":
                self.counts.clear()
                self.times.clear()
            return 200, told
        what = f"{method} /{path.split('/')[1]}"
        self.counts[what] += 1
        self.times[f"first {what}"] = self.times.get(f"first {what}", time.time())
        self.times[f"last {what}"] = time.time()
        if what == "GET /items":
            return 404, {"status": "error", "code": "not_found", "error": "unknown", "points": 0}
        if what == "PUT /items":
            return 200, {"status": "success", "item": _record(target), "unchanged": False}
        if what == "DELETE /items":
            return 200, {"status": "success", "deleted_points": 0, "points": 0}
        if path == "/items/lookup":
            return 200, {"status": "success", "items": {}}
        if path == "/faces":
            return 200, {"status": "success", **MODEL, "width": 1, "height": 1, "faces": [], "timings_ms": {}}
        return 200, HEALTH


def _record(target: str) -> dict[str, Any]:
    """A record that has just been written, as the face service gives it back."""
    parts = urlsplit(target)
    _, _, bucket, key = parts.path.split("/", 3)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    names = {"bucket": unquote(bucket), "key": unquote(key), "model_id": MODEL["model_id"]}
    return {**names, **query, "status": "indexed", "kind": "image", "face_count": 0}


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def main(port: int) -> None:
    """Serve until ended."""
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
