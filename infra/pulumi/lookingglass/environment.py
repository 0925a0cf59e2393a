"""The whole environment: what there is, and in which order it starts."""

from collections.abc import Mapping

import pulumi
import pulumi_docker as docker
from pulumi import Input, ResourceOptions
from pulumi.runtime.config import CONFIG, get_config_env

from lookingglass import preflight, settings
from lookingglass.credentials import Credentials
from lookingglass.face import FaceService
from lookingglass.images import Images
from lookingglass.minio import CRAWLER_USER, ROOT_USER, MinIO, Notifications, Storage
from lookingglass.networks import Networks
from lookingglass.preflight import LOOPBACK
from lookingglass.qdrant import Qdrant
from lookingglass.redis import Redis, redis_url
from lookingglass.settings import Settings
from lookingglass.webhook import Webhook
from lookingglass.worker import Worker


def declare() -> None:
    """Declare every resource of the stack, and put out where it is.

    Raises:
        SettingsError: a key of the configuration is wrong.
        PreflightError: the engine cannot run the stack.
    """
    stack, chosen = pulumi.get_stack(), settings.load(_configuration())
    preflight.check(chosen, stack)
    engine = docker.Provider("engine", host=chosen.docker_host)
    here = ResourceOptions(providers=[engine])

    credentials = Credentials(ResourceOptions())
    images = Images(chosen, stack, here)
    networks = Networks(stack, here)
    common = (chosen, stack, credentials, images, networks)

    redis = Redis(*common, here)
    minio = MinIO(*common, here)
    storage = Storage(chosen, credentials, minio)
    index = [Qdrant(chosen, stack, credentials, images.qdrant, networks, here)] if images.qdrant is not None else []
    faces = [FaceService(number, *common, _after(here, *index)) for number in range(1, len(chosen.gpus or [""]) + 1)]
    for number in range(1, chosen.workers + 1):
        Worker(number, *common, _after(here, redis, storage, *faces))
    webhook = Webhook(*common, _after(here, redis))
    Notifications(chosen, credentials, storage, webhook)

    for name, value in _outputs(chosen, credentials).items():
        pulumi.export(name, value)


def _after(base: ResourceOptions, *others: pulumi.Resource) -> ResourceOptions:
    """Options of what starts after others are healthy."""
    return ResourceOptions.merge(base, ResourceOptions(depends_on=list(others)))


def _outputs(chosen: Settings, credentials: Credentials) -> Mapping[str, Input[str | None]]:
    """The keys that every way of standing the pipeline up publishes, and the credentials of this one.

    What listens on loopback only is named as the Docker host sees it.
    """
    return {
        "webhook_url": f"http://{chosen.host}:{chosen.webhook_port}",
        "minio_url": f"http://{chosen.host}:{chosen.minio_port}",
        "minio_console_url": f"http://{chosen.host}:{chosen.minio_console_port}",
        "redis_url": redis_url(credentials.redis, LOOPBACK, chosen.redis_port),
        "gpu_worker_url": f"http://{LOOPBACK}:{chosen.gpu_worker_port}",
        "qdrant_url": f"http://{LOOPBACK}:{chosen.qdrant_port}" if chosen.index == "server" else None,
        "image_bucket": chosen.image_bucket,
        "video_bucket": chosen.video_bucket,
        "minio_user": ROOT_USER,
        "minio_password": credentials.minio_root,
        "webhook_token": credentials.webhook,
        "api_token": credentials.api,
        "gpu_worker_token": credentials.gpu_worker,
        "qdrant_api_key": credentials.qdrant,
        "crawler_access_key": CRAWLER_USER,
        "crawler_secret_key": credentials.minio_crawler,
    }


def _configuration() -> dict[str, str]:
    """The stack's own keys, without their namespace; all of them, so that a misspelt one is seen."""
    prefix = f"{pulumi.get_project()}:"
    every = {**get_config_env(), **CONFIG.get()}
    return {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
