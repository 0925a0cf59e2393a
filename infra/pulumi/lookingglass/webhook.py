"""The webhook."""

import pulumi

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import Port, Service, http_health

#: The user of the application image.
USER = "10001:10001"

PORT = 5002


class Webhook(Deployment):
    """While it is replaced, MinIO keeps the events."""

    def __init__(self, base: Foundation, *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        service = Service(
            role="webhook",
            name="webhook",
            image=base.images.app,
            user=USER,
            networks=base.networks.of("webhook"),
            command=("python", "-m", "app.webhook"),
            environment={
                "WEBHOOK_HOST": "0.0.0.0",  # noqa: S104 - inside the container; what is published is said below
                "WEBHOOK_PORT": str(PORT),
                "IMAGE_BUCKET": settings.image_bucket,
                "VIDEO_BUCKET": settings.video_bucket,
                **settings.queues,
            },
            secrets={
                "redis_url": base.endpoints.redis_url,
                "webhook_token": credentials.webhook,
                "api_token": credentials.api,
            },
            host_directories=base.endpoints.directories,
            replicas=settings.webhooks,
            ports=[Port(internal=PORT, external=settings.webhook_port, address=settings.public_address)],
            health=http_health(PORT, "/health", "/health/live"),
        )
        super().__init__(service, base, *after)
