"""The comparison of buckets and index as jobs: one after the other, each enqueueing the next.

A step ends after so many differences and goes to the end of the queue, behind the jobs that it enqueued: the queue
itself is the back-pressure, and a step that dies with its worker is taken over like any job. There is one comparison
at a time: while a step waits or runs, no other begins.
"""

import logging
import secrets
import time
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from app.common.jobs import PENDING, RECONCILE, RECONCILE_FIGURES, JobSettings, queue, step_options
from app.worker import reconcile
from app.worker.converge import Context

log = logging.getLogger(__name__)

#: Redis key that is there from one scheduled comparison until the next is due.
NOT_DUE = "lookingglass:reconcile:not_due"

#: The same for one that looks at every record, and the seconds between two of them.
NOT_DUE_THOROUGHLY = "lookingglass:reconcile:thorough_not_due"
THOROUGH_INTERVAL = 86400

#: Redis key that holds the id of the last step that was enqueued.
LAST_STEP = "lookingglass:reconcile:last_step"

#: Jobs enqueued, and seconds spent, after which a step makes room.
STEP_JOBS = 2000
STEP_SECONDS = 30


def keep_scheduled(connection: Redis, settings: JobSettings, interval: int) -> None:
    """Enqueue a comparison if the last is `interval` seconds ago and none is under way; by whoever looks first."""
    if not interval or not connection.set(NOT_DUE, "1", nx=True, ex=interval):
        return
    if under_way(connection):
        log.warning("No new comparison of buckets and index begins: the last one still waits for its turn")
        return
    enqueue_step(connection, settings, f"comparison-{secrets.token_hex(4)}-0", {})


def under_way(connection: Redis) -> bool:
    """Whether a step of a comparison waits or runs."""
    last = connection.get(LAST_STEP)
    return last is not None and _pending(connection, as_text(last))


def enqueue_step(connection: Redis, settings: JobSettings, identifier: str, arguments: dict[str, Any]) -> None:
    """Enqueue a step of a comparison behind everything else, unless it is enqueued already."""
    if _pending(connection, identifier):
        return
    connection.set(LAST_STEP, identifier)
    data = Queue.prepare_data(RECONCILE, kwargs=arguments, job_id=identifier, **step_options(settings))
    queue(settings.reconcile_queue_name, connection).enqueue_many([data])


def step(context: Context, job: Job, position: list[Any] | None, found: int, began: float) -> dict[str, Any]:
    """Compare until there is enough to do, and leave the rest to the next step."""
    connection, settings = job.connection, context.settings
    enqueued, started = 0, time.monotonic()
    began = began or time.time()
    if position:
        at = reconcile.Position(*position)
    else:
        at = reconcile.start(settings, thorough=not connection.exists(NOT_DUE_THOROUGHLY))
    if settings.reconcile_interval:  # the next begins so long after the last step of this one
        connection.set(NOT_DUE, "1", ex=settings.reconcile_interval)
    for differences, following in reconcile.pages(context, at):
        enqueued += reconcile.enqueue(differences, connection, settings)
        found += len(differences)
        if following and (enqueued >= STEP_JOBS or time.monotonic() - started > STEP_SECONDS):
            arguments = {"position": list(following), "found": found, "began": began}
            enqueue_step(connection, settings, _following(job.id), arguments)
            return {"status": "goes on", "differences": found}
    if at.thorough:
        connection.set(NOT_DUE_THOROUGHLY, "1", ex=THOROUGH_INTERVAL)
    reconcile.switch_readers(context)
    took = round(time.time() - began, 1)
    connection.hset(RECONCILE_FIGURES, mapping={"ended_at": time.time(), "seconds": took, "differences": found})
    log.info("Compared buckets and index: %d differences", found, extra={"seconds": took})
    return {"status": "compared", "differences": found}


def _following(identifier: str) -> str:
    """The id of the step after this one: the same however often this one is run."""
    chain, _, number = identifier.rpartition("-")
    return f"{chain}-{int(number) + 1}" if chain and number.isdigit() else f"{identifier}-1"


def _pending(connection: Redis, identifier: str) -> bool:
    [job] = Job.fetch_many([identifier], connection=connection, serializer=JSONSerializer)
    return job is not None and job.get_status(refresh=False) in PENDING
