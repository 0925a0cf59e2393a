"""Where services find Redis, the buckets and the index: the stack's own, or those that stand already."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulumi import Input, Output

from infra.contract import PORTS
from lookingglass.credentials import Credentials
from lookingglass.existing import socket_directory
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
    #: None with an embedded index.
    qdrant_url: str | None
    qdrant_api_key: Output[str] | None
    #: Directories of the host that lead to one of them.
    directories: Mapping[str, str] = field(default_factory=dict)
    #: How this machine administers MinIO.
    administration: Mapping[str, Input[str]]


def endpoints(settings: Settings, credentials: Credentials) -> Endpoints:
    """Find them in the configuration."""
    storage, directory = settings.storage, socket_directory(settings.redis_url)
    own_qdrant = f"http://qdrant:{PORTS['qdrant']}" if settings.index == "server" else None
    return Endpoints(
        redis_url=redis_url(settings, credentials, "redis", PORTS["redis"]),
        minio_endpoint=storage.endpoint if storage else f"minio:{PORTS['minio']}",
        minio_region=storage.region if storage else "us-east-1",
        qdrant_url=settings.qdrant_url or own_qdrant,
        qdrant_api_key=None if settings.qdrant_url and not settings.qdrant_api_key else credentials.qdrant,
        directories={directory: directory} if directory else {},
        administration={
            "endpoint": settings.minio_url,
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
