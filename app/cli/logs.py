"""Logs: the files of a local stack, or what Docker keeps of containers."""

import subprocess
from pathlib import Path

from app.cli.where import ROOT, Where
from app.common.errors import LookingGlassError

CONTAINERS = ROOT / "scripts" / "containers.sh"


class NoLogError(LookingGlassError):
    """There is no such log here; the message says which there are."""


def show(where: Where, service: str | None, *, lines: int, follow: bool) -> int:
    """Print the end of a service's log, or of all, and go on if asked to; return the exit status.

    Raises:
        NoLogError: there is none.
    """
    if where.directory:
        return _files(where.directory / "logs", service, lines, follow)
    if where.stack:
        return _containers(where.stack, service, lines, follow)
    raise NoLogError("Where the logs are is known of a local stack (--outputs) and of a stack of Docker (--stack).")


def _files(directory: Path, service: str | None, lines: int, follow: bool) -> int:
    found = sorted(directory.glob("*.log"))
    wanted = [path for path in found if service in (None, path.stem) or path.stem.startswith(f"{service}-")]
    if not wanted:
        names = ", ".join(path.stem for path in found) or "none"
        raise NoLogError(f"There is no log of {service} in {directory}; there are: {names}.")
    return subprocess.run(["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, wanted)]).returncode


def _containers(stack: str, service: str | None, lines: int, follow: bool) -> int:
    """Of a stack, on the engine that it is on."""
    options = ["--tail", str(lines), *(["--follow"] if follow else [])]
    command = [str(CONTAINERS), stack, "logs", *([service] if service else []), *options]
    return subprocess.run(command).returncode
