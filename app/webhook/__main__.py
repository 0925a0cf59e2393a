"""`python -m app.webhook`: the webhook."""

from app.common import logs
from app.common.redis import connect
from app.common.server import serve
from app.common.settings import load
from app.webhook.api import create_app
from app.webhook.settings import WebhookSettings

#: Seconds for Redis to connect and to answer before MinIO is told to come back.
REDIS_TIMEOUT = 5

#: Seconds for an event document of a few kB to come, and for requests in hand to be answered at the end.
BODY_SECONDS = 15
GRACE = 10

#: Bytes of all bodies under way together, and the least number of largest ones that fit.
BODIES_BYTES = 64 * 2**20
LARGEST_BODIES = 4


def main() -> None:
    """Serve until told to stop."""
    logs.set_up("webhook")
    settings = load(WebhookSettings)
    serve(
        create_app(settings, connect(settings.redis_url, timeout=REDIS_TIMEOUT)),
        settings.webhook_host,
        settings.webhook_port,
        threads=settings.webhook_threads,
        max_body_bytes=settings.max_body_bytes,
        bodies_bytes=max(BODIES_BYTES, LARGEST_BODIES * settings.max_body_bytes),
        body_seconds=BODY_SECONDS,
        grace=GRACE,
    )


if __name__ == "__main__":
    main()
