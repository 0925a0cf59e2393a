"""Qdrant: the index, on one node or as a cluster.

A cluster's first node starts without another, and the others with one that knows the rest. Each keeps in its volume
whom it knows, and starts from that again, whatever it is told. A first node that lost its volume would start a
second, empty cluster: so it asks the others first, and joins whoever is there.
"""

import json

import pulumi
from pulumi import Input

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Port, Service, http_health, numbered

#: The user of the published unprivileged images.
USER = "1000:1000"

PORT = 6333

#: Where nodes speak to each other, with no key: no network but `index` leads there.
PEER_PORT = 6335

#: Seconds for another node to take a connection.
CONNECT_SECONDS = 3

#: Seconds to write what is in memory: 7.5 idle, up to 30 under load were seen.
STOP_GRACE = 90

COMMAND = ("./qdrant", "--config-path", f"{SECRETS_DIR}/qdrant.yaml")


class Qdrant(Deployment):
    """The server, or one of a cluster's nodes."""

    def __init__(self, number: int | None, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        name = numbered("qdrant", number)
        service = Service(
            role="qdrant",
            name=name,
            node=number,
            image=image,
            user=USER,
            networks=base.networks.of("qdrant"),
            command=_cluster_command(number, base.settings.qdrant_nodes) if number else COMMAND,
            environment={
                **({"QDRANT__CLUSTER__ENABLED": "true"} if number else {}),
                "QDRANT__STORAGE__SNAPSHOTS_PATH": "/qdrant/storage/snapshots",
                "QDRANT__TELEMETRY_DISABLED": "true",
                # The server's mark of a first start; the root cannot be written, and /tmp any user may.
                "QDRANT_INIT_FILE_PATH": "/tmp/.qdrant-initialized",  # noqa: S108
            },
            secrets={"qdrant.yaml": base.credentials.qdrant.apply(_configuration)},
            data={"/qdrant/storage": name},
            ports=[Port(internal=PORT, external=base.settings.qdrant_port)],
            stop_grace=STOP_GRACE,
            # A node is ready when it reaches the others, which find it only when it is healthy.
            health=http_health(PORT, "/livez" if number else "/readyz"),
        )
        super().__init__(service, base, *after)


def _cluster_command(number: int, nodes: int) -> tuple[str, ...]:
    """Join a node that is there; the first one is the first where there is none.

    The image has bash, which finds out whether a port is open.
    """
    others = " ".join(numbered("qdrant", other) for other in range(1, nodes + 1) if other != number)
    start = f"exec {' '.join(COMMAND)} --uri http://{numbered('qdrant', number)}:{PEER_PORT}"
    script = (
        f"for node in {others}; do "
        f'if timeout {CONNECT_SECONDS} bash -c "exec 3<>/dev/tcp/$node/{PEER_PORT}" 2>/dev/null; then '
        f"{start} --bootstrap http://$node:{PEER_PORT}; fi; done; "
    )
    alone = start if number == 1 else f"{start} --bootstrap http://{numbered('qdrant', 1)}:{PEER_PORT}"
    return ("bash", "-c", script + alone)


def _configuration(api_key: str) -> str:
    # JSON is YAML, quoted beyond doubt.
    return json.dumps({"service": {"api_key": api_key}}) + "\n"
