"""The Docker engine, as the program itself asks it."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import docker
import docker.errors
import pulumi
import requests
from docker.transport import sshconn

#: Label that tells whose a container, network, volume or image is.
LABEL = "org.lookingglass.stack"

#: Seconds for the engine to answer, where it has nothing long to do.
ENGINE_TIMEOUT = 15

LOOPBACK = "127.0.0.1"


class SSHSocket(sshconn.SSHSocket):
    """docker-py's way to an engine, but that ssh is started without a hook in it.

    With one Python forks, and gRPC, whose threads the program has, may then crash the child before it is ssh.
    """

    def connect(self, *_: Any, **__: Any) -> None:
        """Start ssh, out of reach of the terminal's Ctrl-C."""
        where = [*(("-l", self.user) if self.user else ()), *(("-p", self.port) if self.port else ())]
        command = ["ssh", *where, "--", self.host, "docker system dial-stdio"]
        self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


setattr(sshconn, "SSHSocket", SSHSocket)  # noqa: B010 - a class may not be assigned to


class EngineError(pulumi.RunError):
    """The engine does not answer, or cannot run the stack as configured; the message says what to change."""


@contextmanager
def connect(docker_host: str | None, timeout: int = ENGINE_TIMEOUT) -> Iterator[docker.DockerClient]:
    """A client of the engine that the stack uses, for as long as the context lasts.

    Raises:
        EngineError: it does not answer.
    """
    try:
        client = client_of(docker_host, timeout)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        where = docker_host or "this machine (or DOCKER_HOST)"
        raise EngineError(
            f"no Docker engine answers at {where}: start it, or set lookingglass:dockerHost. ({error})"
        ) from None
    with closing(client):
        yield client


def client_of(docker_host: str | None, timeout: int) -> docker.DockerClient:
    """A client of an engine, or of the one that the environment names, whose time for an answer is in seconds.

    Raises:
        DockerException: it does not answer.
    """
    if not docker_host:
        return docker.from_env(timeout=timeout)
    return docker.DockerClient(docker_host, timeout=timeout, use_ssh_client=docker_host.startswith("ssh://"))
