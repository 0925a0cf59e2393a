"""Whether the data that is there fits the number of nodes that it is to be spread over.

Seen are the services of the stack, and the volumes of the engine that is asked; volumes of other nodes are not.
"""

import re
from collections.abc import Iterator

import docker
from docker.models.services import Service

from lookingglass.engine import LABEL
from lookingglass.settings import Settings


def problems(settings: Settings, client: docker.DockerClient, stack: str) -> Iterator[str]:
    """A line for each service whose data is spread over another number of nodes, from which nothing leads there."""
    services = {str(service.name): service for service in client.services.list(filters={"label": f"{LABEL}={stack}"})}
    there = services.keys() | {str(volume.name) for volume in client.volumes.list()}
    for role, words in (("qdrant", _qdrant), ("minio", _minio)):
        name, wanted = f"lookingglass-{stack}-{role}", settings.nodes_of(role)
        if role not in settings.runs:
            continue
        numbers = [int(found[1]) for one in there if (found := re.fullmatch(rf"{re.escape(name)}-(\d+)", one))]
        if wanted > 1 and name in there:
            yield words(name, wanted)
        elif wanted == 1 and numbers:
            yield words(f"{name}-{max(numbers)}", wanted)
        elif role == "minio" and (first := services.get(f"{name}-1")) and (formed := _formed(first)) != wanted:
            yield (
                f"minioNodes: each object is spread over {formed} nodes, which stays so: set it back, or bring up "
                f"another stack with {wanted} and copy the objects (`mc mirror`)"
            )
        elif role == "qdrant" and max(numbers, default=0) > wanted:
            yield (
                f"qdrantNodes: {name}-{max(numbers)} has a part of the index: move it to the others and remove the "
                "peer (docs/hosts.md), then the service and its volume, and `pulumi refresh`; or set it back"
            )


def _formed(first: Service) -> int | None:
    """Over how many nodes a MinIO's objects are spread, as its first service was told."""
    arguments = " ".join(first.attrs["Spec"]["TaskTemplate"]["ContainerSpec"].get("Args") or [])
    found = re.search(r"\{1\.\.\.(\d+)\}", arguments)
    return int(found[1]) if found else None


def _minio(holder: str, wanted: int) -> str:
    return (
        f"minioNodes: {holder} holds the objects of another number of nodes than {wanted}, which stays so: set it "
        f"back, or bring up another stack with {wanted} and copy the objects (`mc mirror`)"
    )


def _qdrant(holder: str, wanted: int) -> str:
    return (
        f"qdrantNodes: {holder} holds the index of another number of nodes than {wanted}, with other copies: set it "
        f"back, or `pulumi destroy`, `docker volume rm {holder}` on its node, `pulumi up`, and the next comparison "
        "fills the index from the buckets"
    )
