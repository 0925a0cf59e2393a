"""What the index says: of an object, of many, and of all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.common.items import item_id
from app.gpu.index.layout import (
    ABSENT,
    ITEMS,
    NOBODY,
    collection_of,
    face_collections,
    is_absent,
    is_open,
    points_of,
    told,
)
from app.gpu.index.store import Payload, Store, Where

#: Records or points a page.
PAGE = 1000


class Records:
    """Reads items and their faces; safe to use from many threads."""

    def __init__(self, store: Store, model_id: str) -> None:
        self._store = store
        self._model_id = model_id

    def get(self, bucket: str, key: str) -> Payload | None:
        """The record of an item, or None."""
        record = self._store.retrieve(ITEMS, [item_id(bucket, key)]).get(item_id(bucket, key))
        return None if record is None or is_absent(record) else told(record)

    def faces(self, record: Payload) -> list[Payload]:
        """The payloads of the faces a record speaks of, as far as they are really there."""
        collection = collection_of(record["model_id"])
        if not record["face_count"] or collection not in self._store.collections():
            return []
        found = self._store.retrieve(collection, points_of(record)).values()
        faces = [told(face) for face in found if face["item_id"] == record["item_id"]]
        return sorted(faces, key=lambda face: int(face["face"]))

    def points(self, bucket: str, key: str) -> int:
        """How many points of an item there are, under every model."""
        of_item = Where(having={"item_id": item_id(bucket, key)})
        return sum(self._store.count(collection, of_item) for collection in face_collections(self._store))

    def page(
        self,
        *,
        limit: int = PAGE,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        **selection: str | None,
    ) -> tuple[list[Payload], str | None]:
        """A page of records and where the next one starts.

        `selection` gives values of members, `since` and `until` when the record was written, first and last.
        """
        where = _selected(selection)
        if since or until:
            where = replace(where, between={"indexed_at": (since, until)})
        found, following = self._store.page(ITEMS, where, limit=limit, after=after)
        return [told(record) for record in found.values()], following

    def ids(self, bucket: str, after: str | None = None) -> tuple[list[str], str | None]:
        """The ids of a page of a bucket's records, in their order, and where the next one starts."""
        here = Where(having={"bucket": bucket})
        found, following = self._store.page(ITEMS, here, limit=PAGE, after=after, members=())
        return list(found), following

    def count(self, **selection: str | None) -> int:
        """How many records there are with these members."""
        if any(selection.values()):
            return self._store.count(ITEMS, _selected(selection))
        # Two looks, between which one may come: near enough to be shown, and to nothing more.
        return max(0, self._store.count(ITEMS, Where()) - self._store.count(ITEMS, Where(having={"status": ABSENT})))

    def count_others(self, model_id: str) -> int:
        """How many records there are of other models than this one, in one look."""
        return self._store.count(ITEMS, Where(lacking={"status": ABSENT, "model_id": model_id}))

    def tally(self, member: str, **selection: str | None) -> dict[str, int]:
        """How many records there are for each value of a member."""
        if any(selection.values()):
            return self._store.tally(ITEMS, member, _selected(selection))
        # Of what records tell, absent ones have a status only.
        counts = self._store.tally(ITEMS, member, Where())
        return {value: number for value, number in counts.items() if (member, value) != ("status", ABSENT)}

    def lookup(self, bucket: str, keys: Sequence[str]) -> dict[str, Payload]:
        """The records, as they are kept, of those of these objects that the index knows, by key, each with `whole`.

        That is whether all that the record promises is there, under the model in use.
        """
        found = self._store.retrieve(ITEMS, [item_id(bucket, key) for key in keys])
        records = [record for record in found.values() if not is_absent(record)]
        whole = self._whole([record for record in records if not is_open(record)])
        for record in records:
            record["whole"] = record["item_id"] in whole
        return {record["key"]: record for record in records}

    def is_whole(self, record: Payload) -> bool:
        """Whether all that a record promises is there, under the model in use."""
        return bool(self._whole([record]))

    def strays(self, after: str | None = None) -> tuple[list[Payload], str | None]:
        """The objects that a page of face points speaks of and no record does, and where the next page starts."""
        collection, _, offset = (after or "").partition(":")
        collections = [name for name in face_collections(self._store) if name >= collection]
        if not collections:
            return [], None
        start = offset if offset and collections[0] == collection else None
        points, following = self._store.page(
            collections[0], Where(), limit=PAGE, after=start, members=("item_id", "bucket", "key")
        )
        owners = {point["item_id"]: point for point in points.values() if point["item_id"] != NOBODY}
        records = self._store.retrieve(ITEMS, list(owners), ("status",))
        found = [
            {name: owner[name] for name in ("bucket", "key")}
            for item, owner in owners.items()
            if is_absent(records.get(item))
        ]
        if following is not None:
            return found, f"{collections[0]}:{following}"
        return found, f"{collections[1]}:" if len(collections) > 1 else None

    def count_faces(self, collection: str) -> int:
        """How many faces a collection holds."""
        blank = self._store.count(collection, Where(having={"item_id": NOBODY}))
        return max(0, self._store.count(collection, Where()) - blank)

    def _whole(self, records: Sequence[Payload]) -> set[str]:
        ours = [record for record in records if record["model_id"] == self._model_id]
        owners = {identifier: record["item_id"] for record in ours for identifier in points_of(record)}
        there = Where(ids=tuple(owners), lacking={"item_id": NOBODY})
        if not owners or self._store.count(collection_of(self._model_id), there) == len(owners):
            return {record["item_id"] for record in ours}  # as nearly always; so none has to be read
        found = self._store.retrieve(collection_of(self._model_id), list(owners), ("item_id",))
        held = Counter(point["item_id"] for point in found.values())
        return {record["item_id"] for record in ours if held[record["item_id"]] == record["face_count"]}


def _selected(selection: dict[str, str | None]) -> Where:
    having = {name: value for name, value in selection.items() if value is not None}
    return Where(having=having, lacking={} if having else {"status": ABSENT})
