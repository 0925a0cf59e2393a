"""What every way of standing the pipeline up shares: ports, outputs, and how MinIO tells the webhook.

Pure facts and functions; nothing here starts or changes anything but `subscribe` and `unsubscribe`, which act on
the bucket they are given.
"""

from collections.abc import Iterable
from pathlib import PurePath

from minio import Minio
from minio.notificationconfig import NotificationConfig, QueueConfig

#: The original document's ports.
PORTS = {
    "webhook": 5002,
    "gpu_worker": 5001,
    "console": 5003,
    "redis": 6379,
    "minio": 9000,
    "minio_console": 9001,
    "qdrant": 6333,
}

#: MinIO as last published, as source only; every way of standing it up builds this.
MINIO_MODULE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"

#: What each way publishes: Pulumi as stack outputs, the local run as a JSON file.
OUTPUTS = (
    "webhook_url",
    "minio_url",
    "minio_console_url",
    "redis_url",
    "gpu_worker_url",
    "qdrant_url",
    "console_url",
    "image_bucket",
    "video_bucket",
)
#: Published beside them, as secrets.
SECRET_OUTPUTS = ("minio_user", "minio_password", "webhook_token", "console_token")

#: Path of the webhook that MinIO posts events to.
WEBHOOK_PATH = "/webhook/minio"
#: What the quick target adds to it, so that the webhook sees when the durable one has stopped.
HINT_QUERY = "?hint"

#: MinIO's name of the target that keeps events on disk until the webhook took them: `notify_webhook:lookingglass`.
DURABLE_TARGET = "lookingglass"
#: MinIO's name of the target that is quick and may lose events: the same event reaches the webhook within
#: milliseconds, where the durable target looks at its directory every 3 s. The webhook knows it when it comes again.
HINT_TARGET = "lookingglasshint"

#: Events the durable target keeps while the webhook is away; one takes about 1 kB.
QUEUE_LIMIT = 1_000_000

#: Events that say something of an object's content. `s3:ObjectCreated:*` would add tags and retention.
EVENTS = (
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:*",
)

#: How Redis is started. What it acknowledged is with the kernel before, and on disk within a second. It refuses
#: rather than forgets. RQ writes a job into a hash and its result into a stream of one entry: kept packed, both
#: together take 2 kB, by Redis's defaults 6.5 (the older name of the hash's option is known to all of them).
REDIS_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec"),
    *("--maxmemory-policy", "noeviction"),
    *("--hash-max-ziplist-value", "1024", "--stream-node-max-bytes", "512"),
)

#: Label of the Swarm nodes that may hold data, with the value `true`. infra/ansible gives it, Pulumi places by it.
DATA_LABEL = "lookingglass.data"
#: Services whose data is pinned to a node.
DATA_SERVICES = ("redis", "minio", "qdrant", "gpu-worker", "registry", "prometheus", "grafana")
#: Directory with the certificates of a registry of the stack's own, on its node, and the user who may read the key.
REGISTRY_DIRECTORY = "/etc/lookingglass/registry/served"
REGISTRY_USER = "10001:10001"
#: What the label of a service says whose data is in one volume.
FIRST_DATA = "1"
#: Generic resource of a Swarm node for each of its cards, whose value is the card's UUID.
CARD_RESOURCE = "GPU"


def data_label(service: str) -> str:
    """Label of the one Swarm node that holds a volume of the service's; its value is the volume's number, from 1."""
    return f"lookingglass.{service}"


def target_arn(target: str, region: str = "") -> str:
    """MinIO's name of a webhook target in a bucket's notification."""
    return f"arn:minio:sqs:{region}:{target}:webhook"


def notification_environment(webhook_url: str, queue_dir: PurePath, token: str | None) -> dict[str, str]:
    """MinIO's environment for both targets.

    `queue_dir` is absolute. Variables take effect at start whether or not the webhook is up; `mc admin config set`
    fails while it is down.
    """
    environment = {"MINIO_API_SYNC_EVENTS": "on"}  # an event is on disk before the uploader is answered
    for target, query in ((DURABLE_TARGET, ""), (HINT_TARGET, HINT_QUERY)):
        environment |= {
            f"MINIO_NOTIFY_WEBHOOK_ENABLE_{target}": "on",
            f"MINIO_NOTIFY_WEBHOOK_ENDPOINT_{target}": webhook_url + WEBHOOK_PATH + query,
        }
        if token:
            environment[f"MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{target}"] = f"Bearer {token}"
    return environment | {
        f"MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_{DURABLE_TARGET}": str(queue_dir),
        f"MINIO_NOTIFY_WEBHOOK_QUEUE_LIMIT_{DURABLE_TARGET}": str(QUEUE_LIMIT),
    }


def subscribe(client: Minio, bucket: str, arns: Iterable[str]) -> None:
    """Send a bucket's events to our targets, keeping what others configured."""
    ours = list(arns)
    document = _without(client.get_bucket_notification(bucket), ours)
    document.queue_config_list.extend(QueueConfig(queue=arn, events=list(EVENTS)) for arn in ours)
    client.set_bucket_notification(bucket, document)


def unsubscribe(client: Minio, bucket: str, arns: Iterable[str]) -> None:
    """Take our targets, and nothing else, out of a bucket's notification."""
    client.set_bucket_notification(bucket, _without(client.get_bucket_notification(bucket), list(arns)))


def _without(document: NotificationConfig, arns: list[str]) -> NotificationConfig:
    kept = [entry for entry in document.queue_config_list or [] if entry.queue not in arns]
    return NotificationConfig(
        cloud_func_config_list=document.cloud_func_config_list or [],
        queue_config_list=kept,
        topic_config_list=document.topic_config_list or [],
    )
