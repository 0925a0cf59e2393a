"""The face service, as the worker calls it."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

import numpy as np
import urllib3
from numpy.typing import NDArray

from app.common.errors import LookingGlassError, PermanentError, TransientError
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion

#: Seconds to connect and to answer; an analysis that waits for its turn and then takes its full time fits.
TIMEOUT = urllib3.Timeout(connect=5, read=150)
#: With a body: urllib3 sends it under the limit for connecting, and a picture is read only when it is its turn.
SENDING = urllib3.Timeout(connect=45, read=150)

#: Connections kept; a video has a few frames under way at once.
CONNECTIONS = 4

JSON = dict[str, Any]


class EngineCrashedError(LookingGlassError):
    """The picture killed its engine process; tried again a few times, then left to a person."""


class FaceServiceError(LookingGlassError):
    """The face service failed in a way that was not foreseen, which need not be this object's fault."""


class ModelChangedError(TransientError):
    """The face service runs another model than the one the faces are of."""


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
    """Calls the face service."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._url = settings.gpu_worker_url.rstrip("/")
        self._model_id: str | None = None
        token = settings.gpu_worker_token
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._http = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            # A service that is busy or not ready yet says when to come back.
            retries=urllib3.Retry(
                connect=2,
                read=0,
                status=5,
                backoff_factor=0.2,
                status_forcelist=[503],
                allowed_methods=None,
                raise_on_status=False,
            ),
        )

    def model(self) -> Model:
        """What the face service runs now."""
        health = self._call("GET", "/health")
        return Model(*(health[name] for name in ("model_id", "distance", "link_distance", "max_side")))

    def is_current(self, version: ObjectVersion) -> bool:
        """Whether the index holds this version's faces, or its rejection, under the model in use."""
        answer = self._call("GET", _path(version), or_code="not_found")
        return bool(answer.get("current")) and answer["item"]["etag"] == version.etag

    def put_image(self, version: ObjectVersion, data: bytes) -> JSON:
        """Have a picture analysed and indexed; return its item record.

        Raises:
            PermanentError: it can never be; the reason is on the item record.
            ObjectChangedError: another job changed the item meanwhile.
            EngineCrashedError: it killed its engine process.
            TransientError: the face service is away or busy.
        """
        query = urlencode(
            {
                "etag": version.etag,
                "last_modified": version.last_modified,
                **({"version_id": version.version_id} if version.version_id else {}),
            }
        )
        item: JSON = self._call("PUT", f"{_path(version)}?{query}", data, "application/octet-stream")["item"]
        return item

    def put_faces(self, version: ObjectVersion, model_id: str, faces: list[JSON], **more: Any) -> JSON:
        """Have faces indexed that are known already; return the item record."""
        return self._put_known(version, model_id=model_id, faces=faces, **more)

    def put_rejection(self, version: ObjectVersion, error: PermanentError) -> JSON:
        """Record why an object can never be processed; return the item record."""
        return self._put_known(version, reason=str(error), reason_code=error.code)

    def find(self, image: bytes) -> list[FoundFace]:
        """The faces in a picture that is not indexed: a frame of a video."""
        answer = self._call("POST", "/faces", image, "application/octet-stream")
        return [
            FoundFace(face["box"], face["landmarks"], face["score"], np.array(face["embedding"], np.float32))
            for face in answer["faces"]
        ]

    def delete(self, bucket: str, key: str) -> int:
        """Remove an object's faces and record; return how many points there were."""
        return int(self._call("DELETE", _item_path(bucket, key))["deleted_points"])

    def model_id(self) -> str:
        """The model in use, asked for once."""
        if self._model_id is None:
            self._model_id = self.model().model_id
        return self._model_id

    def lookup(self, bucket: str, keys: list[str]) -> dict[str, JSON]:
        """What the index says of each of these objects (1,000 at most) that it knows."""
        body = json.dumps({"bucket": bucket, "keys": keys}).encode()
        items: dict[str, JSON] = self._call("POST", "/items/lookup", body, "application/json")["items"]
        return items

    def count_items(self, bucket: str) -> int:
        """How many objects of a bucket the index knows."""
        return int(self._call("GET", "/items/count?" + urlencode({"bucket": bucket}))["items"])

    def records(self, bucket: str, after: str | None) -> tuple[list[JSON], str | None]:
        """A page of the records of a bucket's objects, and where the next begins."""
        query = {"bucket": bucket, **({"after": after} if after else {})}
        answer = self._call("GET", "/items?" + urlencode(query))
        return answer["items"], answer["after"]

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

    def _put_known(self, version: ObjectVersion, **known: Any) -> JSON:
        members = {k: v for k, v in asdict(version).items() if k in ("etag", "size", "version_id", "last_modified")}
        body = json.dumps({**members, **known}).encode()
        item: JSON = self._call("PUT", _path(version), body, "application/json")["item"]
        return item

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "",
        *,
        or_code: str = "",
    ) -> JSON:
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        try:
            response = self._http.request(
                method, self._url + path, body=body, headers=headers, timeout=SENDING if body else TIMEOUT
            )
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(f"The face service at {self._url} does not answer: {error}") from error
        try:
            answer: JSON = json.loads(response.data)
        except ValueError:
            answer = {}
        if response.status < 300:
            return answer
        if answer.get("code") in or_code.split():
            return answer
        raise _error(response.status, answer.get("code", ""), answer.get("error", "no reason given"))


def _error(status: int, code: str, message: str) -> Exception:
    if status == 500:
        return EngineCrashedError(message) if code == "engine_crashed" else FaceServiceError(message)
    if code == "model_changed":
        return ModelChangedError(message)
    if code == "overtaken":
        return ObjectChangedError(message)
    if status in (413, 415, 422) and code:  # without one it is not the face service that speaks
        return PermanentError(code, message)
    return TransientError(f"The face service answered {status}: {message}")


def _path(version: ObjectVersion) -> str:
    return _item_path(version.bucket, version.key)


def _item_path(bucket: str, key: str) -> str:
    # Dots are encoded too: `..` in a key is a name, not a step up.
    return f"/items/{quote(bucket, safe='')}/{quote(key, safe='').replace('.', '%2E')}"
