"""Package repositories with small packages of NVIDIA's and Docker's names, signed with a key of their own.

They stand in for the publishers' own, which no package registry carries; what they install behaves as the real one
would, as far as Ansible can tell.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import docker

PARTS = Path(__file__).parent / "packages"

KERNEL = os.uname().release

#: Versions of the driver that the repository has: two of one branch, one of the next.
DRIVERS = ("580.95.05", "580.126.09", "590.48.01")
TOOLKITS = ("1.19.0", "1.20.0")

UNIT = "[Unit]\nDescription={0}\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"

#: As Ubuntu's: the daemon runs, and the cards sleep.
PERSISTENCED = UNIT.replace("[Install]", "ExecStopPost=/bin/rm -f /run/nvidia-persistence\n[Install]")
UNITS = {"nvidia-persistenced": PERSISTENCED, "nvidia-fabricmanager": UNIT}

REFRESH_SERVICE = "[Service]\nType=oneshot\nExecStart=/usr/bin/nvidia-ctk cdi generate\n"
REFRESH_PATH = "[Path]\nPathChanged=/lib/modules\n[Install]\nWantedBy=multi-user.target\n"


@dataclass(frozen=True)
class Package:
    """A Debian package."""

    name: str
    version: str
    depends: str = ""
    #: Contents by path, executable where they begin with `#!`.
    files: dict[str, bytes] = field(default_factory=dict)
    postinst: str = ""


@dataclass(frozen=True)
class Repositories:
    """Where they lie, and the key that signs them."""

    directory: Path
    #: The armoured key.
    key: Path
    fingerprint: str


def make(directory: Path, client: docker.DockerClient, base: str) -> Repositories:
    """Make the repositories `driver`, `toolkit` and `docker`."""
    key, fingerprint = _key(directory)
    for name, packages in (("driver", _drivers(directory)), ("toolkit", _toolkits())):
        (directory / name).mkdir()
        for package in packages:
            _build(directory / name, package)
        _index(directory / name, directory)
    _docker(directory / "docker", client, base)
    _index(directory / "docker", directory, suite="bookworm", component="stable")
    shutil.copy(key, directory / "key.asc")
    return Repositories(directory, key, fingerprint)


def _drivers(scratch: Path) -> Iterable[Package]:
    for version in DRIVERS:
        full = f"{version}-1ubuntu1"
        yield Package("nvidia-driver-cuda", full, f"libcuda1 (= {full})", smi(version))
        yield Package("libcuda1", full, "", {f"usr/lib/libcuda.so.{version}": b""})
        yield Package(
            "nvidia-kernel-open-dkms", full, "linux-headers-stand-in", module(scratch, version), "depmod -a"
        )
        yield Package("nvidia-persistenced", full, "", unit("nvidia-persistenced"))
        # Of a revision of its own, as in NVIDIA's repositories.
        yield Package("nvidia-fabricmanager", f"{version}-1", "", unit("nvidia-fabricmanager"))
    yield Package(f"linux-headers-{KERNEL}", "1")
    yield Package("linux-headers-stand-in", "1", f"linux-headers-{KERNEL}")
    yield Package("linux-image-stand-in", "1")
    yield Package("nvidia-tesla-470-driver", "470.256.02-1")
    yield Package("podman-docker", "1", "", {"etc/containers/nodocker": b""})


def _toolkits() -> Iterable[Package]:
    for version in TOOLKITS:
        full = f"{version}-1"
        yield Package("libnvidia-container1", full)
        yield Package("libnvidia-container-tools", full, f"libnvidia-container1 (>= {full})")
        yield Package("nvidia-container-toolkit-base", full, "", toolkit(version))
        depends = f"nvidia-container-toolkit-base (= {full}), libnvidia-container-tools (= {full})"
        yield Package("nvidia-container-toolkit", full, depends)


def _docker(directory: Path, client: docker.DockerClient, base: str) -> None:
    """Debian's engine under the names of Docker's packages, so that a real engine is installed by them."""
    pool = directory / "pool"
    pool.mkdir(parents=True)
    fetch = "apt-get update -q && cd /pool && apt-get download docker.io containerd runc"
    client.containers.run(base, ["sh", "-ec", fetch], volumes={str(pool): {"bind": "/pool"}}, remove=True)
    for name, parts in (("docker-ce", ["docker.io"]), ("containerd.io", ["containerd", "runc"])):
        tree = pool / "tree"
        depends = "containerd.io, docker-ce-cli" if name == "docker-ce" else "libc6"
        for part in parts:
            [archive] = pool.glob(f"{part}_*.deb")
            run("dpkg-deb", "--extract", archive, tree)
            run("dpkg-deb", "--control", archive, tree / "DEBIAN")
            fields = run("dpkg-deb", "--field", archive, "Version", "Depends").decode()
            version, others = (line.partition(": ")[2] for line in fields.splitlines())
            depends += "".join(
                f", {other}" for other in others.split(", ") if not other.startswith(("containerd", "runc"))
            )
            archive.unlink()
        _control(tree / "DEBIAN" / "control", name, version, depends)
        (tree / "DEBIAN" / "md5sums").unlink(missing_ok=True)
        _pack(tree, pool / f"{name}.deb")
    _build(pool, Package("docker-ce-cli", "1"))


def smi(version: str) -> dict[str, bytes]:
    """nvidia-smi, by path."""
    return {"usr/bin/nvidia-smi": (PARTS / "nvidia-smi").read_text().replace("@VERSION@", version).encode()}


def module(scratch: Path, version: str) -> dict[str, bytes]:
    """The kernel module, by path."""
    target = scratch / "nvidia.ko"
    run("gcc", "-c", f'-DVERSION="{version}"', "-o", target, PARTS / "nvidia.c")
    return {f"usr/lib/modules/{KERNEL}/updates/dkms/nvidia.ko": target.read_bytes()}


def unit(service: str) -> dict[str, bytes]:
    """A service of the driver's, by path."""
    return {f"usr/lib/systemd/system/{service}.service": UNITS[service].format(service).encode()}


def toolkit(version: str) -> dict[str, bytes]:
    """The container toolkit's commands and units, by path."""
    return {
        "usr/bin/nvidia-ctk": (PARTS / "nvidia-ctk").read_text().replace("@VERSION@", version).encode(),
        "usr/bin/nvidia-container-runtime": (PARTS / "nvidia-container-runtime").read_bytes(),
        "usr/lib/systemd/system/nvidia-cdi-refresh.service": REFRESH_SERVICE.encode(),
        "usr/lib/systemd/system/nvidia-cdi-refresh.path": REFRESH_PATH.encode(),
    }


def _build(directory: Path, package: Package) -> None:
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    _control(tree / "DEBIAN" / "control", package.name, package.version, package.depends)
    for name, content in package.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith(b"#!") else 0o644)
    (tree / "DEBIAN" / "conffiles").write_text(
        "".join(f"/{name}\n" for name in package.files if name.startswith("etc/"))
    )
    if package.postinst:
        script = tree / "DEBIAN" / "postinst"
        script.write_text(f"#!/bin/sh\n{package.postinst}\n")
        script.chmod(0o755)
    _pack(tree, directory / f"{package.name}_{package.version}.deb")


def _pack(tree: Path, target: Path) -> None:
    run("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree, target)
    shutil.rmtree(tree)


def _control(path: Path, name: str, version: str, depends: str) -> None:
    lines = [
        f"Package: {name}",
        f"Version: {version}",
        "Architecture: amd64",
        "Maintainer: nobody <nobody@example.org>",
    ]
    lines += [f"Depends: {depends}"] if depends else []
    path.write_text("\n".join([*lines, "Description: stands in for the publisher's package", ""]))


def _index(directory: Path, home: Path, suite: str = "", component: str = "") -> None:
    """Write Packages and a signed InRelease, flat or with a suite."""
    packages = run("dpkg-scanpackages", "--multiversion", ".", cwd=directory)
    root = directory / "dists" / suite if suite else directory
    name = f"{component}/binary-amd64/Packages" if suite else "Packages"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(packages)
    release = f"Suite: {suite or 'flat'}\nComponents: {component}\nArchitectures: amd64\n"
    release += "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
    release += f" {hashlib.sha256(packages).hexdigest()} {len(packages)} {name}\n"
    (root / "Release").write_text(release)
    gpg(home, "--yes", "--clearsign", "--output", root / "InRelease", root / "Release")


def _key(directory: Path) -> tuple[Path, str]:
    home = directory / "gnupg"
    home.mkdir(mode=0o700)
    gpg(directory, "--passphrase", "", "--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never")
    listing = gpg(directory, "--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    key = directory / "publisher.asc"
    key.write_bytes(gpg(directory, "--armor", "--export"))
    return key, fingerprint


def gpg(directory: Path, *arguments: str | Path) -> bytes:
    """What gpg prints, with the keys that were made in that directory."""
    return run("gpg", "--homedir", directory / "gnupg", "--batch", "--quiet", *arguments)


def run(*command: str | Path, cwd: Path | None = None) -> bytes:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, cwd=cwd).stdout
