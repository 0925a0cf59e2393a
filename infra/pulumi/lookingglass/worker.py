"""The workers."""

import pulumi

from lookingglass.container import Container
from lookingglass.foundation import Foundation
from lookingglass.minio import PORT as MINIO_PORT
from lookingglass.minio import WORKER_USER
from lookingglass.redis import PORT as REDIS_PORT
from lookingglass.redis import redis_url
from lookingglass.service import Health, Service
from lookingglass.webhook import USER

#: Seconds to end after the last job, and to leave the queue in order.
STOP_MARGIN = 30


class Worker(Container):
    """One worker. It holds no key of the index, and its networks lead nowhere else."""

    def __init__(self, number: int, base: Foundation, *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        service = Service(
            role="worker",
            name=f"worker-{number}",
            image=base.images.app,
            user=USER,
            networks=base.networks.of("worker"),
            command=("python", "-m", "app.worker"),
            environment={
                "WORKER_NAME": f"worker-{number}",
                "QUEUE_NAMES": ",".join(name for key, name in settings.queues.items() if key.endswith("QUEUE_NAME")),
                "MINIO_ENDPOINT": f"minio:{MINIO_PORT}",
                "MINIO_USER": WORKER_USER,
                "GPU_WORKER_URL": "http://gpu-worker:5001",
                "IMAGE_BUCKET": settings.image_bucket,
                "VIDEO_BUCKET": settings.video_bucket,
                **settings.queues,
            },
            secrets={
                "redis_url": redis_url(credentials.redis, "redis", REDIS_PORT),
                "minio_password": credentials.minio_worker,
                "gpu_worker_token": credentials.gpu_worker,
            },
            # The longest job may be finished.
            stop_grace=settings.video_job_timeout + STOP_MARGIN,
            health=Health(command=("CMD", "python", "-m", "app.worker.health"), interval=15, timeout=10, retries=4),
        )
        super().__init__(service, base, *after)
