"""One network for each conversation, so that nobody overhears or joins another's."""

import pulumi
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from lookingglass.engine import LABEL
from lookingglass.settings import Settings

#: Who talks to whom. None of these leads out of the host: what decodes a stranger's files reaches nothing else.
CONVERSATIONS = {
    "jobs": ("redis", "webhook", "worker", "console"),
    "storage": ("minio", "webhook", "worker", "console"),
    "faces": ("gpu-worker", "worker", "console"),
    "index": ("gpu-worker", "qdrant"),
}

#: The network through which ports are published. Docker publishes none from a network without a way out, so on this
#: one containers do not see each other. It is also the way to services outside the stack.
INGRESS = "ingress"
PUBLISHED = ("redis", "minio", "qdrant", "webhook", "gpu-worker", "console")

#: The service that a conversation is with, where it may stand already, outside the stack.
WITH = {"jobs": "redis", "storage": "minio", "index": "qdrant"}


class Networks(pulumi.ComponentResource):
    """The stack's networks."""

    #: Names of the networks, by what they are for.
    names: dict[str, Output[str]]

    def __init__(self, settings: Settings, stack: str, opts: ResourceOptions) -> None:
        super().__init__("lookingglass:infra:Networks", "networks", None, opts)
        self._leads_out = {role for role in PUBLISHED if role in settings.runs}
        if settings.storage or (settings.redis_url and not settings.redis_url.startswith("unix:")):
            self._leads_out.add("worker")
        own = ResourceOptions(parent=self)
        labels = [docker.NetworkLabelArgs(label=LABEL, value=stack)]
        self.names = {
            name: docker.Network(
                name, name=f"lookingglass-{stack}-{name}", driver="bridge", internal=True, labels=labels, opts=own
            ).name
            for name in CONVERSATIONS
            if name not in WITH or WITH[name] in settings.runs
        }
        self.names[INGRESS] = docker.Network(
            INGRESS,
            name=f"lookingglass-{stack}-{INGRESS}",
            driver="bridge",
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels=labels,
            opts=own,
        ).name
        self.register_outputs({"names": self.names})

    def of(self, role: str) -> dict[str, Output[str]]:
        """The networks a service is on."""
        wanted = [name for name, members in CONVERSATIONS.items() if role in members and name in self.names]
        if role in self._leads_out:
            wanted.append(INGRESS)
        return {name: self.names[name] for name in wanted}
