"""Machines for Ansible: containers with systemd and sshd, reached over ssh."""

import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.infra import engine

HERE = Path(__file__).parent

LABEL = "org.lookingglass.test"

#: Where machines are, and the address of each: one that the engine chose for a container is another's while that
#: container reboots. The range is for tests of networks (RFC 2544).
NETWORK = "lookingglass-test-machines"
SUBNET = "198.18.0.0/24"
NAMES = ("registry", "fresh", "debian12", "debian13", "rocky9", "one", "two", "three")
ADDRESSES = {name: f"198.18.0.{number}" for number, name in enumerate(NAMES, 2)}

#: Seconds for a machine to boot.
BOOT_SECONDS = 60

#: Two cards and an NVSwitch, by PCI address and class.
TWO_CARDS = "0000:17:00.0 0x030200\n0000:65:00.0 0x030000\n0000:c3:00.0 0x068000\n"

#: What systemd and a Docker engine of its own need; the host's cgroups beside them.
CAPABILITIES = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_BOOT"]

#: For the systemd of Debian 13, which refuses version 1 of cgroups unless told otherwise.
LEGACY_CGROUPS = {"SYSTEMD_PROC_CMDLINE": "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"}

#: Where a machine writes by itself.
RESTLESS = (
    *("/var/log", "/var/lib/systemd", "/home/ops/.ansible", "/root/.ansible", "/var/lib/sudo", "/tmp"),
    *("/var/cache/dnf", "/var/lib/dnf", "/var/lib/rpm/rpmdb.sqlite"),  # what repositories said; rpm's reading
)


@dataclass
class Machine:
    """A machine that runs."""

    container: Container
    #: ssh's command line for it, up to the user's name.
    ssh: list[str]

    #: Its address, which it keeps when it reboots.
    address: str

    def run(self, script: str) -> str:
        """What a shell script prints there, as root.

        Raises:
            RuntimeError: it failed.
        """
        code, output = self.container.exec_run(["bash", "-ec", script])
        if code:
            raise RuntimeError(f"{script}: {bytes(output).decode()}")  # type: ignore[arg-type]
        return bytes(output).decode()  # type: ignore[arg-type]

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        self.run(f"mkdir -p {Path(path).parent}; cat >{path} <<'END'\n{text}\nEND")

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.container.exec_run(["test", "-e", path])[0] == 0

    def devices(self, pci: str) -> None:
        """Seat other cards, by PCI address and class."""
        self.write("/etc/machine/pci", pci)
        self.run("systemctl restart machine")

    def changes(self) -> set[str]:
        """Files that differ from the machine's image, but for those it writes to by itself."""
        found = {str(entry["Path"]) for entry in self.container.diff() or []}
        directories = {str(parent) for path in found for parent in Path(path).parents}
        return {path for path in found - directories if not path.startswith(RESTLESS)}

    def boots(self) -> str:
        """Which boot it is in."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def wait(self) -> None:
        """Wait until it has booted.

        Raises:
            TimeoutError: it does not.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while subprocess.run([*self.ssh, self.address, "true"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.container.name} did not boot: {self.container.logs(tail=40).decode()}")
            time.sleep(0.3)


def image(client: docker.DockerClient, suite: str) -> str:
    """The machine's image, built on the engine."""
    tag = f"lookingglass-test/machine:{suite}"
    derived = suite in ("rocky", "engine")
    client.images.build(
        path=str(HERE / "host"),
        dockerfile=f"Dockerfile.{suite}" if derived else "Dockerfile",
        tag=tag,
        buildargs={"BASE_IMAGE": image(client, "bookworm") if derived else engine.base_image(client, suite)},
        rm=True,
        forcerm=True,
    )
    return tag


@contextmanager
def boot(client: docker.DockerClient, suite: str, name: str, repositories: Path, keys: Path) -> Iterator[Machine]:
    """A machine with two cards, for as long as the context lasts.

    Its suite is Debian's `bookworm` or `trixie`, `engine` for the first with Docker and firewalls, or `rocky`.
    """
    container = client.containers.create(
        image(client, suite),
        name=freed(client, name),
        hostname=name,
        labels={LABEL: name},
        **addressed(client, name),
        cap_add=CAPABILITIES,
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        cgroupns="host",
        environment=LEGACY_CGROUPS,
        tmpfs={"/run": "", "/run/lock": ""},
        volumes={
            "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
            str(repositories): {"bind": "/srv/repository", "mode": "ro"},
            f"lookingglass-test-{name}": {"bind": "/var/lib/docker", "mode": "rw"},
            # Not the network's resolver: rules of the firewall inside lead to it, and an engine there passes it over.
            "/etc/resolv.conf": {"bind": "/etc/resolv.conf", "mode": "ro"},
        },
        restart_policy={"Name": "always"},  # a container comes back from `reboot` only if its engine starts it
    )
    found = Machine(container, [str(keys / "ssh"), "-l", "ops"], ADDRESSES[name])
    try:
        put(container, "/etc/machine/pci", TWO_CARDS)
        put(container, "/home/ops/.ssh/authorized_keys", (keys / "id.pub").read_text())
        put(container, "/etc/ssh/ssh_host_ed25519_key", (keys / "host").read_text(), 0o600)
        container.start()
        found.wait()
        yield found
    finally:
        container.remove(force=True, v=True)
        client.volumes.get(f"lookingglass-test-{name}").remove()


def freed(client: docker.DockerClient, name: str) -> str:
    """The name of a container of the tests, and what a run that was killed left under it is gone."""
    full = f"lookingglass-test-{name}"
    with suppress(docker.errors.NotFound):
        client.containers.get(full).remove(force=True, v=True)
    with suppress(docker.errors.NotFound):
        client.volumes.get(full).remove()
    return full


def addressed(client: docker.DockerClient, name: str) -> dict[str, Any]:
    """What gives a container of the tests its address, for its creation; the network is made where it is not yet."""
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(SUBNET)])
    if not client.networks.list(names=[NETWORK]):
        try:
            client.networks.create(NETWORK, ipam=pool, labels={LABEL: "network"})
        except docker.errors.APIError:
            if not client.networks.list(names=[NETWORK]):  # else a test beside these was faster
                raise
    endpoint = client.api.create_endpoint_config(ipv4_address=ADDRESSES[name])
    return {"network": NETWORK, "networking_config": {NETWORK: endpoint}}


def save_image(client: docker.DockerClient, image: str, path: Path) -> None:
    """Write an image into a file, for `docker load` on a machine."""
    with path.open("wb") as archive:
        for chunk in client.images.get(image).save(named=True):
            archive.write(chunk)


def put(container: Container, path: str, text: str, mode: int = 0o644) -> None:
    """Write a file into a container that does not run."""
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size, entry.mode = len(text.encode()), mode
        tar.addfile(entry, BytesIO(text.encode()))
    container.put_archive("/", archive.getvalue())


def make_keys(directory: Path) -> Path:
    """Keys of the operator and the machines, and an ssh that uses them and nothing of this user's."""
    for name in ("id", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    ssh = directory / "ssh"
    options = f"-F /dev/null -o IdentityFile={directory / 'id'} -o StrictHostKeyChecking=no"
    options += " -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=5"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    ssh.chmod(0o755)
    return directory
