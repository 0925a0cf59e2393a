"""Services and secrets of a Swarm, for the stand-in of Pulumi's docker plugin."""

import base64
import time
from typing import Any

import docker
from docker.types import (
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    Healthcheck,
    Mount,
    NetworkAttachmentConfig,
    Placement,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    TaskTemplate,
    UpdateConfig,
)

from tests.infra.docker_schema import Props, nanoseconds


def create_secret(client: docker.DockerClient, props: Props) -> str:
    """A secret, and its id."""
    made = client.secrets.create(name=props["name"], data=base64.b64decode(props["data"]), labels=_labels(props))
    return str(made.id)


def create_service(client: docker.DockerClient, props: Props) -> str:
    """A service whose tasks run, and its id."""
    made = client.api.create_service(**_arguments(props))  # type: ignore[no-untyped-call]
    _converge(client, str(made["ID"]), props)
    return str(made["ID"])


def update_service(client: docker.DockerClient, service_id: str, props: Props) -> None:
    """Change it in place, task by task."""
    version = client.api.inspect_service(service_id)["Version"]["Index"]  # type: ignore[no-untyped-call]
    client.api.update_service(service_id, version, **_arguments(props))
    _converge(client, service_id, props)


def remove_service(client: docker.DockerClient, service_id: str) -> None:
    """Remove it, and wait until its tasks have left their networks and ports."""
    client.api.remove_service(service_id)  # type: ignore[no-untyped-call]
    label: dict[str, Any] = {"label": f"com.docker.swarm.service.id={service_id}"}
    while client.containers.list(all=True, filters=label):
        time.sleep(0.2)


def _converge(client: docker.DockerClient, service_id: str, props: Props) -> None:
    """Wait until as many tasks of the last version run as are wanted, and no others."""
    if "convergeConfig" not in props:
        return
    wanted = int(props["mode"]["replicated"]["replicas"])
    deadline = time.monotonic() + nanoseconds(props["convergeConfig"]["timeout"]) / 1e9
    while time.monotonic() < deadline:
        state = client.api.inspect_service(service_id)  # type: ignore[no-untyped-call]
        tasks = client.api.tasks({"service": service_id, "desired-state": "running"})  # type: ignore[no-untyped-call]
        running = [task for task in tasks if task["Status"]["State"] == "running"]
        rolled = state.get("UpdateStatus", {}).get("State") in (None, "completed")
        if rolled and len(running) == len(tasks) == wanted:
            return
        time.sleep(0.5)
    said = [task["Status"].get("Err") or task["Status"]["State"] for task in tasks]
    raise TimeoutError(f"{props['name']} did not converge: {said}")


def _arguments(props: Props) -> dict[str, Any]:
    ports: dict[Any, Any] = {
        int(port["publishedPort"]): (int(port["targetPort"]), port["protocol"], port["publishMode"])
        for port in props["endpointSpec"].get("ports") or ()
    }
    arguments: dict[str, Any] = {
        "task_template": _task(props["taskSpec"]),
        "name": props["name"],
        "labels": _labels(props),
        "mode": ServiceMode("replicated", int(props["mode"]["replicated"]["replicas"])),
        "endpoint_spec": EndpointSpec(mode=props["endpointSpec"]["mode"], ports=ports),
    }
    if update := props.get("updateConfig"):
        arguments["update_config"] = UpdateConfig(
            parallelism=int(update["parallelism"]),
            monitor=nanoseconds(update["monitor"]),
            failure_action=update["failureAction"],
            order=update["order"],
        )
    return arguments


def _task(props: Props) -> TaskTemplate:
    limits = props.get("resources", {}).get("limits", {})
    log: Any
    log, restart = props.get("logDriver"), props["restartPolicy"]
    return TaskTemplate(
        container_spec=_container(props["containerSpec"]),
        resources=Resources(mem_limit=int(limits["memoryBytes"])) if limits else None,
        restart_policy=RestartPolicy(
            condition=restart["condition"],
            delay=nanoseconds(restart["delay"]),
            max_attempts=int(restart["maxAttempts"]),
            window=nanoseconds(restart["window"]),
        ),
        placement=Placement(
            constraints=props["placement"].get("constraints") or None,
            maxreplicas=int(props["placement"].get("maxReplicas", 0)) or None,
        ),
        log_driver=log and DriverConfig(log["name"], log["options"]),
        networks=[
            NetworkAttachmentConfig(network["id"], aliases=network["aliases"])
            for network in props.get("networksAdvanceds", ())
        ],
    )


def _container(props: Props) -> ContainerSpec:
    health = props.get("healthcheck")
    return ContainerSpec(
        image=props["image"],
        command=props.get("commands"),
        args=props.get("args"),
        user=props["user"],
        hostname=props.get("hostname"),
        # In one order, whatever order they come in: another would roll the service.
        env=[f"{name}={value}" for name, value in sorted(props.get("env", {}).items())],
        labels=_labels(props),
        mounts=[_mount(mount) for mount in props.get("mounts", ())],
        secrets=[
            SecretReference(
                secret["secretId"], secret["secretName"], secret["fileName"], secret["fileUid"], secret["fileGid"]
            )
            for secret in props.get("secrets", ())
        ],
        read_only=props["readOnly"],
        init=props.get("init"),
        cap_drop=props["capDrops"],
        healthcheck=health
        and Healthcheck(
            test=health["tests"],
            retries=int(health["retries"]),
            interval=nanoseconds(health["interval"]),
            timeout=nanoseconds(health["timeout"]),
            start_period=nanoseconds(health["startPeriod"]),
        ),
        stop_grace_period=nanoseconds(props["stopGracePeriod"]) if "stopGracePeriod" in props else None,
    )


def _mount(props: Props) -> Mount:
    options = props.get("tmpfsOptions", {})
    return Mount(
        target=props["target"],
        source=props.get("source"),
        type=props["type"],
        read_only=props.get("readOnly", False),
        tmpfs_size=int(options["sizeBytes"]) if options else None,
        tmpfs_mode=int(options["mode"]) if options else None,
        labels=_labels(props.get("volumeOptions", {})) or None,
    )


def _labels(props: Props) -> dict[str, str]:
    return {label["label"]: label["value"] for label in props.get("labels", ())}
