"""The webhook as a target of a MinIO that stands already, which takes it through its admin API and a restart."""

import hashlib
import shlex
import time
from collections.abc import Mapping
from typing import Any

from minio.error import MinioAdminException
from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import Resource
from urllib3.exceptions import HTTPError

from infra import contract
from lookingglass.connection import Props, admin
from lookingglass.existing import Storage
from lookingglass.storage import VERSION, Provider

#: The part of MinIO's configuration that holds webhook targets.
SUBSYSTEM = "notify_webhook"

#: Keys of a target that are compared; the token is not given out.
COMPARED = ("endpoint", "queue_dir", "queue_limit")

#: Seconds for MinIO to be back after a restart.
RESTART_SECONDS = 120


#: What a request to a MinIO fails with that is not there, or does not let us in.
UNREACHED = (MinioAdminException, HTTPError)


class RestartNeededError(Exception):
    """MinIO holds the targets and does not use them yet; the message says what to do."""


class TargetsProvider(Provider):
    """Both targets. What MinIO was told and what it uses differ until it was restarted; compared is what it uses."""

    identity = ("name",)

    def upsert(self, props: Props) -> None:
        """Write the targets and, where that is allowed, restart MinIO.

        Raises:
            RestartNeededError: it does not use them yet.
        """
        server = admin(props)
        if in_use(props) == props["targets"]:
            return
        for name, target in props["targets"].items():
            server.config_set(f"{SUBSYSTEM}:{name}", {**target, "auth_token": str(props["token"])})
        if props["restart"]:
            server.service_restart()
            _wait(props)
        else:
            raise RestartNeededError(
                f"MinIO at {props['endpoint']} holds the webhook's targets, and uses them after a restart: run "
                "`mc admin service restart`, then `pulumi up` again; or let it be restarted (storage.restart)"
            )

    def look(self, props: Props) -> dict[str, Any] | None:
        """The targets in use."""
        found = in_use(props)
        return {"targets": found} if found else None

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Take the targets out of the configuration; unless it may be restarted, MinIO forgets them when it is."""
        server = admin(props)
        for name in props["targets"]:
            server.config_reset(SUBSYSTEM, name)
        if props["restart"]:
            server.service_restart()


class Targets(Resource):
    """The durable target and the quick one."""

    def __init__(
        self,
        name: str,
        connection: Mapping[str, Input[str]],
        storage: Storage,
        webhook_url: str,
        token: Output[str],
        opts: ResourceOptions,
    ) -> None:
        targets = token.apply(lambda value: describe(webhook_url, storage.queue_dir or "", value))
        props: dict[str, Input[Any]] = {
            "name": name,
            "targets": Output.unsecret(targets),
            "token": token,
            "restart": storage.restart,
            "version": VERSION,
        }
        super().__init__(TargetsProvider(), name, {**connection, **props}, opts)


def describe(webhook_url: str, queue_dir: str, token: str) -> dict[str, dict[str, str]]:
    """What of each target is compared. The address tells one token from another, since MinIO shows none."""
    mark = f"key={hashlib.sha256(token.encode()).hexdigest()[:8]}"
    url = webhook_url + contract.WEBHOOK_PATH
    limit = str(contract.QUEUE_LIMIT)
    return {
        contract.DURABLE_TARGET: {"endpoint": f"{url}?{mark}", "queue_dir": queue_dir, "queue_limit": limit},
        contract.HINT_TARGET: {"endpoint": f"{url}{contract.HINT_QUERY}&{mark}", "queue_dir": "", "queue_limit": "0"},
    }


def in_use(props: Props) -> dict[str, dict[str, str]]:
    """Those of our targets that MinIO uses, as `describe` has them."""
    found = {}
    try:
        configuration = admin(props).config_get(SUBSYSTEM)
    except UnboundLocalError as error:  # how the SDK hands over an error of this call
        raise error.__context__ or error from None
    for line in configuration.splitlines():
        name, *settings = shlex.split(line) or [""]
        target = name.removeprefix(f"{SUBSYSTEM}:")
        if target in (contract.DURABLE_TARGET, contract.HINT_TARGET):
            values = dict(setting.partition("=")[::2] for setting in settings)
            found[target] = {key: values.get(key, "") for key in COMPARED}
    return found


def _wait(props: Props) -> None:
    deadline = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        try:
            if in_use(props) == props["targets"]:
                return
        except UNREACHED:
            pass
        time.sleep(0.5)
    raise RestartNeededError(
        f"MinIO at {props['endpoint']} was restarted and does not use the webhook's targets within "
        f"{RESTART_SECONDS} s: look at its log; environment variables of its own may stand against them"
    )
