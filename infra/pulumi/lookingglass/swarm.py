"""A service as a service of a Docker Swarm."""

import base64
import hashlib
from ipaddress import ip_address

import pulumi_docker as docker
from pulumi import Input, Output, ResourceOptions

from infra.contract import CARD_RESOURCE, FIRST_DATA, data_label
from lookingglass.container import LOG_DRIVER, LOG_OPTIONS, OWNED_DIR, WAIT_SECONDS
from lookingglass.engine import LABEL
from lookingglass.foundation import Ground
from lookingglass.go import short_duration
from lookingglass.service import Health, Service

#: Bytes of a writable /tmp, in memory.
TMP_BYTES = 64 * 2**20

#: A mode as the plugin writes it back; the sticky bit it leaves out.
TMP_MODE = 0o777

#: What the plugin adds by itself where a registry answers: the platforms that it has an image for.
PLATFORMS = "taskSpec.placement.platforms"

#: Seconds that new tasks have to stay up before the next are replaced.
MONITOR_SECONDS = 10


class SwarmService:
    """The same rules as for containers, as far as Swarm has them: no limits of files and processes, and no
    `no-new-privileges`, which the engines' own configuration may set."""

    def __init__(self, service: Service, base: Ground, own: ResourceOptions) -> None:
        self._service, self._base, self._own = service, base, own
        self._of_service = ResourceOptions.merge(own, ResourceOptions(ignore_changes=[PLATFORMS]))
        # Swarm publishes on every address of a node, so what is for loopback only is not published.
        self._ports = [port for port in service.ports if ip_address(port.address).is_unspecified]
        image = service.volumes_of
        owners = [] if image is None else [self._owner(name, image) for name in sorted(service.data.values())]
        self.id = self._declare(owners).id

    def _declare(self, first: list[docker.Service]) -> docker.Service:
        service, base = self._service, self._base
        return docker.Service(
            service.name,
            name=f"{base.prefix}-{service.name}",
            labels=[docker.ServiceLabelArgs(label=LABEL, value=base.stack)],
            mode=docker.ServiceModeArgs(replicated=docker.ServiceModeReplicatedArgs(replicas=service.replicas)),
            endpoint_spec=self._endpoint(),
            update_config=docker.ServiceUpdateConfigArgs(
                parallelism=1,
                delay="0s",
                failure_action="pause",
                monitor=short_duration(MONITOR_SECONDS),
                max_failure_ratio="0",
                order=self._order(),
            ),
            # Without it, `up` would not wait for the roll's end.
            converge_config=docker.ServiceConvergeConfigArgs(
                delay="2s", timeout=short_duration((WAIT_SECONDS + service.stop_grace) * service.replicas)
            ),
            task_spec=docker.ServiceTaskSpecArgs(
                container_spec=self._container(),
                # By id: by name, each `up` would replace the service.
                networks_advanceds=[
                    docker.ServiceTaskSpecNetworksAdvancedArgs(id=network, aliases=_aliases(service))
                    for _, network in sorted(service.networks.items())
                ],
                resources=self._resources(),
                restart_policy=_restart("any"),
                placement=self._placement(),
                log_driver=docker.ServiceTaskSpecLogDriverArgs(name=LOG_DRIVER, options=LOG_OPTIONS),
            ),
            opts=ResourceOptions.merge(self._of_service, ResourceOptions(depends_on=first)),
        )

    def _container(self) -> docker.ServiceTaskSpecContainerSpecArgs:
        service, settings = self._service, self._base.settings
        uid, _, gid = service.user.partition(":")
        return docker.ServiceTaskSpecContainerSpecArgs(
            image=service.image,
            commands=list(service.entrypoint) or None,
            args=list(service.command) or None,
            user=service.user,
            # Its own name leads to itself from the start; in the network's, a task is only when it is healthy.
            hostname=service.name if service.node else None,
            env={**service.environment, **settings.environment.get(service.role, {})},
            labels=[docker.ServiceTaskSpecContainerSpecLabelArgs(label=LABEL, value=self._base.stack)],
            mounts=self._mounts(),
            secrets=[
                docker.ServiceTaskSpecContainerSpecSecretArgs(
                    secret_id=secret.id, secret_name=secret.name, file_name=file, file_uid=uid, file_gid=gid
                )
                for file, secret in self._secrets().items()
            ],
            read_only=True,
            init=True,
            cap_drops=["ALL"],
            healthcheck=_healthcheck(service.health),
            stop_grace_period=short_duration(service.stop_grace),
        )

    def _mounts(self) -> list[docker.ServiceTaskSpecContainerSpecMountArgs]:
        service, memory = self._service, {"/tmp": TMP_BYTES, "/dev/shm": service_shm(self._service)}  # noqa: S108
        return [
            *(
                docker.ServiceTaskSpecContainerSpecMountArgs(
                    type="tmpfs",
                    target=path,
                    tmpfs_options=docker.ServiceTaskSpecContainerSpecMountTmpfsOptionsArgs(
                        size_bytes=size, mode=TMP_MODE
                    ),
                )
                for path, size in memory.items()
            ),
            *(self._volume(name, path) for path, name in sorted(service.data.items())),
            *(
                docker.ServiceTaskSpecContainerSpecMountArgs(
                    type="bind", target=path, source=directory, read_only=True
                )
                for path, directory in sorted(service.host_directories.items())
            ),
        ]

    def _volume(self, name: str, path: str) -> docker.ServiceTaskSpecContainerSpecMountArgs:
        """A volume of the node that the service is pinned to, of the name and label that it has without a Swarm."""
        label = docker.ServiceTaskSpecContainerSpecMountVolumeOptionsLabelArgs(label=LABEL, value=self._base.stack)
        return docker.ServiceTaskSpecContainerSpecMountArgs(
            type="volume",
            target=path,
            source=f"{self._base.prefix}-{name}",
            volume_options=docker.ServiceTaskSpecContainerSpecMountVolumeOptionsArgs(labels=[label]),
        )

    def _secrets(self) -> dict[str, docker.Secret]:
        """Named by content: one in use cannot change, and a new one rolls the service."""
        service, base = self._service, self._base
        return {
            file: docker.Secret(
                f"{service.name}-{file}",
                # At most 64 characters, and no slashes; a file in a directory is known by its last.
                name=Output.concat(f"{base.stack}-{service.name}-{_flat(file)}-", _digest(content)),
                data=_encoded(content),
                labels=[docker.SecretLabelArgs(label=LABEL, value=base.stack)],
                opts=ResourceOptions.merge(self._own, ResourceOptions(delete_before_replace=False)),
            )
            for file, content in sorted(service.secrets.items())
        }

    def _resources(self) -> docker.ServiceTaskSpecResourcesArgs:
        memory = self._base.settings.memory_of(self._service.role) * 2**20
        cards = docker.ServiceTaskSpecResourcesReservationGenericResourcesArgs(
            discrete_resources_specs=[f"{CARD_RESOURCE}=1"]
        )
        return docker.ServiceTaskSpecResourcesArgs(
            limits=docker.ServiceTaskSpecResourcesLimitsArgs(memory_bytes=memory),
            reservation=docker.ServiceTaskSpecResourcesReservationArgs(generic_resources=cards)
            if self._service.gpu
            else None,
        )

    def _placement(self) -> docker.ServiceTaskSpecPlacementArgs:
        """What keeps data stays where its volume is; of what listens on its node, there is one to a node."""
        service = self._service
        return docker.ServiceTaskSpecPlacementArgs(
            constraints=[f"node.labels.{data_label(service.role)}=={service.node or FIRST_DATA}"]
            if service.data
            else [],
            max_replicas=1 if self._ports else 0,
        )

    def _endpoint(self) -> docker.ServiceEndpointSpecArgs:
        """Names lead to the tasks themselves, so that clients spread over them; ports are those of the node."""
        ports = [
            docker.ServiceEndpointSpecPortArgs(
                target_port=port.internal, published_port=port.external, protocol="tcp", publish_mode="host"
            )
            for port in sorted(self._ports, key=lambda port: port.internal)
        ]
        return docker.ServiceEndpointSpecArgs(mode="dnsrr", ports=ports or None)

    def _order(self) -> str:
        """Whether a new task finds its place only when the old one has left it: a port, a volume or a card."""
        return "stop-first" if self._ports or self._service.data or self._service.gpu else "start-first"

    def _owner(self, name: str, image: Input[str]) -> docker.Service:
        """A task that ends at once: a new volume takes over the owner of the directory it is first mounted on."""
        base = self._base
        return docker.Service(
            f"{name}-owner",
            name=f"{base.prefix}-{name}-owner",
            labels=[docker.ServiceLabelArgs(label=LABEL, value=base.stack)],
            mode=docker.ServiceModeArgs(replicated=docker.ServiceModeReplicatedArgs(replicas=1)),
            endpoint_spec=docker.ServiceEndpointSpecArgs(mode="dnsrr"),
            task_spec=docker.ServiceTaskSpecArgs(
                container_spec=docker.ServiceTaskSpecContainerSpecArgs(
                    image=image,
                    args=["true"],
                    user=self._service.user,
                    read_only=True,
                    cap_drops=["ALL"],
                    mounts=[self._volume(name, OWNED_DIR)],
                ),
                restart_policy=_restart("none"),
                placement=self._placement(),
            ),
            opts=self._of_service,
        )


def service_shm(service: Service) -> int:
    """Bytes of /dev/shm."""
    return service.shared_memory * 2**20


def _aliases(service: Service) -> list[str]:
    return [service.role, service.name] if service.node else [service.role]


def _flat(file: str) -> str:
    return file if "/" not in file else file.replace("/", "-")[-24:].lstrip("-")


def _restart(condition: str) -> docker.ServiceTaskSpecRestartPolicyArgs:
    """Spelled out: what is left out is found as a difference at every `up`."""
    return docker.ServiceTaskSpecRestartPolicyArgs(condition=condition, delay="5s", max_attempts=0, window="0s")


def _digest(content: Input[str]) -> Output[str]:
    """What changes with a secret, which is random and long, and tells nothing of it."""
    digest: Output[str] = Output.from_input(content).apply(lambda text: hashlib.sha256(text.encode()).hexdigest()[:8])
    return Output.unsecret(digest)


def _encoded(content: Input[str]) -> Output[str]:
    data: Output[str] = Output.from_input(content).apply(lambda text: base64.b64encode(text.encode()).decode())
    return Output.secret(data)


def _healthcheck(health: Health) -> docker.ServiceTaskSpecContainerSpecHealthcheckArgs:
    return docker.ServiceTaskSpecContainerSpecHealthcheckArgs(
        tests=list(health.command),
        retries=health.retries,
        interval=short_duration(health.interval),
        timeout=short_duration(health.timeout),
        start_period=short_duration(health.start_period),
    )
