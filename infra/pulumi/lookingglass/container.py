"""A service as a container."""

import hashlib
from collections.abc import Mapping

import pulumi
import pulumi_docker as docker
from pulumi import Input, Output, ResourceOptions

from lookingglass.engine import LABEL
from lookingglass.foundation import Ground
from lookingglass.go import duration
from lookingglass.networks import INGRESS
from lookingglass.service import SECRETS_DIR, Health, Service

#: Label whose change replaces a container, since its secrets changed.
SECRETS_LABEL = "org.lookingglass.secrets"

#: Seconds within which a new container has to be healthy; a face service loads its models.
WAIT_SECONDS = 300

#: What a writable /tmp holds at most, in memory.
TMPFS = {"/tmp": "rw,nosuid,nodev,noexec,size=64m"}  # noqa: S108

LOG_DRIVER = "json-file"
LOG_OPTIONS: dict[str, Input[str]] = {"max-size": "10m", "max-file": "5"}

#: A directory of the application image that its user owns.
OWNED_DIR = "/var/lib/lookingglass"


class Container:
    """A service as a hardened container; its secrets as files of a volume that no other container mounts.

    A container with a read-only root takes no uploads, and a volume takes them only through a container. So one that
    is never started uploads the secrets into the volume.
    """

    def __init__(self, service: Service, base: Ground, own: ResourceOptions) -> None:
        self._service, self._base, self._own = service, base, own
        self._labels: dict[str, Input[str]] = {LABEL: base.stack}
        self._first: list[pulumi.Resource] = []
        volumes = [*self._data(), *self._host_directories(), *self._secrets()]
        self.id = self._container(volumes).id

    def _container(self, volumes: list[docker.ContainerVolumeArgs]) -> docker.Container:
        service, settings, prefix = self._service, self._base.settings, self._base.prefix
        memory = settings.memory_of(service.role)
        environment = {**service.environment, **settings.environment.get(service.role, {})}
        labels = {**self._labels, SECRETS_LABEL: _digest(service.secrets)} if service.secrets else self._labels
        return docker.Container(
            service.name,
            name=f"{prefix}-{service.name}",
            image=service.image,
            entrypoints=list(service.entrypoint) or None,
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
            labels=_container_labels(labels),
            healthcheck=_healthcheck(service.health),
            wait=True,
            wait_timeout=WAIT_SECONDS,
            restart="unless-stopped",
            stop_timeout=service.stop_grace,
            destroy_grace_seconds=service.stop_grace,
            read_only=True,
            tmpfs=TMPFS,
            shm_size=service.shared_memory,
            init=True,
            capabilities=docker.ContainerCapabilitiesArgs(drops=["ALL"]),
            security_opts=["no-new-privileges"],
            memory=memory,
            memory_swap=memory,  # as much as memory: no swap. Left out, every refresh finds a difference.
            ulimits=[
                docker.ContainerUlimitArgs(name=name, soft=value, hard=value)
                for name, value in sorted(settings.limits.values())
            ],
            log_driver=LOG_DRIVER,
            log_opts=LOG_OPTIONS,
            runtime="nvidia" if service.gpu else None,
            opts=ResourceOptions.merge(
                self._own,
                ResourceOptions(
                    depends_on=self._first,
                    delete_before_replace=True,
                    # The engine changes none of these on a container that runs.
                    replace_on_changes=["healthcheck", "init", "tmpfs"],
                    custom_timeouts=pulumi.CustomTimeouts(delete=f"{service.stop_grace + 60}s"),
                ),
            ),
        )

    def _data(self) -> list[docker.ContainerVolumeArgs]:
        """Volumes that outlive containers and, unless configured otherwise, the stack."""
        return [
            docker.ContainerVolumeArgs(volume_name=self._data_volume(name), container_path=path)
            for path, name in sorted(self._service.data.items())
        ]

    def _data_volume(self, name: str) -> Output[str]:
        """The name of a volume; a fixed one, by which the next stack finds it again."""
        base = self._base
        volume = docker.Volume(
            f"{name}-data",
            name=f"{base.prefix}-{name}",
            labels=_volume_labels(self._labels),
            opts=ResourceOptions.merge(
                self._own,
                ResourceOptions(retain_on_delete=base.settings.retain_data, depends_on=[base.leftovers]),
            ),
        )
        if self._service.volumes_of is not None:
            path = docker.ContainerVolumeArgs(volume_name=volume.name, container_path=OWNED_DIR)
            self._never_started(f"{name}-owner", self._service.volumes_of, [path])
        return volume.name

    def _host_directories(self) -> list[docker.ContainerVolumeArgs]:
        return [
            docker.ContainerVolumeArgs(host_path=directory, container_path=path, read_only=True)
            for path, directory in sorted(self._service.host_directories.items())
        ]

    def _secrets(self) -> list[docker.ContainerVolumeArgs]:
        service = self._service
        if not service.secrets:
            return []
        name = f"{service.name}-secrets"
        volume = docker.Volume(
            name, name=f"{self._base.prefix}-{name}", labels=_volume_labels(self._labels), opts=self._own
        )
        uploads = [
            docker.ContainerUploadArgs(file=f"{SECRETS_DIR}/{file}", content=content)
            for file, content in sorted(service.secrets.items())
        ]
        path = docker.ContainerVolumeArgs(volume_name=volume.name, container_path=SECRETS_DIR)
        self._never_started(name, service.image, [path], uploads)
        return [docker.ContainerVolumeArgs(volume_name=volume.name, container_path=SECRETS_DIR, read_only=True)]

    def _never_started(
        self,
        name: str,
        image: Input[str],
        volumes: list[docker.ContainerVolumeArgs],
        uploads: list[docker.ContainerUploadArgs] | None = None,
    ) -> None:
        """A container whose creation is its use: it uploads files, or gives an empty volume its directory's owner."""
        container = docker.Container(
            name,
            name=f"{self._base.prefix}-{name}",
            image=image,
            command=["true"],
            start=False,
            must_run=False,
            network_mode="none",
            labels=_container_labels(self._labels),
            volumes=volumes,
            uploads=uploads,
            opts=ResourceOptions.merge(self._own, ResourceOptions(delete_before_replace=True)),
        )
        self._first.append(container)


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


def _container_labels(labels: Mapping[str, Input[str]]) -> list[docker.ContainerLabelArgs]:
    return [docker.ContainerLabelArgs(label=name, value=value) for name, value in sorted(labels.items())]


def _volume_labels(labels: Mapping[str, Input[str]]) -> list[docker.VolumeLabelArgs]:
    return [docker.VolumeLabelArgs(label=name, value=value) for name, value in sorted(labels.items())]


def _healthcheck(health: Health) -> docker.ContainerHealthcheckArgs:
    return docker.ContainerHealthcheckArgs(
        tests=list(health.command),
        retries=health.retries,
        interval=duration(health.interval),
        timeout=duration(health.timeout),
        start_period=duration(health.start_period),
    )
