"""What the page Actions shows: pause, comparison, models."""

import json
from typing import Any

from rq.utils import as_text

from app.common.comparison import DIFFERENCES, PROGRESS
from app.common.errors import LookingGlassError
from app.common.inspection import suspended
from app.console.parts import Parts

#: Differences shown of the last comparison.
SHOWN = 100

JSON = dict[str, Any]


def state(parts: Parts) -> JSON:
    """`{"paused", "comparison", "models", "problems"}`, each none where who knows it is away."""
    answers = parts.ask(
        {
            "paused": lambda: suspended(parts.redis),
            "comparison": lambda: _comparison(parts),
            "models": parts.faces.models,
        }
    )
    problems = [str(answer) for answer in answers.values() if isinstance(answer, LookingGlassError)]
    known = {name: None if isinstance(answer, LookingGlassError) else answer for name, answer in answers.items()}
    return {**known, "problems": list(dict.fromkeys(problems))}


def _comparison(parts: Parts) -> JSON | None:
    """How far the last comparison got, and the first of its differences."""
    found = {as_text(name): as_text(value) for name, value in parts.redis.hgetall(PROGRESS).items()}
    if not found:
        return None
    differences = parts.redis.lrange(DIFFERENCES, 0, SHOWN - 1)
    return {
        "dry_run": found["dry_run"] == "1",
        "pages": int(found["pages"]),
        "where": found.get("where"),
        "found": json.loads(found["found"]),
        **{name: float(found[name]) if name in found else None for name in ("began_at", "updated_at", "ended_at")},
        "differences": [json.loads(difference) for difference in differences],
        "listed": int(parts.redis.llen(DIFFERENCES)),
    }
