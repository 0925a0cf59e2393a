"""Pictures: their bytes go through as they are; only the face service opens them."""

from typing import Any

from app.common.errors import PermanentError
from app.worker.faces import FaceClient
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectVersion, Store


def index_image(settings: WorkerSettings, store: Store, faces: FaceClient, version: ObjectVersion) -> dict[str, Any]:
    """Have one version of a picture indexed; return its item record.

    Raises:
        PermanentError: it can never be.
        ObjectChangedError: there is another version now.
    """
    if version.size > settings.max_image_bytes:
        raise PermanentError(
            "too_many_bytes",
            f"The picture has {version.size} bytes, more than MAX_IMAGE_BYTES={settings.max_image_bytes}.",
        )
    return faces.put_image(version, store.read(version))
