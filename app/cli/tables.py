"""What the console answers, as tables for people."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.common.text import visible
from app.common.words import ago, clock, count, size, span

STYLES = {"green": "green", "amber": "yellow", "red": "bold red"}
MARKS = {"green": "well", "amber": "a look", "red": "help"}

JSON = dict[str, Any]


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str | None = None) -> Table:
    """A table; a cell that is text shows whatever it holds, and obeys none of it."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row))
    return made


def show_status(found: JSON, out: Console) -> None:
    """The overview."""
    verdict = found["verdict"]
    out.print(Text(verdict["sentence"], style=STYLES[verdict["state"]]))
    boxes = [
        (box["name"], Text(MARKS[box["state"]], style=STYLES[box["state"]]), box["sentence"])
        for box in found["boxes"]
    ]
    out.print(table(("part", "", ""), boxes))
    if backlog := found["backlog"]:
        outlook = {"shrinking": f"done in about {span(backlog['seconds'])}", "none": "nothing is waiting"}
        out.print(
            f"\nBacklog: {count(backlog['jobs'], 'job')}, {outlook.get(backlog['outlook'], backlog['outlook'])}."
        )
        done = found["throughput"]
        out.print(f"Throughput: {count(done['hour'], 'job')} in the last hour, {done['day']:,} in the last day.")
    states = ("queued", "started", "scheduled", "failed", "finished")
    if found["jobs"]:
        out.print()
        rows = [(queue, *(f"{of[f'{state}_jobs']:,}" for state in states)) for queue, of in found["jobs"].items()]
        out.print(table(("queue", *(f">{state}" for state in states)), rows))
    if found["workers"]:
        out.print()
        rows = [
            (
                w["name"],
                w["state"],
                w["job"]["what"] if w["job"] else "",
                span(w["job"]["seconds"]) if w["job"] else "",
            )
            for w in found["workers"]
        ]
        out.print(table(("worker", "state", "does", ">for"), rows))


def show_failed(found: JSON, out: Console) -> None:
    """Failed jobs by reason, with examples."""
    if found.get("problem"):
        out.print(Text(visible(found["problem"]), style="red"))
        return
    out.print(
        f"{count(found['total'], 'job')} failed." + (f" Looked at: {found['seen']:,}." if found["partly"] else "")
    )
    for group in found["groups"]:
        title = f"\n{group['count']:,} × {visible(group['reason'])}, the last {ago(group['last'])}"
        rows = [
            (case["job_id"], f"{case['bucket']}/{case['object']}", clock(case["at"])) for case in group["examples"]
        ]
        out.print(table(("job", "object", "ended"), rows, title=title))


def show_items(objects: list[JSON], out: Console) -> None:
    """Objects, one a line."""
    rows = [
        (
            f"{one['bucket']}/{one['key']}",
            one["status"],
            one.get("face_count", ""),
            one.get("reason_code") or "",
            one.get("model_id") or "",
            clock(one.get("indexed_at")),
        )
        for one in objects
    ]
    out.print(table(("object", "status", ">faces", "reason", "model", "indexed"), rows))


def show_item(found: JSON, out: Console) -> None:
    """All that is known of an object."""
    item, stored = found["item"] or {}, found["stored"]
    rows = [("in the bucket", f"{size(stored['size'])}, since {clock(stored['last_modified'])}" if stored else "no")]
    rows += [("in the index", f"{item['status']}, {count(item['face_count'], 'face')}" if item else "no record")]
    rows += [("points", "not known" if found["points"] is None else str(found["points"]))]
    rows += [(name, str(item[name])) for name in ("reason_code", "reason", "note", "model_id") if item.get(name)]
    if item:
        rows += [("indexed", clock(item["indexed_at"])), ("up to date", "yes" if found["current"] else "no")]
    if found["seconds"] is not None:
        rows.append(("upload to index", span(found["seconds"])))
    rows += [(step, f"{ms:,.0f} ms") for step, ms in (item.get("timings_ms") or {}).items()]
    out.print(table(("", ""), rows, title=visible(f"{found['bucket']}/{found['key']}")))
    if found["faces"]:
        boxes = [
            (face["face"] + 1, f"{face['score']:.2f}", ", ".join(f"{edge:.0f}" for edge in face["box"]))
            for face in found["faces"]
        ]
        out.print()
        out.print(table(("face", ">score", "box"), boxes))


def show_models(models: list[JSON], out: Console) -> None:
    """The models that the index holds faces of."""
    rows = [
        (
            model["model_id"],
            f"{model['items']:,}",
            f"{model['points']:,}",
            ", ".join(word for name, word in (("in_use", "in use"), ("read", "what readers see")) if model[name]),
        )
        for model in models
    ]
    out.print(table(("model", ">objects", ">faces", "use"), rows))
