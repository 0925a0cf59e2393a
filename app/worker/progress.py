"""How far a comparison of buckets and index got and what it found, for people who wait for it."""

import json
import time
from collections import Counter
from collections.abc import Sequence

from redis import Redis

from app.common.comparison import DIFFERENCES, PROGRESS
from app.worker.reconcile import Difference, Position

#: Differences of a comparison that are listed.
LISTED = 1000


def begin(connection: Redis, began: float, *, dry_run: bool) -> None:
    """Take the place of the comparison before."""
    with connection.pipeline() as pipe:
        pipe.delete(PROGRESS, DIFFERENCES)
        pipe.hset(PROGRESS, mapping={"began_at": repr(began), "dry_run": int(dry_run), "pages": 0, "found": "{}"})
        pipe.execute()


def note(connection: Redis, began: float, differences: Sequence[Difference], following: Position | None) -> None:
    """Note a page; of a comparison that another one has taken the place of, nothing."""
    began_at, found = connection.hmget(PROGRESS, "began_at", "found")
    if began_at is None or float(began_at) != began:
        return
    counts = Counter(json.loads(found or b"{}"))
    counts.update(difference.why for difference in differences)
    where = f"{following.bucket or 'faces'}, {following.side}" if following else "everything"
    listed = [
        json.dumps({"why": difference.why, "bucket": difference.bucket, "key": difference.key})
        for difference in differences
    ]
    with connection.pipeline() as pipe:
        pipe.hset(PROGRESS, mapping={"found": json.dumps(counts), "where": where, "updated_at": time.time()})
        pipe.hincrby(PROGRESS, "pages", 1)
        if listed:
            pipe.rpush(DIFFERENCES, *listed)
            pipe.ltrim(DIFFERENCES, 0, LISTED - 1)
        pipe.execute()


def end(connection: Redis, began: float) -> None:
    """Note the end of a comparison."""
    began_at = connection.hget(PROGRESS, "began_at")
    if began_at is not None and float(began_at) == began:
        connection.hset(PROGRESS, "ended_at", time.time())
