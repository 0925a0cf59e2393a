"""Prometheus's configuration: what it scrapes, and the rules of alerts."""

import base64
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha512
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

#: The rules of alerts, beside this file.
ALERTS = Path(__file__).with_name("alerts.yml")

#: Seconds between two scrapes; each costs a few round trips to Redis and a look into the index.
INTERVAL = 15

#: Until when MinIO takes a token of `minio_token`: the year 2100. With its user's password it ends before.
EXPIRES = 4102444800


@dataclass(frozen=True, slots=True)
class Target:
    """A service that tells Prometheus of itself."""

    job: str
    url: str
    token: str | None = None
    path: str = "/metrics"
    #: Whether its name stands for several, each of which is scraped.
    each_address: bool = False

    @classmethod
    def minio(cls, address: str, token: str) -> Self:
        """MinIO's figures of its space, at `host:port` or a URL."""
        url = address if "://" in address else f"http://{address}"
        return cls("minio", url, token, path="/minio/v2/metrics/cluster")


def configuration(targets: Iterable[Target], rules: str = str(ALERTS)) -> str:
    """The configuration, as YAML (JSON is some). It holds the targets' tokens: keep it from others' eyes."""
    return json.dumps(
        {
            "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
            "rule_files": [rules],
            "scrape_configs": [_scrape(alike) for alike in _by_job(targets).values()],
        },
        indent=2,
    )


def targets(outputs: Mapping[str, str | None]) -> list[Target]:
    """What to scrape of a pipeline, as its outputs say: each face service by itself, and MinIO's space."""
    found = [Target("lookingglass-webhook", str(outputs["webhook_url"]), outputs.get("api_token"))]
    for url in str(outputs["gpu_worker_url"]).split(","):
        found.append(Target("lookingglass-face-service", url.strip(), outputs.get("gpu_worker_token")))
    user, password = str(outputs["minio_user"]), str(outputs["minio_password"])
    return [*found, Target.minio(str(outputs["minio_url"]), minio_token(user, password))]


def minio_token(user: str, password: str) -> str:
    """What MinIO wants to be shown of who scrapes it, as `mc admin prometheus generate` makes it."""
    claims = {"exp": EXPIRES, "sub": user, "iss": "prometheus"}
    signed = f"{_base64(json.dumps({'alg': 'HS512', 'typ': 'JWT'}).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{signed}.{_base64(hmac.digest(password.encode(), signed.encode(), sha512))}"


def _by_job(targets: Iterable[Target]) -> dict[str, list[Target]]:
    """Targets of one job, which differ in their address only: Prometheus takes each job but once."""
    jobs: dict[str, list[Target]] = {}
    for target in targets:
        jobs.setdefault(target.job, []).append(target)
    return jobs


def _scrape(alike: list[Target]) -> dict[str, Any]:
    target, url = alike[0], urlsplit(alike[0].url)
    addresses: dict[str, list[str]] = {}
    for one in alike:
        addresses.setdefault(urlsplit(one.url).scheme, []).append(urlsplit(one.url).netloc)
    where: dict[str, Any] = {
        "static_configs": [
            {"targets": some, **({"labels": {"__scheme__": scheme}} if scheme != url.scheme else {})}
            for scheme, some in addresses.items()
        ]
    }
    if target.each_address:
        where = {"dns_sd_configs": [{"names": [url.hostname], "type": "A", "port": url.port}]}
    return {
        "job_name": target.job,
        "scheme": url.scheme,
        "metrics_path": target.path,
        **where,
        **({"authorization": {"credentials": target.token}} if target.token else {}),
    }


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
