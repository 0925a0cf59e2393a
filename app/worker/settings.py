"""Settings of the worker."""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from app.common.jobs import JobSettings


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class WorkerSettings(JobSettings):
    """The worker's environment, beyond what enqueueing needs."""

    #: `host:port`, or a URL; https where it says so.
    minio_endpoint: str = Field("localhost:9000", pattern=r"^(https?://)?[^/\s]+/?$")
    minio_user: str = "minioadmin"
    minio_password: SecretStr = SecretStr("minioadmin")
    #: Given, because a user who may only read objects may not look it up.
    minio_region: str = "us-east-1"
    #: One face service or several, separated by commas; each name may stand for several addresses.
    gpu_worker_url: str = Field("http://localhost:5001", pattern=r"^https?://[^,\s]+(,\s*https?://[^,\s]+)*$")
    gpu_worker_token: SecretStr | None = None
    worker_name: str = Field("worker", min_length=1)
    #: Queues served, in order of precedence.
    queue_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)] = (
        "facial_recognition",
    )

    #: Seconds between two comparisons of buckets and index; 0 for none but those by hand.
    reconcile_interval: int = Field(3600, ge=0)

    #: Address space of a job's process, in bytes: a decoder that wants more takes its own job with it, no other.
    job_memory_bytes: int = Field(4 * 2**30, ge=2**30)
    #: Largest picture fetched, in bytes; the face service has its own limit of the same name.
    max_image_bytes: int = Field(64 * 2**20, ge=1024)
    #: Seconds between two frames of a video that are looked at, while the budget lasts.
    video_frame_interval: float = Field(1.0, gt=0)
    #: Most frames of one video that the face service is asked about; a longer video is sampled more thinly.
    video_max_frames: int = Field(1000, ge=1)
    #: Largest frame accepted, in pixels.
    video_max_pixels: int = Field(50_000_000, ge=1024)

    def served(self) -> list[str]:
        """The queues served, that of comparisons last."""
        return list(dict.fromkeys((*self.queue_names, self.reconcile_queue_name)))
