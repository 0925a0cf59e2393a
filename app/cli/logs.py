"""Logs: the files of a local stack, or what Docker keeps of containers."""

import subprocess
from pathlib import Path

from app.cli.where import Where
from app.common.errors import LookingGlassError


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
    """Of a stack on the engine that `DOCKER_HOST` names, or this machine's."""
    label = f"label=org.lookingglass.stack={stack}"
    listed = subprocess.run(
        ["docker", "ps", "--filter", label, "--format", "{{.Names}}"], capture_output=True, text=True
    )
    if listed.returncode:
        raise NoLogError(f"Docker does not answer: {listed.stderr.strip()}")
    names = listed.stdout.split()
    prefix = f"lookingglass-{stack}-"
    wanted = [name for name in names if service is None or name.removeprefix(prefix).startswith(service)]
    if not wanted:
        shown = ", ".join(name.removeprefix(prefix) for name in names) or "none"
        raise NoLogError(f"There is no container of {service} in the stack {stack}; there are: {shown}.")
    running = [
        subprocess.Popen(["docker", "logs", "--tail", str(lines), *(["--follow"] if follow else []), name])
        for name in wanted
    ]
    return max(process.wait() for process in running)
