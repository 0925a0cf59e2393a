"""Settings of the webhook."""

from typing import Self

from pydantic import Field, SecretStr, model_validator

from app.common.jobs import JobSettings
from app.common.settings import require_token_beyond_loopback


class WebhookSettings(JobSettings):
    """The webhook's environment, beyond what enqueueing needs."""

    webhook_host: str = "127.0.0.1"
    webhook_port: int = Field(5002, ge=1, le=65535)
    #: Requests worked on at once; one that is still coming in takes none.
    webhook_threads: int = Field(16, ge=1, le=256)
    #: What MinIO sends with each event.
    webhook_token: SecretStr | None = None
    #: What operators send with everything else.
    api_token: SecretStr | None = None
    #: Largest request body. MinIO sends one event at a time, of a few kB.
    max_body_bytes: int = Field(2**20, ge=4096)
    #: Jobs waiting above which events are left with MinIO, for it keeps them on disk and Redis in memory.
    max_queued_jobs: int = Field(100_000, ge=1)

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> Self:
        for token, name in ((self.webhook_token, "WEBHOOK_TOKEN"), (self.api_token, "API_TOKEN")):
            require_token_beyond_loopback(self.webhook_host, token, host_name="WEBHOOK_HOST", token_name=name)
        return self
