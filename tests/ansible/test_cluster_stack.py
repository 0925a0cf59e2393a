"""The stack on three hosts that the playbook made a Swarm of: up, used, scaled, changed, hurt, drained, gone.

After each of these the index agrees with the bucket.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import docker
import pytest
from lookingglass.images import stage_ca_bundle

from infra import contract
from infra.local import tools
from tests.ansible import site_registry
from tests.ansible.cluster_stack import CUT, NAME, RESTORE, ClusterStack
from tests.ansible.machine import Machine, boot
from tests.ansible.site import Site
from tests.fixtures import eventually
from tests.infra import engine
from tests.infra.docker_plugin import ROOT
from tests.infra.stack import configure, open_stack

pytestmark = pytest.mark.timeout(1800)  # the first run builds MinIO from source

#: Seconds without an answer of any webhook that are a slow machine's, and no gap.
ALWAYS_SECONDS = 5

#: Seconds for tasks to be on other hosts: Swarm lets the old ones stop before it starts others.
MOVES_SECONDS = 180

SERVICES = ("redis", "minio", "gpu-worker", "webhook", "worker", "console")


def minio_image(client: "docker.DockerClient") -> str:
    """An image of MinIO, as the stack would build it."""
    arguments = {"BASE_IMAGE": engine.base_image(client), "MINIO_MODULE": contract.MINIO_MODULE}
    if authorities := stage_ca_bundle(str(engine.ca_bundle())):
        arguments["SITE_CA"] = authorities
    images, tag = ROOT / "infra" / "images", "lookingglass-test/minio:source"
    client.images.build(
        path=str(images), dockerfile=str(images / "minio" / "Dockerfile"), buildargs=arguments, tag=tag, rm=True
    )
    return tag


@pytest.fixture(scope="module")
def machines(docker_client: "docker.DockerClient", site: Site) -> Iterator[dict[str, Machine]]:
    """Three hosts with a Docker engine each and nothing else, and a site's registry that they trust."""
    with ExitStack() as stack:
        address = stack.enter_context(site_registry.registry(docker_client))
        found = {}
        for name in ("one", "two", "three"):
            keys, repository = site.ssh.parent, site.repositories.directory
            found[name] = stack.enter_context(boot(docker_client, "engine", name, repository, keys))
            site_registry.introduce(found[name], address)
        yield found


@pytest.fixture(scope="module")
def images(docker_client: "docker.DockerClient", site: Site, machines: dict[str, Machine]) -> dict[str, str]:
    """What cannot be pulled here: the base image on the manager, the others in the site's registry."""
    machines["one"].run("docker load --quiet --input /srv/repository/base.tar")
    found = {"baseImage": site.image}
    own = {"redis": engine.redis_image, "minio": minio_image, "registry": site_registry.image}
    for name, image in {name: make(docker_client) for name, make in own.items()}.items():
        with (site.repositories.directory / f"{name}.tar").open("wb") as archive:
            for chunk in docker_client.images.get(image).save(named=True):
                archive.write(chunk)
        found[f"{name}Image"] = pushed = f"{site_registry.NAME}/{name}:test"
        load = f"docker load --quiet --input /srv/repository/{name}.tar"
        machines["one"].run(f"{load}; docker tag {image} {pushed}; docker push --quiet {pushed}")
    return found


@pytest.fixture(scope="module")
def swarm(site: Site, machines: dict[str, Machine]) -> dict[str, str]:
    """The Swarm that the playbook makes: a manager with what is stored, a worker with the index, a worker without.

    Returns:
        The configuration that its report has for Pulumi.
    """
    keeps = {"one": {"redis": 1, "minio": 1, "registry": 1}, "two": {"gpu-worker": 1}, "three": {}}

    def group(*names: str) -> dict[str, Any]:
        return {"hosts": {name: site.host(machines[name], swarm_keeps=keeps[name]) for name in names}}

    inventory = {"swarm_managers": group("one"), "swarm_workers": group("two", "three"), "gpu_hosts": {"hosts": {}}}
    reports = str(site.directory / "reports")
    result = site.run("swarm.yml", inventory, swarm_reports=reports, docker_source="distribution")
    assert result.code == 0, result.output
    report = json.loads((site.directory / "reports" / "cluster.json").read_text())
    return {key.removeprefix("lookingglass:"): entry["value"] for key, entry in report["pulumi"].items()}


@pytest.fixture(scope="module")
def cluster(
    site: Site,
    machines: dict[str, Machine],
    images: dict[str, str],
    swarm: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ClusterStack]:
    """The stack, opened."""
    config = {
        **swarm,
        "index": "embedded",
        "caBundle": str(engine.ca_bundle()),
        "workers": 2,
        "webhooks": 2,
        **images,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{site.ssh.parent}:{os.environ['PATH']}")  # `ssh`, with the operator's key
        try:
            stack = open_stack(NAME, tmp_path_factory.mktemp("pulumi"), config)
        except tools.ToolError as error:
            pytest.skip(str(error))
        yield ClusterStack(stack, machines)


def nothing(_line: str) -> None:
    pass


def count(tasks: dict[str, list[str]]) -> int:
    return sum(len(containers) for containers in tasks.values())


def test_three_hosts_index_a_photo(cluster: ClusterStack, photos: dict[str, bytes]) -> None:
    cluster.stack.up(on_output=tools.say)
    crawler = cluster.minio("crawler_access_key", "crawler_secret_key")
    cluster.upload(crawler, "astronaut.png", photos["astronaut.png"])
    cluster.agrees()
    assert {name: set(cluster.tasks(name)) for name in ("redis", "minio", "gpu-worker")} == {
        "redis": {"one"},
        "minio": {"one"},
        "gpu-worker": {"two"},
    }
    assert len(cluster.tasks("webhook")) == 2
    registry, image = f"{cluster.machines['one'].address}:5000", "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    pulled = cluster.docker(f"service inspect lookingglass-{NAME}-worker --format '{image}'")
    assert pulled.startswith(f"{registry}/lookingglass-{NAME}/app")
    cluster.stack.up(expect_no_changes=True, on_output=nothing)


def test_new_code_a_new_credential_and_twice_the_workers_roll_while_a_webhook_always_answers(
    cluster: ClusterStack,
) -> None:
    before, token = {name: cluster.tasks(name) for name in SERVICES}, cluster.outputs["gpu_worker_token"]
    resources = (cluster.stack.export_stack().deployment or {})["resources"]
    [urn] = [resource["urn"] for resource in resources if resource["urn"].endswith("::gpu-worker-token")]
    configure(cluster.stack, {"workers": 4})
    line = ROOT / "app" / "changed_by_a_test.py"
    with cluster.under_load() as load:
        line.write_text('"""One more line of application code."""\n')
        try:
            cluster.stack.up(replace=[urn], on_output=nothing)
        finally:
            line.unlink()
    eventually(lambda: count(cluster.tasks("worker")) == 4, "the old workers have ended", MOVES_SECONDS)
    after = {name: cluster.tasks(name) for name in SERVICES}
    assert {name for name in SERVICES if before[name] == after[name]} == {"redis", "minio"}
    assert len(after["worker"]) > 1
    assert cluster.outputs["gpu_worker_token"] != token
    tools.say(f"While they rolled, answers of a webhook were at most {load.silence:.1f} s apart.")
    assert load.silence < ALWAYS_SECONDS
    cluster.agrees(load)


def test_a_lost_host_loses_nothing_and_others_take_over_what_keeps_no_data(cluster: ClusterStack) -> None:
    with cluster.under_load() as load:
        cut = time.monotonic()
        cluster.machines["three"].run(CUT)
        eventually(
            lambda: "Down" in cluster.docker("node ls --filter name=three"), "three is seen to be down", MOVES_SECONDS
        )
        eventually(lambda: count(cluster.tasks("worker")) == 4, "others have its workers", MOVES_SECONDS)
        eventually(lambda: count(cluster.tasks("webhook")) == 2, "another has its webhook", MOVES_SECONDS)
        cluster.agrees()
        tools.say(f"A host of workers was lost: the index agreed again after {time.monotonic() - cut:.0f} s.")
        back(cluster, "three")
    assert load.silence < ALWAYS_SECONDS
    cluster.agrees(load)


def test_the_host_of_the_index_is_waited_for(cluster: ClusterStack) -> None:
    with cluster.under_load() as load:
        cluster.machines["two"].run(CUT)
        eventually(
            lambda: "Down" in cluster.docker("node ls --filter name=two"), "two is seen to be down", MOVES_SECONDS
        )
        assert cluster.tasks("gpu-worker") == {}
        restored = time.monotonic()
        back(cluster, "two")
    cluster.agrees(load)
    tools.say(f"The index's host was back: the index agreed {time.monotonic() - restored:.0f} s after its power.")


def back(cluster: ClusterStack, host: str) -> None:
    cluster.machines[host].run(RESTORE)
    eventually(lambda: "Ready" in cluster.docker(f"node ls --filter name={host}"), f"{host} is back", MOVES_SECONDS)


def test_a_drained_host_runs_nothing_and_the_others_all(cluster: ClusterStack) -> None:
    with cluster.under_load() as load:
        cluster.docker("node update --availability drain three")
        eventually(
            lambda: (
                not any("three" in cluster.tasks(name) for name in SERVICES)
                and (count(cluster.tasks("worker")), count(cluster.tasks("webhook"))) == (4, 2)
            ),
            "the others run what it ran",
            MOVES_SECONDS,
        )
    cluster.agrees(load)
    cluster.docker("node update --availability active three")


def test_destroy_leaves_nothing_but_the_data(cluster: ClusterStack) -> None:
    cluster.stack.destroy(on_output=nothing)
    for listing in (
        "service ls --quiet",
        "secret ls --quiet",
        f"network ls --quiet --filter name=lookingglass-{NAME}",
    ):
        assert cluster.docker(listing) == "", listing
    kept = {name: cluster.docker("volume ls --quiet", on=name).split() for name in cluster.machines}
    prefix = f"lookingglass-{NAME}"
    assert {name: sorted(volumes) for name, volumes in kept.items()} == {
        "one": [f"{prefix}-{name}" for name in ("minio", "minio-events", "redis", "registry")],
        "two": [f"{prefix}-index"],
        "three": [],
    }
