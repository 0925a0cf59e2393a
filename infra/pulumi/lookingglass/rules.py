"""Which keys of the configuration do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lookingglass.settings import Settings


def problems(settings: Settings) -> Iterator[str]:
    """Everything that is wrong with keys which each by itself is right: the key, and what to do."""
    yield from _faces(settings)
    yield from _ports(settings)
    yield from _standing(settings)
    yield from _spread(settings)
    yield from (_swarm if settings.orchestrator == "swarm" else _docker)(settings)
    if settings.image_bucket == settings.video_bucket:
        yield "videoBucket: must differ from imageBucket"


def _faces(settings: Settings) -> Iterator[str]:
    if settings.engine == "dlib" and settings.gpus:
        yield "gpus: the dlib engine runs on the CPU; set engine to insightface"
    if len(set(settings.gpus)) < len(settings.gpus):
        yield "gpus: a GPU is named twice"
    if settings.gpus and settings.face_services > 1:
        yield "faceServices: with gpus there is one to a GPU; leave it out"
    if settings.index == "embedded" and settings.faces > 1:
        yield "index: embedded serves one face service only; set it to server, or have one GPU and one face service"
    if settings.index == "embedded" and settings.qdrant_url:
        yield "index: embedded needs no qdrantUrl; take one of them away"


def _ports(settings: Settings) -> Iterator[str]:
    if settings.remote and _on_loopback(settings):
        yield (
            "publicAddress: with an engine on another host, buckets are set up over the network: give an address of "
            "that host which this machine reaches"
        )
    if len(set(settings.ports.values())) < len(settings.ports):
        yield f"ports: two of {settings.ports} are the same"


def _standing(settings: Settings) -> Iterator[str]:
    if settings.qdrant_api_key and not settings.qdrant_url:
        yield "qdrantApiKey: goes with a qdrantUrl; our own has one"
    if settings.storage and not settings.storage.webhook_url and _on_loopback(settings):
        yield (
            "publicAddress: the storage posts its events to the webhook: give an address of the Docker host that it "
            "reaches, or storage.webhookUrl"
        )


def _spread(settings: Settings) -> Iterator[str]:
    nodes, copies = settings.qdrant_nodes, settings.qdrant_replicas
    if nodes == 2:
        yield "qdrantNodes: of two, one is no majority when the other is lost; take 3 or more, or 1"
    if settings.minio_nodes in (2, 3):
        yield f"minioNodes: {settings.minio_nodes} cannot lose one and go on writing; take 4 or more, or 1"
    for key, role in (("qdrantNodes", "qdrant"), ("minioNodes", "minio")):
        if settings.nodes_of(role) > 1 and role not in settings.runs:
            yield f"{key}: is for a service of the stack's own, and there is none here; leave it out"
        elif settings.nodes_of(role) > 1 and settings.orchestrator != "swarm":
            yield f"{key}: more than one need a Swarm"
    if copies and "qdrant" in settings.runs and copies > nodes:
        yield f"qdrantReplicas: {copies} copies need as many nodes, and qdrantNodes is {nodes}"
    if copies == 1 and nodes > 1:
        yield "qdrantReplicas: with one copy, a lost node takes its part of the index along; take 2, or better 3"
    if copies and settings.index == "embedded":
        yield "qdrantReplicas: an embedded index has one copy; leave it out"


def _docker(settings: Settings) -> Iterator[str]:
    if settings.run_registry:
        yield "runRegistry: is for the nodes of a Swarm; one engine keeps what it builds"
    elif settings.registry:
        yield "registry: is for the nodes of a Swarm; one engine keeps what it builds"
    if settings.webhooks > 1:
        yield "webhooks: more than one need a Swarm"
    if settings.encrypted_networks:
        yield "encryptedNetworks: one engine's networks leave no host"


def _swarm(settings: Settings) -> Iterator[str]:
    if not settings.retain_data:
        yield "retainData: a Swarm's volumes are its nodes', and stay; set it to true"
    if not ip_address(settings.public_address).is_unspecified:
        yield "publicAddress: a Swarm publishes MinIO and the webhook on all addresses of a node: 0.0.0.0"
    for key, given in (
        ("consoleAddress", settings.console_address),
        ("monitoringAddress", settings.monitoring_address),
    ):
        if not ip_address(given).is_unspecified and not ip_address(given).is_loopback:
            yield f"{key}: a Swarm publishes on all addresses of a node, 0.0.0.0, or not at all, 127.0.0.1"
    if settings.run_registry and settings.registry_port is None:
        yield "runRegistry: registry has to be the IP address and port of its node, as 192.0.2.11:5000"
    elif settings.run_registry and settings.registry_port in settings.ports.values():
        yield f"registry: port {settings.registry_port} is another service's"
    if any(not gpu.startswith("GPU-") for gpu in settings.gpus):
        yield "gpus: in a Swarm name each by its UUID, as `nvidia-smi -L` lists it; each node has an index 0"


def _on_loopback(settings: Settings) -> bool:
    return ip_address(settings.public_address).is_loopback
