"""A stand-in for Pulumi's docker plugin, which no package registry carries; the real one on PATH is preferred.

It does to a real Docker engine what the program's resources say, and compares as the real one does where that
matters: every change of a container replaces it, an image changes with the files of its context. What it refuses and
rewrites is in docker_schema.
"""

import asyncio
import hashlib
import io
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.utils.build import exclude_paths
from lookingglass.engine import client_of
from pulumi.provider.experimental.property_value import PropertyValue, PropertyValueType
from pulumi.provider.experimental.provider import (
    CheckFailure,
    CheckRequest,
    CheckResponse,
    ConfigureRequest,
    ConfigureResponse,
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DiffRequest,
    DiffResponse,
    Provider,
    ReadRequest,
    ReadResponse,
    UpdateRequest,
    UpdateResponse,
)
from pulumi.provider.experimental.server import main
from pulumi.runtime import rpc

from tests.infra import docker_services
from tests.infra.docker_schema import Props, nanoseconds, refused, written_back

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "infra" / "pulumi"

#: What resources put out beyond their inputs.
OUTPUTS = {"imageId", "repoDigest"}

#: Properties of a service that change without another one; of a container none does, of an image each.
IN_PLACE = {"taskSpec", "mode", "labels", "updateConfig", "convergeConfig", "endpointSpec"}

#: A value that is not known yet, as it goes over the wire; the SDK's own type for it cannot be sent.
UNKNOWN = PropertyValue(rpc.UNKNOWN)


class DockerProvider(Provider):
    """Networks, volumes, images and containers of one engine; services and secrets of its Swarm."""

    client: docker.DockerClient

    async def configure(self, request: ConfigureRequest) -> ConfigureResponse:
        host = plain(request.args.get("host") or PropertyValue(None))
        self.client = client_of(host, timeout=900)
        return await super().configure(request)

    async def check(self, request: CheckRequest) -> CheckResponse:
        inputs = dict(request.new_inputs)
        if kind(request.urn) == "Image":
            inputs["contextDigest"] = PropertyValue(context_digest(plains(inputs)["build"]))
        failures = [CheckFailure(*found) for found in refused(kind(request.urn), plains(request.new_inputs))]
        return CheckResponse(inputs=inputs, failures=failures)

    async def diff(self, request: DiffRequest) -> DiffResponse:
        old, new = plains(request.old_state), plains(request.new_inputs)
        changed = [name for name in {*old, *new} - OUTPUTS if old.get(name) != new.get(name)]
        changed = [name for name in changed if name not in request.ignore_changes]
        replaces = changed if kind(request.urn) != "Image" else []
        if kind(request.urn) == "Service":
            moved = old["taskSpec"].get("networksAdvanceds") != new["taskSpec"].get("networksAdvanceds")
            replaces = [name for name in changed if name not in IN_PLACE or (name == "taskSpec" and moved)]
        return DiffResponse(changes=bool(changed), replaces=replaces, diffs=changed)

    async def create(self, request: CreateRequest) -> CreateResponse:
        if request.preview:
            return CreateResponse("", {**request.properties, **dict.fromkeys(OUTPUTS, UNKNOWN)})
        what = kind(request.urn)
        resource_id, outputs = await asyncio.to_thread(self._create, what, plains(request.properties))
        written = as_written_back(what, request.properties)
        return CreateResponse(resource_id, {**request.properties, **written, **outputs})

    async def update(self, request: UpdateRequest) -> UpdateResponse:
        if request.preview:
            return UpdateResponse({**request.news, **dict.fromkeys(OUTPUTS, UNKNOWN)})
        if kind(request.urn) == "Service":
            news = plains(request.news)
            await asyncio.to_thread(docker_services.update_service, self.client, request.resource_id, news)
            return UpdateResponse(dict(request.news))
        _, outputs = await asyncio.to_thread(self._create, kind(request.urn), plains(request.news))
        return UpdateResponse({**request.news, **outputs})

    async def read(self, request: ReadRequest) -> ReadResponse:
        if await asyncio.to_thread(self._exists, kind(request.urn), request.resource_id, plains(request.properties)):
            return await super().read(request)
        return ReadResponse("", {}, {})

    async def delete(self, request: DeleteRequest) -> None:
        await asyncio.to_thread(self._delete, kind(request.urn), request.resource_id, plains(request.properties))

    def _create(self, what: str, props: Props) -> tuple[str, dict[str, PropertyValue]]:
        makers: dict[str, Callable[[Props], Any]] = {
            "Network": self._network,
            "Volume": lambda props: self.client.volumes.create(props["name"], labels=labels(props)).name,
            "Image": self._build,
            "RemoteImage": self._pull,
            "Container": self._container,
            "Secret": lambda props: docker_services.create_secret(self.client, props),
            "Service": lambda props: docker_services.create_service(self.client, props),
        }
        made = str(makers[what](props))
        if what in ("Image", "RemoteImage"):
            pushed = self._push(props["imageName"]) if what == "Image" and not props.get("skipPush") else made
            return made, {"imageId": PropertyValue(made), "repoDigest": PropertyValue(pushed)}
        return made, {}

    def _exists(self, what: str, resource_id: str, props: Props) -> bool:
        finders: dict[str, Callable[[str], Any]] = {
            "Network": self.client.networks.get,
            "Volume": self.client.volumes.get,
            "Image": lambda _: self.client.images.get(props["repoDigest"]),
            "RemoteImage": self.client.images.get,
            "Container": self.client.containers.get,
            "Secret": self.client.secrets.get,
            "Service": self.client.services.get,
        }
        try:
            found = finders[what](resource_id)
        except docker.errors.NotFound:
            return False
        return what != "Container" or not props.get("mustRun", True) or found.status == "running"

    def _delete(self, what: str, resource_id: str, props: Props) -> None:
        try:
            if what == "Container":
                container = self.client.containers.get(resource_id)
                container.stop(timeout=int(props.get("destroyGraceSeconds", 0)))
                container.remove(v=True, force=True)
            elif what == "Network":
                self.client.networks.get(resource_id).remove()
            elif what == "Volume":
                self.client.volumes.get(resource_id).remove()
            elif what == "Secret":
                self.client.api.remove_secret(resource_id)
            elif what == "Service":
                docker_services.remove_service(self.client, resource_id)
            elif what == "RemoteImage" and not props.get("keepLocally"):
                self.client.images.remove(resource_id)
        except docker.errors.NotFound:
            pass

    def _network(self, props: Props) -> str:
        return str(
            self.client.networks.create(
                props["name"],
                driver=props.get("driver"),
                internal=bool(props.get("internal")),
                options=props.get("options"),
                labels=labels(props),
                check_duplicate=True,
            ).id
        )

    def _build(self, props: Props) -> str:
        build, context = props["build"], PROGRAM / props["build"]["context"]
        image, _ = self.client.images.build(
            path=str(context),
            dockerfile=str((PROGRAM / build["dockerfile"]).resolve()),
            buildargs=build["args"],
            tag=props["imageName"],
            rm=True,
            forcerm=True,
        )
        return str(image.id)

    def _push(self, name: str) -> str:
        """Push an image to the registry in its name; returns the name by digest that others pull it by."""
        for line in self.client.images.push(name, stream=True, decode=True):
            if "error" in line:
                raise RuntimeError(f"{name} cannot be pushed: {line['error']}")
        repository = name.rpartition(":")[0]
        digests: list[str] = self.client.images.get(name).attrs["RepoDigests"]
        return next(digest for digest in digests if digest.startswith(f"{repository}@"))

    def _pull(self, props: Props) -> str:
        try:
            return str(self.client.images.get(props["name"]).id)
        except docker.errors.ImageNotFound:
            return str(self.client.images.pull(props["name"]).id)

    def _container(self, props: Props) -> str:
        api = self.client.api
        health = props.get("healthcheck")
        container_id = api.create_container(
            image=props["image"],
            name=props["name"],
            command=props.get("command"),
            environment=props.get("envs"),
            user=props.get("user"),
            labels=labels(props),
            ports=[int(port["internal"]) for port in props.get("ports", [])],
            stop_signal=props.get("stopSignal"),
            healthcheck=health
            and {
                "test": health["tests"],
                "retries": int(health["retries"]),
                **{name: nanoseconds(health[key]) for name, key in HEALTH_TIMES.items()},
            },
            host_config=api.create_host_config(**host_config(props)),
        )["Id"]
        try:
            self._start(container_id, props)
        except Exception:
            api.remove_container(container_id, force=True)
            raise
        return str(container_id)

    def _start(self, container_id: str, props: Props) -> None:
        api, networks = self.client.api, props.get("networksAdvanced", [])
        if networks:
            api.disconnect_container_from_network(container_id, "bridge")
        for network in networks:
            api.connect_container_to_network(container_id, network["name"], aliases=network.get("aliases"))
        for upload in props.get("uploads", []):
            self.client.containers.get(container_id).put_archive("/", archive(upload["file"], upload["content"]))
        if props.get("start", True):
            api.start(container_id)
        if props.get("wait"):
            self._wait(container_id, float(props["waitTimeout"]))

    def _wait(self, container_id: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.client.api.inspect_container(container_id)["State"]
            if state["Health"]["Status"] == "healthy":
                return
            time.sleep(0.5)
        log = self.client.api.logs(container_id, tail=20).decode(errors="replace")
        raise TimeoutError(f"the container is not healthy: {state['Health']}\n{log}")


#: Docker's names of a health check's times, and Pulumi's.
HEALTH_TIMES = {"interval": "interval", "timeout": "timeout", "start_period": "startPeriod"}


def host_config(props: Props) -> dict[str, Any]:
    """The arguments of the SDK's `create_host_config`."""
    mib = 2**20
    binds = {
        volume.get("volumeName") or volume["hostPath"]: {
            "bind": volume["containerPath"],
            "mode": "ro" if volume.get("readOnly") else "rw",
        }
        for volume in props.get("volumes", [])
    }
    config: dict[str, Any] = {
        "network_mode": props["networkMode"],
        "binds": binds,
        "port_bindings": {
            f"{int(port['internal'])}/tcp": (port["ip"], int(port["external"])) for port in props.get("ports", [])
        },
        "read_only": props.get("readOnly", False),
        "shm_size": int(props["shmSize"]) * mib if "shmSize" in props else None,
        "tmpfs": props.get("tmpfs"),
        "init": props.get("init"),
        "cap_drop": props.get("capabilities", {}).get("drops"),
        "security_opt": props.get("securityOpts"),
        "runtime": props.get("runtime"),
        "ulimits": [
            docker.types.Ulimit(name=limit["name"], soft=int(limit["soft"]), hard=int(limit["hard"]))
            for limit in props.get("ulimits", [])
        ],
    }
    if "memory" in props:
        config |= {"mem_limit": int(props["memory"]) * mib, "memswap_limit": int(props["memorySwap"]) * mib}
    if "restart" in props:
        config["restart_policy"] = {"Name": props["restart"]}
    if "logDriver" in props:
        config["log_config"] = docker.types.LogConfig(type=props["logDriver"], config=props["logOpts"])
    return config


def kind(urn: str) -> str:
    """`Container` of `docker:index/container:Container`."""
    return urn.split("::")[-2].rpartition(":")[2]


def plain(value: PropertyValue) -> Any:
    """A value without Pulumi's wrapping."""
    inner: Any = value.value
    if value.type == PropertyValueType.MAP:
        return plains(inner)
    if value.type == PropertyValueType.ARRAY:
        return [plain(item) for item in inner]
    return inner


def plains(values: Any) -> Props:
    """Values by name, without Pulumi's wrapping and without those that are null."""
    return {name: plain(value) for name, value in values.items() if value.type != PropertyValueType.NULL}


def labels(props: Props) -> dict[str, str]:
    """Labels as Docker wants them."""
    return {label["label"]: label["value"] for label in props.get("labels", [])}


def wrapped(value: Any) -> PropertyValue:
    """A value in Pulumi's wrapping."""
    if isinstance(value, dict):
        return PropertyValue({name: wrapped(item) for name, item in value.items()})
    if isinstance(value, list):
        return PropertyValue([wrapped(item) for item in value])
    return PropertyValue(value)


def as_written_back(what: str, properties: Mapping[str, PropertyValue]) -> dict[str, PropertyValue]:
    """What the state holds in another form than it was given."""
    return {name: wrapped(value) for name, value in written_back(what, plains(properties)).items()}


def context_digest(build: Props) -> str:
    """What changes with a file of the context that the image may use."""
    context = (PROGRAM / build["context"]).resolve()
    ignore = context / ".dockerignore"
    patterns = [line for line in ignore.read_text().splitlines() if line and not line.startswith("#")]
    digest = hashlib.sha256((PROGRAM / build["dockerfile"]).read_bytes())
    for name in sorted(exclude_paths(str(context), patterns)):
        if (path := context / name).is_file():
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def archive(path: str, content: str) -> bytes:
    """A tar with one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size, entry.mode, entry.mtime = len(content.encode()), 0o644, int(time.time())
        tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:], "5.2.0", DockerProvider())
