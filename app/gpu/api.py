"""The face service's HTTP API."""

import hashlib
import logging
from typing import Annotated, Any, Literal
from uuid import UUID

from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from app.common.auth import bearer_matches
from app.common.errors import PermanentError, TransientError
from app.common.openapi import BYTES, JSON, described, document, is_open
from app.gpu.index import FACES_PREFIX, PAGE, Claim, OvertakenError
from app.gpu.pool import EngineCrashedError
from app.gpu.service import ConflictError, FaceService, payload
from app.gpu.settings import FaceSettings

log = logging.getLogger(__name__)

#: HTTP status of a picture that can never be processed, by its code; 422 for what is not named.
PERMANENT_STATUS = {"not_an_image": 415, "too_many_bytes": 413, "too_many_pixels": 413}

#: Members of a record by which records can be asked for.
SELECTORS = ("bucket", "status", "reason_code", "model_id")

#: Largest JSON body: a video's tracks. 5,000 faces of 512 numbers fit.
MAX_JSON_BYTES = 64 * 2**20


class Version(BaseModel):
    """Which version of an object is put, as query parameters of a picture or members of a JSON body."""

    model_config = ConfigDict(extra="forbid")

    etag: str | None = Field(None, max_length=256)
    version_id: str | None = Field(None, max_length=256)
    size: int | None = Field(None, ge=0)
    last_modified: str | None = Field(None, max_length=64)


class KnownFace(BaseModel):
    """A face the caller has already: one track of a video."""

    model_config = ConfigDict(extra="forbid")

    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    landmarks: list[tuple[FiniteFloat, FiniteFloat]] = []
    score: FiniteFloat
    embedding: list[FiniteFloat]
    first_seen_s: FiniteFloat | None = None
    last_seen_s: FiniteFloat | None = None
    best_seen_s: FiniteFloat | None = None
    frames_seen: int | None = None


class KnownItem(Version):
    """An item whose faces, or whose reason to have none, the caller knows."""

    etag: Annotated[str, Field(max_length=256)]
    kind: Literal["image", "video"] | None = None
    #: The model the embeddings are of; required with faces.
    model_id: str | None = None
    faces: list[KnownFace] = []
    #: Why the object was rejected; no faces then.
    reason: str | None = Field(None, max_length=2000)
    reason_code: str | None = Field(None, max_length=64)
    width: int | None = None
    height: int | None = None
    duration_s: FiniteFloat | None = None
    frames: dict[str, int | float] | None = None
    #: What a person should know, of a video indexed in part.
    note: str | None = Field(None, max_length=2000)
    timings_ms: dict[str, float] | None = None


class Lookup(BaseModel):
    """The objects of a bucket that are asked about."""

    model_config = ConfigDict(extra="forbid")

    bucket: str
    keys: list[str] = Field(max_length=PAGE)


TEXT = {"type": "string"}
LIMIT = {"type": "integer", "minimum": 1, "maximum": PAGE}
SELECTION = dict.fromkeys(SELECTORS, TEXT)
VERSION = dict.fromkeys(Version.model_fields, TEXT)
#: What may come of a picture.
PICTURE_ANSWERS = (200, 400, 413, 415, 422, 500, 503)


class KeyConverter(BaseConverter):
    """An object's key: anything at all, newlines and leading slashes included."""

    regex = "(?s:.+)"
    part_isolating = False


class ModelChangedError(TransientError):
    """The faces put are of another model than the one that runs now."""


def create_app(service: FaceService, settings: FaceSettings) -> Flask:
    """The WSGI application over a face service."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Keys may hold `//`; they are data, not a path to tidy.
    app.url_map.merge_slashes = False
    app.url_map.converters["key"] = KeyConverter

    @app.before_request
    def authorize() -> tuple[Response, int] | None:
        if is_open(app, request.endpoint):
            return None
        if not bearer_matches(request.headers.get("Authorization"), settings.gpu_worker_token):
            return _error(401, "unauthorized", "Send Authorization: Bearer with the value of GPU_WORKER_TOKEN.")
        return None

    @app.get("/health")
    @described("Whether it takes pictures, with which engine.", answers=(200, 503), open=True)
    def health() -> Response:
        return jsonify(status="healthy", **service.health())

    @app.get("/health/live")
    @described("Whether it lives.", open=True)
    def live() -> Response:
        return jsonify(status="alive")

    @app.get("/metrics")
    @described("Metrics for Prometheus.", media_type="text/plain")
    def metrics() -> Response:
        return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)

    @app.post("/faces")
    @described("The faces of a picture; nothing is kept.", answers=PICTURE_ANSWERS, body={"image/*": BYTES})
    def faces() -> Response:
        with service.turn():
            analysis = service.analyse(_image_body(settings))
        return jsonify(
            status="success",
            model_id=service.info.model_id,
            width=analysis.width,
            height=analysis.height,
            faces=[{**payload(face), "embedding": face.embedding.tolist()} for face in analysis.faces],
            timings_ms={"decode": round(analysis.decode_ms, 1), "analyse": round(analysis.analyse_ms, 1)},
        )

    @app.get("/items")
    @described(
        "Records of items, a page.", answers=(200, 400, 503), query={**SELECTION, "limit": LIMIT, "after": TEXT}
    )
    def list_items() -> Response:
        limit = request.args.get("limit", PAGE, type=int)
        if not 1 <= limit <= PAGE:
            raise PermanentError("bad_request", f"limit must be 1 to {PAGE}.")
        after = request.args.get("after")
        if after is not None and not _is_uuid(after):
            raise PermanentError("bad_request", "after must be what the page before answered.")
        records, after = service.items(limit=limit, after=after, **_selection())
        return jsonify(status="success", items=records, after=after)

    @app.get("/items/count")
    @described("How many records there are.", answers=(200, 503), query=SELECTION)
    def count_items() -> Response:
        return jsonify(status="success", items=service.count_items(**_selection()))

    @app.post("/items/lookup")
    @described("What the index says of objects.", answers=(200, 400, 413, 503), body={JSON: Lookup})
    def lookup() -> Response:
        request.max_content_length = MAX_JSON_BYTES
        wanted = Lookup.model_validate_json(request.get_data(cache=False))
        return jsonify(status="success", items=service.lookup(wanted.bucket, wanted.keys))

    @app.get("/strays")
    @described("Objects with faces and no record, a page of faces.", answers=(200, 400, 503), query={"after": TEXT})
    def strays() -> Response:
        after = request.args.get("after")
        if after and not (after.startswith(FACES_PREFIX) and _is_uuid(after.partition(":")[2] or str(UUID(int=0)))):
            raise PermanentError("bad_request", "after must be what the page before answered.")
        found, after = service.strays(after)
        return jsonify(status="success", strays=found, after=after)

    @app.get("/models")
    @described("The models that the index holds faces of.", answers=(200, 503))
    def models() -> Response:
        return jsonify(status="success", models=service.models())

    @app.post("/alias")
    @described("Let readers see the model in use.", answers=(200, 409, 503))
    def alias() -> Response:
        service.switch_readers()
        return jsonify(status="success", models=service.models())

    @app.delete("/models/<model_id>")
    @described("Drop the faces of a model that is not in use.", answers=(200, 404, 409, 503))
    def drop_model(model_id: str) -> Response | tuple[Response, int]:
        try:
            service.drop_model(model_id)
        except KeyError:
            return _error(
                404, "not_found", f"The index holds no faces of a model {model_id}; GET /models lists them."
            )
        return jsonify(status="success", models=service.models())

    @app.put("/items/<bucket>/<key:key>")
    @described(
        "Index a picture, or faces that are known.",
        answers=(*PICTURE_ANSWERS, 409),
        body={"image/*": BYTES, JSON: KnownItem},
        query=VERSION,
    )
    def put_item(bucket: str, key: str) -> Response:
        with service.claim(bucket, key) as claim:
            if request.mimetype == "application/json":
                return jsonify(status="success", item=_put_known(service, bucket, key, claim))
            version = Version.model_validate(request.args.to_dict())
            with service.turn():
                data = _image_body(settings)
                item = {"bucket": bucket, "key": key, **version.model_dump(exclude_none=True)}
                item.setdefault("etag", hashlib.md5(data, usedforsecurity=False).hexdigest())  # as S3 does
                item["size"] = len(data)
                return jsonify(status="success", item=service.index_image(item, data, claim))

    @app.get("/items/<bucket>/<key:key>")
    @described("The record of an object.", answers=(200, 404, 503), query={"faces": TEXT})
    def get_item(bucket: str, key: str) -> Response | tuple[Response, int]:
        record, found = service.item(bucket, key)
        if record is None:
            points = service.count(bucket, key)
            message = f"Nothing is known of {bucket}/{key}; {points} points of it are in the index."
            return _error(404, "not_found", message, points=points)
        extra = {"faces": found} if request.args.get("faces") else {}
        return jsonify(
            status="success",
            item=record,
            points=len(found),
            # Whether the record is of today's model and the index holds what it promises.
            current=record["model_id"] == service.info.model_id and len(found) == record["face_count"],
            **extra,
        )

    @app.delete("/items/<bucket>/<key:key>")
    @described("Remove an object from the index.", answers=(200, 503))
    def delete_item(bucket: str, key: str) -> Response:
        removed = service.delete(bucket, key)
        return jsonify(status="success", deleted_points=removed, points=service.count(bucket, key))

    @app.get("/openapi.json")
    @described("This description.")
    def description() -> Response:
        return jsonify(document(app, "LookingGlass face service"))

    app.register_error_handler(PermanentError, _permanent)
    app.register_error_handler(TransientError, _transient)
    app.register_error_handler(ConflictError, _conflict)
    app.register_error_handler(EngineCrashedError, _crashed)
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
    return app


def _image_body(settings: FaceSettings) -> bytes:
    request.max_content_length = settings.max_image_bytes
    data = request.get_data(cache=False)
    if len(data) < (request.content_length or 0):
        # Taken for the whole picture, it would be rejected as truncated, for good.
        raise TransientError("The picture's bytes ended early: its sender went away, or was too slow.")
    return data


def _selection() -> dict[str, str | None]:
    return {name: request.args.get(name) for name in SELECTORS}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _put_known(service: FaceService, bucket: str, key: str, claim: Claim) -> dict[str, Any]:
    request.max_content_length = MAX_JSON_BYTES
    known = KnownItem.model_validate_json(request.get_data(cache=False))
    item = {
        "bucket": bucket,
        "key": key,
        **known.model_dump(exclude={"faces", "model_id"}, exclude_none=True),
    }
    if known.reason:
        return service.reject(item, PermanentError(known.reason_code or "rejected", known.reason), claim)
    info = service.info
    if known.faces and known.model_id != info.model_id:
        raise ModelChangedError(
            f"The faces are of model {known.model_id}, the service runs {info.model_id} now: analyse again."
        )
    if any(len(face.embedding) != info.embedding_size for face in known.faces):
        raise PermanentError("bad_request", f"Each embedding needs {info.embedding_size} numbers.")
    return service.index_faces(
        item,
        [(face.embedding, face.model_dump(exclude={"embedding"}, exclude_none=True)) for face in known.faces],
        claim,
    )


def _error(status: int, code: str, message: str, **more: Any) -> tuple[Response, int]:
    return jsonify(status="error", code=code, error=message, **more), status


def _permanent(error: PermanentError) -> tuple[Response, int]:
    status = 400 if error.code == "bad_request" else PERMANENT_STATUS.get(error.code, 422)
    return _error(status, error.code, str(error))


def _transient(error: TransientError) -> tuple[Response, int]:
    if isinstance(error, ModelChangedError):
        return _error(409, "model_changed", str(error))
    if isinstance(error, OvertakenError):
        return _error(409, "overtaken", str(error))
    response, status = _error(503, "unavailable", str(error))
    response.headers["Retry-After"] = "1"
    return response, status


def _conflict(error: ConflictError) -> tuple[Response, int]:
    return _error(409, "conflict", str(error))


def _crashed(error: EngineCrashedError) -> tuple[Response, int]:
    return _error(500, "engine_crashed", str(error))


def _invalid(error: ValidationError) -> tuple[Response, int]:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the body"
    return _error(400, "bad_request", f"{where}: {problem['msg']}.")


def _http(error: HTTPException) -> tuple[Response, int]:
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_many_bytes"}.get(error.code or 500, "bad_request")
    return _error(error.code or 500, code, error.description or error.name)


def _unexpected(error: Exception) -> tuple[Response, int]:
    log.exception("Unexpected error")
    return _error(500, "internal", f"Unexpected {type(error).__name__}; the face service's log has the details.")
