"""MinIO: the buckets and their events, on one node or spread over several.

Each of several has a share of every object, and keeps the events of what was uploaded through it.
"""

from pathlib import PurePosixPath

import pulumi
from pulumi import Input, Output, ResourceOptions

from infra import contract
from lookingglass.deployment import Deployment
from lookingglass.endpoints import ROOT_USER
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Port, Service, http_health, numbered
from lookingglass.storage import Bucket, BucketNotification, User, reader, uploader
from lookingglass.targets import Targets

#: The application's user; the images' own is root.
USER = "10001:10001"

WORKER_USER = "lookingglass-worker"
CRAWLER_USER = "lookingglass-crawler"
CONSOLE_USER = "lookingglass-console"

PORT, CONSOLE_PORT = 9000, 9001

#: Where MinIO keeps events until the webhook took them: in a volume, or a new container would lose them.
EVENTS_DIR = PurePosixPath("/events")

ENVIRONMENT_FILE = "minio.env"


class MinIO(Deployment):
    """The server, or one of several; all its settings come from a file, for the webhook's token is among them."""

    def __init__(self, number: int | None, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        settings, credentials = base.settings, base.credentials
        service = Service(
            role="minio",
            name=numbered("minio", number),
            node=number,
            image=image,
            user=USER,
            networks=base.networks.of("minio"),
            command=(
                *("server", "--quiet", "--address", f":{PORT}", "--console-address", f":{CONSOLE_PORT}"),
                f"http://minio-{{1...{settings.minio_nodes}}}:{PORT}/data" if number else "/data",
            ),
            environment={
                "MINIO_CONFIG_ENV_FILE": f"{SECRETS_DIR}/{ENVIRONMENT_FILE}",
                "MINIO_UPDATE": "off",
                "HOME": "/tmp",  # noqa: S108 - where its certificates would be
            },
            secrets={
                ENVIRONMENT_FILE: Output.all(credentials.minio_root, credentials.webhook).apply(
                    lambda values: _environment_file(*values)
                )
            },
            data={"/data": numbered("minio", number), str(EVENTS_DIR): numbered("minio-events", number)},
            volumes_of=base.images.app,
            ports=[
                Port(internal=PORT, external=settings.minio_port, address=settings.public_address),
                Port(internal=CONSOLE_PORT, external=settings.minio_console_port, address=settings.public_address),
            ],
            # The others find a node only when it is healthy, and are not to be restarted because one is away.
            health=http_health(PORT, "/minio/health/live" if number else "/minio/health/cluster"),
        )
        super().__init__(service, base, *after)


class Storage(pulumi.ComponentResource):
    """Buckets and MinIO's users, in a server that is up."""

    def __init__(self, base: Foundation, *after: pulumi.Resource) -> None:
        super().__init__("lookingglass:infra:Storage", "storage")
        settings, credentials, connection = base.settings, base.credentials, base.endpoints.administration
        up = ResourceOptions(parent=self, depends_on=list(after))
        names = [settings.image_bucket, settings.video_bucket]
        # Buckets of a server that stands already may have been there before.
        keep = ResourceOptions.merge(up, ResourceOptions(retain_on_delete=settings.storage is not None))
        for name in names:
            Bucket(name, connection, keep)
        User("minio-worker", connection, WORKER_USER, credentials.minio_worker, reader(names), up)
        User("minio-console", connection, CONSOLE_USER, credentials.minio_console, reader(names), up)
        User("minio-crawler", connection, CRAWLER_USER, credentials.minio_crawler, uploader(names), up)
        self.register_outputs({})


class Notifications(pulumi.ComponentResource):
    """The buckets' events. With the webhook up, since MinIO takes half a minute to tell its targets without.

    A MinIO of the stack's own is told its targets at its start; one that stands already is told here.
    """

    def __init__(self, base: Foundation, storage: Storage, webhook: Deployment) -> None:
        super().__init__("lookingglass:infra:Notifications", "notifications")
        settings, connection = base.settings, base.endpoints.administration
        first: list[pulumi.Resource] = [storage, webhook]
        if settings.storage is not None:
            up, token = ResourceOptions(parent=self, depends_on=first), base.credentials.webhook
            first = [Targets("targets", connection, settings.storage, base.webhook_url, token, up)]
        up = ResourceOptions(parent=self, depends_on=first)
        for name in (settings.image_bucket, settings.video_bucket):
            BucketNotification(f"{name}-events", connection, name, up)
        self.register_outputs({})


def _environment_file(root_password: str, token: str) -> str:
    environment = {
        "MINIO_ROOT_USER": ROOT_USER,
        "MINIO_ROOT_PASSWORD": root_password,
        **contract.notification_environment("http://webhook:5002", EVENTS_DIR, token),
    }
    return "".join(f"{name}={value}\n" for name, value in sorted(environment.items()))
