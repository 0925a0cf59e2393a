"""The webhook, as the console calls it."""

from typing import Any
from urllib.parse import quote

from app.console.settings import ConsoleSettings
from app.console.upstream import Service

#: Most failed jobs or dead letters that it lists at once.
LIST_LIMIT = 1000

#: What a job enqueued by hand names as its event; the job looks at the object whatever it says.
EVENT = "s3:ObjectCreated:Put"

JSON = dict[str, Any]


class Webhook:
    """Failed jobs, dead-lettered events, and new jobs."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._service = Service("The webhook", settings.webhook_url, settings.api_token)

    def health(self) -> JSON:
        """Whether events come, as `GET /health` says it."""
        return self._service.get("/health")

    def failed(self, limit: int = LIST_LIMIT) -> tuple[int, list[JSON]]:
        """How many jobs have failed, and the newest of them."""
        answer = self._service.get("/jobs/failed", limit=limit)
        return answer["failed_jobs"], answer["jobs"]

    def dead_events(self, limit: int = LIST_LIMIT) -> tuple[int, list[JSON]]:
        """How many event records could not become jobs, and the newest of them."""
        answer = self._service.get("/events/dead", limit=limit)
        return answer["dead_letters"], answer["events"]

    def requeue(self, job_id: str) -> None:
        """Put a failed job back on its queue."""
        self._service.ask("POST", f"/job/{quote(job_id, safe='')}/requeue")

    def requeue_all(self) -> int:
        """Put every failed job back; return how many."""
        return int(self._service.ask("POST", "/jobs/failed/requeue")["requeued"])

    def enqueue(self, bucket: str, key: str) -> str:
        """Have a worker look at an object; return the job's id."""
        answer = self._service.ask("POST", "/test/queue", body={"bucket": bucket, "object": key, "event": EVENT})
        return str(answer["job_id"])
