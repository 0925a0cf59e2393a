"""The workers."""

import pulumi

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.minio import WORKER_USER
from lookingglass.service import Health, Service, numbered
from lookingglass.webhook import USER

#: What Swarm puts a task's number for.
SLOT = "{{.Task.Slot}}"

#: Seconds to end after the last job, and to leave the queue in order.
STOP_MARGIN = 30


class Worker(Deployment):
    """One worker, or all of them. It holds no key of the index, and its networks lead nowhere else."""

    def __init__(self, number: int | None, base: Foundation, *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        service = Service(
            role="worker",
            name=numbered("worker", number),
            replicas=1 if number else settings.workers,
            image=base.images.app,
            user=USER,
            networks=base.networks.of("worker"),
            command=("python", "-m", "app.worker"),
            environment={
                "WORKER_NAME": numbered("worker", number or SLOT),
                "QUEUE_NAMES": ",".join(name for key, name in settings.queues.items() if key.endswith("QUEUE_NAME")),
                "MINIO_ENDPOINT": base.endpoints.minio_endpoint,
                "MINIO_REGION": base.endpoints.minio_region,
                "MINIO_USER": WORKER_USER,
                "GPU_WORKER_URL": "http://gpu-worker:5001",
                "IMAGE_BUCKET": settings.image_bucket,
                "VIDEO_BUCKET": settings.video_bucket,
                **settings.queues,
            },
            secrets={
                "redis_url": base.endpoints.redis_url,
                "minio_password": credentials.minio_worker,
                "gpu_worker_token": credentials.gpu_worker,
            },
            host_directories=base.endpoints.directories,
            # The longest job may be finished.
            stop_grace=settings.video_job_timeout + STOP_MARGIN,
            health=Health(command=("CMD", "python", "-m", "app.worker.health"), interval=15, timeout=10, retries=4),
        )
        super().__init__(service, base, *after)
