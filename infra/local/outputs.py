"""`outputs.json`: where everything is, under the keys that the Pulumi stack publishes too."""

import json
from pathlib import Path

from infra.local.settings import LocalSettings

FILE = "outputs.json"


def outputs(settings: LocalSettings, webhook_token: str | None, console_token: str | None) -> dict[str, str | None]:
    """The outputs of a local stack."""
    here = "http://127.0.0.1"
    return {
        "webhook_url": f"{here}:{settings.webhook_port}",
        "minio_url": f"{here}:{settings.minio_port}",
        "minio_console_url": f"{here}:{settings.minio_console_port}",
        "redis_url": f"redis://127.0.0.1:{settings.redis_port}/0",
        "gpu_worker_url": f"{here}:{settings.gpu_worker_port}",
        "qdrant_url": settings.qdrant_url,
        "console_url": f"{here}:{settings.console_port}",
        "image_bucket": settings.image_bucket,
        "video_bucket": settings.video_bucket,
        "minio_user": settings.minio_user,
        "minio_password": settings.minio_password,
        "webhook_token": webhook_token,
        "console_token": console_token,
    }


def write(values: dict[str, str | None], directory: Path) -> Path:
    """Write the outputs, readable by their owner only, for they hold secrets."""
    path = directory / FILE
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(values, indent=2) + "\n")
    return path
