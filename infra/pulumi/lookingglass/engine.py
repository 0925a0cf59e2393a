"""The Docker engine, as the program itself asks it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import docker
import docker.errors
import pulumi
import requests

#: Label that tells whose a container, network, volume or image is.
LABEL = "org.lookingglass.stack"

#: Seconds for the engine to answer, where it has nothing long to do.
ENGINE_TIMEOUT = 15

LOOPBACK = "127.0.0.1"


class EngineError(pulumi.RunError):
    """The engine does not answer, or cannot run the stack as configured; the message says what to change."""


@contextmanager
def connect(docker_host: str | None, timeout: int = ENGINE_TIMEOUT) -> Iterator[docker.DockerClient]:
    """A client of the engine that the stack uses, for as long as the context lasts.

    Raises:
        EngineError: it does not answer.
    """
    try:
        if docker_host:
            client = docker.DockerClient(
                base_url=docker_host, timeout=timeout, use_ssh_client=docker_host.startswith("ssh://")
            )
        else:
            client = docker.from_env(timeout=timeout)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        where = docker_host or "this machine (or DOCKER_HOST)"
        raise EngineError(
            f"no Docker engine answers at {where}: start it, or set lookingglass:dockerHost. ({error})"
        ) from None
    with closing(client):
        yield client
