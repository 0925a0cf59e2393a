"""What went wrong, grouped by reason: failed jobs, rejected objects, dead-lettered events."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from app.common.errors import LookingGlassError
from app.console.faces import PAGE, FaceServices
from app.console.parts import Parts
from app.console.webhook import LIST_LIMIT, Webhook

#: Examples shown of a group.
EXAMPLES = 5

COLUMNS = ("kind", "reason", "bucket", "object", "at", "message", "job_id")

#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

JSON = dict[str, Any]


def trouble(parts: Parts) -> JSON:
    """The groups of each kind; a kind whose service is away has a `problem` in their place."""
    kinds = {
        "failed": lambda: _grouped(*_failed(parts.webhook)),
        "rejected": lambda: _rejections(parts.faces),
        "dead": lambda: _grouped(*_dead(parts.webhook)),
    }
    return {
        name: {"problem": str(answer)} if isinstance(answer, LookingGlassError) else answer
        for name, answer in parts.ask(kinds).items()
    }


def failed_alike(webhook: Webhook, reason: str) -> tuple[list[str], bool]:
    """The ids of the failed jobs of a group, among the newest that are listed, and whether every job is listed."""
    total, cases = _failed(webhook)
    return [case["job_id"] for case in cases if case["reason"] == reason], total <= len(cases)


def as_csv(parts: Parts) -> Iterator[str]:
    """Every case as a line, read page by page while it is sent; who does not answer is a line of kind `problem`."""
    yield _line(COLUMNS)
    kinds: tuple[Callable[[], Iterable[JSON]], ...] = (
        lambda: _failed(parts.webhook)[1],
        lambda: _rejected(parts.faces),
        lambda: _dead(parts.webhook)[1],
    )
    for cases in kinds:
        try:
            for case in cases():
                yield _line([case.get(name) or "" for name in COLUMNS])
        except LookingGlassError as error:
            yield _line(["problem", "", "", "", "", str(error), ""])


def alike(message: str, *particulars: str) -> str:
    """A message without what differs between cases of one kind: names, numbers, quoted values."""
    for particular in sorted(filter(None, particulars), key=len, reverse=True):
        message = message.replace(particular, "…")
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "…", message)
    return re.sub(r"\d[\d.,:]*", "N", message).strip() or "no reason given"


def _failed(webhook: Webhook) -> tuple[int, list[JSON]]:
    total, jobs = webhook.failed()
    return total, [_failed_case(job) for job in jobs]


def _failed_case(job: JSON) -> JSON:
    about = job["arguments"] or {}
    bucket, key = str(about.get("bucket", "")), str(about.get("object", ""))
    message = job["error"] or "It left no error."
    return {
        "kind": "failed",
        "reason": alike(message, f"{bucket}/{key}", key, job["job_id"]),
        "bucket": bucket,
        "object": key,
        "at": job["ended_at"] or job["enqueued_at"],
        "message": message,
        "job_id": job["job_id"],
    }


def _dead(webhook: Webhook) -> tuple[int, list[JSON]]:
    total, events = webhook.dead_events()
    return total, [
        {
            "kind": "dead",
            "reason": alike(event["reason"]),
            "at": event["at"],
            "message": f"{event['reason']}: {event['record']}",
        }
        for event in events
    ]


def _rejected(faces: FaceServices) -> Iterator[JSON]:
    after: str | None = None
    while True:
        records, after = faces.records(status="rejected", after=after)
        yield from map(_rejected_case, records)
        if after is None:
            return


def _rejected_case(record: JSON) -> JSON:
    return {
        "kind": "rejected",
        "reason": record.get("reason_code") or "rejected",
        "bucket": record["bucket"],
        "object": record["key"],
        "at": record["indexed_at"],
        "message": record.get("reason") or "",
    }


def _rejections(faces: FaceServices) -> JSON:
    """As `_grouped`, with every record counted, and first, last and examples of the first page."""
    total = faces.count(status="rejected")
    counts = faces.rejections() if total else {}
    records, _ = faces.records(status="rejected", limit=PAGE) if total else ([], None)
    found = _grouped(total, [_rejected_case(record) for record in records])
    for group in found["groups"]:
        group["count"] = max(group["count"], counts.get(group["reason"], 0))
    found["groups"].sort(key=lambda group: -group["count"])
    return found


def _grouped(total: int, cases: Iterable[JSON]) -> JSON:
    """`{"total", "seen", "groups"}`: how many there are, how many were looked at, and these by reason."""
    groups: dict[str, JSON] = {}
    seen = 0
    for case in cases:
        seen += 1
        group = groups.setdefault(case["reason"], {"reason": case["reason"], "count": 0, "times": [], "examples": []})
        group["count"] += 1
        if case["at"]:
            group["times"].append(case["at"])
        if len(group["examples"]) < EXAMPLES:
            group["examples"].append(case)
    for group in groups.values():
        times = group.pop("times") or [None]
        group["first"], group["last"] = min(times), max(times)
    found = sorted(groups.values(), key=lambda group: -group["count"])
    return {"total": total, "seen": seen, "partly": seen < total, "limit": LIST_LIMIT, "groups": found}


def _line(values: Iterable[Any]) -> str:
    """A line of CSV in which no cell is a formula."""
    text = io.StringIO()
    cells = [json.dumps(value) if isinstance(value, (dict, list)) else str(value) for value in values]
    csv.writer(text).writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return text.getvalue()
