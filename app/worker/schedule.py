"""The comparison of buckets and index as jobs: one after the other, each enqueueing the next.

A step ends after so many differences and goes to the end of the queue, behind the jobs that it enqueued: the queue
itself is the back-pressure, and a step that dies with its worker is taken over like any job.
"""

import logging
import time
from typing import Any

from redis import Redis
from rq.job import Job

from app.common import comparison
from app.common.jobs import RECONCILE_FIGURES, JobSettings
from app.worker import progress, reconcile
from app.worker.converge import Context

log = logging.getLogger(__name__)

#: Redis key that is there from one scheduled comparison until the next is due.
NOT_DUE = "lookingglass:reconcile:not_due"

#: The same for one that looks at every record, and the seconds between two of them.
NOT_DUE_THOROUGHLY = "lookingglass:reconcile:thorough_not_due"
THOROUGH_INTERVAL = 86400

#: Jobs enqueued, and seconds spent, after which a step makes room.
STEP_JOBS = 2000
STEP_SECONDS = 30


def keep_scheduled(connection: Redis, settings: JobSettings, interval: int) -> None:
    """Enqueue a comparison if the last is `interval` seconds ago and none is under way; by whoever looks first."""
    if not interval or not connection.set(NOT_DUE, "1", nx=True, ex=interval):
        return
    if not comparison.begin(connection, settings):
        log.warning("No new comparison of buckets and index begins: the last one still waits for its turn")


def step(
    context: Context, job: Job, position: list[Any] | None, found: int, began: float, *, dry_run: bool = False
) -> dict[str, Any]:
    """Compare until there is enough to do, and leave the rest to the next step; a dry run changes nothing."""
    connection, settings = job.connection, context.settings
    enqueued, started = 0, time.monotonic()
    if not began:
        began = time.time()
        progress.begin(connection, began, dry_run=dry_run)
    if position:
        at = reconcile.Position(*position[: len(reconcile.Position._fields)])  # a later version may know more of it
    else:
        at = reconcile.start(settings, thorough=dry_run or not connection.exists(NOT_DUE_THOROUGHLY))
    if settings.reconcile_interval and not dry_run:  # the next begins so long after the last step of this one
        connection.set(NOT_DUE, "1", ex=settings.reconcile_interval)
    for differences, following in reconcile.pages(context, at):
        if not dry_run:
            enqueued += reconcile.enqueue(differences, connection, settings)
        found += len(differences)
        progress.note(connection, began, differences, following)
        if following and (enqueued >= STEP_JOBS or time.monotonic() - started > STEP_SECONDS):
            arguments = {"position": list(following), "found": found, "began": began, "dry_run": dry_run}
            comparison.enqueue_step(connection, settings, _following(job.id), arguments)
            return {"status": "goes on", "differences": found}
    took = round(time.time() - began, 2)
    progress.end(connection, began)
    if dry_run:
        log.info("Compared buckets and index, changing nothing: %d differences", found, extra={"seconds": took})
        return {"status": "compared", "differences": found, "dry_run": True}
    if at.thorough:
        connection.set(NOT_DUE_THOROUGHLY, "1", ex=THOROUGH_INTERVAL)
    reconcile.switch_readers(context)
    connection.hset(RECONCILE_FIGURES, mapping={"ended_at": time.time(), "seconds": took, "differences": found})
    log.info("Compared buckets and index: %d differences", found, extra={"seconds": took})
    return {"status": "compared", "differences": found}


def _following(identifier: str) -> str:
    """The id of the step after this one: the same however often this one is run."""
    chain, _, number = identifier.rpartition("-")
    return f"{chain}-{int(number) + 1}" if chain and number.isdigit() else f"{identifier}-1"
