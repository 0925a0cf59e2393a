"""What an operator may do here: each action with its question, what it does, and the sentence that says so."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from rq import suspension

from app.common import comparison
from app.common.errors import NotFoundError
from app.common.web import bad_request
from app.common.words import count
from app.console.parts import Parts
from app.console.trouble import failed_alike
from app.console.upstream import RefusedError

#: Seconds for one press of a button that works through many objects; what is left takes another.
LONGEST = 20

#: Rejected objects released between two looks at the clock.
RELEASED_AT_ONCE = 100

Fields = Mapping[str, str]


class Done(NamedTuple):
    """What was done, as a sentence, and where something is left, what the action is to be told next time."""

    sentence: str
    more: Mapping[str, str] | None = None


class UnknownActionError(NotFoundError):
    """There is no such action."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that can be done."""

    #: What its button says.
    label: str
    #: What is asked before, and what will happen then; both know the fields.
    question: str
    consequence: str
    #: Does it, and says what was done.
    run: Callable[[Parts, Fields], Done]
    #: What has to be given.
    fields: tuple[str, ...] = ()
    #: Whether faces are dropped.
    drops: bool = False


def find(name: str, given: Fields) -> Action:
    """The action of this name.

    Raises:
        UnknownActionError: there is none.
        PermanentError: a field is missing.
    """
    if name not in ACTIONS:
        raise UnknownActionError(f"There is no action {name}; there are {', '.join(ACTIONS)}.")
    missing = [field for field in ACTIONS[name].fields if not given.get(field)]
    if missing:
        raise bad_request(f"{name} needs {' and '.join(missing)}.")
    return ACTIONS[name]


def _pause(parts: Parts, _given: Fields) -> Done:
    suspension.suspend(parts.redis)
    return Done("The workers are paused: each finishes what it has in hand, and jobs stay where they are.")


def _resume(parts: Parts, _given: Fields) -> Done:
    suspension.resume(parts.redis)
    return Done("The workers go on.")


def _compare(parts: Parts, _given: Fields, *, dry_run: bool) -> Done:
    if not comparison.begin(parts.redis, parts.settings, dry_run=dry_run):
        raise RefusedError("A comparison is under way; its progress is on the page Actions.", 409)
    what = "A dry run" if dry_run else "A comparison"
    return Done(f"{what} of buckets and index waits for a worker; its progress is on the page Actions.")


def _process(parts: Parts, given: Fields) -> Done:
    job_id = parts.webhook.enqueue(given["bucket"], given["object"])
    return Done(f"A worker looks at {given['bucket']}/{given['object']} again (job {job_id}).")


def _release(parts: Parts, given: Fields) -> Done:
    points = parts.faces.delete(given["bucket"], given["object"])
    job_id = parts.webhook.enqueue(given["bucket"], given["object"])
    return Done(
        f"The verdict on {given['bucket']}/{given['object']} and its {count(points, 'face')} are forgotten; "
        f"a worker tries it anew (job {job_id})."
    )


def _retry(parts: Parts, given: Fields) -> Done:
    parts.webhook.requeue(given["job_id"])
    return Done(f"The job {given['job_id']} is back on its queue.")


def _retry_group(parts: Parts, given: Fields) -> Done:
    put_back, deadline = 0, time.monotonic() + LONGEST
    while True:
        before = put_back
        alike, are_all = failed_alike(parts.webhook, given["reason"])
        for job_id in alike:
            if time.monotonic() > deadline:
                return Done(f"{count(put_back, 'job')} of this group put back; more are left.", {})
            with suppress(RefusedError):  # put back by somebody else meanwhile, or none of ours
                parts.webhook.requeue(job_id)
                put_back += 1
        if are_all or put_back == before:
            return Done(f"{count(put_back, 'job')} of this group put back on the queue.")


def _retry_all(parts: Parts, _given: Fields) -> Done:
    return Done(f"{count(parts.webhook.requeue_all(), 'failed job')} put back on the queue.")


def _release_group(parts: Parts, given: Fields) -> Done:
    return _release_where(parts, given, reason_code=given["reason_code"])


def _release_where(parts: Parts, given: Fields, **selection: str) -> Done:
    released, deadline, after = 0, time.monotonic() + LONGEST, given.get("after")
    while True:
        records, following = parts.faces.records(status="rejected", limit=RELEASED_AT_ONCE, after=after, **selection)
        for record in records:
            parts.faces.delete(record["bucket"], record["key"])
            parts.webhook.enqueue(record["bucket"], record["key"])
            released += 1
        after = following
        if after is None:
            return Done(f"{count(released, 'object')} released, to be tried anew.")
        if time.monotonic() > deadline:
            return Done(f"{count(released, 'object')} released, to be tried anew; more are left.", {"after": after})


def _switch(parts: Parts, _given: Fields) -> Done:
    parts.faces.switch_readers()
    return Done("Readers see the model in use.")


def _drop_model(parts: Parts, given: Fields) -> Done:
    parts.faces.drop_model(given["model_id"])
    return Done(f"The faces of {given['model_id']} are dropped.")


def _forget(parts: Parts, given: Fields) -> Done:
    bucket = given["bucket"]
    if bucket in parts.settings.buckets():
        with suppress(KeyError):
            parts.bucket.page(bucket, "", None, 1)
            raise RefusedError(f"The bucket {bucket} is there: delete its objects, and the index follows.", 409)
    items = points = 0
    deadline = time.monotonic() + LONGEST
    while (records := parts.faces.records(bucket=bucket)[0]) and time.monotonic() < deadline:
        for record in records:
            points += parts.faces.delete(bucket, record["key"])
            items += 1
            if time.monotonic() > deadline:
                break
    done = f"{count(items, 'object')} of {bucket} and {count(points, 'face')} forgotten"
    return Done(f"{done}; more are left.", {}) if parts.faces.count(bucket=bucket) else Done(f"{done}.")


ACTIONS = {
    "pause": Action(
        "Pause the workers",
        "Pause the workers?",
        "Within two seconds they take no more jobs; each finishes the one in hand. Jobs stay on their queues.",
        _pause,
    ),
    "resume": Action("Resume", "Let the workers go on?", "They take jobs again within a second.", _resume),
    "compare": Action(
        "Compare now",
        "Compare buckets and index now?",
        "What differs becomes jobs, behind all uploads. This is what happens every hour anyway.",
        partial(_compare, dry_run=False),
    ),
    "dry-run": Action(
        "Dry run",
        "Compare buckets and index without changing anything?",
        "The differences are counted and listed; none becomes a job.",
        partial(_compare, dry_run=True),
    ),
    "process": Action(
        "Process again",
        "Have a worker look at {bucket}/{object} again?",
        "If the index already says the truth about it, nothing changes.",
        _process,
        ("bucket", "object"),
    ),
    "release": Action(
        "Forget and try anew",
        "Forget the verdict on {bucket}/{object} and try it anew?",
        "Its record and its faces leave the index now and come back when a worker has processed it.",
        _release,
        ("bucket", "object"),
        drops=True,
    ),
    "retry": Action(
        "Retry", "Put the job {job_id} back on its queue?", "It gets all its tries again.", _retry, ("job_id",)
    ),
    "retry-group": Action(
        "Retry all of these",
        "Put every failed job with this reason back on its queue? {reason}",
        "Each gets all its tries again.",
        _retry_group,
        ("reason",),
    ),
    "retry-all": Action(
        "Retry all failed jobs",
        "Put every failed job back on its queue?",
        "Each gets all its tries again.",
        _retry_all,
    ),
    "release-group": Action(
        "Release all of these",
        "Forget the verdict on every object rejected as {reason_code}, and try each anew?",
        "Worth it after an update or a changed limit; what is still not acceptable is rejected again.",
        _release_group,
        ("reason_code",),
    ),
    "release-all": Action(
        "Release all rejections",
        "Forget the verdict on every rejected object, and try each anew?",
        "Worth it after an update or a changed limit; what is still not acceptable is rejected again.",
        _release_where,
    ),
    "switch-readers": Action(
        "Switch readers over",
        "Let readers of the alias `faces` see the model in use?",
        "Refused while any object is still of another model.",
        _switch,
    ),
    "drop-model": Action(
        "Drop",
        "Drop all faces of the model {model_id}?",
        "They are gone for good. Refused while the model is in use, or is what readers see.",
        _drop_model,
        ("model_id",),
        drops=True,
    ),
    "forget": Action(
        "Forget a bucket",
        "Drop all that the index holds of the bucket {bucket}?",
        "For a bucket that is gone. Refused while it is there and is one of ours.",
        _forget,
        ("bucket",),
        drops=True,
    ),
}
