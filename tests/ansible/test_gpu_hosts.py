"""The playbook on real machines: fresh, again, checked, upgraded, interrupted, refused."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from lookingglass import preflight, settings
from lookingglass.engine import EngineError

from tests.ansible.machine import TWO_CARDS, Machine, boot
from tests.ansible.repository import DRIVERS, TOOLKITS
from tests.ansible.site import LOOPBACK, Site

pytestmark = pytest.mark.timeout(900)

#: What the operators of a site had in daemon.json before.
SITES_DAEMON = {"log-driver": "local", "runtimes": {"other": {"path": "/usr/bin/other"}}}

#: Holds the lists of packages, as a machine's own update does, until an apt-get came for them.
HOLD_THE_LISTS = """
import contextlib, fcntl, pathlib, time
lock = open("/var/lib/apt/lists/lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
seen = False
while not seen:
    for comm in pathlib.Path("/proc").glob("[1-9]*/comm"):
        with contextlib.suppress(OSError):
            seen = seen or comm.read_text() == "apt-get\\n"
time.sleep(3)
"""

SEED = random.randrange(2**32)


@pytest.fixture(scope="module")
def fresh(docker_client: "docker.DockerClient", site: Site) -> Iterator[Machine]:
    """A machine that nothing may be changed on."""
    with boot(docker_client, "bookworm", "fresh", site.repositories.directory, site.ssh.parent) as machine:
        yield machine


@pytest.fixture(scope="module")
def host(docker_client: "docker.DockerClient", site: Site) -> Iterator[Machine]:
    """Debian 12 with Docker's own packages, prepared."""
    with boot(docker_client, "bookworm", "debian12", site.repositories.directory, site.ssh.parent) as machine:
        machine.write("/etc/docker/daemon.json", json.dumps(SITES_DAEMON))
        machine.run("dpkg -i /srv/repository/driver/podman-docker_*.deb && dpkg --remove podman-docker")
        machine.run("touch /etc/machine/nouveau && systemctl restart machine && mkdir /sys/module/nouveau")
        site.prepare(machine)
        yield machine


@pytest.fixture(scope="module")
def other(docker_client: "docker.DockerClient", site: Site) -> Iterator[Machine]:
    """Debian 13, which gets its distribution's packages of Docker."""
    with boot(docker_client, "trixie", "debian13", site.repositories.directory, site.ssh.parent) as machine:
        machine.write("/etc/apt/apt.conf.d/no-recommends", 'APT::Install-Recommends "false";')
        yield machine


def test_a_check_of_a_fresh_machine_says_what_would_be_done_and_does_nothing(site: Site, fresh: Machine) -> None:
    before = fresh.changes()
    result = site.play(fresh, "--check", "--diff")
    assert result.code == 0, result.output
    assert result.count("changed") > 5
    assert "+blacklist nouveau" in result.output
    assert fresh.changes() == before


@pytest.mark.parametrize(
    ("broken", "mended", "variables", "sentence"),
    [
        ("", "", {"preflight_distributions": ["Debian 11"]}, "runs Debian 12 on x86_64. Supported are Debian 11"),
        (
            "echo 0000:00:1f.0 0x060100 >/etc/machine/pci",
            f"printf '{TWO_CARDS}' >/etc/machine/pci",
            {},
            "has no NVIDIA card",
        ),
        ("touch /usr/bin/nvidia-uninstall", "rm /usr/bin/nvidia-uninstall", {}, "a driver from a .run file"),
        ("touch /etc/machine/secure_boot", "rm /etc/machine/secure_boot", {}, "boots with Secure Boot"),
        (
            "mkdir /etc/docker; echo '{,}' >/etc/docker/daemon.json",
            "rm -r /etc/docker",
            {},
            "/etc/docker/daemon.json on lookingglass-test-fresh is not a JSON object",
        ),
        (
            "dpkg -i /srv/repository/driver/nvidia-tesla-*.deb",
            "dpkg --purge nvidia-tesla-470-driver",
            {},
            "has nvidia-tesla-470-driver installed",
        ),
        (
            f"echo 'deb [signed-by=/cuda.gpg] {LOOPBACK}/driver/ /' >/etc/apt/sources.list.d/cuda.list",
            "rm /etc/apt/sources.list.d/cuda.list",
            {},
            "/etc/apt/sources.list.d/cuda.list on lookingglass-test-fresh describes",
        ),
        ("", "", {"nvidia_driver_source": "distribution"}, "has NVSwitches (0000:c3:00.0)"),
        (
            "",
            "",
            {"nvidia_driver_branch": "590"},
            f"nvidia_driver_version {DRIVERS[0]} is not of nvidia_driver_branch 590",
        ),
        ("", "", {"nvidia_container_toolkit_version": "1.17.8"}, "1.17.8 is too old"),
        (
            "",
            "",
            {
                "model_packs_wanted": [
                    {"name": "buffalo_l", "archive": "https://example.org/b.zip", "sha256": "0" * 64}
                ]
            },
            "non-commercial use only",
        ),
        (
            "",
            "",
            {"model_packs_wanted": [{"name": "gone", "archive": "/nowhere/gone.zip", "sha256": "0" * 64}]},
            "The pack gone at /nowhere/gone.zip is not there.",
        ),
    ],
    ids=[
        "distribution",
        "card",
        "run-file",
        "secure-boot",
        "daemon-json",
        "package",
        "repository",
        "nvswitches",
        "branch",
        "toolkit",
        "licence",
        "pack",
    ],
)
def test_what_would_fail_half_way_is_refused_before_anything_is_changed(
    site: Site, fresh: Machine, broken: str, mended: str, variables: dict[str, Any], sentence: str
) -> None:
    fresh.run(f"{broken}\nsystemctl restart machine")
    before = fresh.changes()
    result = site.play(fresh, **variables)
    after = fresh.changes()
    fresh.run(f"{mended}\nsystemctl restart machine")
    assert result.code != 0
    assert sentence in result.said
    assert result.count("changed") == 0
    assert after == before


def test_a_key_of_another_fingerprint_is_not_trusted(site: Site, fresh: Machine) -> None:
    result = site.play(fresh, "--tags", "docker", docker_key_fingerprint="F" * 40)
    assert result.code != 0
    assert f"has the fingerprint {site.repositories.fingerprint}, not {'F' * 40}" in result.said
    assert not fresh.has("/etc/apt/sources.list.d/docker.sources")
    assert not fresh.has("/etc/apt/keyrings/docker.asc")


def test_a_bare_machine_becomes_a_gpu_host(site: Site, host: Machine) -> None:
    assert host.run("nvidia-smi -L | wc -l").strip() == "2"
    assert host.run("cat /sys/module/nvidia/version").strip() == DRIVERS[0]
    for service in ("docker", "nvidia-persistenced", "nvidia-fabricmanager", "nvidia-cdi-refresh.path"):
        assert host.run(f"systemctl is-enabled {service}; systemctl is-active {service}").split() == [
            "enabled",
            "active",
        ]
    report = site.report(host)
    assert (report["driver"], report["container_toolkit"], report["distribution"]) == (
        DRIVERS[0],
        TOOLKITS[0],
        "Debian 12",
    )
    assert len(report["gpus"]) == 2
    assert report["nvswitches"] == 1


def test_nouveau_is_gone_after_the_reboot_that_it_cost(host: Machine) -> None:
    assert not host.has("/sys/module/nouveau")
    assert "blacklist nouveau" in host.run("cat /etc/modprobe.d/*")


def test_the_sites_daemon_json_is_kept_beside_the_runtime(host: Machine) -> None:
    daemon = json.loads(host.run("cat /etc/docker/daemon.json"))
    assert daemon["runtimes"].pop("nvidia") == {"path": "nvidia-container-runtime", "args": []}
    assert daemon == SITES_DAEMON
    assert host.run("docker info --format '{{.LoggingDriver}}'").strip() == "local"


def test_the_second_run_changes_nothing(site: Site, host: Machine) -> None:
    result = site.play(host)
    assert (result.code, result.changed, result.count("changed")) == (0, [], 0), result.output
    assert f"make up STACK={host.container.name} REPORT=" in result.said
    checked = site.play(host, "--check", "--diff")
    assert (checked.code, checked.changed) == (0, []), checked.output


def test_an_update_leaves_driver_and_toolkit_where_they_are(host: Machine) -> None:
    offered = host.run("apt-cache madison nvidia-driver-cuda nvidia-container-toolkit")
    assert DRIVERS[2] in offered
    assert TOOLKITS[1] in offered
    plan = host.run("apt-get --simulate dist-upgrade")
    assert [line for line in plan.splitlines() if line.startswith("Inst") and "nvidia" in line] == []


def test_an_update_of_the_machines_own_is_waited_for(site: Site, host: Machine) -> None:
    host.container.exec_run(["python3", "-c", HOLD_THE_LISTS], detach=True)
    result = site.play(host, "--tags", "model_packs")
    assert (result.code, result.changed) == (0, []), result.output
    assert "FAILED - RETRYING" in result.output


@pytest.mark.parametrize(
    ("broken", "mended", "sentence"),
    [
        (
            "echo 'In Progress' >/etc/machine/fabric",
            "rm /etc/machine/fabric",
            "has cards whose fabric is not ready (In Progress, In Progress)",
        ),
        (
            "rm /run/nvidia-persistence",
            "systemctl restart nvidia-persistenced",
            "has cards with persistence mode Disabled, Disabled",
        ),
    ],
    ids=["fabric", "persistence"],
)
def test_a_host_that_cannot_compute_is_not_ready(
    site: Site, host: Machine, broken: str, mended: str, sentence: str
) -> None:
    host.run(broken)
    result = site.play(host, "--tags", "verification", verification_fabric_timeout=5)
    host.run(mended)
    assert result.code != 0
    assert sentence in result.said


def test_a_module_that_cannot_be_loaded_costs_no_reboot(site: Site, host: Machine) -> None:
    booted = host.boots()
    host.run("touch /etc/machine/taken; rm -r /sys/module/nvidia")
    result = site.play(host, "--tags", "nvidia_driver")
    host.run("rm /etc/machine/taken; modprobe nvidia")
    assert result.code != 0
    assert "modprobe said: modprobe: ERROR: could not insert 'nvidia': No such device" in result.said
    assert host.boots() == booted


def test_a_host_is_reached_where_ansible_reaches_it(site: Site, host: Machine) -> None:
    def addresses(**variables: Any) -> dict[str, str]:
        result = site.play(host, "--tags", "verification", **variables)
        assert result.code == 0, result.output
        config = site.report(host)["pulumi"]
        return {name: config[name]["value"] for name in config if "public" in name}

    # Behind the translation of addresses it listens on its own and is reached at the other.
    assert addresses(preflight_address="192.0.2.7") == {
        "lookingglass:publicAddress": host.address,
        "lookingglass:publicHost": "192.0.2.7",
    }
    assert addresses() == {"lookingglass:publicAddress": host.address}


def test_headers_follow_the_kernels_that_updates_bring(site: Site, host: Machine) -> None:
    host.run("dpkg -i /srv/repository/driver/linux-image-stand-in_*.deb")
    result = site.play(host, "--tags", "nvidia_driver")
    assert result.code == 0, result.output
    assert "linux-headers-stand-in" in host.run("dpkg --get-selections")


def test_a_pack_is_unpacked_whole_and_mended_when_it_is_not(site: Site, host: Machine) -> None:
    model = "/srv/lookingglass/models/stand_in/det.onnx"
    assert host.run(f"cat {model}; stat -c %a {model}") == "a detector644\n"
    host.run(f"echo damaged >{model}")
    result = site.play(host, "--tags", "model_packs")
    assert result.code == 0, result.output
    assert host.run(f"cat {model}") == "a detector"
    assert host.run("ls -A /srv/lookingglass/models").split() == ["stand_in"]


def test_a_host_keeps_its_version_where_none_is_asked_for(site: Site, host: Machine) -> None:
    result = site.play(host, nvidia_driver_version="")
    assert (result.code, result.changed) == (0, []), result.output


def test_the_machine_that_the_playbook_runs_from_is_never_rebooted(site: Site, host: Machine) -> None:
    booted = host.boots()
    host.run("umount /proc/sys/kernel/random/boot_id; echo 1.0 >/sys/module/nvidia/version")
    result = site.play(host, "--tags", "nvidia_driver")
    host.run("mount --bind /run/boot_id /proc/sys/kernel/random/boot_id")
    assert result.code != 0
    assert "the playbook runs on that machine: reboot it yourself" in result.said
    assert host.boots() == booted


def test_a_reboot_that_was_not_allowed_is_asked_for(site: Site, host: Machine) -> None:
    booted = host.boots()
    result = site.play(host, "--tags", "nvidia_driver", nvidia_driver_reboot=False)
    assert result.code != 0
    assert f"has loaded 1.0 where {DRIVERS[0]} is installed, and nvidia_driver_reboot is false" in result.said
    assert host.boots() == booted


def test_another_branch_is_installed_rebooted_into_and_held(site: Site, host: Machine) -> None:
    booted = host.boots()
    result = site.play(host, nvidia_driver_branch="590", nvidia_driver_version=DRIVERS[2])
    assert result.code == 0, result.output
    assert host.boots() != booted
    assert host.run("cat /sys/module/nvidia/version").strip() == DRIVERS[2]
    assert site.report(host)["driver"] == DRIVERS[2]
    assert DRIVERS[2] in host.run("cat /var/run/cdi/nvidia.yaml")
    back = site.play(host, nvidia_driver_version="")
    assert back.code == 0, back.output
    assert site.report(host)["driver"] == DRIVERS[1]  # the branch's newest


def test_an_interrupted_run_is_completed_by_the_next(site: Site, other: Machine) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    proxy = {"https_proxy": "http://ops:p%40ss@proxy.example:3128"}
    variables: dict[str, Any] = {"docker_source": "distribution", "docker_proxy": proxy}
    for _ in range(3):
        site.play(other, kill_after=rng.uniform(5, 40), **variables)
    _settle(other)
    site.prepare(other, **variables)
    again = site.play(other, **variables)
    assert (again.code, again.changed) == (0, []), again.output
    assert site.report(other)["distribution"] == "Debian 13"
    assert proxy["https_proxy"] in other.run("systemctl show --property Environment docker")


def _settle(machine: Machine) -> None:
    """End what a killed playbook left running, as a lost connection would in time."""
    # In brackets, for the shell that looks has the pattern in its own command line.
    machine.run("pkill -KILL -f '[A]nsiballZ' || true; pkill -KILL apt-get || true; pkill -KILL dpkg || true")


#: Keys of what `make up` needs of an engine and a playbook does not give it.
NOT_GIVEN = {"openFiles", "redisImage", "qdrantImage", "minioImage", "baseImage"}


def test_the_report_is_what_the_pulumi_program_takes(
    site: Site, host: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{site.ssh.parent}:/usr/bin:/bin")
    config = {
        name.removeprefix("lookingglass:"): entry["value"] for name, entry in site.report(host)["pulumi"].items()
    }
    loaded = settings.load(config)
    assert loaded.docker_host == f"ssh://ops@{host.address}"
    assert (loaded.engine, len(loaded.gpus), loaded.model_pack) == ("insightface", 2, "stand_in")
    # The machine is given no images and no limits here, and has no registry to reach.
    try:
        preflight.check(loaded, "gpu")
    except EngineError as error:
        _, *problems = str(error).splitlines()
        assert {problem.split(":")[0].strip() for problem in problems} <= NOT_GIVEN
