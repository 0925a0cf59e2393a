"""A service, described once, and what it becomes on an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pulumi import Input

from lookingglass.engine import LOOPBACK
from lookingglass.settings import ServiceName

#: Where a service finds its secrets, one file each.
SECRETS_DIR = "/run/secrets"

#: There once a container was ready.
WAS_READY = "/tmp/ready"  # noqa: S108 - the container's own, in memory

#: Seconds a container may take to stop, where nothing else is said.
STOP_GRACE = 30


@dataclass(frozen=True, kw_only=True)
class Health:
    """How to see that a service does its work, as Docker's health check."""

    command: Sequence[str]
    interval: int = 5
    timeout: int = 5
    retries: int = 6
    #: Seconds after the start in which a failure does not count.
    start_period: int = 120


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port of the container, and where the Docker host listens for it."""

    internal: int
    external: int
    address: str = LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything a container engine needs to know of a service; no engine's own words."""

    #: Its role, and its name on the networks.
    role: ServiceName
    #: Its name among the stack's containers, where there are several of a role.
    name: str
    image: Input[str]
    #: `uid:gid`.
    user: str
    health: Health
    #: Names of its networks, by what they are for.
    networks: Mapping[str, Input[str]]
    #: What is run in place of what the image runs; the command is its arguments.
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, Input[str]] = field(default_factory=dict)
    #: Contents of the files in /run/secrets, by file name.
    secrets: Mapping[str, Input[str]] = field(default_factory=dict)
    #: Names of the data it keeps, by where their volumes are mounted.
    data: Mapping[str, str] = field(default_factory=dict)
    #: The application's image, from which new volumes get its user as owner; None where its own gives them theirs.
    volumes_of: Input[str] | None = None
    #: Directories of the Docker host that it may read, by where they are mounted.
    host_directories: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[Port] = ()
    #: MiB of /dev/shm; they count as its memory.
    shared_memory: int = 64
    stop_grace: int = STOP_GRACE
    #: The GPU it may use, `any` where the engine chooses one; None for none.
    gpu: str | None = None
    #: How many there are of it, where the engine may number them itself.
    replicas: int = 1
    #: Which of the nodes it is on, that its role's data is spread over; None where one has it all. They know each
    #: other by their names, and whoever speaks to any of them by their role.
    node: int | None = None


def numbered(name: str, number: int | str | None) -> str:
    """The name of one of several."""
    return name if number is None else f"{name}-{number}"


def http_health(port: int, path: str, then: str | None = None, **more: int) -> Health:
    """A health check that wants 200 from a path; bash speaks enough HTTP for it, and nearly every image has it.

    Once that was given, `then` is asked for instead: a Swarm replaces what is not healthy, and a service that lacks
    another one is not mended by that.
    """
    request = f"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n"
    # Nothing but bash: Silo's image, for one, has no grep.
    script = (
        f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{request}' >&3 && read -r _ status _ <&3 && [ $status = 200 ]"
    )
    if then:
        afterwards = script.replace(f"GET {path} ", f"GET {then} ")
        script = f"if [ -e {WAS_READY} ]; then {afterwards}; else {script} && : >{WAS_READY}; fi"
    return Health(command=("CMD", "bash", "-c", script), **more)


def busybox_health(port: int, path: str) -> Health:
    """The same for images that have busybox, and no bash."""
    return Health(command=("CMD", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{port}{path}"))
