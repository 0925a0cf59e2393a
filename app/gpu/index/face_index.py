"""The index as the face service uses it: one port, whatever it is kept in."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from app.common.items import item_id
from app.common.wire import ConflictError, OvertakenError
from app.gpu.engines.base import EngineInfo
from app.gpu.index.batches import Batches
from app.gpu.index.changes import Change, Changes, Claim, seen_before
from app.gpu.index.layout import (
    ALIAS,
    FACES_PREFIX,
    collection_of,
    face_collections,
    is_absent,
    is_open,
    prepare,
    told,
)
from app.gpu.index.presence import INTERVAL, Presence
from app.gpu.index.reading import Records
from app.gpu.index.store import CollectionMissingError, IndexAwayError, Payload, Store, Vector

log = logging.getLogger(__name__)

#: Seconds that a writer is given to complete what it announced before it is overtaken, and between two looks.
GRACE = 2.0
LOOK_INTERVAL = 0.05

#: Seconds between two sweeps of what guarded against writers that are gone.
SWEEP_INTERVAL = 3600.0

#: Seconds between two times that the store is given for itself.
KEEP_INTERVAL = 60.0


class FaceIndex:
    """Claims, changes and reads items, under one model; safe to use from many threads.

    Every method may raise `IndexAwayError`. Collections that vanish are created again.
    """

    def __init__(
        self,
        store: Store,
        info: EngineInfo,
        *,
        batches: Callable[[Changes], Batches] = Batches,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._bare = store
        self._info = info
        self._store = cast(Store, _Mended(store, self._mend))
        self._changes = Changes(self._store, info.model_id, now)
        self._batches = batches(self._changes)
        self._presence = Presence(self._store, info.model_id, now)
        self._mending = threading.Lock()
        self._now, self._pause = now, pause
        self._announced = self._swept = self._kept = float("-inf")
        self.collection = collection_of(info.model_id)
        self.where = store.where
        self.records = Records(self._store, info.model_id)

    def prepare(self) -> None:
        """Create what is missing, and say that this service is at work."""
        prepare(self._bare, self._info)
        self.keep()

    def keep(self) -> None:
        """What is due from time to time: a sign of life, a sweep, and what the store does for itself."""
        now = time.monotonic()
        if now - self._announced >= INTERVAL:
            self._presence.announce()
            self._announced = now
        if now - self._swept >= SWEEP_INTERVAL:
            self._changes.sweep()
            self._swept = now
        if now - self._kept >= KEEP_INTERVAL:
            self._store.keep()
            self._kept = now

    def claim(self, bucket: str, key: str, *, etag: str | None = None, looked_at: float | None = None) -> Claim:
        """Claim an item before a change of it is worked on.

        That takes time, and whoever asked may be gone: without it, faces found at last would overwrite a newer
        version, or bring back what was deleted meanwhile, and nobody would look again. `looked_at` is when the
        version `etag` was seen in the bucket, in the bucket's own time, or with no ETag that there was none.

        Raises:
            OvertakenError: the index tells already what was seen later.
        """
        patience = round(GRACE / LOOK_INTERVAL)
        while self._is_being_written(record := self._batches.claim(item_id(bucket, key))) and patience > 0:
            self._pause(LOOK_INTERVAL)
            patience -= 1
        if seen_before(record, looked_at, etag):
            raise OvertakenError(f"{bucket}/{key} was looked at by another job later than by this one.")
        return Claim(bucket, key, item_id(bucket, key), record)

    def put(
        self,
        item: Payload,
        faces: Sequence[tuple[Vector, Payload]],
        claim: Claim,
        *,
        looked_at: float | None = None,
    ) -> Payload:
        """Make the index hold exactly these faces for an item, and its record say so; return the record.

        `item` names at least etag and status; each face is its embedding and its payload.

        Raises:
            OvertakenError: the item was changed since it was claimed; nothing was changed.
        """
        if faces:
            self._store.expect_faces()  # before it is announced that they come
        owner = {"bucket": claim.bucket, "key": claim.key}
        return told(self._batches.make(Change(claim, {**item, **owner}, faces, looked_at)))

    def update(self, claim: Claim, members: Payload) -> Payload:
        """Give the record of an item other members, and leave its faces as they are.

        Raises:
            OvertakenError: the item was changed since it was claimed.
        """
        record: Payload | None = self._batches.call(lambda: self._changes.touch(claim, members))
        if record is None:
            raise OvertakenError(f"{claim.bucket}/{claim.key} was changed by another job meanwhile.")
        return told(record)

    def delete(self, bucket: str, key: str, *, looked_at: float | None = None) -> int:
        """Remove an item and its faces under every model, whoever has claimed it; return how many points there were.

        Raises:
            OvertakenError: the index tells already what was seen after `looked_at`, when there was no object.
        """
        while True:
            claim = self.claim(bucket, key, looked_at=looked_at)
            change = Change(claim, None, (), looked_at)
            try:
                self._batches.make(change)
            except OvertakenError:
                continue  # by a change that was faster, which is now taken over
            return change.removed

    def held(self, claim: Claim) -> Payload | None:
        """The record that a claim found, if the item is known, all it promises is there, and nobody writes it."""
        record = claim.record
        if is_absent(record) or is_open(record) or not self.records.is_whole(record):
            return None
        return told(record)

    def alias_target(self) -> str | None:
        """The collection that readers of the alias see; None before there is one."""
        return self._store.alias(ALIAS)

    def other_models(self) -> dict[str, int]:
        """The models of other face services that are at work on this index, and how many each."""
        return self._presence.other_models()

    def models(self) -> list[Payload]:
        """The models that the index holds faces of."""
        target, others = self.alias_target(), self.other_models()
        names = [name.removeprefix(FACES_PREFIX) for name in face_collections(self._store)]
        return [
            {
                "model_id": name,
                "points": self.records.count_faces(collection_of(name)),
                "items": self.records.count(model_id=name),
                "in_use": name == self._info.model_id or name in others,
                "read": collection_of(name) == target,
            }
            for name in names
        ]

    def switch_readers(self) -> None:
        """Point the alias at the model in use, once every item is of it.

        Raises:
            ConflictError: some are not yet, or another face service is at work with another model.
        """
        if self.alias_target() == self.collection:
            return
        if others := self.other_models():
            raise ConflictError(f"Face services are at work on this index with {_list(others)}: end them first.")
        if behind := self.records.count_others(self._info.model_id):
            raise ConflictError(f"{behind} items are still of another model: reconcile first.")
        self._store.set_alias(ALIAS, self.collection)
        log.info("Readers of the alias now see %s", self.collection)

    def drop_model(self, model_id: str) -> None:
        """Drop all faces of a model.

        Raises:
            ConflictError: it is in use, or readers see it.
            KeyError: the index holds no faces of it.
        """
        model = next((held for held in self.models() if held["model_id"] == model_id), None)
        if model is None:
            raise KeyError(model_id)
        if model["in_use"] or model["read"]:
            raise ConflictError(f"The model {model_id} is in use, or what readers see.")
        self._batches.call(lambda: self._store.drop(collection_of(model_id)))
        log.info("Dropped the faces of %s", model_id)

    def state(self) -> dict[str, Any]:
        """What `/health` says of the index."""
        others = self.other_models()
        shared = f"Face services share this index with {_list(others)}; comparisons of both would undo each other."
        return {
            "where": self.where,
            "collection": self.collection,
            "alias": self.alias_target(),
            "items": self.records.count(),
            "faces": self.records.count_faces(self.collection),
            **({"other_models": others, "problem": shared} if others else {}),
        }

    def close(self) -> None:
        """Finish what waits, say goodbye, and let go."""
        self._batches.close()
        with suppress(IndexAwayError):  # then the others find out by themselves
            self._presence.leave()
        self._bare.close()

    def _is_being_written(self, record: Payload) -> bool:
        """Whether another service announced a moment ago that it writes the item's points."""
        return is_open(record) and any(
            note["writer"] != self._changes.writer and abs(self._now() - note["since"]) < 2 * GRACE
            for note in record.get("writing", ())
        )

    def _mend(self) -> None:
        with self._mending:
            prepare(self._bare, self._info)
        log.warning("Collections of the index had vanished and were created again: the next comparison fills them")


class _Mended:
    """A store whose vanished collections are created again, and what was asked of them then done."""

    def __init__(self, store: Store, mend: Callable[[], None]) -> None:
        self._store = store
        self._mend = mend

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def mended(*arguments: Any, **more: Any) -> Any:
            try:
                return value(*arguments, **more)
            except CollectionMissingError:
                self._mend()
                return value(*arguments, **more)

        setattr(self, name, mended)  # and is not asked for again
        return mended


def _list(models: dict[str, int]) -> str:
    return ", ".join(f"model {model} ({number})" for model, number in sorted(models.items()))
