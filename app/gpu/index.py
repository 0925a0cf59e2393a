"""The vector index: items and their faces in Qdrant, a server or embedded in a directory.

Collection `items` holds one record without a vector per object; `faces_<model id>` one point per face. The alias
`faces` is what readers use. A record is written after the points it speaks of, so a crash in between leaves a
record that is behind, never one that promises what is not there.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from app.common.errors import TransientError
from app.common.items import item_id, point_id
from app.common.wire import OvertakenError
from app.gpu.engines.base import EngineInfo
from app.gpu.settings import FaceSettings

ITEMS = "items"
FACES_PREFIX = "faces_"
ALIAS = "faces"
DISTANCES = {"cosine": models.Distance.COSINE, "euclid": models.Distance.EUCLID}

#: Locks that keep two writers of one item apart; items share them by hash.
LOCKS = 64

#: Points a page when everything is read.
PAGE = 1000

#: Points an upsert: 512 numbers each as JSON stay well below the 32 MB a Qdrant server takes.
UPSERT_BATCH = 256

#: Ids a look-up: 36 characters each.
LOOKUP_BATCH = 20_000

#: Seconds to wait for a Qdrant server before the index counts as away.
TIMEOUT = 30

Payload = dict[str, Any]


class Claim:
    """A change of an item that is under way; void as soon as another one is made first."""

    def __init__(self) -> None:
        self.overtaken = False


class FaceIndex:
    """The only writer of the index."""

    def __init__(self, client: QdrantClient, info: EngineInfo, *, embedded: bool) -> None:
        self._client = client
        self._info = info
        self._embedded = embedded
        self.collection = FACES_PREFIX + info.model_id
        # Local mode searches by reading every point, is not made for threads, and belongs to this process alone:
        # the one payload index that is needed is kept here, and one lock serves all.
        self._points_of: dict[tuple[str, str], set[str]] = {}
        self._claims: dict[str, set[Claim]] = {}
        lock = threading.RLock()
        self._locks = [lock if embedded else threading.RLock() for _ in range(LOCKS)]

    def prepare(self) -> None:
        """Create what is missing: collections, payload indexes, the alias."""
        existing = set(self._collections())
        if ITEMS not in existing:
            self._client.create_collection(ITEMS, vectors_config={})
        if self.collection not in existing:
            self._client.create_collection(
                self.collection,
                vectors_config=models.VectorParams(
                    size=self._info.embedding_size, distance=DISTANCES[self._info.distance]
                ),
            )
        # Each time, for a start that was cut off may have created a collection and no more.
        self._index_payload(ITEMS, ("bucket", "status", "reason_code", "model_id"))
        self._index_payload(self.collection, ("item_id", "bucket"))
        if self.alias_target() is None:
            self._client.update_collection_aliases(
                [
                    models.CreateAliasOperation(
                        create_alias=models.CreateAlias(collection_name=self.collection, alias_name=ALIAS)
                    )
                ]
            )
        if self._embedded:
            for collection in self._face_collections():
                for record in self._scroll(collection, with_payload=["item_id"]):
                    owner = (collection, (record.payload or {})["item_id"])
                    self._points_of.setdefault(owner, set()).add(str(record.id))

    def alias_target(self) -> str | None:
        """The collection that readers of the alias see; None before there is one."""
        aliases = self._client.get_aliases().aliases
        return next((alias.collection_name for alias in aliases if alias.alias_name == ALIAS), None)

    @contextmanager
    def claim(self, bucket: str, key: str) -> Iterator[Claim]:
        """Hold a claim on an item while a request for it is worked on.

        That takes time, and whoever asked may be gone: without it, faces found at last would overwrite a newer
        version, or bring back what was deleted meanwhile, and nobody would look again.
        """
        identifier, claim = item_id(bucket, key), Claim()
        with self._lock(identifier):
            self._claims.setdefault(identifier, set()).add(claim)
        try:
            yield claim
        finally:
            with self._lock(identifier):
                self._claims[identifier].discard(claim)
                if not self._claims[identifier]:
                    del self._claims[identifier]

    def put(self, item: Payload, faces: Sequence[tuple[Sequence[float], Payload]], claim: Claim) -> Payload:
        """Make the index hold exactly these faces for an item, and its record say so.

        `item` names at least bucket, key and etag; each face is its embedding and its payload.

        Raises:
            OvertakenError: the item was changed since it was claimed; nothing was written.
        """
        identifier = item_id(item["bucket"], item["key"])
        record = {
            **item,
            "item_id": identifier,
            "model_id": self._info.model_id,
            "face_count": len(faces),
        }
        owner = {name: item[name] for name in ("bucket", "key", "etag")} | {"item_id": identifier}
        points = [
            models.PointStruct(
                id=point_id(identifier, item["etag"], self._info.model_id, number),
                vector=list(embedding),
                payload={**payload, **owner, "face": number},
            )
            for number, (embedding, payload) in enumerate(faces)
        ]
        with self._lock(identifier):
            if claim.overtaken:
                raise OvertakenError(f"{item['bucket']}/{item['key']} was changed by another job meanwhile.")
            self._overtake(identifier, claim)
            if self._embedded and points:  # noted before they are written: a write that fails may have written some
                self._points_of.setdefault((self.collection, identifier), set()).update(str(p.id) for p in points)
            for at in range(0, len(points), UPSERT_BATCH):
                self._client.upsert(self.collection, points[at : at + UPSERT_BATCH], wait=True)
            self._drop(self.collection, identifier, keep=[str(point.id) for point in points])
            self._drop_elsewhere(identifier, item["etag"])
            self._client.upsert(ITEMS, [models.PointStruct(id=identifier, vector={}, payload=record)], wait=True)
        return record

    def get(self, bucket: str, key: str) -> Payload | None:
        """The record of an item, or None."""
        identifier = item_id(bucket, key)
        with self._lock(identifier):
            found = self._client.retrieve(ITEMS, [identifier], with_payload=True)
        return found[0].payload if found else None

    def faces(self, record: Payload) -> list[Payload]:
        """The payloads of the faces a record speaks of, as far as they are really there."""
        ids = [
            point_id(record["item_id"], record["etag"], record["model_id"], number)
            for number in range(record["face_count"])
        ]
        collection = FACES_PREFIX + record["model_id"]
        if not ids or collection not in self._face_collections():
            return []
        with self._lock(record["item_id"]):
            found = self._client.retrieve(collection, ids, with_payload=True)
        return sorted((point.payload or {} for point in found), key=lambda payload: int(payload["face"]))

    def page(
        self,
        *,
        limit: int = PAGE,
        after: str | None = None,
        **selection: str | None,
    ) -> tuple[list[Payload], str | None]:
        """A page of records and where the next one starts; `selection` gives values of members."""
        with self._lock(ITEMS):
            records, following = self._client.scroll(
                ITEMS,
                scroll_filter=_having(**selection),
                limit=limit,
                offset=after,
                with_payload=True,
            )
        return [record.payload or {} for record in records], None if following is None else str(following)

    def items(self, **selection: str | None) -> int:
        """How many records there are with these members."""
        with self._lock(ITEMS):
            return self._client.count(ITEMS, count_filter=_having(**selection), exact=True).count

    def lookup(self, bucket: str, keys: Sequence[str]) -> dict[str, Payload]:
        """What the index says of each of these objects that it knows.

        `etag`, `model_id`, `status`, and `current`: whether all that the record promises is there, under the model
        in use.
        """
        ids = [item_id(bucket, key) for key in keys]
        with self._lock(ITEMS):
            found = self._client.retrieve(ITEMS, ids, with_payload=True)
            records = [point.payload or {} for point in found]
            whole = self._whole([record for record in records if record["model_id"] == self._info.model_id])
        return {
            record["key"]: {
                **{name: record[name] for name in ("etag", "model_id", "status")},
                "current": record["item_id"] in whole,
                "judged_by": record.get("judged_by"),
            }
            for record in records
        }

    def strays(self, after: str | None = None) -> tuple[list[Payload], str | None]:
        """The objects that a page of face points speaks of and no record does, and where the next page starts."""
        collection, _, offset = (after or "").partition(":")
        collections = [name for name in sorted(self._face_collections()) if name >= collection]
        if not collections:
            return [], None
        start = offset if offset and collections[0] == collection else None
        with self._lock(ITEMS):
            points, following = self._client.scroll(
                collections[0], limit=PAGE, offset=start, with_payload=["item_id", "bucket", "key"]
            )
            owners = {(point.payload or {})["item_id"]: point.payload or {} for point in points}
            known = {str(point.id) for point in self._client.retrieve(ITEMS, list(owners), with_payload=False)}
        found = [
            {name: owner[name] for name in ("bucket", "key")} for item, owner in owners.items() if item not in known
        ]
        if following is not None:
            return found, f"{collections[0]}:{following}"
        return found, f"{collections[1]}:" if len(collections) > 1 else None

    def held_models(self) -> list[Payload]:
        """The models that the index holds faces of."""
        target = self.alias_target()
        return [
            {
                "model_id": name.removeprefix(FACES_PREFIX),
                "points": self._client.count(name, exact=True).count,
                "items": self.items(model_id=name.removeprefix(FACES_PREFIX)),
                "in_use": name == self.collection,
                "read": name == target,
            }
            for name in sorted(self._face_collections())
        ]

    def behind(self) -> int:
        """How many records are of another model than the one in use."""
        return self.items() - self.items(model_id=self._info.model_id)

    def switch_readers(self) -> None:
        """Point the alias at the model in use, in one step that readers cannot see the middle of."""
        self._client.update_collection_aliases(
            [
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=ALIAS)),
                models.CreateAliasOperation(
                    create_alias=models.CreateAlias(collection_name=self.collection, alias_name=ALIAS)
                ),
            ]
        )

    def drop_model(self, model_id: str) -> None:
        """Drop all faces of a model that is not in use."""
        collection = FACES_PREFIX + model_id
        with self._lock(ITEMS):
            self._client.delete_collection(collection)
            for owner in [owner for owner in self._points_of if owner[0] == collection]:
                del self._points_of[owner]

    def delete(self, bucket: str, key: str) -> int:
        """Remove an item and its faces under every model; return how many points were removed."""
        identifier = item_id(bucket, key)
        with self._lock(identifier):
            self._overtake(identifier)
            removed = 0
            for collection in self._face_collections():
                removed += self._drop(collection, identifier, keep=[])
            self._client.delete(ITEMS, models.PointIdsList(points=[identifier]), wait=True)
        return removed

    def count(self, bucket: str, key: str) -> int:
        """How many points, under every model, belong to an item: the proof that nothing was left behind."""
        identifier = item_id(bucket, key)
        with self._lock(identifier):
            return sum(
                self._client.count(collection, count_filter=_of_item(identifier), exact=True).count
                for collection in self._face_collections()
            )

    def totals(self) -> dict[str, int]:
        """Items, and faces of the current model."""
        return {
            "items": self._client.count(ITEMS, exact=False).count,
            "faces": self._client.count(self.collection, exact=False).count,
        }

    def close(self) -> None:
        self._client.close()

    def _overtake(self, identifier: str, by: Claim | None = None) -> None:
        for claim in self._claims.get(identifier, set()) - {by}:
            claim.overtaken = True

    def _lock(self, identifier: str) -> threading.RLock:
        return self._locks[hash(identifier) % LOCKS]

    def _whole(self, records: Sequence[Payload]) -> set[str]:
        """The items among these, all of the model in use, whose points are all there."""
        if self._embedded:
            held = Counter(
                {r["item_id"]: len(self._points_of.get((self.collection, r["item_id"]), ())) for r in records}
            )
        else:
            owners = {
                point_id(r["item_id"], r["etag"], r["model_id"], number): r["item_id"]
                for r in records
                for number in range(r["face_count"])
            }
            held = Counter[str]()
            ids = list(owners)
            for at in range(0, len(ids), LOOKUP_BATCH):
                found = self._client.retrieve(self.collection, ids[at : at + LOOKUP_BATCH], with_payload=False)
                held.update(owners[str(point.id)] for point in found)
        return {r["item_id"] for r in records if held[r["item_id"]] == r["face_count"]}

    def _drop_elsewhere(self, identifier: str, etag: str) -> None:
        """Delete what other models have of another version: readers may not have been switched over yet."""
        for collection in self._face_collections():
            if collection == self.collection:
                continue
            if self._embedded and (collection, identifier) not in self._points_of:
                continue
            held = self._scroll(collection, with_payload=["etag"], having=_of_item(identifier))
            if any((point.payload or {})["etag"] != etag for point in held):
                self._drop(collection, identifier, keep=[])

    def _drop(self, collection: str, identifier: str, keep: Sequence[str]) -> int:
        """Delete an item's points but those to keep; return how many there were to delete."""
        if self._embedded:
            others = self._points_of.get((collection, identifier), set()) - set(keep)
            if others:
                self._client.delete(collection, models.PointIdsList(points=list(others)), wait=True)
            if keep:
                self._points_of[collection, identifier] = set(keep)
            else:
                self._points_of.pop((collection, identifier), None)
            return len(others)
        selector = _of_item(identifier)
        selector.must_not = [models.HasIdCondition(has_id=list(keep))] if keep else None
        dropped = self._client.count(collection, count_filter=selector, exact=True).count
        if dropped:
            self._client.delete(collection, models.FilterSelector(filter=selector), wait=True)
        return dropped

    def _collections(self) -> list[str]:
        return [collection.name for collection in self._client.get_collections().collections]

    def _face_collections(self) -> list[str]:
        return [name for name in self._collections() if name.startswith(FACES_PREFIX)]

    def _index_payload(self, collection: str, names: Iterable[str]) -> None:
        if self._embedded:  # local mode has none, and warns
            return
        for name in names:
            self._client.create_payload_index(collection, name, models.PayloadSchemaType.KEYWORD)

    def _scroll(
        self, collection: str, with_payload: list[str], having: models.Filter | None = None
    ) -> Iterable[models.Record]:
        offset = None
        while True:
            records, offset = self._client.scroll(
                collection, scroll_filter=having, limit=PAGE, offset=offset, with_payload=with_payload
            )
            yield from records
            if offset is None:
                return


def _having(**members: str | None) -> models.Filter:
    return models.Filter(
        must=[
            models.FieldCondition(key=name, match=models.MatchValue(value=value))
            for name, value in members.items()
            if value is not None
        ]
    )


def _of_item(identifier: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="item_id", match=models.MatchValue(value=identifier))])


def connect(settings: FaceSettings) -> QdrantClient:
    """A client of the Qdrant server that `QDRANT_URL` names, else of the embedded index in `INDEX_DIR`.

    Raises:
        TransientError: another process has the embedded index open.
    """
    if settings.qdrant_url:
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        return QdrantClient(url=settings.qdrant_url, api_key=key, timeout=TIMEOUT, check_compatibility=False)
    settings.index_dir.mkdir(parents=True, exist_ok=True)
    try:
        return QdrantClient(path=str(settings.index_dir), force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise TransientError(
            f"The embedded index in INDEX_DIR={settings.index_dir} is open in another process: "
            "end that one, or point QDRANT_URL at a server."
        ) from error


#: What the Qdrant client raises when the server is away or unwell, or the embedded index's disk is full or failing.
INDEX_ERRORS = (ApiException, ResponseHandlingException, QdrantException, sqlite3.Error, OSError)
