"""The one idea of the pipeline: make the index agree with the bucket, for one object, now.

The bucket is the truth and an event only a hint, so no job does what its event says. Each looks at the object,
brings the index in line, and looks again. Duplicates, reordering, retries and concurrent jobs on one object all
end in the same state.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.common.errors import PermanentError, TransientError
from app.common.media import HEAD_BYTES, Kind, sniff
from app.worker.faces import FaceClient
from app.worker.images import index_image
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion, Store
from app.worker.video import index_video

log = logging.getLogger(__name__)

#: Versions of one object followed in one job; an object that changes faster is left to its next event.
MAX_ROUNDS = 10

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What a job works with."""

    settings: WorkerSettings
    store: Store
    faces: FaceClient


def converge(context: Context, bucket: str, key: str) -> JSON:
    """Make the index agree with the bucket for this object; return what was done.

    Raises:
        TransientError: something needed is away; try again later.
        EngineCrashedError: the object killed its engine process.
    """
    outcome: JSON = {}
    for _ in range(MAX_ROUNDS):
        version = context.store.stat(bucket, key)
        try:
            outcome = _apply(context, bucket, key, version)
        except ObjectChangedError:
            continue
        if _same(context.store.stat(bucket, key), version):
            return {"bucket": bucket, "object": key, **outcome}
        log.info("Object %s/%s changed while it was processed; looking again", bucket, key)
    raise TransientError(f"{bucket}/{key} changed {MAX_ROUNDS} times while it was processed.")


def kind_of(context: Context, version: ObjectVersion) -> Kind:
    """The kind of media an object really is, from its first bytes.

    Raises:
        ObjectChangedError: there is another version now, or none.
    """
    if version.size == 0:
        return Kind.EMPTY
    return sniff(context.store.read(version, 0, HEAD_BYTES))


def _apply(context: Context, bucket: str, key: str, version: ObjectVersion | None) -> JSON:
    """Bring the index in line with one version of an object, or with its absence."""
    if version is None:
        removed = context.faces.delete(bucket, key)
        return {"status": "deleted", "deleted_points": removed}
    if context.faces.is_current(version):
        return {"status": "unchanged", "etag": version.etag}
    try:
        kind = kind_of(context, version)
        if kind not in INDEXERS:
            raise PermanentError(*REFUSED[kind])
        item = INDEXERS[kind](context.settings, context.store, context.faces, version)
    except PermanentError as error:
        item = context.faces.put_rejection(version, error)
        log.warning("Rejected %s/%s: %s", bucket, key, error, extra={"reason_code": error.code})
    return {name: item[name] for name in ("status", "etag", "face_count", "model_id", "reason") if name in item}


def _same(now: ObjectVersion | None, then: ObjectVersion | None) -> bool:
    return (now and (now.etag, now.version_id)) == (then and (then.etag, then.version_id))


Indexer = Callable[[WorkerSettings, Store, FaceClient, ObjectVersion], JSON]

INDEXERS: dict[Kind, Indexer] = {Kind.IMAGE: index_image, Kind.VIDEO: index_video}

REFUSED = {
    Kind.EMPTY: ("empty", "The object is empty (0 bytes)."),
    Kind.AUDIO: ("no_video_stream", "The object is an audio file; it has no pictures."),
    Kind.UNKNOWN: ("unsupported", "The object is neither a picture nor a video of a known format."),
}
