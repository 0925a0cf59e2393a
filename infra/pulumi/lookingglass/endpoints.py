"""Where services find Redis, the buckets and the index: the stack's own, or those that stand already."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulumi import Input, Output

from infra.contract import PORTS
from lookingglass.credentials import Credentials
from lookingglass.existing import socket_directory
from lookingglass.service import numbered
from lookingglass.settings import Settings

#: The root user of a MinIO of the stack's own.
ROOT_USER = "lookingglass"


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """As the services reach them."""

    #: URL with the password in it, a secret.
    redis_url: Output[str]
    minio_endpoint: str
    minio_region: str
    #: That of each node, separated by commas; None with an embedded index.
    qdrant_url: str | None
    qdrant_api_key: Output[str] | None
    #: Directories of the host that lead to one of them.
    directories: Mapping[str, str] = field(default_factory=dict)
    #: MinIO as this machine, and who else is outside, reaches it.
    minio_url: str
    minio_console_url: str | None
    #: How this machine administers MinIO.
    administration: Mapping[str, Input[str]]


def endpoints(settings: Settings, credentials: Credentials, hosts: Mapping[str, str]) -> Endpoints:
    """Find them in the configuration, and in the addresses of the hosts that services are pinned to, by role."""
    host = settings.public_host or hosts.get("minio") or settings.host
    storage, directory = settings.storage, socket_directory(settings.redis_url)
    nodes = [f"http://{numbered('qdrant', place)}:{PORTS['qdrant']}" for place in settings.places("qdrant")]
    own_qdrant = ",".join(nodes) if settings.index == "server" else None
    minio_url = storage.endpoint.rstrip("/") if storage else f"http://{host}:{settings.minio_port}"
    return Endpoints(
        redis_url=redis_url(settings, credentials, "redis", PORTS["redis"]),
        minio_endpoint=storage.endpoint if storage else f"minio:{PORTS['minio']}",
        minio_region=storage.region if storage else "us-east-1",
        qdrant_url=settings.qdrant_url or own_qdrant,
        qdrant_api_key=None if settings.qdrant_url and not settings.qdrant_api_key else credentials.qdrant,
        directories={directory: directory} if directory else {},
        minio_url=minio_url,
        minio_console_url=None if storage else f"http://{host}:{settings.minio_console_port}",
        administration={
            "endpoint": minio_url,
            "user": storage.user if storage else ROOT_USER,
            "password": credentials.minio_root,
            "region": storage.region if storage else "us-east-1",
            "ca_bundle": settings.ca_bundle or "",
        },
    )


def redis_url(settings: Settings, credentials: Credentials, host: str, port: int) -> Output[str]:
    """The URL of the queue's database, which is at `host` and `port` where it is the stack's own."""
    if settings.redis_url is not None:
        return Output.secret(settings.redis_url)
    return Output.concat("redis://:", credentials.redis, f"@{host}:{port}/0")
