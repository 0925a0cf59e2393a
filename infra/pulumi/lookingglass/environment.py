"""The whole environment: what there is, and in which order it starts."""

from collections.abc import Mapping
from ipaddress import ip_address

import pulumi
import pulumi_docker as docker
from pulumi import Input, ResourceOptions
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from infra.contract import PORTS
from lookingglass import preflight, settings
from lookingglass.console import Console
from lookingglass.credentials import Credentials
from lookingglass.endpoints import ROOT_USER, endpoints, redis_url
from lookingglass.engine import LOOPBACK
from lookingglass.face import FaceService
from lookingglass.foundation import Foundation, Ground
from lookingglass.images import Images
from lookingglass.leftovers import Leftovers, Tidying
from lookingglass.minio import CRAWLER_USER, MinIO, Notifications, Storage
from lookingglass.networks import Networks
from lookingglass.qdrant import Qdrant
from lookingglass.redis import Redis
from lookingglass.registry import Registry
from lookingglass.settings import Settings
from lookingglass.webhook import Webhook
from lookingglass.worker import Worker


def declare() -> None:
    """Declare every resource of the stack, and put out where it is.

    Raises:
        SettingsError: a key of the configuration is wrong.
        EngineError: the engine cannot run the stack.
    """
    stack, chosen = pulumi.get_stack(), settings.load(*_configuration())
    base = _foundation(chosen, stack, preflight.check(chosen, stack))

    # Each where the stack runs one of its own.
    redis = [Redis(base, image) for image in (base.images.redis,) if image is not None]
    minio = _spread(MinIO, base, "minio", base.images.minio)
    index = _spread(Qdrant, base, "qdrant", base.images.qdrant)
    storage = Storage(base, *minio)
    faces = [FaceService(number, base, *index) for number in chosen.numbers(chosen.faces)]
    workers = [Worker(number, base, *redis, storage, *faces) for number in chosen.numbers(chosen.workers)]
    webhook = Webhook(base, *redis)
    console = Console(base, *redis, storage, webhook, *faces)
    Notifications(base, storage, webhook)
    if chosen.monitoring:
        _monitor(base, *redis, webhook, *faces, *minio)
    Tidying(base.settings, stack, base.images.built, base.after(*redis, *minio, webhook, console, *faces, *workers))

    for name, value in _outputs(base).items():
        pulumi.export(name, value)


def _spread(
    kind: type[MinIO | Qdrant], base: Foundation, role: str, image: Input[str] | None
) -> list[MinIO | Qdrant]:
    """One service for each node that the data is on; each after the one before, so that they change one by one."""
    found: list[MinIO | Qdrant] = []
    if image is not None:
        for number in base.settings.places(role):
            found.append(kind(number, base, image, *found[-1:]))
    return found


def _monitor(base: Foundation, *after: pulumi.Resource) -> None:
    # Grafana's SDK is needed by nobody else.
    from lookingglass.exporters import GPUExporter, RedisExporter
    from lookingglass.monitoring import Grafana, Prometheus

    exporters: list[pulumi.Resource] = []
    if base.images.redis_exporter is not None:
        exporters.append(RedisExporter(base, base.images.redis_exporter, *after))
    if base.images.gpu_exporter is not None:
        exporters.append(GPUExporter(base, base.images.gpu_exporter))
    if base.images.prometheus is not None and base.images.grafana is not None:
        prometheus = Prometheus(base, base.images.prometheus, *after, *exporters)
        Grafana(base, base.images.grafana, prometheus)


def _foundation(chosen: Settings, stack: str, hosts: Mapping[str, str]) -> Foundation:
    engine = ResourceOptions(providers=[docker.Provider("engine", host=chosen.docker_host)])
    leftovers, credentials = Leftovers(chosen, stack), Credentials(chosen, ResourceOptions())
    networks = Networks(chosen, stack, engine)
    ground = Ground(settings=chosen, stack=stack, networks=networks, leftovers=leftovers, engine=engine)
    registry = [Registry(ground)] if chosen.run_registry else []
    return Foundation(
        **vars(ground),
        credentials=credentials,
        endpoints=endpoints(chosen, credentials, hosts),
        images=Images(chosen, stack, engine, leftovers, *registry),
    )


def _outputs(base: Foundation) -> Mapping[str, Input[str | None]]:
    """The keys that every way of standing the pipeline up publishes, and the credentials of this one.

    What listens on loopback only is named as the Docker host sees it; what a Swarm publishes nowhere, as its services
    see it.
    """
    chosen, credentials = base.settings, base.credentials
    inside = chosen.orchestrator == "swarm"
    loopback_redis = redis_url(chosen, credentials, LOOPBACK, chosen.redis_port)
    console = f"http://{chosen.host_of(chosen.console_address)}:{chosen.console_port}"
    if inside and ip_address(chosen.console_address).is_loopback:
        console = "http://console:5003"
    return {
        "webhook_url": f"http://{chosen.host}:{chosen.webhook_port}",
        "minio_url": base.endpoints.minio_url,
        "minio_console_url": base.endpoints.minio_console_url,
        "redis_url": base.endpoints.redis_url if inside else loopback_redis,
        "gpu_worker_url": "http://gpu-worker:5001" if inside else f"http://{LOOPBACK}:{chosen.gpu_worker_port}",
        "qdrant_url": _qdrant_url(base),
        "console_url": console,
        "image_bucket": chosen.image_bucket,
        "video_bucket": chosen.video_bucket,
        "minio_user": chosen.storage.user if chosen.storage else ROOT_USER,
        "minio_password": credentials.minio_root,
        "webhook_token": credentials.webhook,
        "api_token": credentials.api,
        "gpu_worker_token": credentials.gpu_worker,
        "qdrant_api_key": credentials.qdrant,
        "console_token": credentials.console,
        "crawler_access_key": CRAWLER_USER,
        "crawler_secret_key": credentials.minio_crawler,
        **(_monitoring_outputs(base) if chosen.monitoring else {}),
    }


def _qdrant_url(base: Foundation) -> str | None:
    chosen = base.settings
    if "qdrant" not in chosen.runs:
        return base.endpoints.qdrant_url
    inside = chosen.orchestrator == "swarm"
    return f"http://qdrant:{PORTS['qdrant']}" if inside else f"http://{LOOPBACK}:{chosen.qdrant_port}"


def _monitoring_outputs(base: Foundation) -> Mapping[str, Input[str | None]]:
    chosen = base.settings
    host = chosen.host_of(chosen.monitoring_address)
    urls = {name: f"http://{host}:{getattr(chosen, f'{name}_port')}" for name in ("prometheus", "grafana")}
    if chosen.orchestrator == "swarm" and ip_address(chosen.monitoring_address).is_loopback:
        urls = {"prometheus": "http://prometheus:9090", "grafana": "http://grafana:3000"}
    return {
        **{f"{name}_url": url for name, url in urls.items()},
        "grafana_password": base.credentials.grafana,
    }


def _configuration() -> tuple[dict[str, str], set[str]]:
    """The stack's own keys without their namespace, all, so that a misspelt one is seen; and the secret ones."""
    prefix = f"{pulumi.get_project()}:"
    every = {**get_config_env(), **CONFIG.get()}
    own = {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
    return own, {name for name in own if is_config_secret(prefix + name)}
