"""The worker's side of the wire, against face services that answer as they are told over real HTTP."""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from app.common.errors import PermanentError, TransientError
from app.common.wire import MSGPACK, BusyError, EngineCrashedError, pack, pack_embedding, unpack, unpack_embedding
from app.worker import addresses, faces
from app.worker.faces import FaceClient
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion
from tests.fixtures import free_port

VERSION = ObjectVersion("images", "a/../b c.jpg", "e1", 3, "v1", "2026-01-02T03:04:05+00:00")

INDEXED = (200, {"status": "success", "item": {"status": "indexed"}, "unchanged": False})
BUSY = (503, {"code": "busy", "error": "no place"})
NOT_READY = (503, {"code": "unavailable", "error": "it loads its models"})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Service"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/health":
            self._answer(200, {"answer_timeout_s": self.server.answer_timeout_s})
            return
        self.server.asked.append((self.command, self.path, body, dict(self.headers)))
        answers = self.server.answers
        status, answer = answers.popleft() if len(answers) > 1 else answers[0]
        time.sleep(self.server.delay)
        self._answer(status, answer)

    do_GET = do_POST = do_PUT  # noqa: N815

    def _answer(self, status: int, answer: dict[str, Any] | bytes) -> None:
        packed = isinstance(answer, bytes)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", MSGPACK if packed else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Service(ThreadingHTTPServer):
    """Stands in for a face service; gives its answers one by one, the last for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: deque[tuple[int, Any]] = deque([INDEXED])
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.answer_timeout_s = 60.0
        self.delay = 0.0

    def handle_error(self, *_: object) -> None:
        """A client that did not wait for its answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def service() -> Iterator[Callable[[], Service]]:
    """Makes face services."""
    made: list[Service] = []

    def make() -> Service:
        made.append(Service())
        threading.Thread(target=made[-1].serve_forever, args=(0.05,), daemon=True).start()
        return made[-1]

    yield make
    for one in made:
        one.shutdown()
        one.server_close()


def client(*urls: str) -> FaceClient:
    return FaceClient(WorkerSettings(gpu_worker_url=",".join(urls)))


def test_pictures_go_to_the_face_services_in_turn(service: Callable[[], Service]) -> None:
    services = [service() for _ in range(3)]
    calls = client(*(one.url for one in services))
    for _ in range(9):
        calls.put_image(VERSION, b"abc")
    # The look at how long an analysis may take has a turn of its own.
    assert sorted(len(one.asked) for one in services) == [3, 3, 3]


def test_a_picture_goes_as_it_is_under_a_path_that_no_proxy_shortens(service: Callable[[], Service]) -> None:
    one = service()
    assert client(one.url).put_image(VERSION, b"abc")["item"] == {"status": "indexed"}
    [(method, path, body, _)] = one.asked
    assert (method, body) == ("PUT", b"abc")
    assert path.partition("?")[0] == "/items/images/a%2F%2E%2E%2Fb%20c%2Ejpg"
    assert "etag=e1" in path
    assert "version_id=v1" in path


def test_a_face_service_that_is_away_is_passed_over(service: Callable[[], Service]) -> None:
    one = service()
    calls = client(f"http://127.0.0.1:{free_port()}", one.url)
    for _ in range(4):
        calls.put_image(VERSION, b"abc")
    assert len(one.asked) == 4


def test_that_all_are_away_is_an_outage_that_names_them() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match=url):
        client(url).put_image(VERSION, b"abc")


def test_where_one_has_no_place_another_is_asked_at_once(service: Callable[[], Service]) -> None:
    full, other = service(), service()
    full.answers = deque([BUSY])
    calls = client(full.url, other.url)
    began = time.monotonic()
    for _ in range(4):
        calls.put_image(VERSION, b"abc")
    assert len(other.asked) == 4
    assert time.monotonic() - began < faces.PATIENCE_S / 10


def test_a_picture_waits_in_place_where_none_has_room(service: Callable[[], Service]) -> None:
    one = service()
    one.answers = deque([BUSY, BUSY, BUSY, INDEXED])
    assert client(one.url).put_image(VERSION, b"abc")["item"]["status"] == "indexed"
    assert len(one.asked) == 4


def test_a_picture_that_finds_no_room_for_long_is_put_off(
    service: Callable[[], Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "PATIENCE_S", 0.5)
    one = service()
    one.answers = deque([BUSY])
    with pytest.raises(BusyError, match="no place"):
        client(one.url).put_image(VERSION, b"abc")
    assert len(one.asked) > 1


def test_where_none_is_ready_the_job_waits_and_not_its_worker(
    service: Callable[[], Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "SHORT_PATIENCE_S", 0.3)
    one = service()
    one.answers = deque([NOT_READY])
    began = time.monotonic()
    with pytest.raises(TransientError, match="loads its models"):
        client(one.url).put_image(VERSION, b"abc")
    assert time.monotonic() - began < faces.PATIENCE_S / 2


def test_what_a_picture_did_to_one_it_does_not_do_to_the_next_in_the_same_try(
    service: Callable[[], Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "ANSWER_S", 0.3)
    monkeypatch.setattr(faces, "SLACK_S", 0)
    services = [service(), service()]
    for one in services:
        one.delay, one.answer_timeout_s = 2, 0.1
    with pytest.raises(TransientError, match="does not answer"):
        client(*(one.url for one in services)).put_image(VERSION, b"abc")
    assert sum(len(one.asked) for one in services) == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (413, "too_many_pixels", PermanentError),
        (415, "not_an_image", PermanentError),
        (422, "damaged", PermanentError),
        (409, "overtaken", ObjectChangedError),
        (500, "engine_crashed", EngineCrashedError),
    ],
)
def test_an_answer_is_raised_as_what_it_means(
    service: Callable[[], Service], status: int, code: str, error: type[Exception]
) -> None:
    one = service()
    one.answers = deque([(status, {"code": code, "error": "so it is"})])
    with pytest.raises(error, match="so it is"):
        client(one.url).put_image(VERSION, b"abc")


@pytest.mark.parametrize("status", [413, 415, 422])
def test_what_a_proxy_refuses_is_no_verdict(service: Callable[[], Service], status: int) -> None:
    one = service()
    one.answers = deque([(status, {})])
    with pytest.raises(Exception, match="no reason given") as raised:
        client(one.url).put_image(VERSION, b"abc")
    assert not isinstance(raised.value, PermanentError)


def test_embeddings_travel_in_binary_both_ways(service: Callable[[], Service]) -> None:
    one = service()
    embedding = np.arange(4, dtype=np.float32)
    face = {"box": (1, 2, 3, 4), "landmarks": [(1, 2)], "score": 1.0, "embedding": pack_embedding(embedding)}
    one.answers = deque([(200, pack({"faces": [face]})), INDEXED])
    calls = client(one.url)
    [found] = calls.find(b"a frame")
    assert np.array_equal(found.embedding, embedding)
    calls.put_faces(VERSION, "m", [{**face, "embedding": found.embedding}])
    method, _, body, headers = one.asked[-1]
    assert (method, headers["Content-Type"]) == ("PUT", MSGPACK)
    assert np.array_equal(unpack_embedding(unpack(body)["faces"][0]["embedding"]), embedding)


def test_a_picture_is_waited_for_as_long_as_its_analysis_may_take(service: Callable[[], Service]) -> None:
    one = service()
    one.answer_timeout_s = 500
    calls = client(one.url)
    assert calls.answer_s() > 500
    assert calls.longest_s == 500


def test_every_address_of_a_name_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    known = addresses.Addresses("http://faces:5001")
    first = [next(known.in_turn())[0].host for _ in range(4)]
    assert sorted(first) == ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]
    silent = next(known.in_turn())[0]
    known.silent(silent)
    assert all([address.host for address, _ in known.in_turn()][-1] == silent.host for _ in range(3))
