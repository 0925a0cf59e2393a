"""An operator's site, with repositories for its machines."""

import docker
import pytest

from tests.ansible import repository
from tests.ansible.machine import make_keys, save_image
from tests.ansible.site import Site
from tests.infra import engine


@pytest.fixture(scope="session")
def site(docker_client: "docker.DockerClient", tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("ansible")
    base = engine.base_image(docker_client)
    for name in ("repository", "keys", "site"):
        (directory / name).mkdir()
    repositories = repository.make(directory / "repository", docker_client, base)
    save_image(docker_client, base, directory / "repository" / "base.tar")
    keys = make_keys(directory / "keys")
    return Site(directory / "site", repositories, base, keys / "ssh")
