"""A pipeline for the console to look at: the real webhook over a real Redis, a face service and a bucket that are
told what they hold. `tests/pipeline/test_console.py` has the real ones."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flask import Flask, Response, jsonify, request
from redis import Redis
from rq import Worker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from werkzeug.serving import BaseWSGIServer, make_server

from app.common.jobs import ROUTE, JobSettings, ObjectJob, options, queue
from app.console.upstream import AwayError
from app.gpu.api import KeyConverter

JSON = dict[str, Any]

QUEUE = "facial_recognition"

#: What operators sign in with, and its header.
TOKEN = "the operator's own token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def record(bucket: str, key: str, **more: Any) -> JSON:
    """A record as the face service writes it."""
    return {
        "item_id": str(uuid5(NAMESPACE_URL, f"{bucket}/{key}")),
        "bucket": bucket,
        "key": key,
        "etag": "e1",
        "status": "indexed",
        "model_id": "dlib-1",
        "face_count": 1,
        "reason": None,
        "reason_code": None,
        "indexed_at": "2026-11-01T10:00:02.500+00:00",
        "last_modified": "2026-11-01T10:00:00+00:00",
        "kind": "image",
        "width": 200,
        "height": 100,
        "timings_ms": {"decode": 4.2, "analyse": 120.0},
        **more,
    }


def rejected(bucket: str, key: str, code: str, reason: str, **more: Any) -> JSON:
    """A record of an object that can never be processed."""
    return record(bucket, key, status="rejected", reason_code=code, reason=reason, face_count=0, **more)


class Faces:
    """What a face service answers, of the records it is given."""

    def __init__(self) -> None:
        self.records: dict[str, JSON] = {}
        self.models: list[JSON] = [{"model_id": "dlib-1", "points": 1, "items": 1, "in_use": True, "read": True}]
        self.ready = True
        self.switched = False
        self.faces = [
            {"face": 0, "box": [10.0, 20.0, 60.0, 70.0], "landmarks": [[20.0, 30.0]], "score": 0.987, "etag": "e1"}
        ]

    def put(self, *records: JSON) -> None:
        """Hold these too."""
        self.records |= {one["item_id"]: one for one in records}

    def app(self) -> Flask:
        """The HTTP API."""
        app = Flask("faces")
        app.url_map.merge_slashes = False
        app.url_map.converters["key"] = KeyConverter

        @app.get("/health")
        def health() -> Any:
            if not self.ready:
                return jsonify(status="error", code="unavailable", error="The models are loading."), 503
            index: JSON = {"items": len(self.records), "faces": len(self.records)}
            index |= {"collection": "faces_dlib-1", "alias": "faces_dlib-1"}
            return jsonify(status="healthy", engine="dlib", device="cpu", model_id="dlib-1", processes=2, index=index)

        @app.get("/metrics")
        def metrics() -> Response:
            return Response("lookingglass_images_held 3.0\n", mimetype="text/plain")

        @app.get("/items")
        def items() -> Response:
            found, limit = self._selected(), request.args.get("limit", 1000, type=int)
            after = request.args.get("after", "")
            page = [one for one in found if one["item_id"] > after][: limit + 1]
            following = page[limit - 1]["item_id"] if len(page) > limit else None
            return jsonify(status="success", items=page[:limit], after=following)

        @app.get("/items/count")
        def count() -> Response:
            found, by = self._selected(), request.args.get("by")
            counted = {"by": Counter(one[by] for one in found if one[by])} if by else {}
            return jsonify(status="success", items=len(found), **counted)

        @app.post("/items/lookup")
        def lookup() -> Response:
            wanted = request.get_json()
            by_key = {one["key"]: one for one in self.records.values() if one["bucket"] == wanted["bucket"]}
            found = {key: {**by_key[key], "current": True} for key in wanted["keys"] if key in by_key}
            return jsonify(status="success", items=found)

        @app.route("/items/<bucket>/<key:key>", methods=["GET", "DELETE"])
        def one(bucket: str, key: str) -> Any:
            found = next((r for r in self.records.values() if (r["bucket"], r["key"]) == (bucket, key)), None)
            if request.method == "DELETE":
                if found:
                    del self.records[found["item_id"]]
                return jsonify(status="success", deleted_points=found["face_count"] if found else 0, points=0)
            if found is None:
                return jsonify(status="error", code="not_found", error="Nothing is known of it.", points=0), 404
            faces = self.faces[: found["face_count"]]
            return jsonify(status="success", item=found, points=len(faces), current=True, faces=faces)

        @app.get("/models")
        def models() -> Response:
            return jsonify(status="success", models=self.models)

        @app.delete("/models/<model_id>")
        def drop(model_id: str) -> Any:
            model = next(one for one in self.models if one["model_id"] == model_id)
            if model["in_use"]:
                return jsonify(status="error", code="conflict", error=f"The model {model_id} is in use."), 409
            self.models.remove(model)
            return jsonify(status="success", models=self.models)

        @app.post("/alias")
        def alias() -> Response:
            self.switched = True
            return jsonify(status="success", models=self.models)

        return app

    def _selected(self) -> list[JSON]:
        wanted = {name: value for name, value in request.args.items() if name not in ("limit", "after", "by")}
        since, until = wanted.pop("since", ""), wanted.pop("until", "9")
        found = [
            one
            for one in self.records.values()
            if all(one[name] == value for name, value in wanted.items()) and since <= one["indexed_at"] <= until
        ]
        return sorted(found, key=lambda one: str(one["item_id"]))


class Bucket:
    """A bucket that holds what it is given, by bucket and key, or is away."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.away = False

    def page(self, bucket: str, prefix: str, after: str | None, limit: int) -> list[JSON]:
        self._there()
        if bucket not in ("images", "videos"):
            raise KeyError(bucket)
        keys = sorted(key for held, key in self.objects if held == bucket and key.startswith(prefix))
        return [
            {"bucket": bucket, "key": key, "size": 5, "etag": "e1", "last_modified": None}
            for key in keys
            if key > (after or "")
        ][:limit]

    def stat(self, bucket: str, key: str) -> JSON | None:
        self._there()
        if (bucket, key) not in self.objects:
            return None
        return {"size": 5, "etag": "e1", "content_type": "image/jpeg", "last_modified": "2026-11-01T10:00:00+00:00"}

    def read(self, bucket: str, key: str, etag: str, limit: int) -> bytes:
        self._there()
        if etag != "e1":
            raise KeyError(key)
        return self.objects[bucket, key]

    def _there(self) -> None:
        if self.away:
            raise AwayError("MinIO at minio:9000 does not answer.")


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of an application, for as long as the context lasts."""
    server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def worker(connection: Redis, name: str, job_id: str | None = None, **about: Any) -> None:
    """Have Redis know a worker, and the job it is at, as RQ's own writes them."""
    at = utcformat(now())
    described: Any = {"birth": at, "last_heartbeat": at, "queues": "facial_recognition", "state": "idle", **about}
    connection.sadd(Worker.redis_workers_keys, f"{Worker.redis_worker_namespace_prefix}{name}")
    connection.hset(f"{Worker.redis_worker_namespace_prefix}{name}", mapping=described)
    if job_id:
        job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
        connection.lrem(f"rq:queue:{job.origin}", 0, job_id)
        with connection.pipeline() as pipe:
            Execution.create(job, ttl=60, pipeline=pipe, worker_name=name)
            pipe.execute()


def enqueue(connection: Redis, key: str, job_id: str, bucket: str = "images") -> Job:
    """A job on the queue."""
    job = ObjectJob(QUEUE, job_id, bucket, key, "s3:ObjectCreated:Put", 60)
    target = queue(QUEUE, connection)
    return target.enqueue_job(target.create_job(ROUTE, **options(job, JobSettings())))


def fail(connection: Redis, key: str, job_id: str, error: str, bucket: str = "images") -> None:
    """A job that failed for good."""
    job = enqueue(connection, key, job_id, bucket)
    connection.lrem(f"rq:queue:{QUEUE}", 0, job_id)
    with connection.pipeline() as pipe:
        job.set_status(JobStatus.FAILED, pipe)
        job.failed_job_registry.add(job, ttl=600, exc_string=error, pipeline=pipe)
        Result.create_failure(job, 600, error, pipeline=pipe)
        pipe.execute()
