"""What the engine must offer, asked before the first resource: a container that cannot start is found too late."""

import io
import socket
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pulumi
import requests
from docker.types import Ulimit

from lookingglass import swarm_preflight, targets
from lookingglass.connection import Props
from lookingglass.engine import LABEL, LOOPBACK, EngineError, connect
from lookingglass.existing import Storage
from lookingglass.settings import Settings

#: Seconds for a registry to say whether it has an image.
REGISTRY_TIMEOUT = 60

#: Name of the image, of no program at all, with which limits are tried.
PROBE = "lookingglass-preflight:limits"


def check(settings: Settings, stack: str) -> dict[str, str]:
    """Refuse what would fail half-way; returns the addresses of the hosts that services are pinned to, by role.

    Raises:
        EngineError: no engine, a busy port, a missing runtime, an image that cannot be had or a limit that cannot be
            granted; all that is wrong in one message.
    """
    with connect(settings.docker_host, REGISTRY_TIMEOUT) as client:
        if settings.orchestrator == "swarm":
            found = swarm_preflight.look(client, settings, stack)
            problems, hosts = [*found.problems], found.hosts
        else:
            hosts = {}
            problems = [
                *_other_orchestrator(client, stack),
                *_runtime(settings, client.info()),
                *_busy_ports(settings, client, stack),
                *_limits(settings, client, stack),
            ]
        problems += [*_images(settings, client), *_storage(settings)]
    if problems:
        raise EngineError("the Docker engine cannot run this stack:\n  " + "\n  ".join(problems))
    return hosts


def _other_orchestrator(client: docker.DockerClient, stack: str) -> Iterator[str]:
    if client.info()["Swarm"].get("ControlAvailable") and client.services.list(filters={"label": f"{LABEL}={stack}"}):
        yield f"orchestrator: this stack runs as a Swarm's services; {swarm_preflight.MOVE}"


def _runtime(settings: Settings, info: dict[str, Any]) -> Iterator[str]:
    if settings.gpus and "nvidia" not in info.get("Runtimes", {}):
        yield (
            "gpus: the engine has no runtime `nvidia`. `make hosts` prepares the host (docs/gpu_hosts.md); by hand, "
            "install NVIDIA's container toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart Docker"
        )


def _busy_ports(settings: Settings, client: docker.DockerClient, stack: str) -> Iterator[str]:
    taken, ours = {}, set()
    for container in client.containers.list(ignore_removed=True):  # others come and go meanwhile
        for bindings in container.ports.values():
            for port in {int(binding["HostPort"]) for binding in bindings or ()}:
                taken[port] = container.name
                if container.labels.get(LABEL) == stack:
                    ours.add(port)
    for key, port in settings.published.items():
        if port in ours:
            continue
        if port in taken:
            yield f"{key}: port {port} is taken by the container {taken[port]}; stop it or choose another port"
        elif not settings.remote and not _free(port):
            yield f"{key}: port {port} is taken by another program of this machine; stop it or choose another port"


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _images(settings: Settings, client: docker.DockerClient) -> Iterator[str]:
    """Each image that the engine would have to pull is asked of its registry, which costs no pull."""
    for key, reference in settings.pulled_images.items():
        if reason := _missing(client, reference):
            yield (
                f"{key}: the engine has no image {reference} and cannot pull it ({reason}); `docker login` where it "
                "is private, `docker load` it where there is no registry, or name another one"
            )


def _missing(client: docker.DockerClient, reference: str) -> str | None:
    """Why an image cannot be had; None where it can."""
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        try:
            client.api.inspect_distribution(reference)  # type: ignore[no-untyped-call]
        except (docker.errors.DockerException, requests.RequestException) as error:
            return str(getattr(error, "explanation", None) or error)
    return None


def _limits(settings: Settings, client: docker.DockerClient, stack: str) -> Iterator[str]:
    """A container with the limits is started, of an image that has nothing to run: limits are set before that shows.

    An engine that is confined itself cannot raise them, and says neither which nor why.
    """
    wanted = settings.limits
    if _granted(client, stack) == wanted:
        return
    client.api.import_image_from_data(_tar(), repository=PROBE.partition(":")[0], tag=PROBE.partition(":")[2])
    try:
        for key, (name, value) in wanted.items():
            if reason := _refusal(client, Ulimit(name=name, soft=value, hard=value)):
                yield f"{key}: the engine cannot grant {value} ({reason}); set it to what the engine may have itself"
    finally:
        client.images.remove(PROBE, force=True)


def _granted(client: docker.DockerClient, stack: str) -> dict[str, tuple[str, int]]:
    """The limits of a container of the stack that runs; none where none does."""
    keys = {"nofile": "openFiles", "nproc": "processes"}
    for container in client.containers.list(filters={"label": f"{LABEL}={stack}"}):
        limits = container.attrs["HostConfig"]["Ulimits"] or ()
        return {keys[limit["Name"]]: (limit["Name"], int(limit["Hard"])) for limit in limits}
    return {}


def _refusal(client: docker.DockerClient, limit: Ulimit) -> str | None:
    config = client.api.create_host_config(ulimits=[limit], network_mode="none")
    probe = client.api.create_container(PROBE, command=["nothing"], host_config=config)["Id"]
    try:
        client.api.start(probe)
    except docker.errors.APIError as error:
        said = str(error.explanation)
        return said.rpartition("error setting ")[2] if "rlimit" in said else None
    finally:
        client.api.remove_container(probe, force=True)
    return None


def _storage(settings: Settings) -> Iterator[str]:
    """A MinIO that stands already must let us in; that it has to be restarted is said before it is."""
    if not (storage := settings.storage):
        return
    try:
        known = targets.in_use(_administration(storage, settings))
    except targets.UNREACHED as error:
        yield f"storage: {storage.endpoint} does not let {storage.user} administer it: {error}"
        return
    if not known:
        what = "is restarted" if storage.restart else "has to be restarted (by you, for storage.restart is false)"
        pulumi.warn(f"MinIO at {storage.endpoint} knows no webhook of ours yet: it {what} to take it.")


def _administration(storage: Storage, settings: Settings) -> Props:
    return {
        "endpoint": storage.endpoint,
        "user": storage.user,
        "password": storage.password.get_secret_value(),
        "region": storage.region,
        "ca_bundle": settings.ca_bundle or "",
    }


def _tar() -> bytes:
    """An image of one empty file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    return buffer.getvalue()
