"""How items are changed, by any number of face services at once.

Between a look at the bucket and the change that follows from it lies an analysis, and in it the writer may be slow,
die, or be cut off with a request still under way. What keeps the index true lies in the index:

- Each change gives the item's record another `revision`. A change is claimed by reading it, and is made only while it
  is still the same (a conditional write, read back), or while there is still none.
- A deletion leaves such an absent record behind, for as long as anybody could come too late.
- A writer announces the points that it is going to write in the record (`writing`), then writes them, then drops the
  item's other points, then completes the record: a crash leaves a record that is behind, never one that promises what
  is not there.
- Each change has a `fence`, a number higher than that of the change before, and its points bear it. A point is never
  overwritten by one of a lower fence. Whoever overtakes a writer that has not completed puts a blank point of his own
  fence wherever that one's points may still arrive: a request that comes late finds them and does nothing. Blank
  points belong to no item, and are dropped when nobody can be late any more.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.common.items import point_id
from app.common.wire import OvertakenError
from app.gpu.index.layout import (
    ABSENT,
    ITEMS,
    NOBODY,
    RETENTION,
    collection_of,
    face_collections,
    is_absent,
    points_of,
)
from app.gpu.index.store import Payload, Point, Store, Vector, Where


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to change an item, as long as nobody else changed it since.

    `record` is what the index held of it when it was claimed; where that is nothing, an absent one without a revision
    that says when it was looked for.
    """

    bucket: str
    key: str
    item_id: str
    record: Payload

    @property
    def revision(self) -> str | None:
        """What the record must still be of; None where there must still be none."""
        return self.record.get("revision")


@dataclass(slots=True)
class Change:
    """What an item becomes: a record with these faces, each its embedding and its payload; or absent."""

    claim: Claim
    #: Members of the record; None deletes the item.
    item: Payload | None
    faces: Sequence[tuple[Vector, Payload]] = ()
    #: When the bucket was looked at, in its own time; what was seen later is never overwritten.
    looked_at: float | None = None
    #: Points that a deletion found.
    removed: int = field(default=0, init=False)


class Changes:
    """Claims and changes items in batches; used by one thread at a time."""

    def __init__(self, store: Store, model_id: str, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._model_id = model_id
        self._now = now
        #: Who this writer is, in what it announces.
        self.writer = uuid.uuid4().hex

    def claim(self, items: Sequence[str]) -> dict[str, Payload]:
        """The records of items as they are now, see `Claim`."""
        ids = list(dict.fromkeys(items))
        found = self._store.retrieve(ITEMS, ids)
        old = {item: record for item, record in found.items() if "revision" not in record}
        if old:  # written by an earlier version
            revised = [Point(item, None, {**record, "revision": _revision()}) for item, record in old.items()]
            self._store.upsert(ITEMS, revised, Where(absent=("revision",)), "update_only")
            known = {item: record for item, record in found.items() if item not in old}
            found = known | self._store.retrieve(ITEMS, list(old))
        nothing = {"status": ABSENT, "since": self._now()}
        return {item: found.get(item, nothing) for item in ids}

    def make(self, changes: Sequence[Change]) -> list[Payload | OvertakenError]:
        """Make changes of different items; return each one's record, or why it was not made."""
        fence = max(int(self._now() * 1000), *(change.claim.record.get("fence", 0) + 1 for change in changes))
        announced = [(change, self._announced(change, fence)) for change in changes]
        made = self._replace(
            (change.claim.revision, record) for change, record in announced if not self._is_stale(change.claim)
        )
        ours = [(change, record) for change, record in announced if record["item_id"] in made]
        if ours:
            self._block([record for _, record in ours], fence)
            self._write([change for change, _ in ours if change.item], fence)
            self._drop([change for change, _ in ours], fence)
            puts = [(record["revision"], self._completed(change, record)) for change, record in ours if change.item]
            made = {change.claim.item_id for change, _ in ours if change.item is None} | self._replace(puts)
            records = {record["item_id"]: record for _, record in (*ours, *puts)}
        return [
            records[change.claim.item_id] if change.claim.item_id in made else _overtaken(change.claim)
            for change in changes
        ]

    def touch(self, claim: Claim, members: Payload) -> Payload | None:
        """Give a record other members, and nothing else; None if the item was changed meanwhile."""
        record = {**claim.record, **members, "revision": _revision()}
        if looked_at := _latest(members.get("looked_at"), claim.record.get("looked_at")):
            record["looked_at"] = looked_at
        return record if self._replace([(claim.revision, record)]) else None

    def sweep(self) -> None:
        """Drop what guarded against writers that nobody can be waiting for any more."""
        before = self._now() - RETENTION
        self._store.delete(ITEMS, Where(having={"status": ABSENT}, below={"since": before}))
        for collection in face_collections(self._store):
            self._store.delete(collection, Where(having={"item_id": NOBODY}, below={"blank_since": before}))

    def _is_stale(self, claim: Claim) -> bool:
        """Whether the item may have come and gone since there was nothing of it: absent records are swept."""
        return claim.revision is None and abs(self._now() - claim.record.get("since", 0)) > RETENTION / 2

    def _announced(self, change: Change, fence: int) -> Payload:
        """The record while points may be written: as it was, and with whose points may come; absent at once."""
        record, now = change.claim.record, self._now()
        writing = [note for note in record.get("writing", ()) if note["since"] > now - RETENTION]
        if change.item is None:
            return {
                **self._absent(),
                "item_id": change.claim.item_id,
                "fence": fence,
                "writing": writing,
                "looked_at": _latest(change.looked_at, record.get("looked_at")),
            }
        note = {
            "item_id": change.claim.item_id,
            "etag": change.item["etag"],
            "model_id": self._model_id,
            "face_count": len(change.faces),
            "writer": self.writer,
            "fence": fence,
            "since": now,
        }
        return {
            **record,
            "item_id": change.claim.item_id,
            "revision": _revision(),
            "fence": fence,
            "writing": [*writing, note],
        }

    def _completed(self, change: Change, announced: Payload) -> Payload:
        writing = [note for note in announced["writing"] if note["fence"] != announced["fence"]]
        record = {
            **(change.item or {}),
            "item_id": announced["item_id"],
            "model_id": self._model_id,
            "face_count": len(change.faces),
            "revision": _revision(),
            "fence": announced["fence"],
        }
        looked_at = _latest(change.looked_at, change.claim.record.get("looked_at"))
        return record | ({"writing": writing} if writing else {}) | ({"looked_at": looked_at} if looked_at else {})

    def _block(self, records: Iterable[Payload], fence: int) -> None:
        """Put blank points wherever those of writers that were overtaken may still arrive."""
        awaited: dict[str, list[str]] = {}
        for record in records:
            for note in record["writing"]:
                if note["fence"] != fence:
                    awaited.setdefault(collection_of(note["model_id"]), []).extend(points_of(note))
        for collection in awaited.keys() & self._store.collections():
            nothing = np.zeros(self._store.dimension(collection), np.float32)
            blank = {"item_id": NOBODY, "fence": fence, "blank_since": self._now()}
            points = [Point(identifier, nothing, blank) for identifier in awaited[collection]]
            self._store.upsert(collection, points, Where(not_from={"fence": fence + 1}))

    def _write(self, changes: Sequence[Change], fence: int) -> None:
        points = []
        for change in changes:
            item = change.item or {}
            owner = {name: item[name] for name in ("bucket", "key", "etag")}
            points += [
                Point(
                    point_id(change.claim.item_id, item["etag"], self._model_id, number),
                    embedding,
                    {**payload, **owner, "item_id": change.claim.item_id, "face": number, "fence": fence},
                )
                for number, (embedding, payload) in enumerate(change.faces)
            ]
        if points:
            self._store.upsert(collection_of(self._model_id), points, Where(not_from={"fence": fence + 1}))

    def _drop(self, changes: Sequence[Change], fence: int) -> None:
        """Drop the points of earlier changes, under every model.

        What other models have of the same version stays: readers may not have been switched over yet.
        """
        stale, own = {"fence": fence}, collection_of(self._model_id)
        deletions = [change for change in changes if change.item is None]
        for collection in face_collections(self._store):
            for change in deletions:
                change.removed += self._store.count(collection, Where(having={"item_id": change.claim.item_id}))
            whole = changes if collection == own else deletions
            if whole:
                ids = [change.claim.item_id for change in whole]
                self._store.delete(collection, Where(having={"item_id": ids}, not_from=stale))
            for change in changes:
                if change.item and collection != own:
                    of_others = Where(
                        {"item_id": change.claim.item_id}, {"etag": change.item["etag"]}, not_from=stale
                    )
                    self._store.delete(collection, of_others)

    def _replace(self, records: Iterable[tuple[str | None, Payload]]) -> set[str]:
        """Put records in place of those with these revisions, or of none; return whose record that is now."""
        old: list[Point] = []
        new: list[Point] = []
        replaced: list[str] = []
        written: dict[str, str] = {}
        for revision, record in records:
            written[record["item_id"]] = record["revision"]
            if revision is not None:
                replaced.append(revision)
            (new if revision is None else old).append(Point(record["item_id"], None, record))
        if old:
            self._store.upsert(ITEMS, old, Where(having={"revision": replaced}), "update_only")
        if new:
            self._store.upsert(ITEMS, new, mode="insert_only")
        found = self._store.retrieve(ITEMS, list(written), ("revision",)) if written else {}
        return {item for item, record in found.items() if record.get("revision") == written[item]}

    def _absent(self) -> Payload:
        return {"status": ABSENT, "revision": _revision(), "since": self._now()}


def seen_before(record: Payload, looked_at: float | None, etag: str | None) -> bool:
    """Whether what was seen in the bucket then, is older than what a record tells.

    Of nothing seen, or what the record knows by its ETag, only a later look tells more.
    """
    known = record.get("looked_at")
    if looked_at is None or known is None:
        return False
    if is_absent(record):
        return etag is not None and bool(looked_at <= known)
    return etag != record["etag"] and bool(looked_at < known)


def _overtaken(claim: Claim) -> OvertakenError:
    return OvertakenError(f"{claim.bucket}/{claim.key} was changed by another job meanwhile.")


def _revision() -> str:
    return uuid.uuid4().hex


def _latest(*times: float | None) -> float | None:
    return max((time for time in times if time is not None), default=None)
