"""Settings of the local stack; the services' own variables pass through to them."""

from pathlib import Path

from pydantic import Field

from app.common.settings import ServiceSettings
from infra.contract import PORTS


class LocalSettings(ServiceSettings):
    """The local stack's environment. Two copies side by side need two state directories and other ports."""

    #: Where data, logs and `outputs.json` live.
    lookingglass_dir: Path = Path(".lookingglass")
    webhook_port: int = Field(PORTS["webhook"], ge=1, le=65535)
    gpu_worker_port: int = Field(PORTS["gpu_worker"], ge=1, le=65535)
    console_port: int = Field(PORTS["console"], ge=1, le=65535)
    redis_port: int = Field(PORTS["redis"], ge=1, le=65535)
    minio_port: int = Field(PORTS["minio"], ge=1, le=65535)
    minio_console_port: int = Field(PORTS["minio_console"], ge=1, le=65535)
    #: Port of a Prometheus that watches it, where one is on PATH; none without.
    prometheus_port: int | None = Field(None, ge=1, le=65535)
    #: Worker processes. None: two more than cores, at most 16, so that few engine processes wait for a picture.
    workers: int | None = Field(None, ge=1, le=64)
    #: Queues each worker serves.
    queue_names: str = "facial_recognition"
    minio_user: str = Field("minioadmin", min_length=3)
    minio_password: str = Field("minioadmin", min_length=8)
    image_bucket: str = "images"
    video_bucket: str = "videos"
    qdrant_url: str | None = None

    def ports(self) -> dict[str, int]:
        """The port of each listener, by the variable that sets it."""
        named = {name.upper(): getattr(self, name) for name in type(self).model_fields if name.endswith("_port")}
        return {variable: port for variable, port in named.items() if port is not None}
