"""Qdrant: the index."""

import json

from pulumi import Input, ResourceOptions

from lookingglass.credentials import Credentials
from lookingglass.networks import Networks
from lookingglass.service import SECRETS_DIR, Container, Port, Service, http_health
from lookingglass.settings import Settings

#: The user of the published unprivileged images.
USER = "1000:1000"

PORT = 6333


class Qdrant(Container):
    """The server."""

    def __init__(
        self,
        settings: Settings,
        stack: str,
        credentials: Credentials,
        image: Input[str],
        networks: Networks,
        opts: ResourceOptions,
    ) -> None:
        service = Service(
            role="qdrant",
            name="qdrant",
            image=image,
            user=USER,
            networks=networks.of("qdrant"),
            command=("./qdrant", "--config-path", f"{SECRETS_DIR}/qdrant.yaml"),
            environment={
                "QDRANT__STORAGE__SNAPSHOTS_PATH": "/qdrant/storage/snapshots",
                "QDRANT__TELEMETRY_DISABLED": "true",
                # Where the entry point's mark of a first start goes, on a root that cannot be written.
                "QDRANT_INIT_FILE_PATH": "/qdrant/init/.qdrant-initialized",
            },
            secrets={"qdrant.yaml": credentials.qdrant.apply(_configuration)},
            data={"/qdrant/storage": "qdrant"},
            scratch=["/qdrant/init"],
            ports=[Port(internal=PORT, external=settings.qdrant_port)],
            health=http_health(PORT, "/readyz"),
        )
        super().__init__(service, settings, stack, opts)


def _configuration(api_key: str) -> str:
    # JSON is YAML, quoted beyond doubt.
    return json.dumps({"service": {"api_key": api_key}}) + "\n"
