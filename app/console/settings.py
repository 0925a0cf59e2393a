"""Settings of the console."""

from typing import Self

from pydantic import Field, SecretStr, model_validator

from app.common.jobs import JobSettings


class ConsoleSettings(JobSettings):
    """The console's environment, beyond what enqueueing needs."""

    console_host: str = "127.0.0.1"
    console_port: int = Field(5003, ge=1, le=65535)
    #: What an operator signs in with; the console does not start without.
    console_token: SecretStr | None = None
    #: Whether browsers reach it over https, through a proxy: its cookie is sent over nothing else then.
    console_https: bool = False

    webhook_url: str = Field("http://localhost:5002", pattern=r"^https?://")
    #: What the webhook asks operators for.
    api_token: SecretStr | None = None
    #: The face service, or several, separated by commas.
    gpu_worker_url: str = Field("http://localhost:5001", pattern=r"^https?://")
    gpu_worker_token: SecretStr | None = None

    #: `host:port`, or a URL; https where it says so.
    minio_endpoint: str = Field("localhost:9000", pattern=r"^(https?://)?[^/\s]+/?$")
    #: A user who may read both buckets, and nothing else.
    minio_user: str = "minioadmin"
    minio_password: SecretStr = SecretStr("minioadmin")
    minio_region: str = "us-east-1"
    #: Largest picture shown, in bytes.
    max_image_bytes: int = Field(64 * 2**20, ge=1024)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.console_token is None or len(self.console_token.get_secret_value()) < 16:
            raise ValueError("CONSOLE_TOKEN: set what operators sign in with, 16 characters or more")
        return self

    def face_services(self) -> list[str]:
        """The URL of each face service."""
        return [url.strip().rstrip("/") for url in self.gpu_worker_url.split(",") if url.strip()]
