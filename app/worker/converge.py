"""The one idea of the pipeline: make the index agree with the bucket, for one object, now.

The bucket is the truth and an event only a hint, so no job does what its event says. Each looks at the object,
brings the index in line, and looks again. Duplicates, reordering, retries and concurrent jobs on one object all
end in the same state.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.common.errors import PermanentError, TransientError
from app.common.media import Kind, sniff
from app.worker.faces import FaceClient
from app.worker.images import REFUSED, index_compressed, index_image
from app.worker.inflating import how_compressed
from app.worker.settings import WorkerSettings
from app.worker.store import Body, ObjectChangedError, ObjectVersion, Store, UnreadableError
from app.worker.video import index_video
from app.worker.video import judging as judging_videos

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


class VideoFoundError(Exception):
    """The object is a video, which is not opened in this process."""

    def __init__(self, version: ObjectVersion) -> None:
        super().__init__(version)
        self.version = version


def converge(context: Context, bucket: str, key: str, *, videos: bool = True) -> JSON:
    """Make the index agree with the bucket for this object; return what was done.

    Raises:
        VideoFoundError: it is a video that the index does not know, and `videos` are not to be opened here.
        TransientError: something needed is away; try again later.
        EngineCrashedError: the object killed its engine process.
    """

    def look() -> tuple[ObjectVersion | None, JSON]:
        looked_at = context.store.time()
        try:
            with context.store.get(bucket, key) as body:
                if body is None:
                    return None, _remove(context, bucket, key, looked_at)
                if is_placeholder(key, body.version.size):
                    return body.version, _remove(context, bucket, key, looked_at) | {"status": "ignored"}
                if sniff(body.head) is not Kind.VIDEO:
                    return body.version, _index(context, body.version, lambda: _index_picture(context, body))
                version = body.version
        except UnreadableError as error:
            return error.version, give_verdict(context, error.version, unreadable(context.settings, str(error)))
        if context.faces.is_current(version, judging(context.settings)):
            return version, {"status": "unchanged", "etag": version.etag}
        if not videos:
            raise VideoFoundError(version)
        return version, _index(
            context,
            version,
            lambda: {"item": index_video(context.settings, context.store, context.faces, version)},
        )

    return _until_it_rests(context, bucket, key, look)


def give_up(context: Context, bucket: str, key: str, error: PermanentError) -> JSON:
    """Record a verdict on the object as it is now, without opening it; or remove it, if it is gone.

    Raises:
        TransientError: something needed is away; try again later.
    """

    def look() -> tuple[ObjectVersion | None, JSON]:
        looked_at = context.store.time()
        version = context.store.now(bucket, key)
        if version is None:
            return None, _remove(context, bucket, key, looked_at)
        return version, give_verdict(context, version, error)

    return _until_it_rests(context, bucket, key, look)


def judging(settings: WorkerSettings, *, looked: str | None = None) -> dict[str, str | int | float]:
    """The present values of what this worker's verdicts depend on, beyond what the face service judges by.

    `looked` is when objects that could not be read are looked at: those that were looked at then, are left.
    """
    present: dict[str, str | int | float] = {
        "MAX_IMAGE_BYTES": settings.max_image_bytes,
        "MINIO_USER": settings.minio_user,
        **judging_videos(settings),
    }
    return present | ({"looked": looked} if looked else {})


def today() -> str:
    """The day, as verdicts on objects that cannot be read name it."""
    return datetime.now(UTC).date().isoformat()


def unreadable(settings: WorkerSettings, reason: str) -> PermanentError:
    """The verdict on an object that is there and cannot be read: tried again every day, and for another user."""
    return PermanentError("unreadable", reason, {"MINIO_USER": settings.minio_user, "looked": today()})


def is_placeholder(key: str, size: int) -> bool:
    """Whether an object only stands for a folder: consoles make them, and nobody takes them for a picture."""
    return size == 0 and key.endswith("/")


def give_verdict(context: Context, version: ObjectVersion, error: PermanentError) -> JSON:
    """Record why an object can never be indexed."""
    log.warning("Rejected %s/%s: %s", version.bucket, version.key, error, extra={"reason_code": error.code})
    return _told(context.faces.put_rejection(version, error))


def _until_it_rests(
    context: Context, bucket: str, key: str, look: Callable[[], tuple[ObjectVersion | None, JSON]]
) -> JSON:
    """Deal with the version that is there, until it is still there afterwards; return what was done."""
    for _ in range(MAX_ROUNDS):
        try:
            version, outcome = look()
        except ObjectChangedError:
            continue
        now = context.store.now(bucket, key)
        if now is None if version is None else version.same(now):
            return {"bucket": bucket, "object": key, **outcome}
        log.info("Object %s/%s changed while it was processed; looking again", bucket, key)
    raise TransientError(f"{bucket}/{key} changed {MAX_ROUNDS} times while it was processed.")


def _remove(context: Context, bucket: str, key: str, looked_at: float) -> JSON:
    return {"status": "deleted", "deleted_points": context.faces.delete(bucket, key, looked_at)}


def _index(context: Context, version: ObjectVersion, work: Callable[[], JSON]) -> JSON:
    """Have a version indexed, or rejected for good."""
    try:
        answer = work()
    except PermanentError as error:
        return give_verdict(context, version, error)
    return _told(answer["item"]) | ({"status": "unchanged"} if answer.get("unchanged") else {})


def _index_picture(context: Context, body: Body) -> JSON:
    if how := how_compressed(body.head, body.encoding):
        return index_compressed(context.settings, context.faces, body, how)
    kind = sniff(body.head)
    if kind is not Kind.IMAGE:
        raise PermanentError(*REFUSED[kind])
    return index_image(context.settings, context.faces, body)


def _told(item: JSON) -> JSON:
    """What a job's result says of an item: little, for it lies in Redis."""
    return {name: item[name] for name in ("status", "etag", "face_count", "reason") if item.get(name) is not None}
