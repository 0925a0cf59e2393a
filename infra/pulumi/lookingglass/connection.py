"""Clients of MinIO, made of what a resource's inputs say of it: endpoint, user, password, region, ca_bundle."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from lookingglass import ROOT

Props = Mapping[str, Any]


def client(props: Props) -> Minio:
    """For buckets and objects."""
    address = urlsplit(str(props["endpoint"]))
    return Minio(
        address.netloc,
        access_key=str(props["user"]),
        secret_key=str(props["password"]),
        secure=address.scheme == "https",
        region=str(props["region"]),
        http_client=_http(props),
    )


def admin(props: Props) -> MinioAdmin:
    """For users, policies and the server's configuration."""
    address = urlsplit(str(props["endpoint"]))
    return MinioAdmin(
        endpoint=address.netloc,
        credentials=StaticProvider(str(props["user"]), str(props["password"])),
        secure=address.scheme == "https",
        region=str(props["region"]),
        http_client=_http(props),
    )


def _http(props: Props) -> urllib3.PoolManager:
    context = ssl.create_default_context()
    if props["ca_bundle"]:
        context.load_verify_locations(ROOT / Path(str(props["ca_bundle"])).expanduser())
    # Of several nodes, those that have started say 503 until there are enough of them, and to come back in a minute.
    retries = urllib3.Retry(
        connect=5,
        read=5,
        status=8,
        backoff_factor=0.2,
        status_forcelist=[503],
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    return urllib3.PoolManager(timeout=urllib3.Timeout(10), retries=retries, ssl_context=context)
