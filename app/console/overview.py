"""The pipeline as it is: what each part says of itself, and what that means."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from rq.utils import as_text

from app.common.errors import LookingGlassError
from app.common.inspection import finished, jobs_by_state, oldest_queued_seconds, suspended, workers
from app.common.jobs import RECONCILE_FIGURES
from app.common.words import ago, count, span
from app.console.parts import Parts, waiting

#: Seconds a job may wait before somebody should look.
LONG_WAIT = 600

State = Literal["green", "amber", "red"]
JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Box:
    """One part of the drawing."""

    name: str
    state: State
    sentence: str


def overview(parts: Parts) -> JSON:
    """Everything the first page shows, within two seconds whatever is away."""
    settings, queues = parts.settings, parts.settings.all_queues()
    buckets = sorted(settings.buckets())
    answers = parts.ask(
        {
            "bucket": lambda: [parts.bucket.page(bucket, "", None, 1) for bucket in buckets],
            "webhook": parts.webhook.health,
            "jobs": lambda: {
                "by_queue": jobs_by_state(parts.redis, queues),
                "oldest_s": max(oldest_queued_seconds(parts.redis, queues).values()),
                "paused": suspended(parts.redis),
                "throughput": finished(parts.redis),
                "comparison": _comparison(parts),
            },
            "workers": lambda: workers(parts.redis),
            "rejected": lambda: parts.faces.count(status="rejected"),
            **{f"faces {service.url}": partial(parts.faces.health, service) for service in parts.faces.each},
        }
    )
    services = [_service(service.url, answers[f"faces {service.url}"]) for service in parts.faces.each]
    jobs = answers["jobs"]
    boxes = [
        _bucket(answers["bucket"], buckets),
        _events(answers["webhook"]),
        _queue(jobs),
        _workers(answers["workers"], jobs),
        _faces(services),
        _index(services),
    ]
    known = not isinstance(jobs, LookingGlassError)
    index: JSON = next((service["index"] for service in services if service.get("index")), {})
    backlog = waiting(jobs["by_queue"]) if known else 0
    outlook, seconds = parts.backlog.outlook(backlog)
    return {
        "verdict": _verdict(boxes),
        "boxes": boxes,
        "jobs": jobs["by_queue"] if known else {},
        "paused": known and jobs["paused"],
        "oldest_s": jobs["oldest_s"] if known else None,
        "throughput": jobs["throughput"] if known else None,
        "comparison": jobs["comparison"] if known else {},
        "backlog": {"jobs": backlog, "outlook": outlook, "seconds": seconds} if known else None,
        "workers": _or(answers["workers"], []),
        "face_services": services,
        "index": {
            "items": index.get("items"),
            "faces": index.get("faces"),
            "rejected": _or(answers["rejected"], None),
            "readers_see": _model(index.get("alias")),
        },
        "events": _or(answers["webhook"], {}).get("events", {}),
    }


def _or(answer: Any, otherwise: Any) -> Any:
    return otherwise if isinstance(answer, LookingGlassError) else answer


def _comparison(parts: Parts) -> dict[str, float]:
    found = parts.redis.hgetall(RECONCILE_FIGURES)
    return {as_text(name): float(value) for name, value in found.items()}


def _service(url: str, answer: Any) -> JSON:
    if isinstance(answer, LookingGlassError):
        return {"url": url, "ready": False, "problem": str(answer)}
    return {"url": url, "ready": "problem" not in answer, **answer}


def _model(collection: str | None) -> str | None:
    return collection.removeprefix("faces_") if collection else None


def _bucket(answer: Any, buckets: list[str]) -> Box:
    if isinstance(answer, LookingGlassError):
        return Box("Bucket", "red", str(answer))
    return Box("Bucket", "green", f"{' and '.join(buckets)} can be read.")


def _events(answer: Any) -> Box:
    if isinstance(answer, LookingGlassError):
        return Box("Events", "red", f"{answer} MinIO keeps the events meanwhile.")
    events = answer.get("events", {})
    if held := events.get("held_back_s"):
        return Box("Events", "red", f"MinIO has held events back for {span(held)}.")
    if last := events.get("last_at"):
        return Box("Events", "green", f"The last came {ago(last)}.")
    return Box("Events", "green", "None has come yet.")


def _queue(answer: Any) -> Box:
    if isinstance(answer, LookingGlassError):
        return Box("Queue", "red", str(answer))
    counts = answer["by_queue"].values()
    queued, later, failed = (sum(of[f"{state}_jobs"] for of in counts) for state in ("queued", "scheduled", "failed"))
    words = [f"{count(queued, 'job')} waiting" if queued else "Nothing waits"]
    if queued:
        words.append(f"the next for {span(answer['oldest_s'])}")
    if later:
        words.append(f"{later} put off")
    if failed:
        words.append(f"{failed} failed")
    late = answer["oldest_s"] > LONG_WAIT
    return Box("Queue", "amber" if failed or late or later else "green", ", ".join(words) + ".")


def _workers(answer: Any, jobs: Any) -> Box:
    if isinstance(answer, LookingGlassError):
        return Box("Workers", "red", "Not known while Redis is away.")
    by_state = {state: sum(w["state"] == state for w in answer) for state in ("busy", "idle", "suspended", "silent")}
    alive = len(answer) - by_state["silent"]
    if not alive:
        return Box("Workers", "red", "None is alive.")
    if not isinstance(jobs, LookingGlassError) and jobs["paused"]:
        return Box("Workers", "amber", f"Paused; {count(by_state['busy'], 'job')} still under way.")
    words = [f"{number} {state}" for state, number in by_state.items() if number]
    return Box("Workers", "amber" if by_state["silent"] else "green", ", ".join(words) + ".")


def _faces(services: list[JSON]) -> Box:
    name = "Face services" if len(services) > 1 else "Face service"
    ready = [service for service in services if service["ready"]]
    if not ready:
        return Box(name, "red", services[0]["problem"])
    devices = " and ".join(sorted({f"{s['engine']} on {s['device']}" for s in ready}))
    if len(ready) < len(services):
        problem = next(s["problem"] for s in services if not s["ready"])
        return Box(name, "amber", f"{len(ready)} of {len(services)} ready ({devices}): {problem}")
    return Box(name, "green", f"Ready: {devices}." if len(services) == 1 else f"{len(ready)} ready: {devices}.")


def _index(services: list[JSON]) -> Box:
    service = next((s for s in services if s.get("index")), None)
    if service is None:
        return Box("Index", "red", "Not known while no face service is ready.")
    index = service["index"]
    words = f"{count(index['items'], 'object')}, {count(index['faces'], 'face')}"
    if index["alias"] != index["collection"]:
        return Box("Index", "amber", f"{words}; readers still see {_model(index['alias'])}.")
    return Box("Index", "green", f"{words}.")


def _verdict(boxes: list[Box]) -> JSON:
    wrong = [box for box in boxes if box.state != "green"]
    if not wrong:
        return {"state": "green", "sentence": "All is well."}
    state = "red" if any(box.state == "red" for box in wrong) else "amber"
    names = ", ".join(box.name for box in wrong)
    verb = "needs" if len(wrong) == 1 else "need"
    return {"state": state, "sentence": f"{names} {verb} {'help' if state == 'red' else 'a look'}."}


def now() -> str:
    """The time a page was made at."""
    return datetime.now(UTC).isoformat(timespec="seconds")
