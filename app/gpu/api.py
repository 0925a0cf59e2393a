"""The face service's HTTP API."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl
from uuid import UUID

import numpy as np
from flask import Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema, model_validator
from werkzeug.routing import BaseConverter

from app.common.errors import NotFoundError, PermanentError
from app.common.openapi import BYTES, JSON, described
from app.common.version import VERSION
from app.common.web import Answer, Service, Token, bad_request, error, whole_body
from app.common.wire import MSGPACK, ModelChangedError, pack, pack_embedding, unpack, unpack_embedding
from app.common.words import moment
from app.gpu import answers
from app.gpu.index import FACES_PREFIX, PAGE, Vector
from app.gpu.metrics import exposition
from app.gpu.service import FaceService, payload
from app.gpu.settings import FaceSettings

#: Members of a record by which records can be asked for.
SELECTORS = ("bucket", "status", "reason_code", "model_id")

#: Largest JSON body: a video's tracks. 5,000 faces of 512 numbers fit.
MAX_JSON_BYTES = 64 * 2**20

#: A number that every index can hold.
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Look(BaseModel):
    """A look at the bucket, from which a change of the index follows."""

    model_config = ConfigDict(extra="forbid")

    #: When it was, in seconds since 1970 of the bucket's own clock.
    looked_at: FiniteFloat | None = None


class Version(Look):
    """Which version of an object is put, as query parameters of a picture or members of a JSON body."""

    etag: str | None = Field(None, max_length=256)
    version_id: str | None = Field(None, max_length=256)
    size: int | None = Field(None, ge=0, lt=2**63)
    last_modified: str | None = Field(None, max_length=64)


def _numbers(embedding: object) -> Vector:
    """An embedding from its bytes, or from the numbers of a JSON array."""
    if isinstance(embedding, bytes):
        return unpack_embedding(embedding)
    try:
        numbers = np.asarray(embedding, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError("an embedding is an array of numbers") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError("an embedding is an array of finite numbers")
    return numbers


NUMBERS = {"type": "array", "items": {"type": "number"}}


class KnownFace(BaseModel):
    """A face the caller has already: one track of a video."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    landmarks: list[tuple[FiniteFloat, FiniteFloat]] = []
    score: FiniteFloat
    embedding: Annotated[Vector, BeforeValidator(_numbers), WithJsonSchema(NUMBERS)]
    stream: Int64 | None = None
    first_seen_s: FiniteFloat | None = None
    last_seen_s: FiniteFloat | None = None
    best_seen_s: FiniteFloat | None = None
    frames_seen: Int64 | None = None
    #: Whether there is no good picture of it.
    poor: bool | None = None


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
    width: Int64 | None = None
    height: Int64 | None = None
    duration_s: FiniteFloat | None = None
    frames: dict[str, Int64 | FiniteFloat] | None = None
    streams: list[dict[str, Int64 | str | None]] | None = None
    #: What the verdict depended on, by name.
    judged_by: dict[str, str | Int64 | FiniteFloat] | None = None
    #: What a person should know, of a video indexed in part.
    note: str | None = Field(None, max_length=2000)
    timings_ms: dict[str, FiniteFloat] | None = None


class Lookup(BaseModel):
    """The objects of a bucket that are asked about."""

    model_config = ConfigDict(extra="forbid")

    bucket: str
    keys: list[str] = Field(max_length=PAGE)
    #: Present values of what records may have been judged by; one that was judged by others is not current.
    judging: dict[str, str | Int64 | FiniteFloat] = {}
    #: The ETag of each. Then what differs is told, null where nothing is known, and nothing of what is current at
    #: its ETag; whose ETag is null, is told of in any case.
    etags: list[str | None] | None = None

    @model_validator(mode="after")
    def _each(self) -> "Lookup":
        if self.etags is not None and len(self.etags) != len(self.keys):
            raise ValueError("etags must name one for each of keys")
        return self


TEXT = {"type": "string"}
LIMIT = {"type": "integer", "minimum": 1, "maximum": PAGE}
SELECTION = dict.fromkeys(SELECTORS, TEXT)
#: What may come of a picture.
PICTURE_ANSWERS = (200, 400, 413, 415, 422, 500, 503)


class KeyConverter(BaseConverter):
    """An object's key: anything at all, newlines and leading slashes included."""

    regex = "(?s:.+)"
    part_isolating = False


def create_app(service: FaceService, settings: FaceSettings) -> Service:
    """The WSGI application over a face service."""
    token = Token("GPU_WORKER_TOKEN", settings.gpu_worker_token)
    app = Service("face service", token_of=lambda _path: token, max_body_bytes=MAX_JSON_BYTES)
    # Keys may hold `//`; they are data, not a path to tidy.
    app.url_map.merge_slashes = False
    app.url_map.converters["key"] = KeyConverter

    @app.get("/health")
    @described("Whether it takes pictures, with which engine.", answers=(200, 503), open=True, answer=answers.Health)
    def health() -> Response:
        return jsonify(
            status="healthy",
            version=VERSION,
            **service.health(),
        )

    @app.get("/metrics")
    @described("Metrics for Prometheus.", media_type="text/plain")
    def metrics() -> Response:
        return Response(exposition(service.models), content_type=CONTENT_TYPE_LATEST)

    @app.post("/faces")
    @described(
        "The faces of a picture; nothing is kept.",
        answers=PICTURE_ANSWERS,
        body={"image/*": BYTES},
        answer=answers.Faces,
    )
    def faces() -> Response:
        analysis = service.analyse(whole_body(settings.max_image_bytes), "frames")
        packed = request.accept_mimetypes.best_match((JSON, MSGPACK)) == MSGPACK
        answer = {
            "status": "success",
            "model_id": service.info.model_id,
            "width": analysis.width,
            "height": analysis.height,
            "faces": [
                {**payload(face), "embedding": pack_embedding(face.embedding) if packed else face.embedding.tolist()}
                for face in analysis.faces
            ],
            "timings_ms": {"decode": round(analysis.decode_ms, 1), "analyse": round(analysis.analyse_ms, 1)},
            "note": " ".join(analysis.notes) or None,
        }
        return Response(pack(answer), content_type=MSGPACK) if packed else jsonify(answer)

    @app.get("/items")
    @described(
        "Records of items, a page.",
        answers=(200, 400, 503),
        query={**SELECTION, "since": TEXT, "until": TEXT, "limit": LIMIT, "after": TEXT},
        answer=answers.Items,
    )
    def list_items() -> Response:
        limit = request.args.get("limit", PAGE, type=int)
        if not 1 <= limit <= PAGE:
            raise bad_request(f"limit must be 1 to {PAGE}.")
        records, after = service.items(
            limit=limit, after=_after(), since=_moment("since"), until=_moment("until"), **_selection()
        )
        return jsonify(status="success", items=records, after=after)

    @app.get("/items/ids")
    @described(
        "The ids of a bucket's records, a page, in their order.",
        answers=(200, 400, 503),
        query={"bucket": TEXT, "after": TEXT},
        answer=answers.Ids,
    )
    def item_ids() -> Response:
        bucket = request.args.get("bucket")
        if not bucket:
            raise bad_request("bucket must be named.")
        ids, after = service.item_ids(bucket, _after())
        return jsonify(status="success", ids=ids, after=after)

    @app.get("/items/count")
    @described(
        "How many records there are, also `by` a member's values.",
        answers=(200, 400, 503),
        query={**SELECTION, "by": {"enum": list(SELECTORS)}},
        answer=answers.Count,
    )
    def count_items() -> Response:
        selection, by = _selection(), request.args.get("by")
        if by is not None and by not in SELECTORS:
            raise bad_request(f"by must be one of {', '.join(SELECTORS)}.")
        counted = {"by": service.tally_items(by, **selection)} if by else {}
        return jsonify(status="success", items=service.count_items(**selection), **counted)

    @app.post("/items/lookup")
    @described(
        "What the index says of objects.",
        answers=(200, 400, 413, 503),
        body={JSON: Lookup},
        answer=answers.Lookups,
    )
    def lookup() -> Response:
        wanted = Lookup.model_validate_json(whole_body(MAX_JSON_BYTES))
        items = service.lookup(wanted.bucket, wanted.keys, wanted.judging)
        if wanted.etags is None:
            return jsonify(status="success", items=items)
        told = [(key, etag, items.get(key)) for key, etag in zip(wanted.keys, wanted.etags, strict=True)]
        differing = {key: said for key, etag, said in told if not (said and said["current"] and said["etag"] == etag)}
        return jsonify(status="success", items=differing)

    @app.get("/strays")
    @described(
        "Objects with faces and no record, a page of faces.",
        answers=(200, 400, 503),
        query={"after": TEXT},
        answer=answers.Strays,
    )
    def strays() -> Response:
        after = request.args.get("after")
        if after and not (after.startswith(FACES_PREFIX) and _is_uuid(after.partition(":")[2] or str(UUID(int=0)))):
            raise bad_request("after must be what the page before answered.")
        found, after = service.strays(after)
        return jsonify(status="success", strays=found, after=after)

    @app.get("/models")
    @described("The models that the index holds faces of.", answers=(200, 503), answer=answers.Models)
    def models() -> Response:
        return jsonify(status="success", models=service.models())

    @app.post("/alias")
    @described("Let readers see the model in use.", answers=(200, 409, 503), answer=answers.Models)
    def alias() -> Response:
        service.switch_readers()
        return jsonify(status="success", models=service.models())

    @app.delete("/models/<model_id>")
    @described("Drop the faces of a model that is not in use.", answers=(200, 404, 409, 503), answer=answers.Models)
    def drop_model(model_id: str) -> Response:
        try:
            service.drop_model(model_id)
        except KeyError as missing:
            message = f"The index holds no faces of a model {model_id}; GET /models lists them."
            raise NotFoundError(message) from missing
        return jsonify(status="success", models=service.models())

    @app.put("/items/<bucket>/<key:key>")
    @described(
        "Index a picture, or faces that are known.",
        answers=(*PICTURE_ANSWERS, 409),
        body={"image/*": BYTES, JSON: KnownItem, MSGPACK: KnownItem},
        query=dict.fromkeys(Version.model_fields, TEXT),
        answer=answers.Put,
    )
    def put_item(bucket: str, key: str) -> Response:
        if request.mimetype in (JSON, MSGPACK):
            return jsonify(status="success", item=_put_known(service, bucket, key))
        told = request.args.to_dict()
        return jsonify(_put_picture(service, bucket, key, told, lambda: whole_body(settings.max_image_bytes)))

    @app.shortly("PUT", "/items/", most=settings.max_image_bytes, but=(JSON, MSGPACK))
    def put_picture(path: str, query: str, body: bytes) -> dict[str, Any] | None:
        bucket, _, key = path.partition("/")
        if not bucket or not key:
            return None
        told = dict(reversed(parse_qsl(query, keep_blank_values=True, errors="werkzeug.url_quote")))
        return _put_picture(service, bucket, key, told, lambda: body)

    @app.get("/items/<bucket>/<key:key>")
    @described("The record of an object.", answers=(200, 404, 503), query={"faces": TEXT}, answer=answers.Item)
    def get_item(bucket: str, key: str) -> Answer:
        record, found = service.item(bucket, key)
        if record is None:
            points = service.count(bucket, key)
            message = f"Nothing is known of {bucket}/{key}; {points} points of it are in the index."
            return error(404, "not_found", message, points=points)
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
    @described(
        "Remove an object from the index.",
        answers=(200, 400, 409, 503),
        query={"looked_at": TEXT},
        answer=answers.Deleted,
    )
    def delete_item(bucket: str, key: str) -> Response:
        removed = service.delete(bucket, key, looked_at=Look.model_validate(request.args.to_dict()).looked_at)
        return jsonify(status="success", deleted_points=removed, points=service.count(bucket, key))

    return app


def unpacked(body: bytes) -> Any:
    """A body that is msgpack."""
    try:
        return unpack(body)
    except ValueError as error:
        raise bad_request(f"{error}.") from error


def _selection() -> dict[str, str | None]:
    return {name: request.args.get(name) for name in SELECTORS}


def _moment(name: str) -> datetime | None:
    given = request.args.get(name)
    found = moment(given)
    if given and found is None:
        raise bad_request(f"{name} must be a time in ISO 8601.")
    return found


def _after() -> str | None:
    """Where a page of records begins."""
    after = request.args.get("after")
    if after is not None and not _is_uuid(after):
        raise bad_request("after must be what the page before answered.")
    return after


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _put_picture(
    service: FaceService, bucket: str, key: str, told: Mapping[str, str], body: Callable[[], bytes]
) -> dict[str, Any]:
    version = Version.model_validate(told)
    claim = service.claim(bucket, key, etag=version.etag, looked_at=version.looked_at)
    item = version.model_dump(exclude_none=True)
    if version.etag and (record := service.unchanged(claim, item)):
        return {"status": "success", "item": record, "unchanged": True}
    data = body()
    if not version.etag:
        item["etag"] = hashlib.md5(data, usedforsecurity=False).hexdigest()  # as S3 does
    return {"status": "success", "item": service.index_image({**item, "size": len(data)}, data, claim)}


def _put_known(service: FaceService, bucket: str, key: str) -> dict[str, Any]:
    body = whole_body(MAX_JSON_BYTES)
    known = (
        KnownItem.model_validate(unpacked(body))
        if request.mimetype == MSGPACK
        else KnownItem.model_validate_json(body)
    )
    item = known.model_dump(exclude={"faces", "model_id"}, exclude_none=True)
    if not known.reason:
        _check_model(service, known)
    claim = service.claim(bucket, key, etag=known.etag, looked_at=known.looked_at)
    if known.reason:
        return service.reject(item, PermanentError(known.reason_code or "rejected", known.reason), claim)
    faces = [(face.embedding, face.model_dump(exclude={"embedding"}, exclude_none=True)) for face in known.faces]
    return service.index_faces(item, faces, claim)


def _check_model(service: FaceService, known: KnownItem) -> None:
    info = service.info
    if known.faces and known.model_id != info.model_id:
        raise ModelChangedError(
            f"The faces are of model {known.model_id}, the service runs {info.model_id} now: analyse again."
        )
    if any(len(face.embedding) != info.embedding_size for face in known.faces):
        raise bad_request(f"Each embedding needs {info.embedding_size} numbers.")
