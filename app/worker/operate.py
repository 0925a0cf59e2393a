"""What an operator does by hand: `python -m app.worker reconcile`, `proof`, `release`, `models`, `forget`."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now

from app.common.errors import LookingGlassError
from app.common.jobs import queue
from app.worker import reconcile
from app.worker.converge import Context
from app.worker.store import NoBucketError

#: Jobs of a comparison that may wait; beyond, it waits for the workers.
MOST_WAITING = 5000

#: Exit status of a dry run that found differences; 1 is trouble, 2 a wrong command line.
DIFFERENT = 3

#: What a terminal would obey, and lines that would look like two.
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Describe the commands to a parser."""
    commands = parser.add_subparsers(dest="command", title="commands")
    compare = commands.add_parser("reconcile", help="compare buckets and index, and enqueue what differs")
    compare.add_argument(
        "--dry-run", action="store_true", help="print the differences and enqueue nothing; exit 3 if there are any"
    )
    compare.add_argument(
        "--wait", action="store_true", help="return when the differences are worked off; exit 1 if a job failed"
    )
    for name, text in (
        ("proof", "show what is left of an object, in the bucket and in the index; exit 1 if anything is"),
        ("release", "forget an object's verdict, quarantine included, and try it again"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("bucket")
        command.add_argument("object")
    forget = commands.add_parser("forget", help="drop all that the index holds of a bucket that is gone")
    forget.add_argument("bucket")
    models = commands.add_parser("models", help="list the models that the index holds faces of")
    models.add_argument("--drop", metavar="MODEL_ID", help="drop the faces of a model that is not in use")


def run(arguments: argparse.Namespace, context: Context, connection: Redis) -> int:
    """Run the command that was asked for; return the exit status."""
    commands: dict[str, Callable[[argparse.Namespace, Context, Redis], int]] = {
        "reconcile": _reconcile,
        "proof": _proof,
        "release": _release,
        "models": _models,
        "forget": _forget,
    }
    try:
        return commands[arguments.command](arguments, context, connection)
    except LookingGlassError as error:
        print(error, file=sys.stderr)
        return 1


def _reconcile(arguments: argparse.Namespace, context: Context, connection: Redis) -> int:
    found, pages, began = Counter[str](), 0, now()
    waiting = queue(context.settings.reconcile_queue_name, connection)
    for differences, following in reconcile.pages(context, reconcile.start(context.settings, by_hand=True)):
        pages += 1
        found.update(difference.why for difference in differences)
        where = f"next: {following.bucket or 'faces'}, {following.side}" if following else "compared all"
        _progress(f"{pages} pages compared, {found.total()} differences; {where}")
        if arguments.dry_run:
            for difference in differences:
                print(f"{difference.why}\t{difference.bucket}/{difference.key.translate(_UNPRINTABLE)}")
            continue
        reconcile.enqueue(differences, connection, context.settings)
        while waiting.count > MOST_WAITING:
            _progress(f"{found.total()} differences; {waiting.count} jobs wait for the workers")
            time.sleep(1)
    while arguments.wait and not arguments.dry_run and _busy(waiting):
        _progress(f"{waiting.count} jobs wait for the workers")
        time.sleep(0.5)
    if not arguments.dry_run and (arguments.wait or not found):
        reconcile.switch_readers(context)
    _progress("")
    summary = ", ".join(f"{number} {why}" for why, number in sorted(found.items())) or "none"
    print(f"Differences: {summary}.{' Nothing was enqueued.' * arguments.dry_run}", file=sys.stderr)
    if arguments.dry_run:
        return DIFFERENT if found else 0
    if arguments.wait and (failed := _failed_since(waiting, began)):
        print(f"{failed} of their jobs failed: GET /jobs/failed of the webhook says why.", file=sys.stderr)
        return 1
    return 0


def _failed_since(waiting: Queue, began: datetime) -> int:
    ids = waiting.failed_job_registry.get_job_ids(cleanup=False)
    jobs = Job.fetch_many(ids, connection=waiting.connection, serializer=JSONSerializer)
    return sum(bool(job and job.ended_at and job.ended_at >= began) for job in jobs)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _busy(waiting: Queue) -> bool:
    registries = (waiting.started_job_registry, waiting.scheduled_job_registry)
    return bool(waiting.count or any(registry.get_job_count(cleanup=False) for registry in registries))


def _proof(arguments: argparse.Namespace, context: Context, _connection: Redis) -> int:
    found = reconcile.proof(context, arguments.bucket, arguments.object)
    print(json.dumps(found, indent=2))
    return 0 if found["gone"] else 1


def _release(arguments: argparse.Namespace, context: Context, connection: Redis) -> int:
    context.faces.delete(arguments.bucket, arguments.object)
    released = [reconcile.Difference(arguments.bucket, arguments.object, "missing")]
    enqueued = reconcile.enqueue(released, connection, context.settings)
    print("Released; a worker tries it again." if enqueued else "Released; it waits for a worker already.")
    return 0


def _forget(arguments: argparse.Namespace, context: Context, _connection: Redis) -> int:
    bucket, items, points = arguments.bucket, 0, 0
    if bucket in context.settings.buckets() and _there(context, bucket):
        print(f"The bucket {bucket} is there, and the index says what it holds: delete its objects.", file=sys.stderr)
        return 1
    while records := context.faces.records(bucket, None)[0]:
        for record in records:
            points += context.faces.delete(bucket, record["key"])
        items += len(records)
        _progress(f"{items} items forgotten")
    _progress("")
    print(f"Forgot {items} items of {bucket} and their {points} points.", file=sys.stderr)
    return 0


def _there(context: Context, bucket: str) -> bool:
    try:
        context.store.page(bucket, None, 1)
    except NoBucketError:
        return False
    return True


def _models(arguments: argparse.Namespace, context: Context, _connection: Redis) -> int:
    if arguments.drop:
        context.faces.drop_model(arguments.drop)
    print(json.dumps(context.faces.models(), indent=2))
    return 0
