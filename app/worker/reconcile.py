"""Compare buckets and index both ways, page by page, so that what was lost on the way is found.

Nothing is repaired here: each difference becomes the same job that an event would have become, on a queue that
workers serve last. It follows that a comparison may be interrupted, repeated or run twice at once.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from app.common.jobs import ROUTE, JobSettings, ObjectJob, options, queue
from app.common.media import guess_from_name
from app.worker.converge import Context

log = logging.getLogger(__name__)

#: What a job of a comparison names as its event.
EVENT = "lookingglass:Reconcile"

#: Objects or records compared at a time; what the face service looks up in one call.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that the index does not say the truth about."""

    bucket: str
    key: str
    #: `missing`, `changed` (another ETag), `model` (of another model), `incomplete` (faces are missing), `orphan`
    #: (a record without an object), `stray` (faces without a record).
    why: str


class Position(NamedTuple):
    """How far a comparison got; JSON can hold it."""

    #: The bucket compared; none when the faces are compared with the records.
    bucket: str | None
    #: `objects` (is each in the index?) or `records` (is each in the bucket?).
    side: str
    after: str | None = None
    #: Objects of this bucket that the index knew.
    known: int = 0


def pages(context: Context, start: Position | None = None) -> Iterator[tuple[list[Difference], Position | None]]:
    """Compare page by page: the differences of each, and where the next begins; none after the last.

    Raises:
        TransientError: MinIO or the face service is away; begin again at the last position.
    """
    buckets = sorted(context.settings.buckets())
    position: Position | None = start or Position(buckets[0], "objects")
    while position:
        if position.bucket is None:
            found, position = _strays(context, position)
        elif position.side == "objects":
            found, position = _objects(context, position)
        else:
            found, position = _records(context, position)
        if position and position.side == "done":
            after = [bucket for bucket in buckets if bucket > str(position.bucket)]
            position = Position(after[0], "objects") if after else Position(None, "records")
        yield found, position


def enqueue(differences: list[Difference], connection: Redis, settings: JobSettings) -> int:
    """Enqueue a job for each object that has none of a comparison already; return for how many."""
    jobs = {job.job_id: job for job in (_job(difference, settings) for difference in differences)}
    known = Job.fetch_many(list(jobs), connection=connection, serializer=JSONSerializer)
    new = [job for job, found in zip(jobs.values(), known, strict=True) if found is None]
    # Forgotten as soon as they are done: the next comparison may find the same object again.
    data = [Queue.prepare_data(ROUTE, **(options(job, settings) | {"result_ttl": 0})) for job in new]
    queue(settings.reconcile_queue_name, connection).enqueue_many(data)
    return len(new)


def switch_readers(context: Context) -> None:
    """Let readers see the model in use, if everything is of it by now."""
    if context.faces.switch_readers():
        log.info("The alias of the faces is on the model in use")


def proof(context: Context, bucket: str, key: str) -> dict[str, object]:
    """What is left of an object: in the bucket, as a record, and as points under every model."""
    version = context.store.stat(bucket, key)
    record, points = context.faces.remains(bucket, key)
    return {
        "bucket": bucket,
        "object": key,
        "in_bucket": version is not None,
        "record": record,
        "points": points,
        "gone": version is None and record is None and points == 0,
    }


def _objects(context: Context, at: Position) -> tuple[list[Difference], Position]:
    bucket = str(at.bucket)
    objects = context.store.page(bucket, at.after, PAGE)
    if objects:
        said = context.faces.lookup(bucket, [key for key, _ in objects])
        found = [
            Difference(bucket, key, why)
            for key, etag in objects
            if (why := _why(said.get(key), etag, context.faces.model_id()))
        ]
        return found, Position(bucket, "objects", objects[-1][0], at.known + len(said))
    # Records beyond the objects just seen can only be orphans; mostly there are none, and none is looked for.
    beyond = context.faces.count_items(bucket) > at.known
    return [], Position(bucket, "records" if beyond else "done")


def _why(said: dict[str, object] | None, etag: str, model_id: str) -> str | None:
    if said is None:
        return "missing"
    if said["etag"] != etag:
        return "changed"
    if said["current"]:
        return None
    return "incomplete" if said["model_id"] == model_id else "model"


def _records(context: Context, at: Position) -> tuple[list[Difference], Position]:
    bucket = str(at.bucket)
    records, after = context.faces.records(bucket, at.after)
    orphans = [record["key"] for record in records if context.store.stat(bucket, record["key"]) is None]
    found = [Difference(bucket, key, "orphan") for key in orphans]
    return found, Position(bucket, "records" if after else "done", after)


def _strays(context: Context, at: Position) -> tuple[list[Difference], Position | None]:
    strays, after = context.faces.strays(at.after)
    found = [Difference(stray["bucket"], stray["key"], "stray") for stray in strays]
    return found, Position(None, "records", after) if after else None


def _job(difference: Difference, settings: JobSettings) -> ObjectJob:
    bucket, key = difference.bucket, difference.key
    name = blake2b(f"{bucket}\0{key}".encode(), digest_size=16).hexdigest()
    return ObjectJob(
        queue=settings.reconcile_queue_name,
        job_id=f"reconcile-{name}",
        bucket=bucket,
        object=key,
        event=EVENT,
        timeout=settings.timeout_for(guess_from_name(key)),
    )
