"""The playbook that makes a Swarm, on three hosts: fresh, again, larger, drained, smaller, refused."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
from lookingglass import registry as own_registry
from lookingglass import settings

from infra import contract
from tests.ansible import site_registry
from tests.ansible.machine import Machine, boot, save_image
from tests.ansible.site import Result, Site

pytestmark = pytest.mark.timeout(900)

#: Less than Ethernet's, as a cloud's network or a tunnel carries.
MTU = 1400

#: Notes every command line that a machine sees, until it is stopped.
WATCH_COMMANDS = """
import os
seen = set()
with open("/run/commands", "w") as log:
    while not os.path.exists("/run/enough"):
        for number in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{number}/cmdline") as command:
                    line = command.read().replace("\\0", " ")
            except OSError:
                continue
            if line not in seen:
                seen.add(line)
                print(line, file=log, flush=True)
"""

#: A megabyte from `server` to who asks for it.
SEND = """
import socket
asker, _ = socket.create_server(("", 80)).accept()
asker.sendall(bytes(10**6))
asker.close()
"""
RECEIVE = """
import socket
print(len(socket.create_connection(("server", 80), 20).makefile("rb").read()))
"""


@dataclass
class Cluster:
    """Three machines, and what the inventory says of them."""

    site: Site
    machines: dict[str, Machine]
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    managers: list[str] = field(default_factory=lambda: ["one"])
    workers: list[str] = field(default_factory=lambda: ["two"])

    def play(self, *arguments: str, **variables: Any) -> Result:
        """Run the playbook."""

        def group(names: list[str]) -> dict[str, Any]:
            return {
                "hosts": {name: self.site.host(self.machines[name], **self.variables.get(name, {})) for name in names}
            }

        inventory = {
            "swarm_managers": group(self.managers),
            "swarm_workers": group(self.workers),
            "gpu_hosts": {"hosts": {"two": {}}},
        }
        variables = {
            "swarm_reports": str(self.site.directory / "reports"),
            "docker_source": "distribution",
        } | variables
        return self.site.run("swarm.yml", inventory, *arguments, **variables)

    def change(self) -> Result:
        """Run its part about the Swarm, which must succeed."""
        result = self.play("--tags", "swarm")
        assert result.code == 0, result.output
        return result

    def docker(self, command: str, on: str = "one") -> str:
        """What a command of Docker's prints."""
        return self.machines[on].run(f"docker {command}").strip()

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes by their host's name."""
        found = json.loads(self.docker("node inspect $(docker node ls --quiet)"))
        return {node["Description"]["Hostname"]: node for node in found}

    @property
    def report(self) -> dict[str, Any]:
        """The report of the last run."""
        found = json.loads((self.site.directory / "reports" / "cluster.json").read_text())
        assert isinstance(found, dict)
        return found

    def serve(self, name: str, replicas: int, options: str = "") -> None:
        """Make a service that does nothing."""
        command = f"service create --detach --name {name} --replicas {replicas} --no-resolve-image {options}"
        self.docker(f"{command} {self.site.image} sleep 600")

    @property
    def registry(self) -> str:
        """Where the cluster's own registry is."""
        return f"{self.machines['one'].address}:5000"

    @property
    def trust(self) -> str:
        """The directory of what an engine shows and trusts there."""
        return f"/etc/docker/certs.d/{self.registry}"

    def tasks(self, service: str) -> list[str]:
        """The hosts on which tasks of a service run."""
        states = self.docker(f"service ps {service} --format '{{{{.Node}}}} {{{{.CurrentState}}}}'").splitlines()
        return sorted(line.split()[0] for line in states if line.split()[1] == "Running")


def serve_registry(cluster: Cluster, client: "docker.DockerClient") -> None:
    """Make the service that the program declares, without a network of its own."""
    image, one = site_registry.image(client), cluster.machines["one"]
    save_image(client, image, cluster.site.repositories.directory / "registry.tar")
    one.write("/root/registry.yml", own_registry.CONFIGURATION)
    one.run("docker load --quiet --input /srv/repository/registry.tar")
    one.run("docker secret create registry.yml /root/registry.yml")
    cluster.docker(
        "service create --quiet --name registry --no-resolve-image --endpoint-mode dnsrr"
        f" --constraint node.labels.{contract.data_label('registry')}==1 --user {contract.REGISTRY_USER}"
        " --read-only --cap-drop ALL --secret registry.yml --publish mode=host,published=5000,target=5000"
        f" --mount type=bind,source={contract.REGISTRY_DIRECTORY},target={own_registry.CERTIFICATES_DIR},readonly"
        f" --mount type=volume,source=registry,target={own_registry.DATA_DIR}"
        f" --entrypoint registry {image} serve /run/secrets/registry.yml"
    )


def until(predicate: Any, seconds: float = 60) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def machines(docker_client: "docker.DockerClient", site: Site) -> Iterator[dict[str, Machine]]:
    """Three hosts with an engine each, whose network carries less than Ethernet does."""
    with ExitStack() as stack:
        found = {}
        for name in ("one", "two", "three"):
            found[name] = stack.enter_context(
                boot(docker_client, "engine", name, site.repositories.directory, site.ssh.parent)
            )
            found[name].run(f"ip link set dev eth0 mtu {MTU}; docker load --quiet --input /srv/repository/base.tar")
        yield found


@pytest.fixture(scope="module")
def first_run(site: Site, machines: dict[str, Machine]) -> tuple[Cluster, Result]:
    """A cluster of a manager and a worker with cards, and what was said when it was made, as loud as can be."""
    cluster = Cluster(
        site,
        machines,
        {"one": {"swarm_keeps": {"redis": 1, "minio": 1, "registry": 1}, "swarm_labels": {"rack": "a"}}},
    )
    machines["two"].container.exec_run(["python3", "-c", WATCH_COMMANDS], detach=True)
    result = cluster.play("-vvv")
    machines["two"].run("touch /run/enough")
    assert result.code == 0, result.output[-20000:]
    return cluster, result


@pytest.fixture
def cluster(first_run: tuple[Cluster, Result]) -> Cluster:
    return first_run[0]


def test_hosts_become_one_swarm(cluster: Cluster) -> None:
    nodes = cluster.nodes
    assert {name: (node["Spec"]["Role"], node["Status"]["State"]) for name, node in nodes.items()} == {
        "one": ("manager", "ready"),
        "two": ("worker", "ready"),
    }
    assert nodes["one"]["Status"]["Addr"] == cluster.machines["one"].address


def test_what_a_host_keeps_is_a_label_that_services_can_be_pinned_to(cluster: Cluster) -> None:
    assert cluster.nodes["one"]["Spec"]["Labels"] == {
        "lookingglass.host": "one",
        "lookingglass.data": "true",
        "lookingglass.redis": "1",
        "lookingglass.minio": "1",
        "lookingglass.registry": "1",
        "rack": "a",
    }


def test_no_token_is_printed_logged_or_on_a_command_line(first_run: tuple[Cluster, Result]) -> None:
    cluster, result = first_run
    tokens = [cluster.docker(f"swarm join-token --quiet {role}") for role in ("worker", "manager")]
    said = {
        "output": result.output,
        "commands": cluster.machines["two"].run("cat /run/commands"),
        "journal": "".join(cluster.machines[name].run("journalctl --quiet --no-pager") for name in ("one", "two")),
        "files": cluster.machines["two"].run("grep -rl SWMTKN /tmp /home /root /var/log || true"),
    }
    assert "AnsiballZ" in said["commands"] or "ansible" in said["commands"]  # the watcher saw the playbook at work
    assert "Ask Docker to join" in said["output"]
    for where, text in said.items():
        assert "SWMTKN" not in text, where
        assert not any(token in text for token in tokens), where


def test_no_key_of_the_registrys_leaves_the_host_that_it_is_of(first_run: tuple[Cluster, Result]) -> None:
    cluster, result = first_run
    one, two = (cluster.machines[name] for name in ("one", "two"))
    assert "Sign it" in result.output
    assert "PRIVATE KEY" not in result.output
    assert "PRIVATE KEY" not in two.run("cat /run/commands; journalctl --quiet --no-pager")
    modes = "stat --format '%a %u' /etc/lookingglass/registry/{,ca.key,served/server.key}"
    assert one.run(f"{modes} {cluster.trust}/client.key").split("\n")[:-1] == ["700 0", "600 0", "600 10001", "600 0"]
    assert not two.has("/etc/lookingglass/registry")
    keys = {machine.run(f"sha256sum <{cluster.trust}/client.key") for machine in (one, two)}
    assert len(keys) == 2


def test_the_registry_lets_in_the_engines_of_the_cluster_and_nobody_else(
    cluster: Cluster, docker_client: "docker.DockerClient"
) -> None:
    serve_registry(cluster, docker_client)
    pushed = f"{cluster.registry}/base:one"
    cluster.docker(f"tag {cluster.site.image} {pushed}")
    cluster.docker(f"push --quiet {pushed}")
    cluster.docker(f"pull --quiet {pushed}", on="two")
    stranger = cluster.machines["three"]
    stranger.write(f"{cluster.trust}/ca.crt", cluster.machines["one"].run(f"cat {cluster.trust}/ca.crt"))
    with pytest.raises(RuntimeError, match=r"tls: (bad certificate|certificate required)"):
        stranger.run(f"docker pull {pushed}")
    stranger.run(f"rm -r {cluster.trust}")


def test_garbage_is_collected_while_the_registry_runs(cluster: Cluster) -> None:
    """As docs/hosts.md has it: what a tag has moved away from goes, what it is on stays."""
    name, blobs = f"{cluster.registry}/image:latest", "find /var/tmp -path '*/blobs/sha256/*/data' | wc -l"
    inside = f"exec $(docker ps --quiet --filter volume={contract.REGISTRY_DIRECTORY})"
    before = int(cluster.docker(f'{inside} sh -c "{blobs}"'))
    for number in (1, 2):
        cluster.docker(f"build --quiet --tag {name} - <<<$'FROM {cluster.site.image}\nLABEL number={number}'")
        cluster.docker(f"push --quiet {name}")
    assert int(cluster.docker(f'{inside} sh -c "{blobs}"')) == before + 4  # a manifest and a configuration each
    cluster.docker(f"{inside} registry garbage-collect --delete-untagged /run/secrets/registry.yml")
    assert int(cluster.docker(f'{inside} sh -c "{blobs}"')) == before + 2
    cluster.docker(f"pull --quiet {name}", on="two")
    cluster.docker(f"push --quiet {name}")


def test_certificates_near_their_end_are_made_anew_and_taken_up(cluster: Cluster) -> None:
    served = f"openssl x509 -noout -serial -in {contract.REGISTRY_DIRECTORY}/server.crt"
    before = cluster.machines["one"].run(served)
    result = cluster.play("--tags", "swarm", swarm_registry_renewal=3660)
    assert result.code == 0, result.output
    assert {"swarm : Make an authority", "swarm : Make the registry's certificate", "swarm : Sign it"} <= {
        *result.changed
    }
    assert cluster.machines["one"].run(served) != before
    until(lambda: cluster.tasks("registry") == ["one"])
    cluster.docker(f"pull --quiet {cluster.registry}/base:one", on="two")
    cluster.docker("service rm registry")


def test_each_replica_gets_one_card_of_its_own(cluster: Cluster) -> None:
    cards = cluster.machines["two"].run("nvidia-smi -L | grep -o 'GPU-[0-9a-f-]*'").split()
    assert len(cards) == 2
    cluster.serve("face", 3, "--generic-resource GPU=1")
    until(lambda: cluster.tasks("face") == ["two", "two"])
    given = cluster.docker("ps --quiet | xargs -I+ docker exec + printenv DOCKER_RESOURCE_GPU", on="two").split()
    assert sorted(given) == sorted(cards)
    assert "insufficient resources" in cluster.docker("service ps face --no-trunc")
    cluster.docker("service rm face")
    runtime = cluster.machines["two"].run("cat /etc/nvidia-container-runtime/config.toml")
    assert 'swarm-resource = "DOCKER_RESOURCE_GPU"' in runtime.splitlines()
    assert cluster.docker("info --format '{{.DefaultRuntime}}'", on="two") == "nvidia"


def test_the_report_is_what_pulumi_needs(first_run: tuple[Cluster, Result]) -> None:
    cluster, result = first_run
    report = cluster.report
    assert {name: host["role"] for name, host in report["hosts"].items()} == {"one": "manager", "two": "worker"}
    assert len(report["hosts"]["two"]["cards"]) == 2
    config = {name.removeprefix("lookingglass:"): entry["value"] for name, entry in report["pulumi"].items()}
    assert config == {
        "orchestrator": "swarm",
        "dockerHost": f"ssh://ops@{cluster.machines['one'].address}",
        "publicAddress": "0.0.0.0",
        "publicHost": cluster.machines["one"].address,
        "engine": "insightface",
        "gpus": json.dumps(report["hosts"]["two"]["cards"]),
        "modelPack": "stand_in",
        "networkMtu": str(MTU),
        "registry": f"{cluster.machines['one'].address}:5000",
        "runRegistry": "true",
    }
    assert settings.load(config).orchestrator == "swarm"
    assert f"Next: make up STACK=cluster REPORT={cluster.site.directory}/reports/cluster.json" in result.said


def test_published_ports_have_the_mtu_of_the_network(cluster: Cluster) -> None:
    options = cluster.docker(
        "network inspect ingress --format '{{index .Options \"com.docker.network.driver.mtu\"}}'"
    )
    assert options == str(MTU)


def test_the_second_run_changes_nothing(cluster: Cluster) -> None:
    result = cluster.play()
    assert (result.code, result.changed, result.count("changed")) == (0, [], 0), result.output
    checked = cluster.play("--check", "--diff", "--tags", "swarm")
    assert (checked.code, checked.changed) == (0, []), checked.output


@pytest.mark.parametrize(
    ("broken", "mended", "variables", "sentence"),
    [
        (
            "docker swarm init --advertise-addr eth0",
            "docker swarm leave --force",
            {},
            "three is in a Swarm that one is not in",
        ),
        (
            "echo '{\"live-restore\": true}' >/etc/docker/daemon.json; systemctl reload docker",
            "rm /etc/docker/daemon.json; systemctl restart docker",
            {},
            "three has live-restore in daemon.json",
        ),
        ("true", "true", {"swarm_toolkit_oldest": "1.21"}, "two has the container toolkit 1.19.0; 1.21 or newer"),
    ],
    ids=["other-swarm", "live-restore", "toolkit"],
)
def test_a_host_that_cannot_be_a_node_is_refused(
    cluster: Cluster, broken: str, mended: str, variables: dict[str, Any], sentence: str
) -> None:
    cluster.machines["three"].run(broken)
    cluster.workers = ["two", "three"]
    result = cluster.play("--tags", "swarm", **variables)
    cluster.workers = ["two"]
    cluster.machines["three"].run(mended)
    assert result.code != 0
    assert sentence in result.said, result.output
    assert result.count("changed") == 0, result.output


def test_a_line_of_inventory_adds_a_host_through_its_firewall(cluster: Cluster) -> None:
    three = cluster.machines["three"]
    three.run("ufw allow ssh; ufw --force enable")
    cluster.workers.append("three")
    cluster.change()
    assert cluster.nodes["three"]["Status"]["State"] == "ready"
    assert three.has(f"{cluster.trust}/client.cert")
    for port in ("2377,7946/tcp", "4789,7946/udp"):
        assert f"{port} " in three.run("ufw status")
    # What is larger than the network carries arrives, in both directions.
    cluster.docker("network create --driver overlay --attachable --opt com.docker.network.driver.mtu=1400 talk")
    image = cluster.site.image
    cluster.docker(f"run --detach --rm --name server --network talk {image} python3 -c '{SEND}'", on="three")
    assert cluster.docker(f"run --rm --network talk {image} python3 -c '{RECEIVE}'") == "1000000"
    until(lambda: cluster.docker("ps --quiet --filter name=server", on="three") == "")
    cluster.docker("network rm talk")


def test_a_drained_host_runs_nothing(cluster: Cluster) -> None:
    cluster.serve("web", 4)
    until(lambda: len(cluster.tasks("web")) == 4)
    assert "three" in cluster.tasks("web")
    cluster.variables["three"] = {"swarm_state": "drained"}
    changed = ["swarm : Give it role, availability and labels", "swarm : Write the report"]
    assert cluster.change().changed == changed
    until(lambda: len(cluster.tasks("web")) == 4 and "three" not in cluster.tasks("web"))
    assert cluster.nodes["three"]["Spec"]["Availability"] == "drain"
    cluster.docker("service rm web")


def test_a_worker_is_made_a_manager_and_comes_back_from_being_drained(cluster: Cluster) -> None:
    cluster.variables.pop("three", None)
    cluster.workers.remove("three")
    cluster.managers.append("three")
    result = cluster.change()
    assert "WARNING: 2 managers can lose no more of them" in result.said
    spec = cluster.nodes["three"]["Spec"]
    assert (spec["Role"], spec["Availability"]) == ("manager", "active")
    cluster.managers.remove("three")
    cluster.workers.append("three")
    cluster.change()
    assert cluster.nodes["three"]["Spec"]["Role"] == "worker"


def test_a_host_that_was_installed_anew_takes_its_own_place(cluster: Cluster) -> None:
    before = cluster.nodes["three"]["ID"]
    cluster.machines["three"].run("docker swarm leave")  # knows nothing any more, and the Swarm knows it
    until(lambda: cluster.nodes["three"]["Status"]["State"] == "down")
    cluster.change()
    assert len(cluster.docker("node ls --quiet").split()) == 3
    assert cluster.nodes["three"]["ID"] != before


def test_an_absent_host_leaves_when_its_services_have_moved(cluster: Cluster) -> None:
    cluster.variables["three"] = {"swarm_state": "absent"}
    cluster.change()
    assert set(cluster.nodes) == {"one", "two"}
    assert cluster.docker("info --format '{{.Swarm.LocalNodeState}}'", on="three") == "inactive"
    assert not cluster.machines["three"].has(cluster.trust)
    assert set(cluster.report["hosts"]) == {"one", "two"}


def test_a_host_that_died_is_forgotten(cluster: Cluster) -> None:
    cluster.variables.pop("three", None)
    cluster.change()
    assert set(cluster.nodes) == {"one", "two", "three"}
    three = cluster.machines["three"]
    cluster.variables["three"] = {"swarm_state": "absent", "ansible_host": three.address}
    three.container.kill()
    until(lambda: cluster.nodes["three"]["Status"]["State"] == "down")
    result = cluster.play("--tags", "swarm")
    assert (result.count("unreachable"), result.count("failed")) == (1, 0), result.output
    assert set(cluster.nodes) == {"one", "two"}
