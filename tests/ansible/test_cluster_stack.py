"""The stack on three hosts that the playbook made a Swarm of: up, used, scaled, changed, hurt, drained, gone.

After each of these the index agrees with the bucket.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO

import docker
import pytest

from infra.local import tools
from tests.ansible import site_registry
from tests.ansible.cluster_stack import CUT, LOG, MOVES_SECONDS, NAME, ClusterStack, Load
from tests.ansible.machine import Machine, boot, save_image
from tests.ansible.site import Site
from tests.fixtures import eventually
from tests.infra import engine
from tests.infra.docker_plugin import ROOT
from tests.infra.stack import configure, open_stack

pytestmark = pytest.mark.timeout(1800)

#: Seconds without an acknowledged upload that are a try which ran out of time, and another.
STALLED_SECONDS = 25

#: Seconds without an answer of any webhook that are a slow machine's, and no gap.
ALWAYS_SECONDS = 5

#: The same where Redis is silent, which a webhook waits 5 s for.
SILENT_REDIS_SECONDS = 15

#: Seconds without another object in the index after which none comes but by a comparison.
BY_ITSELF_SECONDS = 20

#: Uploads of the second that a power cut takes of Redis's log.
BURST = 30

#: Seconds that the network is split.
SPLIT_SECONDS = 60

#: Tasks of each service, once there are four workers.
WANTED = {"redis": 1, "minio": 1, "gpu-worker": 1, "webhook": 2, "worker": 4, "console": 1}


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
    own = {
        "redis": engine.redis_image(docker_client),
        "minio": engine.stack_image(docker_client, "minio"),
        "registry": site_registry.image(docker_client),
    }
    for name, image in own.items():
        save_image(docker_client, image, site.repositories.directory / f"{name}.tar")
        found[f"{name}Image"] = pushed = f"{site_registry.NAME}/{name}:test"
        load = f"docker load --quiet --input /srv/repository/{name}.tar"
        machines["one"].run(f"{load}; docker tag {image} {pushed}; docker push --quiet {pushed}")
    return found


@pytest.fixture(scope="module")
def swarm(site: Site, machines: dict[str, Machine]) -> dict[str, str]:
    """The Swarm that the playbook makes of three managers: with what is stored, with the index, with neither.

    Returns:
        The configuration that its report has for Pulumi.
    """
    keeps = {"one": {"redis": 1, "minio": 1, "registry": 1}, "two": {"gpu-worker": 1}, "three": {}}
    managers = {name: site.host(machine, swarm_keeps=keeps[name]) for name, machine in machines.items()}
    inventory = {
        "swarm_managers": {"hosts": managers},
        "swarm_workers": {"hosts": {}},
        "gpu_hosts": {"hosts": {}},
    }
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


def count(tasks: dict[str, list[str]], *, without: str = "") -> int:
    return sum(len(containers) for host, containers in tasks.items() if host != without)


def goes_on(load: Load) -> None:
    """Uploads went on; one that was not acknowledged was at the next try."""
    if load.failed:
        tools.say(f"{len(load.failed)} uploads were tried again: {'; '.join(sorted(set(load.failed)))}")
    assert load.stalled < STALLED_SECONDS


def test_three_hosts_index_a_photo(cluster: ClusterStack, photos: dict[str, bytes]) -> None:
    cluster.stack.up(on_output=tools.say)
    photo = photos["astronaut.png"]
    cluster.crawler.put_object("images", "astronaut.png", BytesIO(photo), len(photo))
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
    before, token = {name: cluster.tasks(name) for name in WANTED}, cluster.outputs["gpu_worker_token"]
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
    after = {name: cluster.tasks(name) for name in WANTED}
    assert {name for name in WANTED if before[name] == after[name]} == {"redis", "minio"}
    assert len(after["worker"]) > 1
    assert cluster.outputs["gpu_worker_token"] != token
    tools.say(f"While they rolled, answers of a webhook were at most {load.unready:.1f} s apart.")
    assert load.unready < ALWAYS_SECONDS
    goes_on(load)
    cluster.agrees(load)


def test_a_drained_host_runs_nothing_and_the_others_all(cluster: ClusterStack) -> None:
    with cluster.under_load() as load:
        cluster.docker("node update --availability drain three")
        eventually(
            lambda: (
                not any("three" in cluster.tasks(name) for name in WANTED)
                and (count(cluster.tasks("worker")), count(cluster.tasks("webhook"))) == (4, 2)
            ),
            "the others run what it ran",
            MOVES_SECONDS,
        )
    goes_on(load)
    cluster.agrees(load)
    cluster.docker("node update --availability active three")


def test_the_host_of_the_index_is_waited_for(cluster: ClusterStack) -> None:
    with cluster.under_load() as load:
        cluster.machines["two"].run(CUT)
        eventually(lambda: "Down" in cluster.nodes("two"), "two is seen to be down", MOVES_SECONDS)
        assert cluster.tasks("gpu-worker") == {}
        restored = time.monotonic()
        cluster.back("two")
    goes_on(load)
    assert load.unready < ALWAYS_SECONDS
    cluster.agrees(load)
    tools.say(f"The index's host was back: the index agreed {time.monotonic() - restored:.0f} s after its power.")


def test_a_network_that_splits_for_a_minute_costs_nothing(cluster: ClusterStack) -> None:
    workers = cluster.tasks("worker")["three"]
    with cluster.under_load() as load:
        split = time.monotonic()
        cluster.split("three", "--insert")
        eventually(lambda: "Down" in cluster.nodes("three"), "three is seen to be down", MOVES_SECONDS)
        eventually(
            lambda: [count(cluster.tasks(name), without="three") for name in ("worker", "webhook")] == [4, 2],
            "others have its workers and its webhook",
            MOVES_SECONDS,
        )
        cluster.agrees()
        tools.say(f"Without three the index agreed after {time.monotonic() - split:.0f} s.")
        assert cluster.tasks("worker")["three"] == workers  # nobody told them
        time.sleep(max(0, split + SPLIT_SECONDS - time.monotonic()))
        cluster.split("three", "--delete")
        healed = time.monotonic()
        eventually(
            lambda: {name: count(cluster.tasks(name)) for name in WANTED} == WANTED,
            "there are as many tasks as were asked for",
            MOVES_SECONDS,
        )
        tools.say(f"There were as many tasks as asked for {time.monotonic() - healed:.0f} s after it was whole.")
    goes_on(load)
    assert load.unready < ALWAYS_SECONDS
    cluster.agrees(load)
    cluster.at_rest()


def test_the_host_of_bucket_queue_and_leader_is_lost_and_what_was_acknowledged_is_indexed(
    cluster: ClusterStack,
) -> None:
    with cluster.under_load() as load:
        name, size = cluster.machines["one"].run(LOG).split()
        crawler = cluster.crawler
        for number in range(BURST):
            load.upload(crawler, f"burst-{number}.jpg", number)
        cluster.machines["one"].run(CUT)
        cut, cluster.manager = time.monotonic(), "two"
        cluster.machines["one"].run(f"truncate --size {size} {name}")
        eventually(lambda: "Leader" in cluster.nodes("two") + cluster.nodes("three"), "one leads", MOVES_SECONDS)
        tools.say(f"The leader, bucket and queue were lost: another led after {time.monotonic() - cut:.0f} s.")
        eventually(lambda: count(cluster.tasks("worker")) == 4, "others have its workers", MOVES_SECONDS)
        eventually(lambda: count(cluster.tasks("webhook")) == 2, "others have its webhook", MOVES_SECONDS)
        tools.say(f"Workers and webhooks were elsewhere after {time.monotonic() - cut:.0f} s.")
        acknowledged, restored = len(load.uploaded), time.monotonic()
        cluster.back("one")
        eventually(lambda: len(load.uploaded) > acknowledged, "uploads are acknowledged again", MOVES_SECONDS)
        tools.say(f"An upload was acknowledged {time.monotonic() - restored:.0f} s after its power.")
    assert load.failed
    assert load.silence < SILENT_REDIS_SECONDS
    tools.say(
        f"Answers of a webhook were at most {load.silence:.1f} s apart, and {load.unready:.1f} s those with 200."
    )
    lost = cluster.lacking(BY_ITSELF_SECONDS)
    tools.say(
        f"{len(load.uploaded)} uploads were acknowledged, and {len(load.failed)} tries were not; "
        f"the index lacked {len(lost)} {time.monotonic() - restored:.0f} s after the power."
    )
    if lost:
        tools.say(cluster.compare())
    cluster.agrees(load)
    cluster.at_rest()


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
