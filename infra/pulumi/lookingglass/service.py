"""A service, described once, and its rendering to containers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_docker as docker
from pulumi import Input, Output, ResourceOptions

from lookingglass.networks import INGRESS
from lookingglass.preflight import LABEL, LOOPBACK
from lookingglass.settings import ServiceName, Settings
from lookingglass.volumes import data_volume

#: Where a service finds its secrets, one file each.
SECRETS_DIR = "/run/secrets"

#: Label whose change replaces a container, since its secrets changed.
SECRETS_LABEL = "org.lookingglass.secrets"

#: Seconds within which a new container has to be healthy; a face service loads its models.
WAIT_SECONDS = 300

#: Seconds a container may take to stop, where nothing else is said.
STOP_GRACE = 30

#: What a writable /tmp holds at most, in memory.
TMPFS = "rw,nosuid,nodev,noexec,size=64m"


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
    command: Sequence[str] = ()
    environment: Mapping[str, Input[str]] = field(default_factory=dict)
    #: Contents of the files in /run/secrets, by file name.
    secrets: Mapping[str, Input[str]] = field(default_factory=dict)
    #: Names of the data it keeps, by where their volumes are mounted.
    data: Mapping[str, str] = field(default_factory=dict)
    #: Directories of the Docker host that it may read, by where they are mounted.
    host_directories: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[Port] = ()
    #: Directories in memory beside /tmp.
    scratch: Sequence[str] = ()
    stop_grace: int = STOP_GRACE
    #: The GPU it may use; None for none.
    gpu: str | None = None


def http_health(port: int, path: str, **more: int) -> Health:
    """A health check that wants 200 from a path; bash speaks enough HTTP for it, and every image here has bash."""
    request = f"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n"
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{request}' >&3 && head -n 1 <&3 | grep -q ' 200'"
    return Health(command=("CMD", "bash", "-c", script), **more)


class Container(pulumi.ComponentResource):
    """A service as a hardened container; its secrets as files of a volume that no other container mounts.

    A container with a read-only root takes no uploads, and a volume takes them only through a container. So one that
    is never started uploads the secrets into the volume.
    """

    #: The container's id.
    container_id: Output[str]

    def __init__(self, service: Service, settings: Settings, stack: str, opts: ResourceOptions) -> None:
        super().__init__(f"lookingglass:infra:{type(self).__name__}", service.name, None, opts)
        prefix = f"lookingglass-{stack}"
        own = ResourceOptions(parent=self)
        labels: dict[str, Input[str]] = {LABEL: stack}
        volumes = [
            docker.ContainerVolumeArgs(volume_name=data_volume(name, settings, stack, own), container_path=path)
            for path, name in sorted(service.data.items())
        ]
        volumes += [
            docker.ContainerVolumeArgs(host_path=directory, container_path=path, read_only=True)
            for path, directory in sorted(service.host_directories.items())
        ]
        depends_on: list[pulumi.Resource] = []
        if service.secrets:
            uploader = self._upload(service, prefix, labels, own)
            depends_on.append(uploader)
            labels = {**labels, SECRETS_LABEL: _digest(service.secrets)}
            volumes.append(
                docker.ContainerVolumeArgs(
                    volume_name=f"{prefix}-{service.name}-secrets", container_path=SECRETS_DIR, read_only=True
                )
            )
        memory = settings.memory_of(service.role)
        environment = {**service.environment, **settings.environment.get(service.role, {})}
        container = docker.Container(
            service.name,
            name=f"{prefix}-{service.name}",
            image=service.image,
            command=list(service.command) or None,
            user=service.user,
            envs=_envs(environment),
            volumes=volumes,
            # The networks are those below and no other; left out, the first comparison finds a difference.
            network_mode="bridge",
            networks_advanced=[
                # Known by its role where it is spoken to; on the network that leads out nobody would hear it.
                docker.ContainerNetworksAdvancedArgs(name=own_name, aliases=[] if name == INGRESS else [service.role])
                for name, own_name in sorted(service.networks.items())
            ],
            ports=[
                docker.ContainerPortArgs(internal=port.internal, external=port.external, ip=port.address)
                for port in sorted(service.ports, key=lambda port: port.internal)
            ],
            labels=_labels(labels),
            healthcheck=_healthcheck(service.health),
            wait=True,
            wait_timeout=WAIT_SECONDS,
            restart="unless-stopped",
            stop_timeout=service.stop_grace,
            destroy_grace_seconds=service.stop_grace,
            read_only=True,
            tmpfs=dict.fromkeys(("/tmp", *service.scratch), TMPFS),  # noqa: S108
            init=True,
            capabilities=docker.ContainerCapabilitiesArgs(drops=["ALL"]),
            security_opts=["no-new-privileges"],
            memory=memory,
            memory_swap=memory,  # as much as memory: no swap. Left out, every refresh finds a difference.
            ulimits=[
                docker.ContainerUlimitArgs(name="nofile", soft=settings.open_files, hard=settings.open_files),
                docker.ContainerUlimitArgs(name="nproc", soft=settings.processes, hard=settings.processes),
            ],
            log_driver="json-file",
            log_opts={"max-size": "10m", "max-file": "5"},
            runtime="nvidia" if service.gpu else None,
            opts=ResourceOptions.merge(
                own,
                ResourceOptions(
                    depends_on=depends_on,
                    delete_before_replace=True,
                    # The engine changes none of these on a container that runs.
                    replace_on_changes=["healthcheck", "init", "tmpfs"],
                    custom_timeouts=pulumi.CustomTimeouts(delete=f"{service.stop_grace + 60}s"),
                ),
            ),
        )
        self.container_id = container.id
        self.register_outputs({"container_id": container.id})

    def _upload(
        self, service: Service, prefix: str, labels: Mapping[str, Input[str]], own: ResourceOptions
    ) -> docker.Container:
        name = f"{service.name}-secrets"
        volume = docker.Volume(name, name=f"{prefix}-{name}", labels=_volume_labels(labels), opts=own)
        return docker.Container(
            name,
            name=f"{prefix}-{name}",
            image=service.image,
            command=["true"],
            start=False,
            must_run=False,
            network_mode="none",
            labels=_labels(labels),
            volumes=[docker.ContainerVolumeArgs(volume_name=volume.name, container_path=SECRETS_DIR)],
            uploads=[
                docker.ContainerUploadArgs(file=f"{SECRETS_DIR}/{file}", content=content)
                for file, content in sorted(service.secrets.items())
            ],
            opts=ResourceOptions.merge(own, ResourceOptions(delete_before_replace=True)),
        )


def _digest(secrets: Mapping[str, Input[str]]) -> Output[str]:
    """What changes with any secret and tells nothing of it: each is random and long."""
    files = Output.all(*(content for _, content in sorted(secrets.items())))
    digest: Output[str] = files.apply(lambda contents: hashlib.sha256("\0".join(contents).encode()).hexdigest()[:16])
    return Output.unsecret(digest)


def _envs(environment: Mapping[str, Input[str]]) -> list[Input[str]]:
    return [
        f"{name}={value}" if isinstance(value, str) else Output.concat(name, "=", value)
        for name, value in sorted(environment.items())
    ]


def _labels(labels: Mapping[str, Input[str]]) -> list[docker.ContainerLabelArgs]:
    return [docker.ContainerLabelArgs(label=name, value=value) for name, value in sorted(labels.items())]


def _volume_labels(labels: Mapping[str, Input[str]]) -> list[docker.VolumeLabelArgs]:
    return [docker.VolumeLabelArgs(label=name, value=value) for name, value in sorted(labels.items())]


def _healthcheck(health: Health) -> docker.ContainerHealthcheckArgs:
    times: dict[str, Any] = {
        name: duration(getattr(health, name)) for name in ("interval", "timeout", "start_period")
    }
    return docker.ContainerHealthcheckArgs(tests=list(health.command), retries=health.retries, **times)


def duration(seconds: int) -> str:
    """Seconds as Go prints them, `2m0s`: the plugin writes them back so, and another form changes at every `up`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
