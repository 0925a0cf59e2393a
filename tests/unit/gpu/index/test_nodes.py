"""A cluster's nodes: what one of them does not answer, the next one does. The stand-ins share what they hold."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask import Flask, Response, request
from qdrant_client import QdrantClient
from werkzeug.serving import make_server

from app.gpu.index import FaceIndex, IndexAwayError, server
from app.gpu.index.server import ServerStore, connect
from app.gpu.index.store import VectorSpace, Where
from app.gpu.settings import FaceSettings
from tests.fixtures import free_port
from tests.qdrant_server import create_app
from tests.unit.gpu.index.conftest import INFO, put


class Node:
    """A stand-in for a node, and what it was asked."""

    def __init__(self, client: QdrantClient) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        #: Whether it does what it is asked and then says that it failed, as one does whose partners are away.
        self.fails = False
        self._app = create_app(client)
        self._app.after_request(self._answer)

    def _answer(self, response: Response) -> Response:
        body = request.get_json(silent=True) or {}
        self.asked.append((request.method, request.full_path.rstrip("?"), body))
        said = '{"status":{"error":"1 of 2 copies were written"},"time":0.0}'
        return Response(said, 500, content_type="application/json") if self.fails else response

    @property
    def app(self) -> Flask:
        return self._app


@contextmanager
def serving(node: Node) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, node.app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def nodes() -> Iterator[tuple[list[Node], list[str]]]:
    client = QdrantClient(":memory:", force_disable_check_same_thread=True)
    found = [Node(client), Node(client)]
    with ExitStack() as stack:
        yield found, [stack.enter_context(serving(node)) for node in found]
    client.close()


def opened(urls: list[str], *, first: int = 0, **more: int) -> ServerStore:
    store = connect(",".join(urls), None, **more)
    store._first = first
    return store


def test_a_node_that_is_away_is_passed_over_and_not_asked_again(nodes: tuple[list[Node], list[str]]) -> None:
    [node, _], [url, _] = nodes
    index = FaceIndex(store := opened([f"http://127.0.0.1:{free_port()}", url]), INFO)
    index.prepare()
    put(index, "a.jpg", "e1", 2)
    assert index.records.count_faces(index.collection) == 2
    assert len(node.asked) > 5
    assert store._first == 1
    index.close()


@pytest.mark.parametrize("first", [0, 1])
def test_a_write_that_is_said_to_have_failed_is_written_again_by_the_next(
    nodes: tuple[list[Node], list[str]], first: int
) -> None:
    found, urls = nodes
    index = FaceIndex(opened(urls, first=first), INFO)
    index.prepare()
    put(index, "a.jpg", "e1", 3)
    found[first].fails = True  # after it has done it
    put(index, "a.jpg", "e2", 1)
    put(index, "b.jpg", "e1", 2)
    assert index.records.count_faces(index.collection) == 3
    assert index.delete("images", "b.jpg") == 2
    assert index.records.count_faces(index.collection) == 1
    assert found[1 - first].asked
    index.close()


def test_with_no_node_left_the_index_is_away_and_says_why(nodes: tuple[list[Node], list[str]]) -> None:
    found, urls = nodes
    store = opened(urls)
    for node in found:
        node.fails = True
    with pytest.raises(IndexAwayError, match="1 of 2 copies were written"):
        store.collections()
    found[0].fails = False
    assert store.collections() == set()


def test_a_refusal_that_every_node_would_give_is_no_failure(nodes: tuple[list[Node], list[str]]) -> None:
    found, urls = nodes
    with pytest.raises(IndexAwayError, match="no collection"):
        opened(urls).retrieve("missing", ["b1b2b3b4-0000-4000-8000-000000000000"])
    assert len(found[0].asked) == 1
    assert not found[1].asked


def test_collections_are_created_with_their_copies_and_written_through_one_of_them(
    nodes: tuple[list[Node], list[str]],
) -> None:
    [node, _], urls = nodes
    index = FaceIndex(opened(urls, copies=3, shards=6), INFO)
    index.prepare()
    put(index, "a.jpg", "e1", 1)
    created = [body for method, path, body in node.asked if method == "PUT" and path.count("/") == 2]
    assert len(created) == 3
    for body in created:
        assert body["replication_factor"] == 3
        assert body["write_consistency_factor"] == 2
        assert body["shard_number"] == 6
    written = [path for method, path, _ in node.asked if method == "PUT" and "/points" in path]
    assert written
    assert all("ordering=medium" in path for path in written)
    read = [path for method, path, _ in node.asked if method == "POST" and path.split("?")[0].endswith("/points")]
    assert read
    assert all("consistency=majority" in path for path in read)
    index.close()


def test_many_points_are_counted_in_requests_that_a_server_takes(
    nodes: tuple[list[Node], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    [node, _], [url, _] = nodes
    index = FaceIndex(store := opened([url]), INFO)
    index.prepare()
    put(index, "a.jpg", "e1", 25)
    points, _ = store.page(index.collection, Where(having={"bucket": "images"}), limit=100)
    monkeypatch.setattr(server, "LOOKUP_BATCH", 10)
    node.asked.clear()
    assert store.count(index.collection, Where(ids=tuple(points))) == 25
    assert len(node.asked) == 3
    index.close()


def test_a_server_of_its_own_is_asked_for_none_of_that(nodes: tuple[list[Node], list[str]]) -> None:
    [node, _], [url, _] = nodes
    index = FaceIndex(opened([url]), INFO)
    index.prepare()
    assert not any("ordering" in path or "consistency" in path for _, path, _ in node.asked)
    assert not any(body.get("replication_factor") for _, _, body in node.asked)
    index.close()


def test_a_collection_of_another_number_of_copies_is_told_with_what_to_do(
    nodes: tuple[list[Node], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, urls = nodes
    space = VectorSpace(4, "euclid")
    opened(urls).create("faces", space, ())
    opened(urls, copies=3).create("faces", space, ())
    assert "The collection faces keeps 1 copies and waits for 1 of them; QDRANT_REPLICAS asks for 3 and 2" in (
        caplog.text
    )
    caplog.clear()
    opened(urls, copies=3).create("more", space, ())
    opened(urls, copies=3).create("more", space, ())
    assert "QDRANT_REPLICAS" not in caplog.text


def test_several_urls_are_taken_and_what_is_no_list_of_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://qdrant-1:6333,http://qdrant-2:6333")
    assert FaceSettings().qdrant_url == "http://qdrant-1:6333,http://qdrant-2:6333"
    for wrong in ("http://qdrant-1:6333,qdrant-2", "http://qdrant-1:6333,", "http://a http://b"):
        monkeypatch.setenv("QDRANT_URL", wrong)
        with pytest.raises(ValueError, match="qdrant_url"):
            FaceSettings()
