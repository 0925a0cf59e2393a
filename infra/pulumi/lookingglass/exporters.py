"""What tells Prometheus of Redis and of NVIDIA's cards: the exporters that are the ecosystem's own."""

import json

import pulumi
from pulumi import Input

from infra.monitoring.cards import COUNTERS, counters
from infra.monitoring.prometheus import INTERVAL
from lookingglass import redis
from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Service, busybox_health, http_health

#: Users of the published images; NVIDIA's begins as root unless told otherwise, which only profiling needs.
REDIS_USER = "59000:59000"
GPU_USER = "1000:1000"

REDIS_PORT, GPU_PORT = 9121, 9400

#: The Redis that is looked at, by which its password is found in the file of passwords.
REDIS_URL = f"redis://redis:{redis.PORT}"


class RedisExporter(Deployment):
    """oliver006's, on the stack's own Redis; one that stands already has, or gets, its owner's."""

    def __init__(self, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        service = Service(
            role="redis-exporter",
            name="redis-exporter",
            image=image,
            user=REDIS_USER,
            networks=base.networks.of("redis-exporter"),
            command=(
                f"--redis.addr={REDIS_URL}",
                f"--redis.password-file={SECRETS_DIR}/redis_passwords.json",
                f"--web.listen-address=:{REDIS_PORT}",
            ),
            secrets={
                "redis_passwords.json": base.credentials.redis.apply(lambda word: json.dumps({REDIS_URL: word})),
            },
            health=busybox_health(REDIS_PORT, "/health"),
        )
        super().__init__(service, base, *after)


class GPUExporter(Deployment):
    """NVIDIA's DCGM exporter, for all cards of the stack, without the profiling that wants SYS_ADMIN."""

    def __init__(self, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        gpus = ",".join(base.settings.gpus)
        service = Service(
            role="gpu-exporter",
            name="gpu-exporter",
            image=image,
            user=GPU_USER,
            networks=base.networks.of("gpu-exporter"),
            # The image's own would set a capability of the program, and write to a root that is read-only.
            entrypoint=("/usr/bin/dcgm-exporter",),
            command=(
                f"--collectors={SECRETS_DIR}/{COUNTERS}",
                f"--address=:{GPU_PORT}",
                f"--collect-interval={INTERVAL * 1000}",
            ),
            environment={"NVIDIA_VISIBLE_DEVICES": gpus, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
            secrets={COUNTERS: counters()},
            gpu=gpus,
            health=http_health(GPU_PORT, "/health"),
        )
        super().__init__(service, base, *after)
