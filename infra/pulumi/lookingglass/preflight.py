"""What the engine must offer, asked before the first resource: a container that cannot start is found too late."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import docker
import docker.errors
import pulumi
import requests

from lookingglass.settings import Settings

#: Label that tells whose a container, network or image is.
LABEL = "org.lookingglass.stack"

#: Seconds for the engine to answer.
ENGINE_TIMEOUT = 15

LOOPBACK = "127.0.0.1"


class PreflightError(pulumi.RunError):
    """The engine cannot run the stack as configured; the message says what to change."""


@contextmanager
def connect(docker_host: str | None) -> Iterator[docker.DockerClient]:
    """A client of the engine that the stack uses, for as long as the context lasts.

    Raises:
        PreflightError: it does not answer.
    """
    try:
        if docker_host:
            client = docker.DockerClient(
                base_url=docker_host, timeout=ENGINE_TIMEOUT, use_ssh_client=docker_host.startswith("ssh://")
            )
        else:
            client = docker.from_env(timeout=ENGINE_TIMEOUT)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        where = docker_host or "this machine (or DOCKER_HOST)"
        raise PreflightError(
            f"no Docker engine answers at {where}: start it, or set lookingglass:dockerHost. ({error})"
        ) from None
    with closing(client):
        yield client


def check(settings: Settings, stack: str) -> None:
    """Refuse what would fail half-way.

    Raises:
        PreflightError: no engine, a busy port or a missing runtime; all that is wrong in one message.
    """
    try:
        with connect(settings.docker_host) as client:
            problems = [*_runtime(settings, client.info()), *_busy_ports(settings, client, stack)]
    except PreflightError as error:
        if not pulumi.runtime.is_dry_run():
            raise
        pulumi.log.warn(f"{error} What is asked of it was not checked.")
        return
    if problems:
        raise PreflightError("the Docker engine cannot run this stack:\n  " + "\n  ".join(problems))


def _runtime(settings: Settings, info: dict[str, Any]) -> Iterator[str]:
    if settings.gpus and "nvidia" not in info.get("Runtimes", {}):
        yield (
            "gpus: the engine has no runtime `nvidia`. `make hosts` prepares the host (docs/gpu_hosts.md); by hand, "
            "install NVIDIA's container toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart Docker"
        )


def _busy_ports(settings: Settings, client: docker.DockerClient, stack: str) -> Iterator[str]:
    taken, ours = {}, set()
    for container in client.containers.list():
        for bindings in container.ports.values():
            for port in {int(binding["HostPort"]) for binding in bindings or ()}:
                taken[port] = container.name
                if container.labels.get(LABEL) == stack:
                    ours.add(port)
    for key, port in settings.ports.items():
        if port in ours or (key == "qdrantPort" and settings.index == "embedded"):
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
