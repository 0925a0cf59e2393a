"""The commands: each asks the console, shows the answer, and returns it with the exit status."""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from rich.console import Console as Terminal

from app.cli import logs, tables
from app.cli.client import Console
from app.cli.where import Where
from app.common.text import visible

JSON = dict[str, Any]
Answer = tuple[Any, int]

#: Seconds between two looks at what is waited for.
POLL = 0.5


class Run(NamedTuple):
    """One run of the command."""

    arguments: argparse.Namespace
    where: Where
    console: Console
    #: Tables go to the first, what is merely said to the second.
    out: Terminal
    say: Terminal

    def show(self, show: Callable[[Any, Terminal], None], found: Any) -> None:
        """Show a table, unless a program reads."""
        if not self.arguments.json:
            show(found, self.out)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe every command to a parser."""

    def add(name: str, command: Callable[[Run], Answer], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(command=command)
        return made

    add("status", status, "is all well? what is behind?")
    add("failed", failed, "failed jobs, by reason")
    wanted = add("retry", retry, "put failed jobs back on their queues")
    which = wanted.add_mutually_exclusive_group(required=True)
    which.add_argument("job_id", nargs="?", metavar="JOB_ID", help="one job")
    which.add_argument("--reason", help="every job of a group, as `failed` names it")
    which.add_argument("--all", action="store_true", help="every failed job")
    listing = add("items", items, "objects and what became of them")
    for name, text in (
        ("bucket", "in this bucket"),
        ("prefix", "whose name begins so"),
        ("status", "indexed or rejected"),
        ("reason-code", "rejected for this reason"),
        ("model-id", "of this model"),
        ("since", "indexed at this time or later, ISO 8601"),
        ("until", "indexed at this time or earlier"),
    ):
        listing.add_argument(f"--{name}", help=text)
    listing.add_argument("--limit", type=int, default=50, help="at most so many (50)")
    _of_object(add("item", item, "all that is known of an object"))
    compare = add("reconcile", reconcile, "compare buckets and index, and have what differs put right")
    compare.add_argument("--dry-run", action="store_true", help="list the differences and change nothing")
    compare.add_argument("--wait", action="store_true", help="return when everything was compared")
    _of_object(add("proof", proof, "show what is left of an object; exit 1 if anything is"))
    freed = add("release", release, "forget verdicts, quarantine included, and try again")
    freed.add_argument("bucket", nargs="?")
    freed.add_argument("object", nargs="?")
    freed.add_argument("--reason-code", help="every object rejected for this reason")
    freed.add_argument("--all", action="store_true", help="every rejected object")
    held = add("models", models, "the models that the index holds faces of")
    held.add_argument("--drop", metavar="MODEL_ID", help="drop the faces of a model that is not in use")
    held.add_argument("--switch", action="store_true", help="let readers see the model in use")
    add("forget", forget, "drop all that the index holds of a bucket that is gone").add_argument("bucket")
    add("pause", pause, "have the workers take no more jobs")
    add("resume", resume, "let the workers go on")
    log = add("logs", show_logs, "what a service writes into its log")
    log.add_argument("service", nargs="?", help="webhook, console, gpu-worker, worker-1 …; all without")
    log.add_argument("-f", "--follow", action="store_true", help="go on as it is written")
    log.add_argument("-n", "--lines", type=int, default=20, help="lines at the end (20)")


def status(run: Run) -> Answer:
    """The overview; 1 unless all is well."""
    found = run.console.get("/")
    run.show(tables.show_status, found)
    return found, int(found["verdict"]["state"] != "green")


def failed(run: Run) -> Answer:
    """Failed jobs by reason; 1 if that is not known."""
    found = run.console.get("/trouble")["failed"]
    run.show(tables.show_failed, found)
    return found, int("problem" in found)


def retry(run: Run) -> Answer:
    """One failed job, a group, or all."""
    given = run.arguments
    if given.all:
        return _do(run, "retry-all")
    if given.reason:
        return _do(run, "retry-group", reason=given.reason)
    return _do(run, "retry", job_id=given.job_id)


def items(run: Run) -> Answer:
    """Objects, as many as were asked for."""
    found = list(islice(_items(run), run.arguments.limit))
    run.show(tables.show_items, found)
    return found, 0


def item(run: Run) -> Answer:
    """An object; 1 if neither bucket nor index knows it."""
    found = _object(run)
    run.show(tables.show_item, found)
    return found, int(not (found["item"] or found["stored"]))


def reconcile(run: Run) -> Answer:
    """A comparison; with its progress, where it is waited for."""
    before = ((run.console.get("/actions")["comparison"]) or {}).get("began_at")
    started = _do(run, "dry-run" if run.arguments.dry_run else "compare")
    if not (run.arguments.wait or run.arguments.dry_run):
        return started
    with run.say.status("Waiting for a worker …") as progress:
        while True:
            now = run.console.get("/actions")["comparison"]
            if now and now["began_at"] != before:
                if now["ended_at"]:
                    break
                where = visible(str(now["where"] or "the beginning"))
                progress.update(f"{now['pages']} pages compared; next: {where}")
            time.sleep(POLL)
    run.show(lambda found, out: out.print(_differences(found)), now)
    return now, 0


def proof(run: Run) -> Answer:
    """What is left of an object; 1 if anything is, or if somebody did not answer."""
    found = _object(run)
    left = {
        "bucket": found["bucket"],
        "object": found["key"],
        "in_bucket": found["stored"] is not None,
        "record": found["item"],
        "points": found["points"],
        "gone": not (found["problems"] or found["stored"] or found["item"] or found["points"]),
        "problems": found["problems"],
    }
    if not run.arguments.json:
        said = "; ".join(found["problems"]) or ("Nothing is left of it." if left["gone"] else "It is there.")
        run.out.print(
            visible(
                f"{said} In the bucket: {left['in_bucket']}; record: {bool(left['record'])}; "
                f"points: {left['points']}."
            )
        )
    return left, int(not left["gone"])


def release(run: Run) -> Answer:
    """One object, a reason, or every rejection."""
    given = run.arguments
    if given.all:
        return _do(run, "release-all")
    if given.reason_code:
        return _do(run, "release-group", reason_code=given.reason_code)
    if not (given.bucket and given.object):
        run.say.print("Give BUCKET OBJECT, --reason-code or --all.", style="red")
        return None, 2
    return _do(run, "release", bucket=given.bucket, object=given.object)


def models(run: Run) -> Answer:
    """The models, after what is to be done with them."""
    if run.arguments.drop:
        _do(run, "drop-model", model_id=run.arguments.drop)
    if run.arguments.switch:
        _do(run, "switch-readers")
    found = run.console.get("/actions")
    if found["models"] is None:
        run.say.print(visible("; ".join(found["problems"])), style="red")
        return None, 1
    run.show(tables.show_models, found["models"])
    return found["models"], 0


def forget(run: Run) -> Answer:
    """A bucket that is gone, however much is left of it."""
    return _do(run, "forget", bucket=run.arguments.bucket)


def pause(run: Run) -> Answer:
    """The workers, after what they have in hand."""
    return _do(run, "pause")


def resume(run: Run) -> Answer:
    """The workers."""
    return _do(run, "resume")


def show_logs(run: Run) -> Answer:
    """Logs, of files or containers."""
    return None, logs.show(run.where, run.arguments.service, lines=run.arguments.lines, follow=run.arguments.follow)


def _of_object(made: argparse.ArgumentParser) -> None:
    made.add_argument("bucket")
    made.add_argument("object")


def _object(run: Run) -> JSON:
    return run.console.get("/object", bucket=run.arguments.bucket, object=run.arguments.object)


def _items(run: Run) -> Iterator[JSON]:
    given = vars(run.arguments)
    wanted = {
        name: given[name] for name in ("bucket", "prefix", "status", "reason_code", "model_id", "since", "until")
    }
    after: str | None = None
    while True:
        found = run.console.get("/objects", after=after, **wanted)
        yield from found["objects"]
        after = found["after"]
        if after is None:
            return


def _do(run: Run, action: str, **given: str) -> Answer:
    """Do an action, again and again while something is left."""
    more: JSON | None = {}
    while more is not None:
        answer = run.console.do(action, **given, **more)
        run.say.print(visible(answer["done"]))
        more = answer["more"]
    return answer, 0


def _differences(found: JSON) -> str:
    lines = [f"{one['why']}\t{visible(one['bucket'] + '/' + one['key'])}" for one in found["differences"]]
    counts = ", ".join(f"{number:,} {why}" for why, number in sorted(found["found"].items())) or "none"
    left_out = found["listed"] - len(lines)
    more = [f"… and {left_out} more"] if left_out else []
    return "\n".join([*lines, *more, f"Differences: {counts}." + " Nothing was enqueued." * found["dry_run"]])
