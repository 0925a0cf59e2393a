"""A site's own image registry, with a certificate of the tests' authority."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from tests.ansible.machine import ADDRESSES, LABEL, Machine, addressed, freed, put
from tests.infra import engine

#: The name that hosts know it by.
NAME = "registry.test"


def image(client: docker.DockerClient) -> str:
    """An image of a registry, whose program is named as in the published one."""
    tag = "lookingglass-test/registry:debian"
    client.images.build(
        path=str(Path(__file__).parent / "registry"),
        tag=tag,
        buildargs={"BASE_IMAGE": engine.base_image(client)},
        rm=True,
        forcerm=True,
    )
    return tag


@contextmanager
def registry(client: docker.DockerClient) -> Iterator[str]:
    """Its address, for as long as the context lasts."""
    container = client.containers.create(
        image(client), name=freed(client, "registry"), labels={LABEL: "registry"}, **addressed(client, "registry")
    )
    try:
        certificate = engine.authority().issue_cert(NAME)
        put(container, "/etc/docker/registry/certificate.pem", certificate.cert_chain_pems[0].bytes().decode())
        put(container, "/etc/docker/registry/key.pem", certificate.private_key_pem.bytes().decode(), 0o600)
        container.start()
        yield ADDRESSES["registry"]
    finally:
        container.remove(force=True, v=True)


def introduce(machine: Machine, address: str) -> None:
    """Tell a host where it is, and whom to trust there."""
    machine.run(f"echo {address} {NAME} >>/etc/hosts")
    machine.write(f"/etc/docker/certs.d/{NAME}/ca.crt", engine.authority().cert_pem.bytes().decode())
