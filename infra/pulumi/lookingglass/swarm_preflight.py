"""What a Swarm must offer, asked of its manager before the first resource."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import docker
import docker.errors
import pulumi
import requests
from docker.models.nodes import Node

from infra.contract import CARD_RESOURCE, FIRST_DATA, data_label
from lookingglass import swarm_moves
from lookingglass.engine import LABEL
from lookingglass.settings import Settings

#: How a stack goes from one orchestrator to another.
MOVE = (
    "`pulumi destroy` takes them away and leaves the data, unless retainData was false; the next `pulumi up` finds "
    "it on its node"
)

#: What a registry says of an image that it does not have; with it, it has answered.
ANSWERED = (401, 403, 404)


@dataclass
class Found:
    """What was found: what is wrong, and the addresses of the nodes that services are pinned to, by role."""

    problems: list[str] = field(default_factory=list)
    hosts: dict[str, str] = field(default_factory=dict)


def look(client: docker.DockerClient, settings: Settings, stack: str) -> Found:
    """Ask the engine, which has to be a manager, for its Swarm and what the stack needs of it."""
    swarm = client.info()["Swarm"]
    if swarm.get("LocalNodeState") != "active":
        return Found(["orchestrator: the engine is in no Swarm; `docker swarm init` makes one of this node"])
    if not swarm.get("ControlAvailable"):
        return Found(["orchestrator: the engine is a worker of its Swarm; let dockerHost name a manager"])
    every = client.nodes.list()
    nodes = [node for node in every if _ready(node)]
    found = Found()
    for role in settings.pinned:
        count = settings.nodes_of(role)
        # One of several may be away; whatever else changes does not wait for it.
        found.problems += _pin(role, count, every if count > 1 else nodes, found.hosts)
    found.problems += [
        *swarm_moves.problems(settings, client, stack),
        *_cards(settings, nodes),
        *_webhooks(settings, nodes),
        *_registry(settings, client, nodes, stack),
        *_containers(client, stack),
        *_data(settings, client, stack, nodes, str(swarm["NodeID"])),
    ]
    return found


def _ready(node: Node) -> bool:
    return bool(node.attrs["Status"]["State"] == "ready" and node.attrs["Spec"]["Availability"] == "active")


def _labelled(role: str, value: str, nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if node.attrs["Spec"].get("Labels", {}).get(data_label(role)) == value]


def _pin(role: str, count: int, nodes: list[Node], hosts: dict[str, str]) -> Iterator[str]:
    """Each of a service's volumes has one node, which its number says; the first that is ready is the service's."""
    if count > max(len(nodes), 1):
        yield f"{role}Nodes: {count} need as many nodes, each its own; the Swarm has {len(nodes)}"
        return
    for value in map(str, range(int(FIRST_DATA), count + 1)):
        label, having = f"{data_label(role)}={value}", _labelled(role, value, nodes)
        if not having:
            yield f"{role} keeps data, and no node that is ready has the label {label}: {_giving(role, label, nodes)}"
        elif len(having) > 1:
            names = ", ".join(sorted(_name(node) for node in having))
            yield f"{role} keeps its data on one node, and {names} have the label {label}: take it from all but one"
        elif _ready(having[0]):
            hosts.setdefault(role, str(having[0].attrs["Status"]["Addr"]))
        else:
            pulumi.warn(f"{_name(having[0])}, which has the label {label}, is away: a change of {role} waits for it.")
    if nodes and count > 1 and role not in hosts:
        yield f"{role}Nodes: none of its nodes is ready"


def _giving(role: str, label: str, nodes: list[Node]) -> str:
    if role == "registry":  # whose certificates come with the label
        return "`make cluster` gives it to the host with swarm_keeps: {registry: 1} (docs/hosts.md)"
    names = ", ".join(sorted(_name(node) for node in nodes))
    return f"`docker node update --label-add {label} NODE`, with NODE one of {names}"


def _cards(settings: Settings, nodes: list[Node]) -> Iterator[str]:
    offered = {card for node in nodes for card in _cards_of(node)}
    for gpu in settings.gpus:
        if gpu not in offered:
            yield (
                f"gpus: no node that is ready offers {gpu}; its engine's configuration has to name it in "
                f"node-generic-resources, as {CARD_RESOURCE}={gpu} (docs/pulumi.md)"
            )


def _cards_of(node: Node) -> Iterator[str]:
    resources: list[dict[str, Any]] = node.attrs["Description"]["Resources"].get("GenericResources") or []
    for resource in resources:
        named = resource.get("NamedResourceSpec", {})
        if named.get("Kind") == CARD_RESOURCE:
            yield str(named["Value"])


def _webhooks(settings: Settings, nodes: list[Node]) -> Iterator[str]:
    if settings.webhooks > len(nodes):
        yield f"webhooks: {settings.webhooks} need as many nodes, each its own; {len(nodes)} are ready"


def _registry(settings: Settings, client: docker.DockerClient, nodes: list[Node], stack: str) -> Iterator[str]:
    built = [key for key, builds in settings.builds.items() if builds]
    if not built or (settings.run_registry and not _runs_registry(settings, client, stack)):
        return  # there is nothing to ask for, or nobody to ask yet
    if settings.registry is None:
        if len(nodes) > 1:
            yield (
                f"registry: the other nodes cannot get what is built here ({', '.join(built)}); name a registry that "
                "all of them reach, or images that are in one"
            )
        return
    try:
        client.api.inspect_distribution(f"{settings.registry}/lookingglass-preflight")  # type: ignore[no-untyped-call]
    except docker.errors.APIError as error:
        if error.status_code not in ANSWERED:
            yield f"registry: {settings.registry} does not answer the engine: {error.explanation}"
    except requests.RequestException as error:
        yield f"registry: {settings.registry} does not answer the engine: {error}"


def _runs_registry(settings: Settings, client: docker.DockerClient, stack: str) -> bool:
    """Whether the stack's own registry is up at its port; where it is not yet, or cannot start, `up` may mend it."""
    name = f"lookingglass-{stack}-registry"
    for service in client.services.list(filters={"name": name}):
        published = {port.get("PublishedPort") for port in service.attrs["Spec"]["EndpointSpec"].get("Ports", ())}
        if service.name == name and settings.registry_port in published:
            tasks = service.tasks({"desired-state": "running"})  # type: ignore[no-untyped-call]
            return any(task["Status"]["State"] == "running" for task in tasks)
    return False


def _containers(client: docker.DockerClient, stack: str) -> Iterator[str]:
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}={stack}"}):
        if "com.docker.swarm.service.id" not in container.labels:
            yield f"orchestrator: this stack runs as containers of this engine; {MOVE}"
            return


def _data(settings: Settings, client: docker.DockerClient, stack: str, nodes: list[Node], here: str) -> Iterator[str]:
    """Data of a stack that was this engine's alone is not to be left behind by a label on another node."""
    kept = {volume.name for volume in client.volumes.list(filters={"label": f"{LABEL}={stack}"})}
    for role in settings.pinned:
        if settings.nodes_of(role) > 1 or role == "registry":
            continue  # whose volumes have other names, or are filled again
        name = f"lookingglass-{stack}-{'index' if role == 'gpu-worker' else role}"
        having = _labelled(role, FIRST_DATA, nodes)
        if name in kept and len(having) == 1 and having[0].id != here:
            yield (
                f"{role}: its data is in the volume {name} of this engine's node, and {_name(having[0])} has the "
                f"label {data_label(role)}={FIRST_DATA}: give it to this node, or remove the volume"
            )


def _name(node: Node) -> str:
    return str(node.attrs["Description"]["Hostname"])
