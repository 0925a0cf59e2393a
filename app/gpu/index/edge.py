"""The index in this process: Qdrant Edge, the server's own storage, one shard a collection.

INDEX_DIR/edge/<collection>/   a shard
INDEX_DIR/edge/aliases.json    what readers of an alias would see
INDEX_DIR/edge/lock            held by the one process that has the index open

Qdrant Edge lets no other thread of the process run while it is at work, so no call may be long.
"""

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from pydantic_core import from_json, to_json

from app.common.errors import TransientError
from app.gpu.index.store import (
    CONDITIONAL,
    CollectionMissingError,
    IndexAwayError,
    Mode,
    Payload,
    Point,
    VectorSpace,
    Where,
)
from app.gpu.index.vacuum import vacuum

log = logging.getLogger(__name__)

DISTANCES = {"cosine": edge.Distance.Cosine, "euclid": edge.Distance.Euclid}
MODES = {
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}

#: Member that holds all those, as JSON, that no condition can be on.
OTHERS = "others"

#: Points an update.
UPSERT_BATCH = 1000

#: Values of a member that are tallied.
MOST_VALUES = 1000

#: A shard must have vectors; one of records has a sparse kind that no point uses.
UNUSED = "none"

#: Nothing searches in this process, so no search graph is built: kilobytes of vectors from which one would be.
NEVER = 2**40

#: Bytes that must be free before faces are written, and before anything is opened or written, deletions and signs of
#: life among it: Qdrant Edge maps its files, and a full disk ends its process.
FREE_FOR_FACES = 256 * 2**20
FREE_AT_LEAST = 64 * 2**20

#: What Qdrant Edge raises where it panics, and Python calls no Exception. It has no other errors of its own, and says
#: "not initialized" of a shard that was closed.
PANIC = "PanicException"

#: So many points, an item's among them, are looked at one by one when they are counted.
FEW_POINTS = 1000


class EdgeStore:
    """See `Store`; safe to use from many threads, of one process."""

    where = "embedded"

    def __init__(self, directory: Path) -> None:
        """Open the index in a directory, which is created.

        Raises:
            TransientError: another process has it open.
        """
        _leave_local_mode(directory)
        self._directory = directory / "edge"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self._directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise TransientError(
                f"The embedded index in INDEX_DIR={directory} is open in another process: "
                "end that one, or point QDRANT_URL at a server."
            ) from error
        self._opening = threading.Lock()
        self._shards: dict[str, edge.EdgeShard] = {}
        #: Collections of which an update failed: from then on all of their updates do, until they are opened anew.
        self._failed: set[str] = set()
        try:
            self._mind_room(FREE_AT_LEAST)
            vacuum(self._directory)
            for config in sorted(self._directory.glob("*/edge_config.json")):
                with self._errors():
                    self._shards[config.parent.name] = edge.EdgeShard.load(str(config.parent))
        except IndexAwayError:
            self.close()
            raise

    def collections(self) -> set[str]:
        return set(self._shards)

    def create(
        self, collection: str, space: VectorSpace | None, keywords: Sequence[str], times: Sequence[str] = ()
    ) -> None:
        with self._errors(), self._opening:
            if collection not in self._shards:
                self._mind_room(FREE_FOR_FACES)
                path = self._directory / collection
                shutil.rmtree(path, ignore_errors=True)  # what a start that was cut off left
                self._shards[collection] = edge.EdgeShard.create(str(path), _config(space))
            shard = self._shards[collection]
            indexed = set(shard.info().payload_schema)
            kinds = dict.fromkeys(keywords, edge.PayloadSchemaType.Keyword)
            kinds |= dict.fromkeys(times, edge.PayloadSchemaType.Datetime)
            for name in indexed.difference(kinds):  # an earlier version selected by it
                shard.update(edge.UpdateOperation.delete_field_index(name))
            for name, kind in kinds.items():
                if name not in indexed:
                    shard.update(edge.UpdateOperation.create_field_index(name, kind))

    def drop(self, collection: str) -> None:
        with self._errors(), self._opening:
            if shard := self._shards.pop(collection, None):
                shard.close()
                shutil.rmtree(self._directory / collection)

    def dimension(self, collection: str) -> int:
        with self._shard(collection):
            config = json.loads((self._directory / collection / "edge_config.json").read_text())
        return int(config["vectors"][""]["size"])

    def alias(self, name: str) -> str | None:
        target = self._aliases().get(name)
        return target if target in self._shards else None

    def set_alias(self, name: str, collection: str) -> None:
        with self._errors(), self._opening:
            written = self._directory / "aliases.new"
            written.write_text(json.dumps({**self._aliases(), name: collection}))
            written.replace(self._directory / "aliases.json")

    def upsert(
        self, collection: str, points: Sequence[Point], where: Where | None = None, mode: Mode = "upsert"
    ) -> None:
        condition = _filter(where) if where else None
        self._mind_room(FREE_AT_LEAST)
        with self._errors():
            made = [edge.Point(point.id, _vector(point), _packed(point.payload)) for point in points]
        with self._shard(collection, updates=True) as shard:
            for at in range(0, len(made), UPSERT_BATCH):
                batch = made[at : at + UPSERT_BATCH]
                shard.update(edge.UpdateOperation.upsert_points(batch, condition, MODES[mode]))

    def delete(self, collection: str, where: Where) -> None:
        with self._shard(collection, updates=True) as shard:
            shard.update(edge.UpdateOperation.delete_points_by_filter(_filter(where)))

    def retrieve(
        self, collection: str, ids: Sequence[str], members: Sequence[str] | None = None
    ) -> dict[str, Payload]:
        with self._shard(collection) as shard:
            found = shard.retrieve(list(ids), with_payload=_members(members), with_vector=False)
        return {str(record.id): _unpacked(record.payload, members) for record in found}

    def page(
        self,
        collection: str,
        where: Where,
        *,
        limit: int,
        after: str | None = None,
        members: Sequence[str] | None = None,
    ) -> tuple[dict[str, Payload], str | None]:
        with self._shard(collection) as shard:
            found, following = shard.scroll(
                edge.ScrollRequest(
                    offset=after,
                    limit=limit,
                    filter=_filter(where),
                    with_payload=_members(members),
                    with_vector=False,
                )
            )
        records = {str(record.id): _unpacked(record.payload, members) for record in found}
        return records, None if following is None else str(following)

    def count(self, collection: str, where: Where) -> int:
        with self._shard(collection) as shard:
            if where == Where():  # known, where a count would look at each point
                return int(shard.info().points_count)
            if _is_one_keyword(where, shard):
                known = int(shard.count(edge.CountRequest(exact=False, filter=_filter(where))))
                if known > FEW_POINTS:
                    return known
            return int(shard.count(edge.CountRequest(exact=True, filter=_filter(where))))

    def tally(self, collection: str, member: str, where: Where) -> dict[str, int]:
        with self._shard(collection) as shard:
            exact = where != Where()  # else the member's index has the counts, as in `_is_one_keyword`
            found = shard.facet(edge.FacetRequest(member, limit=MOST_VALUES, exact=exact, filter=_filter(where)))
        return {str(hit.value): hit.count for hit in found.hits if hit.count}

    def expect_faces(self) -> None:
        self._mind_room(FREE_FOR_FACES)

    def keep(self) -> None:
        # What was written is in the log; the less of it is in the log alone, the sooner a killed process is back.
        with self._errors():
            for shard in list(self._shards.values()):
                shard.flush()

    def close(self) -> None:
        with self._opening:
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()
            self._lock.close()

    def _aliases(self) -> dict[str, str]:
        path = self._directory / "aliases.json"
        aliases: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return aliases

    def _mind_room(self, least: int) -> None:
        with self._errors():
            found = os.statvfs(self._directory)
        if found.f_bavail * found.f_frsize < least:
            raise IndexAwayError(
                f"INDEX_DIR={self._directory.parent}: fewer than {least >> 20} MiB of its disk are free."
            )

    def _shard(self, collection: str, *, updates: bool = False) -> "_Used":
        if collection in self._failed:
            self._open_anew(collection)
        shard = self._shards.get(collection)
        if shard is None:
            raise CollectionMissingError(f"it has no collection {collection} any more.")
        return _Used(self._directory, shard, self._failed.add if updates else None, collection)

    def _open_anew(self, collection: str) -> None:
        with self._errors(), self._opening:
            if collection in self._failed and (shard := self._shards.get(collection)):
                self._mind_room(FREE_AT_LEAST)
                shard.close()
                self._shards[collection] = edge.EdgeShard.load(str(self._directory / collection))
            self._failed.discard(collection)

    def _errors(self) -> "_Used":
        return _Used(self._directory)


class _Used:
    """A shard in use, whose errors are an outage that names the directory; as a generator it would cost 6 µs more."""

    __slots__ = ("_collection", "_directory", "_failed", "_shard")

    def __init__(
        self,
        directory: Path,
        shard: edge.EdgeShard | None = None,
        failed: Callable[[str], None] | None = None,
        collection: str = "",
    ) -> None:
        self._directory, self._shard, self._failed, self._collection = directory, shard, failed, collection

    def __enter__(self) -> Any:
        return self._shard

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if error is None or isinstance(error, IndexAwayError):
            return
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            return
        if self._failed is not None:
            self._failed(self._collection)
        raise IndexAwayError(f"INDEX_DIR={self._directory.parent}: {error}") from error


def _leave_local_mode(directory: Path) -> None:
    """Remove the embedded index of an earlier version: no deletion would reach the faces in it any more."""
    if not (directory / "meta.json").exists():
        return
    log.warning(
        "INDEX_DIR=%s held an index of an earlier version, which is replaced by an empty one: the next comparison "
        "fills it from the buckets (`python -m app.worker reconcile`).",
        directory,
    )
    shutil.rmtree(directory / "collection", ignore_errors=True)
    (directory / ".lock").unlink(missing_ok=True)
    (directory / "meta.json").unlink()  # last: a start that is cut off begins again


def _config(space: VectorSpace | None) -> edge.EdgeConfig:
    if space is None:
        return edge.EdgeConfig(sparse_vectors={UNUSED: edge.EdgeSparseVectorParams()})
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=space.size, distance=DISTANCES[space.distance]),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=NEVER),
    )


def _vector(point: Point) -> Any:
    return {} if point.vector is None else point.vector.tolist()  # an array takes five times as long


def _packed(payload: Payload) -> Payload:
    """A payload whose members that no condition is on are one: Qdrant Edge takes 10 µs for each value."""
    plain = {name: value for name, value in payload.items() if name in CONDITIONAL}
    others = {name: value for name, value in payload.items() if name not in CONDITIONAL}
    return plain | {OTHERS: to_json(others).decode()} if others else plain


def _unpacked(payload: Payload | None, members: Sequence[str] | None) -> Payload:
    """The payload that was packed, or these members of it; what an earlier version wrote is as it was."""
    payload = payload or {}
    if others := payload.pop(OTHERS, None):
        payload |= from_json(others)
    return payload if members is None else {name: payload[name] for name in members if name in payload}


def _members(members: Sequence[str] | None) -> bool | list[str]:
    if members is None:
        return True
    wanted = list(members)
    return (wanted if CONDITIONAL.issuperset(wanted) else [*wanted, OTHERS]) or False


def _filter(where: Where) -> edge.Filter:
    def matching(name: str, value: Any) -> edge.FieldCondition:
        return edge.FieldCondition(
            name, match=edge.MatchValue(value) if isinstance(value, str) else edge.MatchAny(sorted(value))
        )

    must: list[Any] = [matching(name, value) for name, value in where.having.items()]
    must += [edge.FieldCondition(name, range=edge.RangeFloat(lt=bound)) for name, bound in where.below.items()]
    must += [edge.FieldCondition(name, range=_range(*ends)) for name, ends in where.between.items()]
    must += [edge.IsEmptyCondition(name) for name in where.absent]
    must += [edge.HasIdCondition(set(where.ids))] if where.ids else []
    must_not: list[Any] = [matching(name, value) for name, value in where.lacking.items()]
    must_not += [
        edge.FieldCondition(name, range=edge.RangeFloat(gte=bound)) for name, bound in where.not_from.items()
    ]
    must_not += [edge.IsEmptyCondition(name) for name in where.there]
    return edge.Filter(must=must or None, must_not=must_not or None)


def _is_one_keyword(where: Where, shard: edge.EdgeShard) -> bool:
    """Whether points with one value of an indexed member are meant: how many these are, the index of it knows.

    What Qdrant calls an estimate is then no other number, for a shard has one writer, which is this process.
    """
    if len(where.having) != 1 or where != Where(having=where.having):
        return False
    [(name, value)] = where.having.items()
    return isinstance(value, str) and name in shard.info().payload_schema


def _range(first: datetime | None, last: datetime | None) -> edge.RangeDateTime:
    return edge.RangeDateTime(gte=first.isoformat() if first else None, lte=last.isoformat() if last else None)
