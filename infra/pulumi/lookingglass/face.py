"""The face services: the only writers of the index."""

from typing import Any

import pulumi

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import Port, Service, http_health, numbered
from lookingglass.settings import Settings
from lookingglass.webhook import USER

PORT = 5001

#: Where the embedded index and the packs are in the container.
INDEX_DIR = "/var/lib/lookingglass"
MODEL_DIR = "/models"

#: A GPU that the Swarm chooses, on the node that it chooses.
ANY = "any"

#: Part of the memory that decoders may hand pictures over in.
SHARED_MEMORY_PART = 4

#: Seconds for the pictures in hand.
STOP_GRACE = 90

#: Shards of each collection for each node of a cluster: what its cores write at once, and can be moved to more nodes.
SHARDS_PER_NODE = 2


class FaceService(Deployment):
    """One face service, on a GPU or on the CPU, or all of them. Workers find them under one name."""

    def __init__(self, number: int | None, base: Foundation, *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        gpu = _gpu(settings, number)
        environment = {
            "GPU_WORKER_HOST": "0.0.0.0",  # noqa: S104 - inside the container; what is published is said below
            "GPU_WORKER_PORT": str(PORT),
            "ENGINE": settings.engine,
            "DEVICE": "cuda" if gpu else "cpu",
        }
        secrets = {"gpu_worker_token": credentials.gpu_worker}
        more: dict[str, Any] = {}
        if settings.engine == "insightface":
            environment |= {"MODEL_DIR": MODEL_DIR, "MODEL_PACK": settings.model_pack}
            more["host_directories"] = {MODEL_DIR: settings.model_dir}
        if gpu:
            environment["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
        if gpu and gpu != ANY:
            environment["NVIDIA_VISIBLE_DEVICES"] = gpu
        if settings.index == "embedded":
            environment["INDEX_DIR"] = INDEX_DIR
            more["data"] = {INDEX_DIR: "index"}
        if base.endpoints.qdrant_url:
            environment["QDRANT_URL"] = base.endpoints.qdrant_url
        if settings.index_copies:
            environment["QDRANT_REPLICAS"] = str(settings.index_copies)
        if settings.qdrant_nodes > 1:
            environment["QDRANT_SHARDS"] = str(SHARDS_PER_NODE * settings.qdrant_nodes)
        if base.endpoints.qdrant_url and base.endpoints.qdrant_api_key:
            secrets["qdrant_api_key"] = base.endpoints.qdrant_api_key
        service = Service(
            role="gpu-worker",
            name=numbered("gpu-worker", number),
            replicas=1 if number else settings.faces,
            image=base.images.face,
            user=USER,
            networks=base.networks.of("gpu-worker"),
            command=("python", "-m", "app.gpu"),
            environment=environment,
            secrets=secrets,
            # One is enough to ask; they answer for the same index.
            ports=[Port(internal=PORT, external=settings.gpu_worker_port)] if number in (1, None) else [],
            stop_grace=STOP_GRACE,
            shared_memory=settings.memory_of("gpu-worker") // SHARED_MEMORY_PART,
            health=http_health(PORT, "/health", start_period=240),
            gpu=gpu,
            **more,
        )
        super().__init__(service, base, *after)


def _gpu(settings: Settings, number: int | None) -> str | None:
    if not settings.gpus:
        return None
    return settings.gpus[number - 1] if number else ANY
