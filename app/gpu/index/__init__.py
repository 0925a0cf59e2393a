"""The vector index: items and their faces, on a Qdrant server or embedded in this process."""

from app.gpu.index.changes import Claim
from app.gpu.index.edge import EdgeStore
from app.gpu.index.face_index import FaceIndex
from app.gpu.index.layout import ALIAS, FACES_PREFIX, ITEMS
from app.gpu.index.reading import PAGE
from app.gpu.index.server import connect
from app.gpu.index.store import IndexAwayError, Payload, Store, Vector
from app.gpu.settings import FaceSettings

__all__ = [
    "ALIAS",
    "FACES_PREFIX",
    "ITEMS",
    "PAGE",
    "Claim",
    "FaceIndex",
    "IndexAwayError",
    "Payload",
    "Store",
    "Vector",
    "open_store",
]


def open_store(settings: FaceSettings) -> Store:
    """The Qdrant server that `QDRANT_URL` names, else the embedded index in `INDEX_DIR`.

    Raises:
        TransientError: another process has the embedded index open.
    """
    if settings.qdrant_url:
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        return connect(settings.qdrant_url, key, copies=settings.qdrant_replicas, shards=settings.qdrant_shards)
    return EdgeStore(settings.index_dir)
