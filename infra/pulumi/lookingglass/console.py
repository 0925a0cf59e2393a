"""The operators' console."""

import pulumi

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.minio import CONSOLE_USER
from lookingglass.service import Port, Service, http_health
from lookingglass.webhook import PORT as WEBHOOK_PORT
from lookingglass.webhook import USER

PORT = 5003


class Console(Deployment):
    """It may read the buckets, and holds no key of the index."""

    def __init__(self, base: Foundation, *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        service = Service(
            role="console",
            name="console",
            image=base.images.app,
            user=USER,
            networks=base.networks.of("console"),
            command=("python", "-m", "app.console"),
            environment={
                "CONSOLE_HOST": "0.0.0.0",  # noqa: S104 - inside the container; what is published is said below
                "CONSOLE_PORT": str(PORT),
                "WEBHOOK_URL": f"http://webhook:{WEBHOOK_PORT}",
                "GPU_WORKER_URL": "http://gpu-worker:5001",
                "MINIO_ENDPOINT": base.endpoints.minio_endpoint,
                "MINIO_REGION": base.endpoints.minio_region,
                "MINIO_USER": CONSOLE_USER,
                "IMAGE_BUCKET": settings.image_bucket,
                "VIDEO_BUCKET": settings.video_bucket,
                **settings.queues,
            },
            secrets={
                "redis_url": base.endpoints.redis_url,
                "minio_password": credentials.minio_console,
                "api_token": credentials.api,
                "gpu_worker_token": credentials.gpu_worker,
                "console_token": credentials.console,
            },
            host_directories=base.endpoints.directories,
            ports=[Port(internal=PORT, external=settings.console_port, address=settings.console_address)],
            health=http_health(PORT, "/health"),
        )
        super().__init__(service, base, *after)
