"""Pictures: their bytes go through as they are; only the face service opens them."""

from typing import Any

from app.common.errors import PermanentError
from app.common.media import PICTURES, VIDEOS, Kind
from app.worker.faces import FaceClient
from app.worker.inflating import inflate, inflated_kind
from app.worker.settings import WorkerSettings
from app.worker.store import Body

#: What an object is that cannot be indexed, by the kind that its bytes are.
REFUSED = {
    Kind.EMPTY: ("empty", "The object is empty (0 bytes)."),
    Kind.AUDIO: ("no_video_stream", "The object is an audio file; it has no pictures."),
    Kind.UNKNOWN: (
        "unsupported",
        f"The object is neither a picture nor a video of a known format: accepted are {PICTURES}, and {VIDEOS}.",
    ),
}


def index_image(settings: WorkerSettings, faces: FaceClient, body: Body) -> dict[str, Any]:
    """Have a picture indexed; return the face service's answer: its item record, and whether it was there already.

    Raises:
        PermanentError: it can never be.
        ObjectChangedError: there is another version now.
    """
    _check_size(settings, body)
    return faces.put_image(body.version, body.read())


def index_compressed(settings: WorkerSettings, faces: FaceClient, body: Body, how: str) -> dict[str, Any]:
    """The same for a picture that was compressed before it was stored.

    Raises:
        PermanentError: it can never be, or is a video: that is read in pieces, which needs it as it is.
        ObjectChangedError: there is another version now.
    """
    kind = inflated_kind(body.head, how)
    if kind is Kind.VIDEO:
        raise PermanentError("compressed", f"The object is a video that was compressed ({how}): store it as it is.")
    if how not in ("gzip", "deflate"):
        raise PermanentError("compressed", f"The object is compressed ({how}): store it as it is, or with gzip.")
    if kind is not Kind.IMAGE:
        raise PermanentError("unsupported", f"The object is compressed ({how}), and what it holds is no picture.")
    _check_size(settings, body)
    return faces.put_image(body.version, inflate(body.pieces(), how, settings.max_image_bytes))


def _check_size(settings: WorkerSettings, body: Body) -> None:
    if body.version.size > settings.max_image_bytes:
        raise PermanentError(
            "too_many_bytes",
            f"The picture has {body.version.size} bytes, more than MAX_IMAGE_BYTES={settings.max_image_bytes}.",
            {"MAX_IMAGE_BYTES": settings.max_image_bytes},
        )
