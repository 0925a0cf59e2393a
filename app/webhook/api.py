"""The webhook's HTTP API.

What each answer does to MinIO decides its code: anything but 2xx is sent again every few seconds and holds back
every event behind it. So 503 only for what passes, 2xx for a record that can never be processed, 4xx only for
what MinIO does not send.
"""

import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError
from redis import Redis
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from app.common.auth import bearer_matches
from app.common.openapi import JSON, described, document, is_open
from app.webhook import metrics
from app.webhook.events import (
    CREATED,
    REMOVED,
    Event,
    MalformedDocumentError,
    check_key,
    first_problem,
    load_json,
    parse,
    records,
)
from app.webhook.queueing import Jobs
from app.webhook.settings import WebhookSettings

log = logging.getLogger(__name__)

#: Most failed jobs or dead letters in one answer.
LIST_LIMIT = 1000

#: What an operator reads when MinIO has events and does not send them.
HELD_BACK = (
    "MinIO's durable target sends nothing, though there are events: mostly a damaged file in its queue directory. "
    "scripts/mend-event-queue.sh takes it out; then reconcile."
)

Answer = Response | tuple[Response, int]


class TestJob(BaseModel):
    """The body of `POST /test/queue`."""

    bucket: str = Field(min_length=1)
    object: Annotated[str, Field(min_length=1), AfterValidator(check_key)]
    event: str = "s3:ObjectCreated:Put"
    priority: Literal["high", "normal"] = "normal"
    #: ISO 8601; UTC where it names no zone.
    run_at: datetime | None = None


class Document(BaseModel):
    """The body of `POST /webhook/minio`, described; each record is read for itself."""

    records: list[Event | JsonValue] = Field(alias="Records")


TEXT = {"type": "string"}
LIMIT = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT}


def create_app(settings: WebhookSettings, connection: "Redis") -> Flask:
    """The WSGI application over a Redis connection."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    jobs = Jobs(connection, settings)

    @app.before_request
    def authorize() -> Answer | None:
        if is_open(app, request.endpoint):
            return None
        event = request.endpoint == "minio"
        token, name = (settings.webhook_token, "WEBHOOK_TOKEN") if event else (settings.api_token, "API_TOKEN")
        if bearer_matches(request.headers.get("Authorization"), token):
            return None
        return _error(401, f"Send Authorization: Bearer with the value of {name}.")

    @app.post("/webhook/minio")
    @described(
        "Take an S3 event document.", answers=(200, 400, 413, 503), body={JSON: Document}, query={"hint": TEXT}
    )
    def minio() -> Answer:
        jobs.delivered(hint="hint" in request.args)
        if jobs.full():
            return _unavailable(f"{settings.max_queued_jobs} jobs or more are waiting (MAX_QUEUED_JOBS)")
        wanted, ignored, buried = [], [], []
        for record in records(request.get_data()):
            try:
                event = parse(record)
            except ValueError as error:
                log.warning("Dead-lettered a record: %s", error)
                jobs.bury(record, str(error))
                buried.append({"reason": str(error)})
                continue
            if reason := _why_ignored(event.name, event.bucket, settings):
                ignored.append({"bucket": event.bucket, "object": event.key, "event": event.name, "reason": reason})
                continue
            log.info("Processing event %s for %s/%s", event.name, event.bucket, event.key)
            wanted.append(jobs.from_event(event))
        enqueued = jobs.enqueue(wanted)
        for outcome, count in (
            ("job", len(enqueued)),
            ("ignored", len(ignored)),
            ("dead_letter", len(buried)),
        ):
            metrics.EVENTS.labels(outcome).inc(count)
        return jsonify(
            status="success",
            processed_jobs=len(enqueued),
            jobs=enqueued,
            ignored=ignored,
            dead_lettered=buried,
        )

    @app.get("/health")
    @described("Whether it can take events.", answers=(200, 503), open=True)
    def health() -> Response:
        connection.ping()
        events: dict[str, Any] = {"held_back_s": jobs.held_back()}
        if events["held_back_s"]:
            events["problem"] = HELD_BACK
        answer = {"redis": "connected", "queues": settings.all_queues(), "events": events}
        return jsonify(status="healthy", service="webhook", **answer)

    @app.get("/health/live")
    @described("Whether it lives.", open=True)
    def live() -> Response:
        return jsonify(status="alive")

    @app.get("/job/<job_id>")
    @described("What became of a job.", answers=(200, 404, 503))
    def job(job_id: str) -> Answer:
        report = jobs.find(job_id)
        if report is None:
            return _error(404, f"There is no job {job_id}; finished ones are kept for {settings.result_ttl} s.")
        return jsonify(report)

    @app.get("/queue/stats")
    @described("Jobs by state.", answers=(200, 503))
    def stats() -> Response:
        names = settings.all_queues()
        by_queue = {name: jobs.stats(name) for name in names}
        return jsonify(status="success", queue_name=names[0], stats=by_queue[names[0]], queues=by_queue)

    @app.post("/test/queue")
    @described("Enqueue a job by hand.", answers=(200, 400, 413, 503), body={JSON: TestJob})
    def test_queue() -> Answer:
        test = TestJob.model_validate(load_json(request.get_data()))
        if reason := _why_ignored(test.event, test.bucket, settings):
            return _error(400, reason)
        wanted = jobs.new(test.bucket, test.object, test.event, at_front=test.priority == "high")
        if test.run_at is None:
            [answer] = jobs.enqueue([wanted])
        else:
            at = test.run_at if test.run_at.tzinfo else test.run_at.replace(tzinfo=UTC)
            answer = jobs.schedule(wanted, at)
        return jsonify({**answer, "status": "success", "job_status": answer["status"]})

    @app.get("/jobs/failed")
    @described("The failed jobs, with their reasons.", answers=(200, 503), query={"limit": LIMIT})
    def failed() -> Response:
        total, newest = jobs.failed(_limit())
        return jsonify(status="success", failed_jobs=total, jobs=newest)

    @app.post("/jobs/failed/requeue")
    @described("Put every failed job back on its queue.", answers=(200, 503))
    def requeue_all() -> Response:
        return jsonify(status="success", requeued=jobs.requeue_all())

    @app.post("/job/<job_id>/requeue")
    @described("Put a failed job back on its queue.", answers=(200, 404, 503))
    def requeue(job_id: str) -> Answer:
        if not jobs.requeue(job_id):
            return _error(404, f"There is no failed job {job_id}; GET /jobs/failed lists them.")
        return jsonify(status="success", requeued=1, job_id=job_id)

    @app.get("/events/dead")
    @described("The records that could not become jobs.", answers=(200, 503), query={"limit": LIMIT})
    def dead_letters() -> Response:
        total, newest = jobs.dead_letters(_limit())
        return jsonify(status="success", dead_letters=total, events=newest)

    @app.get("/metrics")
    @described("Metrics for Prometheus.", answers=(200, 503), media_type="text/plain")
    def metrics_text() -> Response:
        stats = {name: jobs.stats(name) for name in settings.all_queues()}
        text = metrics.exposition(stats, jobs.held_back(), jobs.compared())
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json")
    @described("This description.")
    def description() -> Response:
        return jsonify(document(app, "LookingGlass webhook"))

    app.register_error_handler(RedisError, _redis_trouble)
    app.register_error_handler(MalformedDocumentError, _bad_request)
    app.register_error_handler(ValidationError, _bad_request)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
    return app


def _why_ignored(event: str, bucket: str, settings: WebhookSettings) -> str | None:
    """Why an event is none of the pipeline's business; None if it is."""
    if bucket not in settings.buckets():
        configured = " and ".join(sorted(settings.buckets()))
        return f"The bucket {bucket} is not configured; IMAGE_BUCKET and VIDEO_BUCKET name {configured}."
    if event not in CREATED and not event.startswith(REMOVED):
        return f"The event {event} says nothing of an object's content."
    return None


def _limit() -> int:
    return max(1, min(request.args.get("limit", 100, type=int), LIST_LIMIT))


def _error(status: int, message: str) -> tuple[Response, int]:
    return jsonify(status="error", error=message), status


def _redis_trouble(error: RedisError) -> tuple[Response, int]:
    log.warning("Redis cannot take or give anything now: %s", error)
    return _unavailable(f"Redis cannot take or give anything now ({error})")


def _unavailable(why: str) -> tuple[Response, int]:
    answer, status = _error(503, f"{why}; send this again later.")
    answer.headers["Retry-After"] = "3"
    return answer, status


def _bad_request(error: Exception) -> tuple[Response, int]:
    if isinstance(error, ValidationError):
        return _error(400, f"{first_problem(error)}.")
    return _error(400, str(error))


def _http(error: HTTPException) -> tuple[Response, int]:
    return _error(error.code or 500, error.description or error.name)


def _unexpected(error: Exception) -> tuple[Response, int]:
    log.exception("Unexpected error")
    return _error(500, f"Unexpected {type(error).__name__}; the webhook's log has the details.")
