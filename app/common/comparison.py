"""What is agreed on about comparisons of buckets and index: how one begins, and what Redis tells of it.

There is one at a time: while a step of it waits or runs, no other begins.
"""

import secrets
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from app.common.jobs import PENDING, RECONCILE, JobSettings, queue, step_options

#: Redis key that holds the id of the last step that was enqueued.
LAST_STEP = "lookingglass:reconcile:last_step"

#: Redis hash of how far the last comparison got: `began_at`, `updated_at`, `ended_at`, `dry_run`, `pages`, `where`,
#: and `found`, a JSON object of the differences by kind; and the list of the first of these, as JSON objects.
PROGRESS = "lookingglass:reconcile:progress"
DIFFERENCES = "lookingglass:reconcile:differences"


def begin(connection: Redis, settings: JobSettings, *, dry_run: bool = False) -> bool:
    """Enqueue the first step of a comparison, which as a dry run changes nothing; False where one is under way."""
    if under_way(connection):
        return False
    enqueue_step(connection, settings, f"comparison-{secrets.token_hex(4)}-0", {"dry_run": True} if dry_run else {})
    return True


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


def _pending(connection: Redis, identifier: str) -> bool:
    [job] = Job.fetch_many([identifier], connection=connection, serializer=JSONSerializer)
    return job is not None and job.get_status(refresh=False) in PENDING
