"""Credentials, generated on the first `pulumi up` and kept, encrypted, in the state.

`pulumi up --replace <urn>` makes a new one, and everything that uses it follows.
"""

import secrets
from typing import Any

import pulumi
from pulumi import Output, ResourceOptions
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

from lookingglass.settings import Settings

#: Bytes of randomness; 43 characters in a URL.
ENTROPY = 32


class CredentialProvider(ResourceProvider):
    """Generates a random string once."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Generate it."""
        return CreateResult(secrets.token_hex(8), {**props, "value": secrets.token_urlsafe(int(props["entropy"]))})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another length makes another one; nothing else does."""
        changed = int(olds["entropy"]) != int(news["entropy"])
        return DiffResult(changes=changed, replaces=["entropy"] if changed else [])


class Credential(Resource):
    """A random string that no URL, shell or configuration file needs quoted."""

    value: Output[str]

    def __init__(self, name: str, opts: ResourceOptions) -> None:
        own = ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(
            CredentialProvider(), name, {"entropy": ENTROPY, "value": None}, ResourceOptions.merge(opts, own)
        )


class Credentials(pulumi.ComponentResource):
    """All credentials of a stack: generated, but for those of services that stand already."""

    redis: Output[str]
    minio_root: Output[str]
    minio_worker: Output[str]
    minio_crawler: Output[str]
    minio_console: Output[str]
    qdrant: Output[str]
    webhook: Output[str]
    api: Output[str]
    gpu_worker: Output[str]
    console: Output[str]
    grafana: Output[str]

    def __init__(self, settings: Settings, opts: ResourceOptions) -> None:
        super().__init__("lookingglass:infra:Credentials", "credentials", None, opts)
        self._own = ResourceOptions(parent=self)
        storage = settings.storage
        # Redis's is in the URL where one is given.
        self.redis = self._unless("redis-password", "" if settings.redis_url else None)
        self.minio_root = self._unless(
            "minio-root-password", storage.password.get_secret_value() if storage else None
        )
        self.minio_worker = self._unless("minio-worker-password")
        self.minio_crawler = self._unless("minio-crawler-password")
        self.minio_console = self._unless("minio-console-password")
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else ""
        self.qdrant = self._unless("qdrant-api-key", key if settings.qdrant_url else None)
        self.webhook = self._unless("webhook-token")
        self.api = self._unless("api-token")
        self.gpu_worker = self._unless("gpu-worker-token")
        self.console = self._unless("console-token")
        self.grafana = self._unless("grafana-password", None if settings.monitoring else "")
        self.register_outputs({})

    def _unless(self, name: str, given: str | None = None) -> Output[str]:
        """What is given, else one generated."""
        return Credential(name, self._own).value if given is None else Output.secret(given)
