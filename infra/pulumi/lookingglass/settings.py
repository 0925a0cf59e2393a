"""The stack's configuration, checked before the first resource."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import pulumi
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from infra.contract import PORTS
from lookingglass import existing, rules

#: Services that take environment variables and memory limits of the operator's.
ServiceName = Literal[
    "redis",
    "minio",
    "qdrant",
    "webhook",
    "worker",
    "gpu-worker",
    "console",
    "prometheus",
    "grafana",
    "redis-exporter",
    "gpu-exporter",
    "registry",
]

#: The queue of everything without a queue of its own.
QUEUE_NAME = "facial_recognition"

#: Words in the name of a variable whose value would be a secret, which no environment may hold.
SECRET_WORDS = ("PASSWORD", "TOKEN", "SECRET", "API_KEY")

#: MiB each service may use: what it was seen to need, and room for its largest input.
MEMORY: dict[ServiceName, int] = {
    "redis": 1024,
    "minio": 2048,
    "qdrant": 4096,
    "webhook": 512,
    "worker": 1536,
    "gpu-worker": 8192,
    "console": 1024,
    "prometheus": 1024,
    "grafana": 512,
    "redis-exporter": 128,
    "gpu-exporter": 512,
    "registry": 512,
}

#: In place of an image's name: make one.
BUILD = "build"

BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"

QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]

Port = Annotated[int, Field(ge=1, le=65535)]


def _pinned(image: str) -> str:
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" in image or tag not in ("", "latest"):
        return image
    raise ValueError("name a version (a tag other than latest, or a digest), or an update comes unasked")


def _built_or_pinned(image: str) -> str:
    return image if image == BUILD else _pinned(image)


PinnedImage = Annotated[str, Field(min_length=1), AfterValidator(_pinned)]

#: A GPU by index or UUID; YAML makes a number of an index.
GPU = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(pattern=r"^(\d+|GPU-[0-9a-f-]+)$"),
]


class SettingsError(pulumi.RunError):
    """The stack's configuration is not usable; the message names every wrong key."""


class Settings(BaseModel):
    """The keys of `lookingglass:` in a stack's configuration; the value of one with `repr=False` is never shown."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    #: What runs the services: one engine, or the Swarm that the engine manages.
    orchestrator: Literal["docker", "swarm"] = "docker"
    #: Where the nodes of a Swarm get our images from, as `registry.example:5000/faces`; `docker login` to it here.
    registry: str | None = Field(None, pattern=r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._/-]+)?$")
    #: Whether the stack runs that registry itself, on the node with its label; `make cluster` made its certificates.
    run_registry: bool = False
    #: Whether the networks of a Swarm are encrypted between its nodes.
    encrypted_networks: bool = False
    #: MTU of the network between the nodes of a Swarm; Docker takes off itself what its tunnel and encryption need.
    network_mtu: int = Field(1500, ge=1280, le=9216)
    #: The engine, as `unix://…`, `tcp://…` or `ssh://user@host`; unset, what `DOCKER_HOST` says, or this machine's.
    docker_host: str | None = Field(None, pattern=r"^(unix|tcp|ssh)://")
    #: Address of the Docker host on which MinIO and the webhook listen. Everything else listens on loopback.
    public_address: str = "127.0.0.1"
    #: The same for the console.
    console_address: str = "127.0.0.1"
    #: The same for Prometheus, which asks nobody for a password, and Grafana.
    monitoring_address: str = "127.0.0.1"
    #: Name of the Docker host in the URLs that are put out; unset, derived from `publicAddress` and `dockerHost`.
    public_host: str | None = None
    webhook_port: Port = PORTS["webhook"]
    gpu_worker_port: Port = PORTS["gpu_worker"]
    console_port: Port = PORTS["console"]
    redis_port: Port = PORTS["redis"]
    minio_port: Port = PORTS["minio"]
    minio_console_port: Port = PORTS["minio_console"]
    qdrant_port: Port = PORTS["qdrant"]

    #: What finds faces: `dlib` on a CPU, `insightface` on GPUs or a CPU.
    engine: Literal["dlib", "insightface"] = "dlib"
    #: The GPU of each face service, by index or UUID as `nvidia-smi -L` lists them; none, and it runs on the CPU.
    gpus: list[GPU] = []
    #: Face services on CPUs; with `gpus` there is one to a GPU.
    face_services: int = Field(1, ge=1, le=64)
    #: Directory of the Docker host with a directory for each insightface pack.
    model_dir: str = Field("/srv/lookingglass/models", pattern=r"^/")
    #: The pack to use.
    model_pack: str = Field("buffalo_l", pattern=r"^[A-Za-z0-9_.-]+$")

    #: Webhooks; more than one to a Swarm, at most one to a node.
    webhooks: int = Field(1, ge=1, le=16)
    #: Worker containers.
    workers: int = Field(2, ge=1, le=256)
    #: Queues of their own for videos and removals; the workers serve every queue, pictures first.
    video_queue_name: QueueName | None = None
    cleanup_queue_name: QueueName | None = None
    #: Seconds a video's job may run; a worker is given as long to finish when it is stopped.
    video_job_timeout: int = Field(7200, ge=60)
    #: Variables of a service beyond those the program sets, as `{"worker": {"VIDEO_MAX_FRAMES": "500"}}`.
    environment: dict[ServiceName, dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], str]] = Field(
        {}, repr=False
    )

    image_bucket: str = Field("images", pattern=BUCKET)
    video_bucket: str = Field("videos", pattern=BUCKET)
    #: `server`: a Qdrant of its own; `embedded`: inside the one face service, for some hundred thousand faces.
    index: Literal["server", "embedded"] = "server"
    #: Nodes of a Swarm over which the index is spread: one, or three and more, which may lose one.
    qdrant_nodes: int = Field(1, ge=1, le=16)
    #: Copies of the index's parts, each on another node; unset, three, or with a server that stands already its own.
    qdrant_replicas: int | None = Field(None, ge=1, le=16)
    #: Nodes of a Swarm over which the buckets are spread: one, or four and more, which may lose one.
    minio_nodes: int = Field(1, ge=1, le=16)
    #: Services that stand already, in place of the stack's own.
    storage: existing.Storage | None = Field(None, repr=False)
    redis_url: existing.RedisAddress | None = Field(None, repr=False)
    qdrant_url: existing.HTTPAddress | None = None
    qdrant_api_key: SecretStr | None = Field(None, repr=False)
    #: Whether a Prometheus with alerts and a Grafana with dashboards belong to the stack, and what tells them of
    #: Redis and of cards.
    monitoring: bool = False
    prometheus_port: Port = 9090
    grafana_port: Port = 3000
    #: Whether the data volumes outlive `pulumi destroy`.
    retain_data: bool = True

    #: MiB a service may use, where the default does not suit.
    memory: dict[ServiceName, Annotated[int, Field(ge=64)]] = {}
    #: Files a service may have open. The engine may allow less; turn it down then.
    open_files: int = Field(65536, ge=1024)
    #: Processes and threads the user of a service may have.
    processes: int = Field(4096, ge=64)

    #: What both built images start from: Debian with Python 3.11 or newer.
    base_image: PinnedImage = "python:3.11-slim-bookworm"
    redis_image: PinnedImage = "redis:7.2.7-bookworm"
    qdrant_image: PinnedImage = "qdrant/qdrant:v1.18.3-unprivileged"
    #: MinIO's maintained successor; `build` makes an image of MinIO's last source.
    minio_image: Annotated[str, AfterValidator(_built_or_pinned)] = "pgsty/silo:RELEASE.2026-09-16T00-00-00Z"
    prometheus_image: PinnedImage = "prom/prometheus:v3.5.0"
    grafana_image: PinnedImage = "grafana/grafana:12.1.1"
    redis_exporter_image: PinnedImage = "oliver006/redis_exporter:v1.74.0-alpine"
    gpu_exporter_image: PinnedImage = "nvcr.io/nvidia/k8s/dcgm-exporter:4.5.2-4.8.1-ubuntu22.04"
    registry_image: PinnedImage = "registry:3.0.0"
    #: Images to use instead of building them.
    app_image: PinnedImage | None = None
    face_image: PinnedImage | None = None
    #: Index that pip installs from while images are built; no passwords, for images keep their build arguments.
    pip_index_url: str | None = Field(None, pattern=r"^https?://[^@]+$", repr=False)
    #: Proxy that Go fetches MinIO's source from.
    go_proxy: str | None = Field(None, pattern=r"^[^@]+$", repr=False)
    #: File of PEM certificates that the images trust beside the public ones.
    ca_bundle: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _decode(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Pulumi hands structured values over as JSON."""
        return {key: _structure(value) for key, value in values.items()}

    @field_validator("public_address", "console_address", "monitoring_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            return str(ip_address(value))
        except ValueError:
            raise ValueError("give an IP address of the Docker host, or 0.0.0.0 for all of them") from None

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for service, variables in value.items():
            for name in variables:
                if any(word in name for word in SECRET_WORDS):
                    raise ValueError(f"{service}: {name} would show in `docker inspect`; secrets go into files")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if problems := list(rules.problems(self)):
            raise ValueError("\n  ".join(problems))
        return self

    @property
    def remote(self) -> bool:
        """Whether the engine is on another machine."""
        return bool(self.docker_host) and not str(self.docker_host).startswith("unix://")

    @property
    def host(self) -> str:
        """Name or address at which this machine reaches what is published on `publicAddress`."""
        return self.host_of(self.public_address)

    def host_of(self, address: str) -> str:
        """The same for what is published on another address; on loopback, as the Docker host sees it."""
        if ip_address(address).is_loopback and address != self.public_address:
            return address
        if self.public_host:
            return self.public_host
        if not ip_address(address).is_unspecified:
            return address
        return (urlsplit(self.docker_host).hostname if self.remote and self.docker_host else None) or "127.0.0.1"

    @property
    def faces(self) -> int:
        """How many face services there are."""
        return len(self.gpus) or self.face_services

    def numbers(self, count: int) -> Sequence[int | None]:
        """The numbers of services of one kind, each described by itself; None for all as one, where Swarm numbers."""
        return [None] if self.orchestrator == "swarm" else range(1, count + 1)

    @property
    def queues(self) -> dict[str, str]:
        """The variables with which webhook and workers agree on queues."""
        own = {"VIDEO_QUEUE_NAME": self.video_queue_name, "CLEANUP_QUEUE_NAME": self.cleanup_queue_name}
        return {
            "QUEUE_NAME": QUEUE_NAME,
            **{name: queue for name, queue in own.items() if queue},
            "VIDEO_JOB_TIMEOUT": str(self.video_job_timeout),
        }

    @property
    def runs(self) -> frozenset[ServiceName]:
        """The services of the stack's own."""
        given: dict[ServiceName, Any] = {
            "redis": self.redis_url,
            "minio": self.storage,
            "qdrant": self.qdrant_url or self.index == "embedded",
            "prometheus": not self.monitoring,
            "grafana": not self.monitoring,
            "redis-exporter": self.redis_url or not self.monitoring,
            "gpu-exporter": not (self.monitoring and self.gpus and self.orchestrator == "docker"),
            "registry": not self.run_registry,
        }
        return frozenset(role for role in MEMORY if not given.get(role))

    @property
    def pinned(self) -> list[ServiceName]:
        """The services that keep data, which in a Swarm stay on the node that has it."""
        keeping: list[ServiceName] = ["redis", "minio", "qdrant", "prometheus", "grafana", "registry"]
        return [role for role in keeping if role in self.runs] + (["gpu-worker"] if self.index == "embedded" else [])

    def nodes_of(self, role: str) -> int:
        """Over how many nodes a service's data is spread."""
        return {"qdrant": self.qdrant_nodes, "minio": self.minio_nodes}.get(role, 1)

    def places(self, role: str) -> Sequence[int | None]:
        """The numbers of a service's nodes, where its data is spread over several; None for the one otherwise."""
        nodes = self.nodes_of(role)
        return [None] if nodes == 1 else range(1, nodes + 1)

    @property
    def registry_port(self) -> int | None:
        """Where a registry of the stack's own listens; None where `registry` is not an IP address and a port."""
        host, _, port = (self.registry or "").rpartition(":")
        try:
            ip_address(host)
        except ValueError:
            return None
        return int(port) if port.isdecimal() and 0 < int(port) < 65536 else None

    @property
    def index_copies(self) -> int | None:
        """Copies of each part of the index: three, so that with one away two still are the majority."""
        return self.qdrant_replicas or (min(3, self.qdrant_nodes) if self.qdrant_nodes > 1 else None)

    @property
    def published(self) -> dict[str, int]:
        """The ports, by key, of the services that the stack runs."""
        absent = MEMORY.keys() - self.runs
        return {key: port for key, port in self.ports.items() if not key.startswith(tuple(absent))}

    @property
    def ports(self) -> dict[str, int]:
        """The published ports by key."""
        return {to_camel(name): getattr(self, name) for name in type(self).model_fields if name.endswith("_port")}

    @property
    def builds(self) -> dict[str, bool]:
        """Which images are built, by the key that would name one instead."""
        own_face = self.engine == "insightface" and not self.face_image
        return {
            "appImage": not self.app_image,
            "faceImage": own_face,
            "minioImage": "minio" in self.runs and self.minio_image == BUILD,
        }

    @property
    def pulled_images(self) -> dict[str, str]:
        """The images that the engine must have or pull, by key."""
        named = {
            "redisImage": self.redis_image if "redis" in self.runs else None,
            "qdrantImage": self.qdrant_image if "qdrant" in self.runs else None,
            "minioImage": self.minio_image if "minio" in self.runs and not self.builds["minioImage"] else None,
            "prometheusImage": self.prometheus_image if self.monitoring else None,
            "grafanaImage": self.grafana_image if self.monitoring else None,
            "redisExporterImage": self.redis_exporter_image if "redis-exporter" in self.runs else None,
            "gpuExporterImage": self.gpu_exporter_image if "gpu-exporter" in self.runs else None,
            "registryImage": self.registry_image if self.run_registry else None,
            "appImage": self.app_image,
            "faceImage": self.face_image,
            "baseImage": self.base_image if any(self.builds.values()) else None,
        }
        return {key: image for key, image in named.items() if image}

    @property
    def limits(self) -> dict[str, tuple[str, int]]:
        """The name and value of each limit of a process, by key."""
        return {"openFiles": ("nofile", self.open_files), "processes": ("nproc", self.processes)}

    def memory_of(self, service: ServiceName) -> int:
        """MiB a service may use."""
        return self.memory.get(service, MEMORY[service])


def load(config: Mapping[str, str], secret_keys: Collection[str] = ()) -> Settings:
    """Read the keys of `lookingglass:`, of which some are encrypted in the configuration.

    Raises:
        SettingsError: naming each wrong key and what is allowed, and its value unless that may be a secret.
    """
    try:
        return Settings.model_validate(dict(config))
    except ValidationError as error:
        raise SettingsError(_explain(error, secret_keys)) from None


def _structure(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"\s*[\[{]", value):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, secret_keys: Collection[str]) -> str:
    shown = {to_camel(name) for name, field in Settings.model_fields.items() if field.repr}.difference(secret_keys)
    lines = ["the stack's configuration is not usable:"]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = ", ".join(to_camel(name) for name in Settings.model_fields)
            message = f"there is no such key; the keys are {known}"
        if not key:
            lines.append(f"  {message}")
        elif problem["loc"][0] in shown:
            lines.append(f"  lookingglass:{key} = {problem['input']!r}: {message}")
        else:
            lines.append(f"  lookingglass:{key}: {message}")
    return "\n".join(lines)
