"""The playbook's way through dnf: packages, signed lists, module streams and locks, on a machine of rpm packages."""

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.ansible import rpm_repository
from tests.ansible.machine import Machine, boot
from tests.ansible.repository import DRIVERS, TOOLKITS
from tests.ansible.site import LOOPBACK, Result, Site

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def host(docker_client: "docker.DockerClient", site: Site) -> Iterator[Machine]:
    """A machine that says it is Rocky Linux 9."""
    rpm_repository.make(site.repositories)
    with boot(docker_client, "rocky", "rocky9", site.repositories.directory, site.ssh.parent) as machine:
        yield machine


def _variables(site: Site) -> dict[str, Any]:
    names = {"docker": "docker", "nvidia_driver": "driver", "nvidia_container_toolkit": "toolkit"}
    return {f"{role}_repository": f"{LOOPBACK}/rpm/{name}" for role, name in names.items()} | {
        "nvidia_driver_epel_repository": f"{LOOPBACK}/rpm/epel",
        "nvidia_driver_epel_key": f"{LOOPBACK}/key.asc",
        "nvidia_driver_epel_key_fingerprint": site.repositories.fingerprint,
    }


def _play(site: Site, host: Machine, *arguments: str, **variables: Any) -> Result:
    return site.play(host, *arguments, **_variables(site) | variables)


def test_a_check_of_a_fresh_machine_does_nothing(site: Site, host: Machine) -> None:
    before = host.changes()
    result = _play(site, host, "--check", "--diff")
    assert result.code == 0, result.output
    assert result.count("changed") > 5
    assert host.changes() == before


def test_a_key_of_another_fingerprint_is_not_trusted(site: Site, host: Machine) -> None:
    result = _play(site, host, "--tags", "docker", docker_key_fingerprint="F" * 40)
    assert result.code != 0
    assert f"has the fingerprint {site.repositories.fingerprint}, not {'F' * 40}" in result.said
    assert not host.has("/etc/yum.repos.d/docker.repo")
    assert not host.has("/etc/pki/rpm-gpg/RPM-GPG-KEY-docker")


def test_a_kernel_whose_headers_are_gone_is_refused_before_the_driver(site: Site, host: Machine) -> None:
    host.run("echo 'excludepkgs=kernel-devel*' >>/etc/yum.repos.d/baseos.repo")
    result = _play(site, host, "--tags", "nvidia_driver")
    host.run("sed -i /excludepkgs/d /etc/yum.repos.d/baseos.repo")
    assert result.code != 0
    assert "whose headers no repository has any more" in result.said
    assert "nvidia" not in host.run("rpm --query --all")


def test_it_becomes_a_gpu_host_and_stays_one(site: Site, host: Machine) -> None:
    epel = host.run("cat /etc/yum.repos.d/epel.repo")
    site.prepare(host, **_variables(site))
    report = site.report(host)
    assert (report["driver"], report["container_toolkit"], report["distribution"]) == (
        DRIVERS[0],
        TOOLKITS[0],
        "Rocky 9",
    )
    assert host.run("rpm --query --queryformat '%{EPOCH} %{VERSION}' nvidia-driver-cuda") == f"3 {DRIVERS[0]}"
    assert host.run("rpm --query --queryformat %{VERSION} nvidia-fabricmanager") == DRIVERS[0]
    assert host.run("cat /etc/yum.repos.d/epel.repo") == epel
    again = _play(site, host)
    assert (again.code, again.changed, again.count("changed")) == (0, [], 0), again.output


def test_lists_are_read_only_with_their_signature_where_packages_have_none(host: Machine) -> None:
    settings = host.run("cat /etc/yum.repos.d/nvidia-container-toolkit.repo").splitlines()
    assert {"gpgcheck = 0", "repo_gpgcheck = 1"} <= set(settings)
    assert {"gpgcheck = 1", "repo_gpgcheck = 0"} <= set(host.run("cat /etc/yum.repos.d/docker.repo").splitlines())


def test_an_update_leaves_driver_and_toolkit_where_they_are(host: Machine) -> None:
    offered = host.run(
        "dnf --quiet --disableplugin=versionlock repoquery nvidia-driver-cuda nvidia-container-toolkit"
    )
    assert DRIVERS[1] in offered
    assert TOOLKITS[1] in offered
    assert "Nothing to do" in host.run("dnf --assumeno upgrade 2>&1")


def test_another_branch_is_another_stream_and_a_check_says_what_of_it_would_be_installed(
    site: Site, host: Machine
) -> None:
    booted = host.boots()
    another = {"nvidia_driver_branch": "590", "nvidia_driver_version": ""}
    checked = _play(site, host, "--check", "--diff", "--tags", "nvidia_driver", **another)
    assert checked.code == 0, checked.output
    assert f"+nvidia-driver-cuda-3:{DRIVERS[2]}-1.el9.*" in checked.output
    assert "stream=580-open" in host.run("cat /etc/dnf/modules.d/nvidia-driver.module")
    result = _play(site, host, "--tags", "nvidia_driver,verification", **another)
    assert result.code == 0, result.output
    assert host.boots() != booted
    assert site.report(host)["driver"] == DRIVERS[2]
    back = _play(site, host, "--check", "--diff", "--tags", "nvidia_driver", nvidia_driver_version="")
    assert back.code == 0, back.output
    assert f"+nvidia-driver-cuda-3:{DRIVERS[1]}-1.el9.*" in back.output  # 580.126, which is newer than 580.95
