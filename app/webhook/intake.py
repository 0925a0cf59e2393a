"""From events to jobs in RQ, in one round trip to Redis for a request.

A script does there what would otherwise take several: it notes from which of MinIO's targets the events came, looks
whether more jobs may wait, and enqueues those that are not known yet, so that a redelivered event finds its job.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.utils import utcformat

from app.common.errors import TransientError
from app.common.jobs import ROUTE, ObjectJob, options, queue
from app.common.media import guess_from_name
from app.webhook import metrics
from app.webhook.events import REMOVED, Event
from app.webhook.settings import WebhookSettings

#: Redis key with the time since which MinIO's quick target told of events and its durable one of none.
HINTS_SINCE = "lookingglass:events:hints_since"

#: Redis key with the time of the last request that MinIO sent.
LAST_EVENT = "lookingglass:events:last"

#: Most jobs waiting where nobody asks.
NO_LIMIT = 2**53

#: KEYS: HINTS_SINCE, RQ's set of queues, then for each queue in use its list and its registry of scheduled jobs: in
#: an outage that holds the jobs that wait to be tried again; and LAST_EVENT. ARGV: the time, where the events came
#: from (`hint`, `durable`, or nothing), how many jobs may wait, how many queues are in use, and for each job its key,
#: its id, its queue's list, RPUSH or LPUSH, the number of its fields and these. Answers with the number of jobs
#: waiting where no more may, else with the state of each job, as it was found or is now.
_ENQUEUE = """
local function note()
  if ARGV[2] == 'hint' then redis.call('SET', KEYS[1], ARGV[1], 'NX')
  elseif ARGV[2] == 'durable' then redis.call('DEL', KEYS[1]) end
  if ARGV[2] ~= '' then redis.call('SET', KEYS[#KEYS], ARGV[1]) end
end
local waiting, queues = 0, tonumber(ARGV[4])
for n = 1, queues do
  waiting = waiting + redis.call('LLEN', KEYS[1 + 2 * n]) + redis.call('ZCARD', KEYS[2 + 2 * n])
end
if waiting >= tonumber(ARGV[3]) then note() return waiting end
local states, at = {}, 5
while at <= #ARGV do
  local job, id, list, push, size = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local known = redis.call('HGET', job, 'status')
  if not known then
    redis.call('HSET', job, unpack(ARGV, at + 5, at + 4 + size))
    redis.call('SADD', KEYS[2], list)
    redis.call(push, list, id)
  end
  states[#states + 1] = known or ''
  at = at + 5 + size
end
note() -- last: a script of which one write is done is not refused by a full Redis any more
return states
"""

JSON = dict[str, Any]


class FullError(TransientError):
    """As many jobs wait as may; MinIO keeps the events, on disk, until there is room."""

    code = "full"


class Intake:
    """Makes jobs of events; one per process, used by many threads."""

    def __init__(self, connection: "Redis", settings: WebhookSettings) -> None:
        self._redis = connection
        self._settings = settings
        self._enqueue = connection.register_script(_ENQUEUE)
        self._queues = {name: queue(name, connection) for name in settings.all_queues()}
        self._alike = {name: self._fields_of_all(target) for name, target in self._queues.items()}
        self._keys = [HINTS_SINCE, Queue.redis_queues_keys]
        for used in self._queues.values():
            self._keys += [used.key, used.scheduled_job_registry.key]
        self._keys.append(LAST_EVENT)

    def from_event(self, event: Event) -> ObjectJob:
        """The job of an event."""
        return self.new(
            event.bucket,
            event.key,
            event.name,
            job_id=event.job_id,
            content_type=event.s3.object.content_type,
            size=event.s3.object.size,
            at_front=event.high_priority,
        )

    def new(
        self,
        bucket: str,
        key: str,
        event: str,
        *,
        job_id: str | None = None,
        content_type: str = "",
        size: int = 0,
        at_front: bool = False,
    ) -> ObjectJob:
        """A job for an object, not yet enqueued."""
        kind = guess_from_name(key, content_type)
        return ObjectJob(
            queue=self._settings.queue_for(kind, removed=event.startswith(REMOVED)),
            job_id=job_id or uuid.uuid4().hex,
            bucket=bucket,
            object=key,
            event=event,
            timeout=self._settings.timeout_for(kind, size),
            at_front=at_front,
        )

    def take(self, jobs: Sequence[ObjectJob], *, hint: bool) -> list[JSON]:
        """Enqueue what came from one of MinIO's two targets: the quick one, or the durable one.

        Raises:
            FullError: too many jobs wait already; nothing was enqueued.
        """
        return self._run(jobs, "hint" if hint else "durable", self._settings.max_queued_jobs)

    def enqueue(self, job: ObjectJob) -> JSON:
        """Enqueue a job however many wait."""
        [answer] = self._run([job], "", NO_LIMIT)
        return answer

    def schedule(self, job: ObjectJob, at: datetime) -> JSON:
        """Enqueue a job at a later time, through RQ's scheduler."""
        target = self._queues[job.queue]
        scheduled = target.create_job(ROUTE, **options(job, self._settings))
        scheduled.enqueue_at_front = job.at_front
        target.schedule_job(scheduled, at)
        return {**_answer(job, JobStatus.SCHEDULED.value), "run_at": at.astimezone(UTC).isoformat()}

    def _run(self, jobs: Sequence[ObjectJob], source: str, limit: int) -> list[JSON]:
        wanted = list({job.job_id: job for job in jobs}.values())
        arguments: list[Any] = [int(time.time()), source, limit, len(self._queues)]
        for job in wanted:
            arguments += self._arguments(job)
        states = self._enqueue(self._keys, arguments)
        if isinstance(states, int):
            raise FullError(f"{limit} jobs or more are waiting (MAX_QUEUED_JOBS); send this again later.")
        metrics.DUPLICATES.inc(sum(map(bool, states)))
        return [
            _answer(job, state.decode() or JobStatus.QUEUED.value) for job, state in zip(wanted, states, strict=True)
        ]

    def _fields_of_all(self, target: Queue) -> list[Any]:
        """The fields that every job of ours on a queue has alike, as RQ writes them, with their values."""
        sample = ObjectJob(target.name, "sample", "", "", "", 1)
        fields, own = target.create_job(ROUTE, **options(sample, self._settings)).to_dict(), self._own_fields(sample)
        return [part for name, value in fields.items() if value != "" and name not in own for part in (name, value)]

    def _own_fields(self, job: ObjectJob) -> JSON:
        """The fields in which a job differs from others on its queue."""
        wanted, now = options(job, self._settings), utcformat(datetime.now(UTC))
        return {
            "created_at": now,
            "enqueued_at": now,
            # As it is, which RQ reads too: to compress so few bytes takes longer than all the rest.
            "data": self._queues[job.queue].serializer.dumps((ROUTE, None, (), wanted["kwargs"])),
            "description": wanted["description"],
            "timeout": wanted["timeout"],
        }

    def _arguments(self, job: ObjectJob) -> list[Any]:
        """What the script takes for a job: what RQ would store and push, which takes it ten times as long to make."""
        fields = [*self._alike[job.queue], *(part for field in self._own_fields(job).items() for part in field)]
        push = "LPUSH" if job.at_front else "RPUSH"
        return [Job.key_for(job.job_id), job.job_id, self._queues[job.queue].key, push, len(fields), *fields]


def _answer(job: ObjectJob, status: str) -> JSON:
    return {
        "job_id": job.job_id,
        "bucket": job.bucket,
        "object": job.object,
        "event": job.event,
        "status": status,
    }
