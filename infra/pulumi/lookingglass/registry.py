"""A registry of the stack's own, from which the nodes of a Swarm get the images that are built.

It lets in whom its node's authority gave a certificate, and those are the cluster's engines: infra/ansible made them.
"""

import json

from infra.contract import REGISTRY_DIRECTORY, REGISTRY_USER
from lookingglass.deployment import Deployment
from lookingglass.foundation import Ground
from lookingglass.service import SECRETS_DIR, Port, Service, busybox_health

PORT, HEALTH_PORT = 5000, 5001

CERTIFICATES_DIR = "/certificates"

#: A directory that everybody may write to in nearly every image, which a new volume takes over from it; the image's
#: own for its data is root's.
DATA_DIR = "/var/tmp"  # noqa: S108

#: YAML that is JSON. Nothing in it remembers what is in the volume, so that garbage may be collected while it runs.
CONFIGURATION = json.dumps(
    {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": DATA_DIR}, "delete": {"enabled": True}},
        "http": {
            "addr": f":{PORT}",
            "tls": {
                "certificate": f"{CERTIFICATES_DIR}/server.crt",
                "key": f"{CERTIFICATES_DIR}/server.key",
                "clientcas": [f"{CERTIFICATES_DIR}/ca.crt"],
            },
            "debug": {"addr": f"127.0.0.1:{HEALTH_PORT}"},
        },
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }
)


class Registry(Deployment):
    """Distribution, on the node whose address is in the images' names."""

    def __init__(self, ground: Ground) -> None:
        port = ground.settings.registry_port or PORT
        service = Service(
            role="registry",
            name="registry",
            image=ground.settings.registry_image,
            user=REGISTRY_USER,
            networks=ground.networks.of("registry"),
            entrypoint=("registry",),
            command=("serve", f"{SECRETS_DIR}/registry.yml"),
            environment={"OTEL_TRACES_EXPORTER": "none"},
            secrets={"registry.yml": CONFIGURATION},
            data={DATA_DIR: "registry"},
            host_directories={CERTIFICATES_DIR: REGISTRY_DIRECTORY},
            ports=[Port(internal=PORT, external=port, address="0.0.0.0")],  # noqa: S104 - who has no certificate is refused
            health=busybox_health(HEALTH_PORT, "/debug/health"),
        )
        super().__init__(service, ground)
