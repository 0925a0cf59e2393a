"""Redis's command, on a volume that a Swarm may start two of it on."""

from collections.abc import Iterator

import docker
import pytest
from docker.models.containers import Container
from lookingglass.redis import ALONE, USER

from tests.fixtures import eventually
from tests.infra import engine

VOLUME = "lookingglass-test-redis-alone"

COMMAND = [*ALONE, "redis-server", "--dir", "/data", "--appendonly", "yes"]


@pytest.fixture
def servers(docker_client: "docker.DockerClient") -> Iterator[list[Container]]:
    """Two Redises, one started after the other, with one volume."""
    found: list[Container] = []
    try:
        for _ in range(2):
            found.append(
                docker_client.containers.run(
                    engine.redis_image(docker_client),
                    COMMAND,
                    user=USER,
                    init=True,
                    network_mode="none",
                    volumes={VOLUME: {"bind": "/data"}},
                    detach=True,
                )
            )
            eventually(lambda: _runs(found[-1], "flock" if len(found) > 1 else "redis-server"), "it has begun")
        yield found
    finally:
        for server in found:
            server.remove(force=True)
        docker_client.volumes.get(VOLUME).remove()


def test_a_second_one_waits_until_the_first_is_gone_and_has_all_that_it_took(servers: list[Container]) -> None:
    first, second = servers
    assert _cli(first, "set", "job", "1") == "OK"
    assert "refused" in _cli(second, "ping")
    first.kill()
    eventually(lambda: _cli(second, "get", "job") == "1", "the second has the first one's log")


def _runs(server: Container, program: str) -> bool:
    return any(program in row[-1].split()[0] for row in server.top()["Processes"])


def _cli(server: Container, *words: str) -> str:
    return bytes(server.exec_run(["redis-cli", *words]).output).decode().strip()  # type: ignore[arg-type]
