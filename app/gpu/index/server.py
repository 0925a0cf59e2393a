"""The index on a Qdrant server."""

import logging
import os
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import certifi
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from app.gpu.index.store import CollectionMissingError, IndexAwayError, Mode, Payload, Point, VectorSpace, Where

log = logging.getLogger(__name__)

T = TypeVar("T")

DISTANCES = {"cosine": models.Distance.COSINE, "euclid": models.Distance.EUCLID}

#: Points an upsert: 512 numbers each as JSON stay well below the 32 MB a Qdrant server takes.
UPSERT_BATCH = 256

#: Ids a look-up: 36 characters each.
LOOKUP_BATCH = 20_000

#: Values of a member that are tallied.
MOST_VALUES = 1000

#: Seconds to wait for a server before the index counts as away.
TIMEOUT = 30

#: The same for a node that takes no connection, as one whose host is down.
CONNECT_TIMEOUT = 3


class ServerStore:
    """See `Store`; safe to use from many threads.

    Of a cluster's nodes one is asked until it fails, then the next, for which nothing has to be known of what the
    first one did: a write that was applied, or partly, is written again, and the condition of one that has its effect
    is no longer met.
    """

    where = "server"

    def __init__(self, nodes: Sequence[tuple[str, QdrantClient]], copies: int | None, shards: int | None) -> None:
        """Clients by their nodes' URLs; collections are created with so many copies of so many shards."""
        self._nodes = nodes
        self._first = random.randrange(len(nodes))  # noqa: S311 - so that they share the work
        self._copies = copies
        self._shards = shards
        # Through one copy of a shard, or two writers' changes may come to its copies in different orders.
        self._ordering = models.WriteOrdering.MEDIUM if copies and copies > 1 else None
        # What one copy alone was told is not yet so. Of two, both would have to be there.
        self._consistency = models.ReadConsistencyType.MAJORITY if copies and copies > 2 else None

    def collections(self) -> set[str]:
        listed = self._ask(lambda client: client.get_collections())
        return {found.name for found in listed.collections}

    def create(
        self, collection: str, space: VectorSpace | None, keywords: Sequence[str], times: Sequence[str] = ()
    ) -> None:
        if collection not in self.collections():
            self._ask(lambda client: self._create(client, collection, space))
        elif self._copies:
            self._compare(collection, self._copies)
        # Each time, for a start that was cut off may have created a collection and no more.
        kinds = dict.fromkeys(keywords, models.PayloadSchemaType.KEYWORD)
        kinds |= dict.fromkeys(times, models.PayloadSchemaType.DATETIME)
        for name, kind in kinds.items():
            self._ask(lambda client, name=name, kind=kind: client.create_payload_index(collection, name, kind))  # type: ignore[misc]

    def drop(self, collection: str) -> None:
        self._ask(lambda client: client.delete_collection(collection))

    def dimension(self, collection: str) -> int:
        vectors = self._ask(lambda client: client.get_collection(collection), collection).config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            raise TypeError(f"{collection} does not hold one vector a point")
        return vectors.size

    def alias(self, name: str) -> str | None:
        aliases = self._ask(lambda client: client.get_aliases()).aliases
        return next((alias.collection_name for alias in aliases if alias.alias_name == name), None)

    def set_alias(self, name: str, collection: str) -> None:
        created = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
        )
        deleted = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
        steps: list[models.AliasOperations] = [*([deleted] if self.alias(name) else []), created]
        self._ask(lambda client: client.update_collection_aliases(steps), collection)

    def upsert(
        self, collection: str, points: Sequence[Point], where: Where | None = None, mode: Mode = "upsert"
    ) -> None:
        for at in range(0, len(points), UPSERT_BATCH):
            batch = [
                models.PointStruct(
                    id=point.id,
                    vector={} if point.vector is None else point.vector.tolist(),  # JSON knows no arrays
                    payload=point.payload,
                )
                for point in points[at : at + UPSERT_BATCH]
            ]
            self._ask(
                lambda client, batch=batch: client.upsert(  # type: ignore[misc]
                    collection,
                    batch,
                    wait=True,
                    ordering=self._ordering,
                    update_filter=_filter(where) if where else None,
                    update_mode=models.UpdateMode(mode) if mode != "upsert" else None,
                ),
                collection,
            )

    def delete(self, collection: str, where: Where) -> None:
        meant = models.FilterSelector(filter=_filter(where))
        self._ask(lambda client: client.delete(collection, meant, wait=True, ordering=self._ordering), collection)

    def retrieve(
        self, collection: str, ids: Sequence[str], members: Sequence[str] | None = None
    ) -> dict[str, Payload]:
        found: dict[str, Payload] = {}
        for at in range(0, len(ids), LOOKUP_BATCH):
            batch = list(ids[at : at + LOOKUP_BATCH])
            points = self._ask(
                lambda client, batch=batch: client.retrieve(  # type: ignore[misc]
                    collection, batch, with_payload=_members(members), consistency=self._consistency
                ),
                collection,
            )
            found |= {str(point.id): point.payload or {} for point in points}
        return found

    def page(
        self,
        collection: str,
        where: Where,
        *,
        limit: int,
        after: str | None = None,
        members: Sequence[str] | None = None,
    ) -> tuple[dict[str, Payload], str | None]:
        points, following = self._ask(
            lambda client: client.scroll(
                collection, scroll_filter=_filter(where), limit=limit, offset=after, with_payload=_members(members)
            ),
            collection,
        )
        return {str(point.id): point.payload or {} for point in points}, None if following is None else str(following)

    def count(self, collection: str, where: Where) -> int:
        if len(where.ids) > LOOKUP_BATCH:
            some = [where.ids[at : at + LOOKUP_BATCH] for at in range(0, len(where.ids), LOOKUP_BATCH)]
            return sum(self.count(collection, replace(where, ids=ids)) for ids in some)
        meant = _filter(where)
        return self._ask(lambda client: client.count(collection, count_filter=meant, exact=True), collection).count

    def tally(self, collection: str, member: str, where: Where) -> dict[str, int]:
        found = self._ask(
            lambda client: client.facet(
                collection, member, facet_filter=_filter(where), limit=MOST_VALUES, exact=True
            ),
            collection,
        )
        return {str(hit.value): hit.count for hit in found.hits}

    def expect_faces(self) -> None:
        pass  # a server refuses them by itself

    def keep(self) -> None:
        pass  # a server does so by itself

    def close(self) -> None:
        for _, client in self._nodes:
            client.close()

    def _create(self, client: QdrantClient, collection: str, space: VectorSpace | None) -> None:
        vectors: Any = models.VectorParams(size=space.size, distance=DISTANCES[space.distance]) if space else {}
        try:
            client.create_collection(
                collection,
                vectors_config=vectors,
                shard_number=self._shards,
                replication_factor=self._copies,
                write_consistency_factor=_majority(self._copies) if self._copies else None,
            )
        except UnexpectedResponse:
            if not client.collection_exists(collection):  # else another face service was faster
                raise

    def _compare(self, collection: str, copies: int) -> None:
        """Say so where a collection was created with another number of copies, which it keeps."""
        params = self._ask(lambda client: client.get_collection(collection), collection).config.params
        found = (params.replication_factor or 1, params.write_consistency_factor or 1)
        if found != (copies, _majority(copies)):
            log.warning(
                "The collection %s keeps %d copies and waits for %d of them; QDRANT_REPLICAS asks for %d and %d. A "
                "collection keeps what it was created with: change it in Qdrant (docs/hosts.md says how), or drop it "
                "and have a comparison fill it again",
                *(collection, *found, copies, _majority(copies)),
            )

    def _ask(self, call: Callable[[QdrantClient], T], collection: str = "") -> T:
        """What the first node says that is able to; the last one's trouble where none is."""
        first = self._first
        for step in range(len(self._nodes)):
            number = (first + step) % len(self._nodes)
            url, client = self._nodes[number]
            try:
                answer = _told(call, client, url, collection)
            except _NodeError as error:
                if step + 1 == len(self._nodes):
                    raise IndexAwayError(str(error)) from error.__cause__
                log.warning("The next node of the index is asked: %s", error)
            else:
                self._first = number
                return answer
        raise AssertionError("a store has a node")


class _NodeError(Exception):
    """A node gives no answer, or none that another node would give as well."""


def connect(urls: str, api_key: str | None, *, copies: int | None = None, shards: int | None = None) -> ServerStore:
    """A store on the server at a URL, or on a cluster of which some nodes' are given, separated by commas.

    Nothing is sent yet. Proxies of the environment are not obeyed: the index is part of the installation.
    `SSL_CERT_FILE` is, as the authorities that are trusted.
    """
    return ServerStore([(url, _client(url, api_key)) for url in urls.split(",")], copies, shards)


def _client(url: str, api_key: str | None) -> QdrantClient:
    parts = urlsplit(url)
    # The client takes a URL without a port for one with Qdrant's own; to everybody else it is the scheme's.
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    return QdrantClient(
        url=url,
        port=port,
        api_key=api_key,
        timeout=TIMEOUT,
        check_compatibility=False,
        trust_env=False,
        verify=trusted,
        event_hooks={"request": [_connect_soon]},
    )


def _connect_soon(request: httpx.Request) -> None:
    request.extensions["timeout"]["connect"] = CONNECT_TIMEOUT


def _majority(copies: int) -> int:
    return copies // 2 + 1


def _told(call: Callable[[QdrantClient], T], client: QdrantClient, url: str, collection: str) -> T:
    """What a node answers, its errors in words.

    Raises:
        CollectionMissingError, IndexAwayError: it refuses, as any other node would.
        _NodeError: another node may do better.
    """
    try:
        return call(client)
    except UnexpectedResponse as error:
        said = error.content.decode(errors="replace")[:300]
        if collection and error.status_code == 404 and "doesn't exist" in said:
            raise CollectionMissingError(f"it has no collection {collection} any more.") from error
        meaning = f"{_meaning(error.status_code, said)} (QDRANT_URL={url})."
        # 408 is Qdrant's own word for a time limit of its own.
        passes = (error.status_code or 500) >= 500 or error.status_code == 408
        raise (_NodeError if passes else IndexAwayError)(meaning) from error
    except (ApiException, ResponseHandlingException, QdrantException, httpx.HTTPError, OSError) as error:
        raise _NodeError(f"{_trouble(url, str(error) or type(error).__name__)}.") from error


def _meaning(status: int | None, said: str) -> str:
    """What a refusal says, in words that tell what to do where it is not Qdrant's own."""
    if status == 400 and "HTTPS" in said.upper():
        return f"a server that expects https was asked in http: {said}"
    if status in (401, 403):
        return f"the server refuses the key, see QDRANT_API_KEY: {said}"
    if status == 404:
        return f"what answers there is no Qdrant, or another port or path is its own: 404 {said}"
    return f"the server answered {status}: {said}"


def _trouble(url: str, said: str) -> str:
    """Why nothing came back, and what to do where that can be told."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            f"the certificate at QDRANT_URL={url} is not trusted; name a private authority's in SSL_CERT_FILE: {said}"
        )
    if "[SSL" in said:
        return f"QDRANT_URL={url} does not speak https: {said}"
    if url.startswith("http:") and ("reset" in said or "disconnected" in said or "llegal" in said):
        return f"QDRANT_URL={url} does not speak http, perhaps https: {said}"
    return f"nothing answers at QDRANT_URL={url}: {said}"


def _members(members: Sequence[str] | None) -> bool | list[str]:
    return True if members is None else list(members) or False


def _filter(where: Where) -> models.Filter:
    def matching(name: str, value: Any) -> models.FieldCondition:
        match = models.MatchValue(value=value) if isinstance(value, str) else models.MatchAny(any=sorted(value))
        return models.FieldCondition(key=name, match=match)

    def empty(name: str) -> models.IsEmptyCondition:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=name))

    must: list[models.Condition] = [matching(name, value) for name, value in where.having.items()]
    must += [models.FieldCondition(key=name, range=models.Range(lt=bound)) for name, bound in where.below.items()]
    must += [
        models.FieldCondition(key=name, range=models.DatetimeRange(gte=first, lte=last))
        for name, (first, last) in where.between.items()
    ]
    must += [empty(name) for name in where.absent]
    must += [models.HasIdCondition(has_id=list(where.ids))] if where.ids else []
    must_not: list[models.Condition] = [matching(name, value) for name, value in where.lacking.items()]
    must_not += [
        models.FieldCondition(key=name, range=models.Range(gte=bound)) for name, bound in where.not_from.items()
    ]
    must_not += [empty(name) for name in where.there]
    return models.Filter(must=must or None, must_not=must_not or None)
