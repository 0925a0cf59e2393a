"""Buckets, their notification and MinIO's users, as resources: created, compared, mended and removed."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from minio.error import MinioAdminException, S3Error
from pulumi import Input, ResourceOptions
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra import contract
from lookingglass.connection import Props, admin, client

#: Changes with what the providers do, so that an edit of them shows as a change.
VERSION = "1"


class Provider(ResourceProvider):
    """What the providers share: an upsert for create and update, and a diff that knows what replaces."""

    serialize_as_secret_always = False

    #: Properties whose change makes another resource.
    identity: tuple[str, ...] = ()

    def upsert(self, props: Props) -> None:
        """Make MinIO agree with the properties."""
        raise NotImplementedError

    def look(self, props: Props) -> dict[str, Any] | None:
        """The properties as MinIO has them, None where there is no such thing."""
        raise NotImplementedError

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Create it, or take over what a kept volume still holds."""
        self.upsert(props)
        return CreateResult("/".join(str(props[name]) for name in self.identity), dict(props))

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Change it in place."""
        self.upsert(news)
        return UpdateResult(dict(news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """What is there, in the form of the inputs, so that nobody's doing shows as no change."""
        found = self.look(props)
        if found is None:
            return ReadResult(None, {})
        state = {**props, **found}
        return ReadResult(id_, state, {name: value for name, value in state.items() if name != "__provider"})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare the inputs."""
        changed = [name for name, value in news.items() if name != "__provider" and olds.get(name) != value]
        replaces = [name for name in changed if name in self.identity]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=bool(replaces))


class BucketProvider(Provider):
    """A bucket."""

    identity = ("bucket",)

    def upsert(self, props: Props) -> None:
        """Create the bucket unless it is there."""
        server = client(props)
        if not server.bucket_exists(props["bucket"]):
            server.make_bucket(props["bucket"])

    def look(self, props: Props) -> dict[str, Any] | None:
        """Whether it is there."""
        return {} if client(props).bucket_exists(props["bucket"]) else None

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove the bucket if it is empty; objects are never removed."""
        try:
            client(props).remove_bucket(props["bucket"])
        except S3Error as error:
            if error.code not in ("BucketNotEmpty", "NoSuchBucket"):
                raise


class NotificationProvider(Provider):
    """Our entries in a bucket's notification; entries of others are left as they are."""

    identity = ("bucket", "targets")

    def upsert(self, props: Props) -> None:
        """Subscribe our targets to the events."""
        contract.subscribe(client(props), props["bucket"], _arns(props))

    def look(self, props: Props) -> dict[str, Any] | None:
        """The events our targets get, as far as they agree."""
        try:
            entries = client(props).get_bucket_notification(props["bucket"]).queue_config_list or []
        except S3Error as error:
            if error.code == "NoSuchBucket":
                return None
            raise
        arns = _arns(props)
        ours = [entry for entry in entries if entry.queue in arns and not (entry.prefix_filter_rule)]
        if not ours:
            return None
        complete = {entry.queue for entry in ours} == set(arns)
        shared = set.intersection(*(set(entry.events) for entry in ours)) if complete else set()
        return {"events": sorted(shared)}

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Take our entries out."""
        try:
            contract.unsubscribe(client(props), props["bucket"], _arns(props))
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise


class UserProvider(Provider):
    """A user and the one policy that says what it may do."""

    identity = ("access_key",)

    def upsert(self, props: Props) -> None:
        """Write policy and user anew, and attach the one to the other."""
        server, name = admin(props), props["access_key"]
        server.policy_add(name, policy=json.loads(props["policy"]))
        server.user_add(name, props["secret_key"])
        server.policy_set(name, user=name)

    def look(self, props: Props) -> dict[str, Any] | None:
        """The policy in force; a disabled user, or one with other policies, shows as one without."""
        server, name = admin(props), props["access_key"]
        try:
            user = json.loads(server.user_info(name))
            policy = json.loads(server.policy_info(name))
        except MinioAdminException as error:
            if "NoSuch" in str(error) or "XMinioAdminNoSuch" in str(error):
                return None
            raise
        policy = policy.get("Policy", policy)
        as_declared = user.get("status") == "enabled" and user.get("policyName") == name
        if as_declared and _normal(policy) == _normal(json.loads(props["policy"])):
            return {}
        return {"policy": json.dumps(policy if as_declared else {}, sort_keys=True)}

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove user and policy."""
        server, name = admin(props), props["access_key"]
        removals: list[Callable[[str], str]] = [server.user_remove, server.policy_remove]
        for remove in removals:
            try:
                remove(name)
            except MinioAdminException as error:
                if "NoSuch" not in str(error):
                    raise


class Bucket(Resource):
    """A bucket; removed on destroy if it is empty."""

    def __init__(self, name: str, connection: Mapping[str, Input[str]], opts: ResourceOptions) -> None:
        super().__init__(BucketProvider(), name, {**connection, "bucket": name, "version": VERSION}, opts)


class BucketNotification(Resource):
    """The events of a bucket that the webhook gets."""

    def __init__(self, name: str, connection: Mapping[str, Input[str]], bucket: str, opts: ResourceOptions) -> None:
        props = {
            "bucket": bucket,
            "targets": [contract.DURABLE_TARGET, contract.HINT_TARGET],
            "events": sorted(contract.EVENTS),
            "version": VERSION,
        }
        super().__init__(NotificationProvider(), name, {**connection, **props}, opts)


class User(Resource):
    """A MinIO user that may do exactly what its policy says."""

    def __init__(
        self,
        name: str,
        connection: Mapping[str, Input[str]],
        access_key: str,
        secret_key: Input[str],
        statements: list[dict[str, Any]],
        opts: ResourceOptions,
    ) -> None:
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements}, sort_keys=True)
        props = {"access_key": access_key, "secret_key": secret_key, "policy": policy, "version": VERSION}
        super().__init__(UserProvider(), name, {**connection, **props}, opts)


def reader(buckets: list[str]) -> list[dict[str, Any]]:
    """What a worker may do: read objects, and list buckets to reconcile them."""
    return [
        _allow(["s3:GetObject", "s3:GetObjectVersion"], [f"{bucket}/*" for bucket in buckets]),
        _allow(["s3:ListBucket", "s3:GetBucketLocation"], buckets),
    ]


def uploader(buckets: list[str]) -> list[dict[str, Any]]:
    """What a crawler may do: put objects, in parts too, and nothing else."""
    actions = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    return [_allow(actions, [f"{bucket}/*" for bucket in buckets])]


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{name}" for name in resources]}


def _normal(policy: Any) -> Any:
    """A policy with the order taken out of its lists, which MinIO does not keep."""
    if isinstance(policy, dict):
        return {name: _normal(value) for name, value in policy.items()}
    if isinstance(policy, list):
        return sorted((_normal(item) for item in policy), key=lambda item: json.dumps(item, sort_keys=True))
    return policy


def _arns(props: Props) -> list[str]:
    """The targets' names, with the region of the server in them as it has it."""
    known = json.loads(admin(props).info()).get("sqsARN") or []
    region = next((arn.split(":")[3] for arn in known), "")
    return [contract.target_arn(target, region) for target in props["targets"]]
