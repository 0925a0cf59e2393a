"""The webhook."""

from pulumi import ResourceOptions

from lookingglass.credentials import Credentials
from lookingglass.images import Images
from lookingglass.networks import Networks
from lookingglass.redis import PORT as REDIS_PORT
from lookingglass.redis import redis_url
from lookingglass.service import Container, Port, Service, http_health
from lookingglass.settings import Settings

#: The user of the application image.
USER = "10001:10001"

PORT = 5002


class Webhook(Container):
    """While it is replaced, MinIO keeps the events."""

    def __init__(
        self,
        settings: Settings,
        stack: str,
        credentials: Credentials,
        images: Images,
        networks: Networks,
        opts: ResourceOptions,
    ) -> None:
        service = Service(
            role="webhook",
            name="webhook",
            image=images.app,
            user=USER,
            networks=networks.of("webhook"),
            command=("python", "-m", "app.webhook"),
            environment={
                "WEBHOOK_HOST": "0.0.0.0",  # noqa: S104 - inside the container; what is published is said below
                "WEBHOOK_PORT": str(PORT),
                "IMAGE_BUCKET": settings.image_bucket,
                "VIDEO_BUCKET": settings.video_bucket,
                **settings.queues,
            },
            secrets={
                "redis_url": redis_url(credentials.redis, "redis", REDIS_PORT),
                "webhook_token": credentials.webhook,
                "api_token": credentials.api,
            },
            ports=[Port(internal=PORT, external=settings.webhook_port, address=settings.public_address)],
            health=http_health(PORT, "/health"),
        )
        super().__init__(service, settings, stack, opts)
