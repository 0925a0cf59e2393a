"""Compare buckets and index both ways, page by page, so that what was lost on the way is found.

Nothing is repaired here: each difference becomes the same job that an event would have become, on a queue that
workers serve last. It follows that a comparison may be interrupted, repeated or run twice at once.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from app.common.items import item_id
from app.common.jobs import PENDING, ROUTE, JobSettings, ObjectJob, options, queue
from app.common.media import Kind
from app.worker.converge import Context, is_placeholder, judging, today
from app.worker.listing import Listed
from app.worker.store import NoBucketError, ObjectChangedError
from app.worker.sums import FIRST, Sums

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
    #: `missing`, `changed` (another ETag), `model` (of another model), `judgement` (judged by other settings),
    #: `incomplete` (faces are missing), `orphan` (a record without an object), `stray` (faces without a record).
    why: str
    #: Of the object, in bytes, where there is one.
    size: int = 0


class Position(NamedTuple):
    """How far a comparison got; JSON can hold it."""

    #: The bucket compared; none when the faces are compared with the records.
    bucket: str | None
    #: `objects` (is each in the index?), `ids` (of which may there be no object?), `records` (is each of those in the
    #: bucket?).
    side: str
    after: str | None = None
    #: Objects of this bucket that the index knew.
    known: int = 0
    #: Whether every record is looked at, also where there seem to be none without an object.
    thorough: bool = True
    #: What objects that could not be read must have been looked at on, not to be tried again; none: they are left.
    looked: str | None = None
    #: Those of the objects that the index knew, less those of its records, see `Sums`; none: to look at every record.
    sums: str | None = None


def start(settings: JobSettings, *, thorough: bool = True, by_hand: bool = False) -> Position:
    """Where a comparison begins; one by hand tries every object again that could not be read."""
    looked = f"by hand {time.time()}" if by_hand else today() if thorough else None
    return Position(min(settings.buckets()), "objects", thorough=thorough, looked=looked)


def pages(context: Context, start: Position) -> Iterator[tuple[list[Difference], Position | None]]:
    """Compare page by page: the differences of each, and where the next begins; none after the last.

    A bucket that is not there is passed over: its objects may come back, and faces are not dropped for a wrong name.

    Raises:
        TransientError: MinIO or the face service is away; begin again at the last position.
    """
    position: Position | None = start
    while position:
        if position.bucket is None:
            found, position = _strays(context, position)
            yield found, position
            continue
        for found, following in _side(context, position):
            position = _onward(context, following)
            yield found, position


def enqueue(differences: list[Difference], connection: Redis, settings: JobSettings) -> int:
    """Enqueue a job for each object that none of a comparison waits for already; return for how many.

    One that failed is forgotten with its tries: what it should have done is still to be done.
    """
    jobs = {job.job_id: job for job in (_job(difference, settings) for difference in differences)}
    known = Job.fetch_many(list(jobs), connection=connection, serializer=JSONSerializer)
    waiting = {job.id for job in known if job and job.get_status(refresh=False) in PENDING}
    for ended in (job for job in known if job and job.id not in waiting):
        ended.delete()
    new = [job for job in jobs.values() if job.job_id not in waiting]
    # Forgotten as soon as they are done: the next comparison may find the same object again.
    data = [Queue.prepare_data(ROUTE, **(options(job, settings) | {"result_ttl": 0})) for job in new]
    queue(settings.reconcile_queue_name, connection).enqueue_many(data)
    return len(new)


def switch_readers(context: Context) -> None:
    """Let readers see the model in use, if everything is of it by now."""
    if context.faces.switch_readers():
        log.info("The alias of the faces is on the model in use")


def proof(context: Context, bucket: str, key: str) -> dict[str, object]:
    """What is left of an object: in the bucket, as a record, and as points under every model.

    What is found gone stays gone until the object is there again, whatever jobs are still under way with it.
    """
    looked_at = context.store.time()
    in_bucket = context.store.now(bucket, key) is not None
    record, points = context.faces.remains(bucket, key)
    if not (in_bucket or record or points):
        try:
            context.faces.delete(bucket, key, looked_at)
        except ObjectChangedError:
            in_bucket = True
        record, points = context.faces.remains(bucket, key)
    return {
        "bucket": bucket,
        "object": key,
        "in_bucket": in_bucket,
        "record": record,
        "points": points,
        "gone": not in_bucket and record is None and points == 0,
    }


def _side(context: Context, at: Position) -> Iterator[tuple[list[Difference], Position]]:
    """The pages of one side of a bucket, and the position after each."""
    try:
        yield from {"objects": _objects, "ids": _ids, "records": _records}[at.side](context, at)
    except NoBucketError as error:
        log.error("%s The index still has what it held: `forget` drops that.", error)
        yield [], at._replace(side="done")


def _onward(context: Context, at: Position) -> Position:
    """The position, or the next bucket's if this one is done, or that of the faces after the last bucket."""
    if at.side != "done":
        return at
    after = [bucket for bucket in sorted(context.settings.buckets()) if bucket > str(at.bucket)]
    bucket, side = (after[0], "objects") if after else (None, "records")
    return Position(bucket, side, thorough=at.thorough, looked=at.looked)


def _objects(context: Context, at: Position) -> Iterator[tuple[list[Difference], Position]]:
    bucket, sums = str(at.bucket), Sums(at.sums)
    for objects in _ahead(context.store.pages(bucket, at.after, PAGE)):
        found, known = _compared(context, bucket, objects, at.looked)
        sums.add(item_id(bucket, key) for key in known)
        at = at._replace(after=objects[-1].key, known=at.known + len(known), sums=str(sums))
        yield found, at
    # More records than objects just seen must be orphans. Fewer may be, too: what was deleted meanwhile hides them.
    beyond = at.thorough or context.faces.count_items(bucket) > at.known
    yield [], at._replace(side="ids" if beyond else "done", after=None, sums=str(sums))


def _ahead(pages: Iterator[list[Listed]]) -> Iterator[list[Listed]]:
    """Pages of a listing, each listed while the one before it is looked up."""
    lister = ThreadPoolExecutor(1, "lister")
    try:
        coming = lister.submit(next, pages, None)
        while page := coming.result():
            coming = lister.submit(next, pages, None)
            yield page
    finally:
        lister.shutdown(wait=False)  # whoever stops early does not wait for a page that nobody wants


def _compared(
    context: Context, bucket: str, objects: Sequence[Listed], looked: str | None
) -> tuple[list[Difference], list[str]]:
    """The differences among a page of objects, and the keys of those that the index knows."""
    # Nothing is to be known of a placeholder, so what is known of one is asked for, current or not.
    versions = {one.key: None if is_placeholder(one.key, one.size) else one.etag for one in objects}
    differing = context.faces.differing(bucket, versions, judging(context.settings, looked=looked))
    found = [
        Difference(bucket, listed.key, why, listed.size)
        for listed in objects
        if listed.key in differing and (why := _why(differing[listed.key], listed, context.faces.model_id()))
    ]
    return found, [key for key in versions if key not in differing or differing[key]]


def _why(said: dict[str, object] | None, listed: Listed, model_id: str) -> str | None:
    """Why an object differs from what the index says, if that is not current."""
    if is_placeholder(listed.key, listed.size):
        return "orphan" if said else None
    if said is None:
        return "missing"
    if said["etag"] != listed.etag:
        return "changed"
    if said["model_id"] != model_id:
        return "model"
    return "judgement" if said.get("judged_otherwise") else "incomplete"


def _ids(context: Context, at: Position) -> Iterator[tuple[list[Difference], Position]]:
    sums = Sums(at.sums)
    while at.side == "ids":
        ids, after = context.faces.item_ids(str(at.bucket), at.after)
        sums.take(ids)
        at = at._replace(after=after, sums=str(sums))
        if not after:  # what differs came or went meanwhile, or has no object
            first = sums.next_difference(FIRST)
            at = at._replace(side="records" if first else "done", after=first)
        yield [], at


def _records(context: Context, at: Position) -> Iterator[tuple[list[Difference], Position]]:
    bucket, sums = str(at.bucket), Sums(at.sums)
    while at.side == "records":
        records, after = context.faces.records(bucket, at.after)
        asked = [record["key"] for record in records if not at.sums or sums.differ_at(record["item_id"])]
        orphans = context.store.absent(bucket, asked)
        if after and at.sums:
            after = sums.next_difference(after)
        at = at._replace(side="records" if after else "done", after=after)
        yield [Difference(bucket, key, "orphan") for key in orphans], at


def _strays(context: Context, at: Position) -> tuple[list[Difference], Position | None]:
    strays, after = context.faces.strays(at.after)
    found = [Difference(stray["bucket"], stray["key"], "stray") for stray in strays]
    return found, at._replace(after=after) if after else None


def _job(difference: Difference, settings: JobSettings) -> ObjectJob:
    bucket, key = difference.bucket, difference.key
    name = blake2b(f"{bucket}\0{key}".encode(), digest_size=16).hexdigest()
    return ObjectJob(
        queue=settings.reconcile_queue_name,
        job_id=f"reconcile-{name}",
        bucket=bucket,
        object=key,
        event=EVENT,
        # What it is, its job finds out; a video is looked at where it is, for elsewhere it would overtake uploads.
        timeout=settings.timeout_for(Kind.VIDEO, difference.size),
    )
