"""Redis: the queue."""

from pulumi import Input, Output

from infra import contract
from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Health, Port, Service

#: The `redis` user of the published images.
USER = "999:999"

#: Part of the container's memory that data may fill. Full, Redis refuses a job and the webhook answers 503;
#: beyond the container's memory it would be killed.
DATA_SHARE = 0.6

PORT = 6379

#: Ready, and able to write its log: after a full disk Redis answers but takes nothing.
HEALTHY = (
    f'export REDISCLI_AUTH="$(cat {SECRETS_DIR}/redis_password)"; '
    "redis-cli ping | grep -q PONG && redis-cli info persistence | grep -q aof_last_write_status:ok"
)

#: Waits until no other Redis has the volume. A Swarm whose network was split may start one beside the one that it had
#: lost sight of, and what that one acknowledged from then on would be in the log and in no memory.
ALONE = (
    "sh",
    "-c",
    "exec 9>>/data/lock && { flock -n 9 || { echo 'Another Redis has this volume; waiting until it ends.' >&2 && "
    'flock 9; }; } && exec "$@"',
    "sh",
)


class Redis(Deployment):
    """An append-only Redis."""

    def __init__(self, base: Foundation, image: Input[str]) -> None:
        service = Service(
            role="redis",
            name="redis",
            image=image,
            user=USER,
            networks=base.networks.of("redis"),
            command=(
                *ALONE,
                "redis-server",
                f"{SECRETS_DIR}/redis.conf",
                *("--dir", "/data", *contract.REDIS_OPTIONS),
                *("--maxmemory", f"{int(base.settings.memory_of('redis') * DATA_SHARE)}mb"),
            ),
            secrets={
                # No snapshots beside the log; on the command line, the empty argument would be refused by the plugin.
                "redis.conf": Output.concat("requirepass ", base.credentials.redis, '\nsave ""\n'),
                "redis_password": base.credentials.redis,
            },
            data={"/data": "redis"},
            ports=[Port(internal=PORT, external=base.settings.redis_port)],
            health=Health(command=("CMD-SHELL", HEALTHY)),
        )
        super().__init__(service, base)
