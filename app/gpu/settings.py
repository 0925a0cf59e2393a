"""Settings of the face service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from app.common.settings import ServiceSettings, require_token_beyond_loopback


class EngineSettings(ServiceSettings):
    """What an engine process is told; nothing secret."""

    engine: Literal["dlib", "insightface"] = "dlib"
    #: `cuda` refuses to be ready without a GPU, `auto` takes one if it is there and says so in `/health`.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Which GPU, as CUDA counts them.
    gpu_id: int = Field(0, ge=0)
    #: Directory that holds one directory per insightface pack.
    model_dir: Path = Path("models")
    model_pack: str = Field("buffalo_l", pattern=r"^[A-Za-z0-9_.-]+$")
    #: insightface's pretrained packs are for non-commercial use; they are fetched only with `non-commercial` here.
    insightface_license: Literal["", "non-commercial"] = ""
    #: Least detector score of a face that is kept; the engine's own default where unset.
    min_score: float | None = None
    #: Calls that an engine process has under way at once, and most images in one; the engine's own choice if unset.
    engine_threads: int | None = Field(None, ge=1, le=16)
    engine_batch: int | None = Field(None, ge=1, le=64)


class FaceSettings(EngineSettings):
    """The face service's environment."""

    gpu_worker_host: str = "127.0.0.1"
    gpu_worker_port: int = Field(5001, ge=1, le=65535)
    #: Asked of every caller when set; required to listen beyond loopback.
    gpu_worker_token: SecretStr | None = None

    #: Engine processes; unset, one per core on a CPU, one on a GPU.
    engine_processes: int | None = Field(None, ge=1, le=256)
    #: Decoder processes; unset, one per core beside a CPU's engines, and per core but one beside a GPU.
    decoders: int | None = Field(None, ge=1, le=256)
    #: Seconds one image may take before its process is ended.
    analysis_timeout: int = Field(60, ge=1)

    #: Largest image accepted, in bytes of the file and in pixels once decoded.
    max_image_bytes: int = Field(64 * 2**20, ge=1024)
    max_image_pixels: int = Field(100_000_000, ge=1024)
    #: Pictures, and as many frames of videos, that wait their turn; the next is told to come back.
    max_waiting: int = Field(64, ge=1, le=1000)
    #: Bytes of requests on their way in or waiting, all of them in memory; what is beyond is told to come back.
    max_waiting_bytes: int = Field(512 * 2**20, ge=2**20)

    #: A Qdrant server, or nodes of a cluster, separated by commas.
    qdrant_url: str | None = Field(None, pattern=r"^https?://[^,\s]+(,https?://[^,\s]+)*$")
    qdrant_api_key: SecretStr | None = None
    #: Copies of each shard, and shards, with which collections are created; unset, Qdrant's own numbers.
    qdrant_replicas: int | None = Field(None, ge=1, le=16)
    qdrant_shards: int | None = Field(None, ge=1, le=1024)
    #: Where the embedded index lives when there is no `QDRANT_URL`.
    index_dir: Path = Path("index")

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> Self:
        require_token_beyond_loopback(
            self.gpu_worker_host,
            self.gpu_worker_token,
            host_name="GPU_WORKER_HOST",
            token_name="GPU_WORKER_TOKEN",  # noqa: S106
        )
        return self
