"""Services that stand already and are used instead of the stack's own, as the configuration names them."""

import re
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

SCHEMES = r"^((redis|rediss)(\+sentinel)?|unix)://"


def _reached_from_containers(url: str) -> str:
    host = urlsplit(url).hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback:
        raise ValueError("a container's loopback is its own: give a name or an address of that host")
    return url


HTTPAddress = Annotated[str, Field(pattern=r"^https?://[^/@\s]+/?$"), AfterValidator(_reached_from_containers)]
RedisAddress = Annotated[str, Field(pattern=SCHEMES), AfterValidator(_reached_from_containers)]


class Storage(BaseModel):
    """A MinIO, or its successor, with the rights to make buckets, users and webhook targets there."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    endpoint: HTTPAddress
    user: str = Field(min_length=1)
    password: SecretStr = Field(min_length=1)
    region: str = Field("us-east-1", min_length=1)
    #: The webhook as this MinIO reaches it; unset, as it is published.
    webhook_url: str | None = Field(None, pattern=r"^https?://[^/@\s]+/?$")
    #: Directory of the MinIO server in which it keeps events until the webhook took them; unset, it keeps none.
    queue_dir: str | None = Field(None, pattern=r"^/\S+$")
    #: Whether it may be restarted, which it has to be before it knows a new webhook target.
    restart: bool = False


def socket_directory(redis_url: str | None) -> str | None:
    """The directory of a Redis that is reached through a socket of the Docker host."""
    path = re.fullmatch(r"unix://(?:[^/@]*@)?(/[^?]+)(?:\?.*)?", redis_url or "")
    return str(PurePosixPath(path[1]).parent) if path else None
