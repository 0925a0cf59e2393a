"""The webhook's HTTP API.

What each answer does to MinIO decides its code: anything but 2xx is sent again every few seconds and holds back
every event behind it. So 503 only for what passes, 2xx for a record that can never be processed, 4xx only for
what MinIO does not send.
"""

import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from flask import Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel, Field, JsonValue
from redis import Redis
from redis.exceptions import RedisError

from app.common.errors import NotFoundError
from app.common.openapi import JSON, described
from app.common.redis import problem
from app.common.version import VERSION
from app.common.web import Answer, Service, Token, bad_request, error
from app.webhook import answers, metrics
from app.webhook.events import (
    CREATED,
    REMOVED,
    Event,
    MalformedDocumentError,
    check_key,
    load_json,
    parse,
    records,
)
from app.webhook.intake import Intake
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

#: Where MinIO sends its events.
MINIO_PATH = "/webhook/minio"


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


def create_app(settings: WebhookSettings, connection: "Redis") -> Service:
    """The WSGI application over a Redis connection."""
    tokens = Token("API_TOKEN", settings.api_token), Token("WEBHOOK_TOKEN", settings.webhook_token)
    app = Service("webhook", token_of=lambda path: tokens[path == MINIO_PATH], max_body_bytes=settings.max_body_bytes)
    intake, jobs = Intake(connection, settings), Jobs(connection, settings)

    @app.post(MINIO_PATH)
    @described(
        "Take an S3 event document.",
        answers=(200, 400, 413, 503),
        body={JSON: Document},
        query={"hint": TEXT},
        answer=answers.Taken,
    )
    def minio() -> Response:
        return jsonify(take("", request.query_string.decode(errors="replace"), request.get_data(cache=False)))

    @app.shortly("POST", MINIO_PATH, most=settings.max_body_bytes)
    def take(_path: str, query: str, body: bytes) -> dict[str, Any]:
        wanted, ignored, unusable = [], [], []
        for record in records(body):
            try:
                event = parse(record)
            except ValueError as error:
                unusable.append((record, str(error)))
                continue
            if reason := _why_ignored(event.name, event.bucket, settings):
                ignored.append({"bucket": event.bucket, "object": event.key, "event": event.name, "reason": reason})
                continue
            log.info("Processing event %s for %s/%s", event.name, event.bucket, event.key)
            wanted.append(intake.from_event(event))
        enqueued = intake.take(wanted, hint="hint" in parse_qs(query, keep_blank_values=True))
        for record, reason in unusable:
            log.warning("Dead-lettered a record: %s", reason)
            jobs.bury(record, reason)
        metrics.JOBS.inc(len(enqueued))
        metrics.IGNORED.inc(len(ignored))
        metrics.DEAD_LETTERS.inc(len(unusable))
        return {
            "status": "success",
            "processed_jobs": len(enqueued),
            "jobs": enqueued,
            "ignored": ignored,
            "dead_lettered": [{"reason": reason} for _, reason in unusable],
        }

    @app.get("/health")
    @described("Whether it can take events.", answers=(200, 503), open=True, answer=answers.Health)
    def health() -> Response:
        connection.ping()
        events: dict[str, Any] = {"held_back_s": jobs.held_back(), "last_at": jobs.last_event()}
        if events["held_back_s"]:
            events["problem"] = HELD_BACK
        answer = {"redis": "connected", "queues": settings.all_queues(), "events": events}
        return jsonify(status="healthy", service="webhook", version=VERSION, **answer)

    @app.get("/job/<job_id>")
    @described("What became of a job.", answers=(200, 404, 503), answer=answers.Report)
    def job(job_id: str) -> Answer:
        report = jobs.find(job_id)
        if report is None:
            kept = f"{settings.result_ttl} s, and {settings.max_finished_jobs} of them at most"
            raise NotFoundError(f"There is no job {job_id}; finished ones are kept for {kept}.")
        return jsonify(report)

    @app.get("/queue/stats")
    @described("Jobs by state.", answers=(200, 503), answer=answers.Stats)
    def stats() -> Response:
        queues = jobs.stats()
        name = settings.queue_name
        return jsonify(status="success", queue_name=name, stats=queues[name], queues=queues)

    @app.post("/test/queue")
    @described("Enqueue a job by hand.", answers=(200, 400, 413, 503), body={JSON: TestJob}, answer=answers.Enqueued)
    def test_queue() -> Answer:
        test = TestJob.model_validate(load_json(request.get_data()))
        if reason := _why_ignored(test.event, test.bucket, settings):
            raise bad_request(reason)
        wanted = intake.new(test.bucket, test.object, test.event, at_front=test.priority == "high")
        if test.run_at is None:
            answer = intake.enqueue(wanted)
        else:
            at = test.run_at if test.run_at.tzinfo else test.run_at.replace(tzinfo=UTC)
            answer = intake.schedule(wanted, at)
        return jsonify({**answer, "status": "success", "job_status": answer["status"]})

    @app.get("/jobs/failed")
    @described(
        "The failed jobs, with their reasons.", answers=(200, 503), query={"limit": LIMIT}, answer=answers.Failed
    )
    def failed() -> Response:
        total, newest = jobs.failed(_limit())
        return jsonify(status="success", failed_jobs=total, jobs=newest)

    @app.post("/jobs/failed/requeue")
    @described("Put every failed job back on its queue.", answers=(200, 503), answer=answers.Requeued)
    def requeue_all() -> Response:
        return jsonify(status="success", requeued=jobs.requeue_all())

    @app.post("/job/<job_id>/requeue")
    @described("Put a failed job back on its queue.", answers=(200, 404, 422, 503), answer=answers.Requeued)
    def requeue(job_id: str) -> Answer:
        if not jobs.requeue(job_id):
            raise NotFoundError(f"There is no failed job {job_id}; GET /jobs/failed lists them.")
        return jsonify(status="success", requeued=1, job_id=job_id)

    @app.get("/events/dead")
    @described(
        "The records that could not become jobs.",
        answers=(200, 503),
        query={"limit": LIMIT},
        answer=answers.DeadLetters,
    )
    def dead_letters() -> Response:
        total, newest = jobs.dead_letters(_limit())
        return jsonify(status="success", dead_letters=total, events=newest)

    @app.get("/metrics")
    @described("Metrics for Prometheus.", answers=(200, 503), media_type="text/plain")
    def metrics_text() -> Response:
        return Response(metrics.exposition(jobs.figures()), content_type=CONTENT_TYPE_LATEST)

    app.register_error_handler(RedisError, lambda error: _redis_trouble(error, settings))
    app.register_error_handler(MalformedDocumentError, _malformed)
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


def _redis_trouble(trouble: RedisError, settings: WebhookSettings) -> Answer:
    said = problem(trouble, settings.redis_url)
    log.warning("%s", said)
    return error(503, "unavailable", f"{said} Send this again later.")


def _malformed(malformed: MalformedDocumentError) -> Answer:
    return error(400, "bad_request", str(malformed))
