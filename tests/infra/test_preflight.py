"""What an engine cannot do is found before the first resource, all of it in one message."""

import resource
from pathlib import Path

import docker
import pytest
from lookingglass import preflight
from lookingglass.engine import EngineError
from lookingglass.settings import Settings

from tests.fixtures import free_port
from tests.infra import engine

#: What a process may have open at the very most, whoever it is.
MOST_FILES = int(Path("/proc/sys/fs/nr_open").read_text())


@pytest.fixture
def possible(docker_client: "docker.DockerClient") -> dict[str, object]:
    """Keys that the engine can fulfil."""
    image, open_files = engine.base_image(docker_client), min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    ports = {name: free_port() for name in Settings.model_fields if name.endswith("_port")}
    images = dict.fromkeys(("base_image", "redis_image", "qdrant_image"), image)
    host = engine.address(docker_client)
    return {**images, **ports, "minio_image": "build", "open_files": open_files, "docker_host": host}


def check(keys: dict[str, object], **more: object) -> None:
    preflight.check(Settings.model_validate({**keys, **more}, by_name=True), "preflight")


def test_what_the_engine_can_do_passes(possible: dict[str, object]) -> None:
    check(possible)


def test_an_image_that_cannot_be_pulled_and_a_limit_that_cannot_be_granted_are_named_by_their_keys(
    possible: dict[str, object], docker_client: "docker.DockerClient"
) -> None:
    with pytest.raises(EngineError) as refusal:
        check(possible, redis_image="127.0.0.1:9/redis:7", open_files=MOST_FILES + 1)
    said = str(refusal.value)
    assert "redisImage: the engine has no image 127.0.0.1:9/redis:7 and cannot pull it" in said
    assert "rlimit" in said
    assert f"openFiles: the engine cannot grant {MOST_FILES + 1}" in said
    assert "baseImage" not in said
    assert [image for image in docker_client.images.list() if preflight.PROBE in image.tags] == []
    assert docker_client.containers.list(all=True, filters={"ancestor": preflight.PROBE}) == []
