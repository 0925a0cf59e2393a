"""The face service, as the worker calls it: one of those that there are, in turn."""

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import urllib3
from numpy.typing import NDArray

from app.common.errors import LookingGlassError, PermanentError, TransientError
from app.common.wire import (
    MSGPACK,
    BusyError,
    EngineCrashedError,
    FaceServiceError,
    ModelChangedError,
    OvertakenError,
    pack,
    pack_embedding,
    raised_by,
    unpack,
    unpack_embedding,
)
from app.worker.addresses import Address, Addresses
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion

__all__ = [
    "BusyError",
    "EngineCrashedError",
    "FaceClient",
    "FaceServiceError",
    "FoundFace",
    "Model",
    "ModelChangedError",
]

#: Seconds to connect, and to send a picture: urllib3 sends it under the limit for connecting, and a picture is read
#: only when it is its turn.
CONNECT_S, SEND_S = 5, 45
#: Seconds to answer, at least, and beyond the longest that the face service says it takes.
ANSWER_S, SLACK_S = 150, 15

#: Seconds between two looks at how long that is.
LOOK_INTERVAL = 60

#: Seconds for which a picture is offered again in place where no face service has room for it; and the longest that
#: one wait lasts.
PATIENCE_S = 45
LONGEST_WAIT_S = 2.0

#: The same for what is no picture, and where none is ready: there its job waits, and says for what.
SHORT_PATIENCE_S = 5

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FoundFace:
    """One face that the face service found; coordinates in pixels of the picture sent."""

    box: tuple[float, float, float, float]
    landmarks: list[tuple[float, float]]
    score: float
    embedding: NDArray[np.float32]

    def scaled(self, scale: float) -> "FoundFace":
        """The face with its coordinates multiplied by `scale`."""
        left, top, right, bottom = self.box
        return replace(
            self,
            box=(left * scale, top * scale, right * scale, bottom * scale),
            landmarks=[(x * scale, y * scale) for x, y in self.landmarks],
        )


@dataclass(frozen=True, slots=True)
class Model:
    """What a tracker needs to know of the model behind the embeddings."""

    model_id: str
    distance: Literal["cosine", "euclid"]
    link_distance: float
    max_side: int


class FaceClient:
    """Calls the face services that there are, in turn."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._addresses = Addresses(settings.gpu_worker_url)
        self._model_id: str | None = None
        token = settings.gpu_worker_token
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        #: The longest that the face service says it takes for a picture, in seconds; 0 until it was asked.
        self.longest_s = 0.0
        self._looked = 0.0

    def answer_s(self) -> float:
        """Seconds within which a picture is answered, as the face service's own limits have it."""
        if time.monotonic() - self._looked > LOOK_INTERVAL or not self._looked:
            self._looked = time.monotonic()
            try:
                health = self._ask_any("GET", "/health", answer_s=CONNECT_S)[1]
                self.longest_s = float(health.get("answer_timeout_s", self.longest_s))
            except LookingGlassError:
                pass  # the call that this is for says so
        return max(ANSWER_S, self.longest_s + SLACK_S)

    def model(self) -> Model:
        """What the face service runs now."""
        health = self._call("GET", "/health")
        return Model(*(health[name] for name in ("model_id", "distance", "link_distance", "max_side")))

    def is_current(self, version: ObjectVersion, judging: Mapping[str, Any]) -> bool:
        """Whether the index has this version's faces, or its rejection, as they would be found and judged now."""
        said = self.lookup(version.bucket, [version.key], judging).get(version.key)
        return bool(said and said["current"] and said["etag"] == version.etag)

    def put_image(self, version: ObjectVersion, data: bytes) -> JSON:
        """Have a picture analysed and indexed; return its item record as `item`, and whether it was `unchanged`.

        Raises:
            PermanentError: it can never be; the reason is on the item record.
            ObjectChangedError: another job changed the item meanwhile.
            EngineCrashedError: it killed its engine process.
            TransientError: the face service is away or busy.
        """
        query = urlencode(
            {
                "etag": version.etag,
                "size": version.size,
                "last_modified": version.last_modified,
                **({"version_id": version.version_id} if version.version_id else {}),
                **_look(version.looked_at),
            }
        )
        return self._call("PUT", f"{_path(version)}?{query}", data, "application/octet-stream", patience=PATIENCE_S)

    def put_faces(self, version: ObjectVersion, model_id: str, faces: list[JSON], **more: Any) -> JSON:
        """Have faces indexed that are known already; return the item record."""
        packed = [{**face, "embedding": pack_embedding(face["embedding"])} for face in faces]
        return self._put_known(version, model_id=model_id, faces=packed, **more)

    def put_rejection(self, version: ObjectVersion, error: PermanentError) -> JSON:
        """Record why an object can never be processed; return the item record."""
        return self._put_known(version, reason=str(error), reason_code=error.code, judged_by=error.judged_by)

    def find(self, image: bytes) -> list[FoundFace]:
        """The faces in a picture that is not indexed: a frame of a video."""
        answer = self._call("POST", "/faces", image, "application/octet-stream", patience=SHORT_PATIENCE_S)
        return [
            FoundFace(face["box"], face["landmarks"], face["score"], _embedding(face["embedding"]))
            for face in answer["faces"]
        ]

    def delete(self, bucket: str, key: str, looked_at: float = 0.0) -> int:
        """Remove an object's faces and record; return how many points there were.

        Raises:
            ObjectChangedError: another job saw it in the bucket after `looked_at`, when there was none.
        """
        query = urlencode(_look(looked_at))
        return int(self._call("DELETE", _item_path(bucket, key) + (f"?{query}" if query else ""))["deleted_points"])

    def model_id(self) -> str:
        """The model in use, asked for once."""
        if self._model_id is None:
            self._model_id = self.model().model_id
        return self._model_id

    def lookup(self, bucket: str, keys: list[str], judging: Mapping[str, Any]) -> dict[str, JSON]:
        """What the index says of each of these objects (1,000 at most) that it knows, judged by these values now."""
        return self._looked_up(bucket=bucket, keys=keys, judging=dict(judging))

    def differing(
        self, bucket: str, versions: Mapping[str, str | None], judging: Mapping[str, Any]
    ) -> dict[str, JSON | None]:
        """What the index says of those of these objects, keys with ETags, that are not current at their ETag.

        None where it knows nothing. An object without an ETag is told of in any case.
        """
        keys, etags = list(versions), list(versions.values())
        return self._looked_up(bucket=bucket, keys=keys, etags=etags, judging=dict(judging))

    def count_items(self, bucket: str) -> int:
        """How many objects of a bucket the index knows."""
        return int(self._call("GET", "/items/count?" + urlencode({"bucket": bucket}))["items"])

    def records(self, bucket: str, after: str | None) -> tuple[list[JSON], str | None]:
        """A page of the records of a bucket's objects, and where the next begins."""
        query = {"bucket": bucket, **({"after": after} if after else {})}
        answer = self._call("GET", "/items?" + urlencode(query))
        return answer["items"], answer["after"]

    def item_ids(self, bucket: str, after: str | None) -> tuple[list[str], str | None]:
        """The ids of a page of the records of a bucket's objects, in their order, and where the next begins."""
        query = {"bucket": bucket, **({"after": after} if after else {})}
        answer = self._call("GET", "/items/ids?" + urlencode(query))
        return answer["ids"], answer["after"]

    def strays(self, after: str | None) -> tuple[list[JSON], str | None]:
        """Objects with faces but without a record among a page of faces, and where the next begins."""
        answer = self._call("GET", "/strays" + (f"?{urlencode({'after': after})}" if after else ""))
        return answer["strays"], answer["after"]

    def remains(self, bucket: str, key: str) -> tuple[JSON | None, int]:
        """An object's record, and how many points of it there are under every model."""
        answer = self._call("GET", _item_path(bucket, key), or_code="not_found")
        return answer.get("item"), int(answer["points"])

    def models(self) -> list[JSON]:
        """The models that the index holds faces of."""
        models: list[JSON] = self._call("GET", "/models")["models"]
        return models

    def switch_readers(self) -> bool:
        """Point the readers' alias at the model in use; False while some items are of another."""
        return "models" in self._call("POST", "/alias", or_code="conflict")

    def drop_model(self, model_id: str) -> None:
        """Drop the faces of a model that is not in use.

        Raises:
            LookingGlassError: it is in use, or there is none.
        """
        answer = self._call("DELETE", f"/models/{quote(model_id, safe='')}", or_code="conflict not_found")
        if "models" not in answer:
            raise LookingGlassError(answer["error"])

    def _looked_up(self, **asked: Any) -> dict[str, Any]:
        body = json.dumps(asked).encode()
        items: dict[str, Any] = self._call("POST", "/items/lookup", body, "application/json")["items"]
        return items

    def _put_known(self, version: ObjectVersion, **known: Any) -> JSON:
        members = {name: getattr(version, name) for name in ("etag", "size", "version_id", "last_modified")}
        body = pack({**members, **_look(version.looked_at), **known})
        item: JSON = self._call("PUT", _path(version), body, MSGPACK, patience=PATIENCE_S)["item"]
        return item

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "",
        *,
        or_code: str = "",
        patience: float = SHORT_PATIENCE_S,
    ) -> JSON:
        """Ask one of the face services; where none has room, wait for a while: that is no failure.

        Raises:
            BusyError, TransientError: none had room for `patience` seconds, or was ready.
            LookingGlassError: as the answer tells.
        """
        began = time.monotonic()
        wait = 0.1
        while True:
            status, answer = self._ask_any(method, path, body, content_type)
            if status < 300 or answer.get("code") in or_code.split():
                return answer
            most = patience if answer.get("code") == BusyError.code else min(patience, SHORT_PATIENCE_S)
            if status != 503 or time.monotonic() + wait > began + most:
                raise _error(status, answer)
            time.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - not all who wait come back at once
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _ask_any(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "", *, answer_s: float = ANSWER_S
    ) -> tuple[int, JSON]:
        """The answer of the first face service that is there and has room; else the last of the others'.

        Raises:
            TransientError: none is there.
        """
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        timeout = urllib3.Timeout(connect=SEND_S if body else CONNECT_S, read=self.answer_s() if body else answer_s)
        refused: tuple[int, JSON] | None = None
        failure: Exception | None = None
        for address, pool in self._addresses.in_turn():
            try:
                response = pool.urlopen(
                    method,
                    urlsplit(address.url).path + path,
                    body=body,
                    headers={**headers, "Accept": f"{MSGPACK}, application/json;q=0.9", "Host": _host(address)},
                    timeout=timeout,
                    redirect=False,
                )
                answer = _answer(response)
            except urllib3.exceptions.ReadTimeoutError as error:
                # What the picture did to this one, it is not to do to the next in the same try.
                raise TransientError(f"The face service at {address.url} does not answer: {error}") from error
            except urllib3.exceptions.HTTPError as error:
                self._addresses.silent(address)
                failure = error
                continue
            if response.status != 503:
                return response.status, answer
            refused = 503, answer
        if refused:
            return refused
        raise TransientError(f"The face service at {self._addresses} does not answer: {failure}") from failure


def _answer(response: urllib3.BaseHTTPResponse) -> JSON:
    packed = response.headers.get("Content-Type", "").startswith(MSGPACK)
    try:
        found = unpack(response.data) if packed else json.loads(response.data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(status: int, answer: JSON) -> Exception:
    error = raised_by(status, answer.get("code", ""), answer.get("error", "no reason given"))
    return ObjectChangedError(str(error)) if isinstance(error, OvertakenError) else error


def _embedding(told: bytes | list[float]) -> NDArray[np.float32]:
    return unpack_embedding(told) if isinstance(told, bytes) else np.array(told, np.float32)


def _look(looked_at: float) -> dict[str, float]:
    return {"looked_at": looked_at} if looked_at else {}


def _host(address: Address) -> str:
    name = f"[{address.name}]" if ":" in address.name else address.name
    return f"{name}:{address.port}"


def _path(version: ObjectVersion) -> str:
    return _item_path(version.bucket, version.key)


def _item_path(bucket: str, key: str) -> str:
    # Dots are encoded too: `..` in a key is a name, not a step up.
    return f"/items/{quote(bucket, safe='')}/{quote(key, safe='').replace('.', '%2E')}"
