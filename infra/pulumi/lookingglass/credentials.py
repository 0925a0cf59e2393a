"""Credentials, generated on the first `pulumi up` and kept, encrypted, in the state.

`pulumi up --replace <urn>` makes a new one, and everything that uses it follows.
"""

import secrets
from typing import Any

import pulumi
from pulumi import Output, ResourceOptions
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

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
    """All credentials of a stack."""

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

    def __init__(self, opts: ResourceOptions) -> None:
        super().__init__("lookingglass:infra:Credentials", "credentials", None, opts)
        own = ResourceOptions(parent=self)
        self.redis = Credential("redis-password", own).value
        self.minio_root = Credential("minio-root-password", own).value
        self.minio_worker = Credential("minio-worker-password", own).value
        self.minio_crawler = Credential("minio-crawler-password", own).value
        self.minio_console = Credential("minio-console-password", own).value
        self.qdrant = Credential("qdrant-api-key", own).value
        self.webhook = Credential("webhook-token", own).value
        self.api = Credential("api-token", own).value
        self.gpu_worker = Credential("gpu-worker-token", own).value
        self.console = Credential("console-token", own).value
        self.register_outputs({})
