"""The index on a Qdrant server."""

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from app.gpu.index.store import CollectionMissingError, IndexAwayError, Mode, Payload, Point, VectorSpace, Where

DISTANCES = {"cosine": models.Distance.COSINE, "euclid": models.Distance.EUCLID}

#: Points an upsert: 512 numbers each as JSON stay well below the 32 MB a Qdrant server takes.
UPSERT_BATCH = 256

#: Ids a look-up: 36 characters each.
LOOKUP_BATCH = 20_000

#: Values of a member that are tallied.
MOST_VALUES = 1000

#: Seconds to wait for a server before the index counts as away.
TIMEOUT = 30


class ServerStore:
    """See `Store`; safe to use from many threads."""

    where = "server"

    def __init__(self, client: QdrantClient, url: str) -> None:
        self._client = client
        self._url = url

    def collections(self) -> set[str]:
        with self._errors():
            return {found.name for found in self._client.get_collections().collections}

    def create(self, collection: str, space: VectorSpace | None, keywords: Sequence[str]) -> None:
        vectors: Any = models.VectorParams(size=space.size, distance=DISTANCES[space.distance]) if space else {}
        with self._errors():
            try:
                if collection not in self.collections():
                    self._client.create_collection(collection, vectors_config=vectors)
            except UnexpectedResponse:
                if collection not in self.collections():  # else another face service was faster
                    raise
            # Each time, for a start that was cut off may have created a collection and no more.
            for name in keywords:
                self._client.create_payload_index(collection, name, models.PayloadSchemaType.KEYWORD)

    def drop(self, collection: str) -> None:
        with self._errors():
            self._client.delete_collection(collection)

    def dimension(self, collection: str) -> int:
        with self._errors(collection):
            vectors = self._client.get_collection(collection).config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            raise TypeError(f"{collection} does not hold one vector a point")
        return vectors.size

    def alias(self, name: str) -> str | None:
        with self._errors():
            aliases = self._client.get_aliases().aliases
        return next((alias.collection_name for alias in aliases if alias.alias_name == name), None)

    def set_alias(self, name: str, collection: str) -> None:
        created = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=name)
        )
        deleted = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
        with self._errors(collection):
            self._client.update_collection_aliases([*([deleted] if self.alias(name) else []), created])

    def upsert(
        self, collection: str, points: Sequence[Point], where: Where | None = None, mode: Mode = "upsert"
    ) -> None:
        with self._errors(collection):
            for at in range(0, len(points), UPSERT_BATCH):
                self._client.upsert(
                    collection,
                    [
                        models.PointStruct(
                            id=point.id,
                            vector={} if point.vector is None else point.vector.tolist(),  # JSON knows no arrays
                            payload=point.payload,
                        )
                        for point in points[at : at + UPSERT_BATCH]
                    ],
                    wait=True,
                    update_filter=_filter(where) if where else None,
                    update_mode=models.UpdateMode(mode) if mode != "upsert" else None,
                )

    def delete(self, collection: str, where: Where) -> None:
        with self._errors(collection):
            self._client.delete(collection, models.FilterSelector(filter=_filter(where)), wait=True)

    def retrieve(
        self, collection: str, ids: Sequence[str], members: Sequence[str] | None = None
    ) -> dict[str, Payload]:
        found: dict[str, Payload] = {}
        with self._errors(collection):
            for at in range(0, len(ids), LOOKUP_BATCH):
                points = self._client.retrieve(
                    collection, list(ids[at : at + LOOKUP_BATCH]), with_payload=_members(members)
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
        with self._errors(collection):
            points, following = self._client.scroll(
                collection, scroll_filter=_filter(where), limit=limit, offset=after, with_payload=_members(members)
            )
        return {str(point.id): point.payload or {} for point in points}, None if following is None else str(following)

    def count(self, collection: str, where: Where) -> int:
        with self._errors(collection):
            return self._client.count(collection, count_filter=_filter(where), exact=True).count

    def tally(self, collection: str, member: str, where: Where) -> dict[str, int]:
        with self._errors(collection):
            found = self._client.facet(collection, member, facet_filter=_filter(where), limit=MOST_VALUES, exact=True)
        return {str(hit.value): hit.count for hit in found.hits}

    def keep(self) -> None:
        pass  # a server does so by itself

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _errors(self, collection: str = "") -> Iterator[None]:
        try:
            yield
        except UnexpectedResponse as error:
            said = error.content.decode(errors="replace")[:300]
            if collection and error.status_code == 404 and "doesn't exist" in said:
                raise CollectionMissingError(f"it has no collection {collection} any more.") from error
            raise IndexAwayError(f"{_meaning(error.status_code, said)} (QDRANT_URL={self._url}).") from error
        except (ApiException, ResponseHandlingException, QdrantException, httpx.HTTPError, OSError) as error:
            raise IndexAwayError(f"{_trouble(self._url, str(error) or type(error).__name__)}.") from error


def connect(url: str, api_key: str | None) -> ServerStore:
    """A store on the server at a URL; nothing is sent yet.

    Proxies of the environment are not obeyed: the index is part of the installation. `SSL_CERT_FILE` is, as the
    authorities that are trusted.
    """
    parts = urlsplit(url)
    # The client takes a URL without a port for one with Qdrant's own; to everybody else it is the scheme's.
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    client = QdrantClient(
        url=url,
        port=port,
        api_key=api_key,
        timeout=TIMEOUT,
        check_compatibility=False,
        trust_env=False,
        verify=trusted,
    )
    return ServerStore(client, url)


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
    must += [empty(name) for name in where.absent]
    must += [models.HasIdCondition(has_id=list(where.ids))] if where.ids else []
    must_not: list[models.Condition] = [matching(name, value) for name, value in where.lacking.items()]
    must_not += [
        models.FieldCondition(key=name, range=models.Range(gte=bound)) for name, bound in where.not_from.items()
    ]
    must_not += [empty(name) for name in where.there]
    return models.Filter(must=must or None, must_not=must_not or None)
