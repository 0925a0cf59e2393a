"""The same repositories for dnf: small rpm packages, the driver's in a module stream for each branch, as NVIDIA's."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.ansible import repository
from tests.ansible.repository import DRIVERS, KERNEL, TOOLKITS, Repositories, gpg, run

#: The epoch of the driver's packages; the fabric manager's have none.
EPOCH = 3

MODULE = """\
---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: {branch}-open
  version: 1
  context: standin
  arch: x86_64
  summary: NVIDIA's driver
  description: NVIDIA's driver
  license: {{module: [none]}}
  artifacts: {{rpms: ["{packages}"]}}
...
"""


@dataclass(frozen=True)
class Rpm:
    """An rpm package."""

    name: str
    version: str
    release: str = "1.el9"
    epoch: int = 0
    requires: str = ""
    provides: str = ""
    #: Contents by path, executable where they begin with `#!`.
    files: dict[str, bytes] = field(default_factory=dict)
    pre: str = ""
    post: str = ""

    @property
    def nevra(self) -> str:
        """Its name in a module stream."""
        return f"{self.name}-{self.epoch}:{self.version}-{self.release}.noarch"


def make(repositories: Repositories) -> None:
    """Make `driver`, `toolkit`, `docker`, `epel`, and the distribution's `baseos`, in `rpm` beside those for apt."""
    home = repositories.directory / "rpm"
    drivers = {version: list(_driver(repositories.directory, version)) for version in DRIVERS}
    for name, packages in {
        "driver": [package for version in DRIVERS for package in drivers[version]],
        "toolkit": [package for version in TOOLKITS for package in _toolkit(version)],
        "epel": [Rpm("dkms", "3.2.1")],
        "baseos": list(_distribution()),
    }.items():
        for package in packages:
            _build(home / name, package)
    for package in _docker(repositories.directory / "docker" / "pool", home):
        _build(home / "docker", package)
    # The toolkit's publisher signs the lists and no package, the others the other way round.
    for name in ("driver", "docker", "epel"):
        _sign(repositories, sorted((home / name).glob("*.rpm")))
    _streams(home / "driver" / "modules.yaml", drivers)
    for name in ("driver", "toolkit", "docker", "epel", "baseos"):
        run("createrepo_c", "--quiet", "--no-database", home / name)
    gpg(repositories.directory, "--yes", "--armor", "--detach-sign", home / "toolkit" / "repodata" / "repomd.xml")


def _driver(scratch: Path, version: str) -> Iterable[Rpm]:
    same = f"= {EPOCH}:{version}"
    libraries = f"nvidia-driver-cuda-libs {same}, libnvidia-ml {same}"
    yield Rpm("nvidia-driver-cuda", version, epoch=EPOCH, requires=libraries, files=repository.smi(version))
    yield Rpm("nvidia-driver-cuda-libs", version, epoch=EPOCH)
    yield Rpm("libnvidia-ml", version, epoch=EPOCH)
    module = repository.module(scratch, version)
    yield Rpm("kmod-nvidia-open-dkms", version, epoch=EPOCH, requires="dkms", files=module, post="depmod -a")
    unit = repository.unit("nvidia-persistenced")
    yield Rpm("nvidia-persistenced", version, epoch=EPOCH, requires=f"libnvidia-ml {same}", files=unit)
    yield Rpm("nvidia-fabricmanager", version, release="1", files=repository.unit("nvidia-fabricmanager"))


def _toolkit(version: str) -> Iterable[Rpm]:
    yield Rpm("libnvidia-container1", version, "1")
    yield Rpm("libnvidia-container-tools", version, "1", requires=f"libnvidia-container1 >= {version}")
    yield Rpm("nvidia-container-toolkit-base", version, "1", files=repository.toolkit(version))
    requires = f"nvidia-container-toolkit-base = {version}, libnvidia-container-tools = {version}"
    yield Rpm("nvidia-container-toolkit", version, "1", requires=requires)


def _distribution() -> Iterable[Rpm]:
    yield Rpm("bash", "5.1.8", provides="/bin/sh")
    yield Rpm("python3-dnf-plugin-versionlock", "4.3.0")
    # The kernel that runs is the machine's below, whose release need not be a version and release of rpm's.
    name, version, release = (*f"kernel-devel-{KERNEL}".rsplit("-", 2), "1")[:3]
    yield Rpm(name, version, release)
    yield Rpm("kernel-devel-matched", "1")


def _docker(pool: Path, scratch: Path) -> Iterable[Rpm]:
    """Debian's engine under the names of Docker's packages."""
    for name in ("containerd.io", "docker-ce"):
        tree = scratch / "deb"
        run("dpkg-deb", "--extract", pool / f"{name}.deb", tree)
        for directory in ("lib", "sbin"):
            if (tree / directory).is_dir():
                shutil.copytree(tree / directory, tree / "usr" / directory, dirs_exist_ok=True)
                shutil.rmtree(tree / directory)
        files = {
            str(path.relative_to(tree)): path.read_bytes()
            for path in tree.rglob("*")
            if path.is_file() and not path.is_symlink() and not path.is_relative_to(tree / "usr" / "share")
        }
        requires = "containerd.io, docker-ce-cli" if name == "docker-ce" else ""
        group = "getent group docker >/dev/null || groupadd --system docker" if name == "docker-ce" else ""
        yield Rpm(name, "1", requires=requires, files=files, pre=group)
        shutil.rmtree(tree)
    yield Rpm("docker-ce-cli", "1")


def _build(directory: Path, package: Rpm) -> None:
    tree = directory / "tree"
    for name, content in package.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith((b"#!", b"\x7fELF")) else 0o644)
    tree.mkdir(parents=True, exist_ok=True)
    spec = directory / "package.spec"
    header = [f"Name: {package.name}", f"Epoch: {package.epoch}"]
    header += [f"Version: {package.version}", f"Release: {package.release}"]
    header += [
        "Summary: Stands in for the publisher's package",
        "License: none",
        "BuildArch: noarch",
        "AutoReqProv: no",
    ]
    optional = {"Requires": package.requires, "Provides": package.provides}
    header += [f"{name}: {value}" for name, value in optional.items() if value]
    scripts = [f"%{name}\n{script}" for name, script in (("pre", package.pre), ("post", package.post)) if script]
    files = ["%files", *(f"/{name}" for name in package.files)]
    spec.write_text("\n".join([*header, "%description", *scripts, *files, ""]))
    defines = {
        "_rpmdir": directory,
        "_rpmfilename": "%{NAME}-%{VERSION}.rpm",
        "_topdir": directory / "build",
        "_build_id_links": "none",
        "__os_install_post": "%{nil}",
        "_binaries_in_noarch_packages_terminate_build": "0",
        "_binary_payload": "w.ufdio",
    }
    options = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    run("rpmbuild", "-bb", "--quiet", *options, "--buildroot", tree, spec)
    for path in (tree, directory / "build"):
        shutil.rmtree(path, ignore_errors=True)
    spec.unlink()


def _sign(repositories: Repositories, packages: list[Path]) -> None:
    options = ["--define", f"__gpg {shutil.which('gpg')}", "--define", f"_gpg_name {repositories.fingerprint}"]
    options += ["--define", f"_gpg_path {repositories.directory / 'gnupg'}"]
    run("rpmsign", *options, "--addsign", *packages)


def _streams(path: Path, drivers: dict[str, list[Rpm]]) -> None:
    branches: dict[str, list[str]] = {}
    for version, packages in drivers.items():
        # The fabric manager is in no stream.
        modular = [package.nevra for package in packages if package.epoch]
        branches.setdefault(version.partition(".")[0], []).extend(modular)
    path.write_text(
        "".join(MODULE.format(branch=branch, packages='", "'.join(names)) for branch, names in branches.items())
    )
