"""Qdrant: the index."""

import json

from pulumi import Input

from lookingglass.deployment import Deployment
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Port, Service, http_health

#: The user of the published unprivileged images.
USER = "1000:1000"

PORT = 6333

#: Seconds to write what is in memory: 7.5 idle, up to 30 under load were seen.
STOP_GRACE = 90


class Qdrant(Deployment):
    """The server."""

    def __init__(self, base: Foundation, image: Input[str]) -> None:
        service = Service(
            role="qdrant",
            name="qdrant",
            image=image,
            user=USER,
            networks=base.networks.of("qdrant"),
            command=("./qdrant", "--config-path", f"{SECRETS_DIR}/qdrant.yaml"),
            environment={
                "QDRANT__STORAGE__SNAPSHOTS_PATH": "/qdrant/storage/snapshots",
                "QDRANT__TELEMETRY_DISABLED": "true",
                # The server's mark of a first start; the root cannot be written, and /tmp any user may.
                "QDRANT_INIT_FILE_PATH": "/tmp/.qdrant-initialized",  # noqa: S108
            },
            secrets={"qdrant.yaml": base.credentials.qdrant.apply(_configuration)},
            data={"/qdrant/storage": "qdrant"},
            ports=[Port(internal=PORT, external=base.settings.qdrant_port)],
            stop_grace=STOP_GRACE,
            health=http_health(PORT, "/readyz"),
        )
        super().__init__(service, base)


def _configuration(api_key: str) -> str:
    # JSON is YAML, quoted beyond doubt.
    return json.dumps({"service": {"api_key": api_key}}) + "\n"
