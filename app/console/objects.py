"""Objects, as bucket and index know them: lists a page at a time, and one in full."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from app.common.errors import LookingGlassError
from app.common.words import moment
from app.console.faces import PAGE
from app.console.parts import Parts

#: Objects on a page.
ROWS = 50

#: Records read for one page where they are chosen by what the index cannot choose by.
MOST_READ = 5 * PAGE

JSON = dict[str, Any]


class Wanted(NamedTuple):
    """What a list is to hold; empty for anything."""

    bucket: str = ""
    prefix: str = ""
    status: str = ""
    reason_code: str = ""
    model_id: str = ""
    #: Indexed from and until, ISO 8601.
    since: str = ""
    until: str = ""

    def selectors(self) -> dict[str, str | None]:
        """What the index itself can choose by."""
        return {name: value or None for name, value in self._asdict().items() if name != "prefix"}

    def of_bucket(self) -> bool:
        """Whether the bucket's own listing answers it: by name, and by nothing that only the index knows."""
        return bool(self.bucket and self.prefix) and not any(
            (self.status, self.reason_code, self.model_id, self.since, self.until)
        )


def page(parts: Parts, wanted: Wanted, after: str | None) -> JSON:
    """`{"objects", "after", "read"}`: a page, where the next one begins, and records read in vain where many were.

    Raises:
        LookingGlassError: who has the answer is away or refuses.
    """
    if wanted.of_bucket():
        return _listed(parts, wanted, after)
    if not wanted.prefix:
        records, after = parts.faces.records(limit=ROWS, after=after, **wanted.selectors())
        return {"objects": records, "after": after, "read": None}
    found: list[JSON] = []
    read = 0
    while len(found) < ROWS and read < MOST_READ:
        # All that a page read holds is shown, though it be more than `ROWS`: the next one begins behind it.
        records, after = parts.faces.records(limit=PAGE, after=after, **wanted.selectors())
        read += len(records)
        found += [record for record in records if record["key"].startswith(wanted.prefix)]
        if after is None:
            break
    return {"objects": found, "after": after, "read": read}


def one(parts: Parts, bucket: str, key: str) -> JSON:
    """All that is known of an object; `problems` names who did not answer."""
    answers = parts.ask(
        {"stored": lambda: parts.bucket.stat(bucket, key), "known": lambda: parts.faces.item(bucket, key)}
    )
    stored, known = answers["stored"], answers["known"]
    problems = [str(answer) for answer in answers.values() if isinstance(answer, LookingGlassError)]
    stored = None if isinstance(stored, LookingGlassError) else stored
    known = {"item": None, "points": None, "faces": []} if isinstance(known, LookingGlassError) else known
    item = known["item"]
    return {
        "bucket": bucket,
        "key": key,
        "stored": stored,
        "item": item,
        "points": known["points"],
        "current": bool(known.get("current")),
        "faces": known["faces"],
        "same": bool(stored and item and stored["etag"] == item["etag"]),
        "seconds": _upload_to_index(item),
        "people": _people(item, known["faces"]),
        "problems": problems,
    }


def _listed(parts: Parts, wanted: Wanted, after: str | None) -> JSON:
    listed = parts.bucket.page(wanted.bucket, wanted.prefix, after, ROWS)
    said = parts.faces.lookup(wanted.bucket, [found["key"] for found in listed]) if listed else {}
    objects = [{**found, **said.get(found["key"], {"status": "not in the index"})} for found in listed]
    return {"objects": objects, "after": listed[-1]["key"] if len(listed) == ROWS else None, "read": None}


def _upload_to_index(item: JSON | None) -> float | None:
    """Seconds from the upload of an object to its record."""
    uploaded, indexed = (moment((item or {}).get(name)) for name in ("last_modified", "indexed_at"))
    return round(float((indexed - uploaded).total_seconds()), 1) if uploaded and indexed else None


def _people(item: JSON | None, faces: Iterable[JSON]) -> JSON | None:
    """A video's people on a line of time, which is 1,000 wide."""
    duration = float((item or {}).get("duration_s") or 0)
    seen = [face for face in faces if face.get("first_seen_s") is not None]
    if not duration or not seen:
        return None

    def at(seconds: float) -> float:
        return round(1000 * min(max(seconds / duration, 0), 1), 1)

    return {
        "duration_s": duration,
        "rows": [
            {
                "face": face["face"],
                "start": at(face["first_seen_s"]),
                "length": max(4.0, at(face["last_seen_s"]) - at(face["first_seen_s"])),
                "best": at(face["best_seen_s"]),
                **{name: face.get(name) for name in ("first_seen_s", "last_seen_s", "best_seen_s", "frames_seen")},
            }
            for face in seen
        ],
    }
