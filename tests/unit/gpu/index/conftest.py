"""Both places that an index is kept in: Qdrant Edge, and a server, whose stand-in is `tests.qdrant_server`."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient
from werkzeug.serving import make_server

from app.gpu.engines.base import EngineInfo
from app.gpu.index import FaceIndex, Store, Vector
from app.gpu.index.edge import EdgeStore
from app.gpu.index.server import connect
from tests.qdrant_server import create_app

INFO = EngineInfo("dlib", "model-a", "cpu", 4, "euclid", 0.5, 1600, 0.0)
OTHER_INFO = EngineInfo("dlib", "model-b", "cpu", 3, "cosine", 0.5, 1600, 0.0)


def vector(*numbers: float) -> Vector:
    return np.array(numbers, np.float32)


def put(
    index: FaceIndex,
    key: str,
    etag: str,
    faces: int,
    bucket: str = "images",
    *,
    status: str = "indexed",
    looked_at: float | None = None,
    size: int = 4,
) -> None:
    found = [(np.arange(size, dtype=np.float32) + number, {"box": [number, 0, 1, 1]}) for number in range(faces)]
    claim = index.claim(bucket, key, etag=etag, looked_at=looked_at)
    index.put({"etag": etag, "status": status}, found, claim, looked_at=looked_at)


@pytest.fixture(params=["embedded", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "embedded":
        edge = EdgeStore(tmp_path / "index")
        yield edge
        edge.close()
    else:
        client = QdrantClient(":memory:", force_disable_check_same_thread=True)
        server = make_server("127.0.0.1", 0, create_app(client), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = connect(f"http://127.0.0.1:{server.port}", None)
        yield served
        served.close()
        server.shutdown()
        server.server_close()
        client.close()


@pytest.fixture
def index(store: Store) -> FaceIndex:
    index = FaceIndex(store, INFO)
    index.prepare()
    return index
