"""Prometheus's configuration: what it scrapes, and the rules of alerts."""

import base64
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha512
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: The rules of alerts, beside this file.
ALERTS = Path(__file__).with_name("alerts.yml")

#: Seconds between two scrapes; each costs a few round trips to Redis and a look into the index.
INTERVAL = 15

#: Seconds for which MinIO takes a token of `minio_token`: ten years.
TOKEN_SECONDS = 10 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Target:
    """A service that tells Prometheus of itself."""

    job: str
    url: str
    token: str | None = None
    path: str = "/metrics"


def configuration(targets: Iterable[Target], rules: Path = ALERTS) -> str:
    """The configuration, as YAML (JSON is some). It holds the targets' tokens: keep it from others' eyes."""
    return json.dumps(
        {
            "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"},
            "rule_files": [str(rules)],
            "scrape_configs": [_scrape(target) for target in targets],
        },
        indent=2,
    )


def targets(outputs: Mapping[str, str | None]) -> list[Target]:
    """What to scrape of a pipeline, as its outputs say: each face service by itself, and MinIO's space."""
    found = [Target("lookingglass-webhook", str(outputs["webhook_url"]), outputs.get("api_token"))]
    for url in str(outputs["gpu_worker_url"]).split(","):
        found.append(Target("lookingglass-face-service", url.strip(), outputs.get("gpu_worker_token")))
    user, password = str(outputs["minio_user"]), str(outputs["minio_password"])
    minio = Target("minio", str(outputs["minio_url"]), minio_token(user, password), path="/minio/v2/metrics/cluster")
    return [*found, minio]


def minio_token(user: str, password: str) -> str:
    """What MinIO wants to be shown of who scrapes it, as `mc admin prometheus generate` makes it."""
    claims = {"exp": int(time.time()) + TOKEN_SECONDS, "sub": user, "iss": "prometheus"}
    signed = f"{_base64(json.dumps({'alg': 'HS512', 'typ': 'JWT'}).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{signed}.{_base64(hmac.digest(password.encode(), signed.encode(), sha512))}"


def _scrape(target: Target) -> dict[str, Any]:
    url = urlsplit(target.url)
    found: dict[str, Any] = {
        "job_name": target.job,
        "scheme": url.scheme,
        "metrics_path": target.path,
        "static_configs": [{"targets": [url.netloc]}],
    }
    return found | ({"authorization": {"credentials": target.token}} if target.token else {})


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
