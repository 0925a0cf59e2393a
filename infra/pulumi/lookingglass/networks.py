"""One network for each conversation, so that nobody overhears or joins another's."""

from ipaddress import ip_address

import pulumi
import pulumi_docker as docker
from pulumi import Input, Output, ResourceOptions

from lookingglass.engine import LABEL
from lookingglass.settings import Settings

#: Who talks to whom. None of these leads out of the host: what decodes a stranger's files reaches nothing else.
CONVERSATIONS = {
    "jobs": ("redis", "webhook", "worker", "console", "redis-exporter"),
    "storage": ("minio", "webhook", "worker", "console"),
    "faces": ("gpu-worker", "worker", "console"),
    "index": ("gpu-worker", "qdrant"),
    "operators": ("console", "webhook"),
    "metrics": ("prometheus", "webhook", "gpu-worker", "minio", "gpu-exporter"),
    # Whoever reaches the exporter may have it look at Redis, with the password that it knows.
    "gauges": ("prometheus", "redis-exporter"),
    "charts": ("prometheus", "grafana"),
}

#: The network through which ports are published. Docker publishes none from a network without a way out, so on this
#: one containers do not see each other. It is also the way to services outside the stack.
INGRESS = "ingress"
PUBLISHED = ("redis", "minio", "qdrant", "webhook", "gpu-worker", "console", "prometheus", "grafana")

#: The service that a conversation is with, where the stack may have none: it stands already, or was not asked for.
WITH = {
    "jobs": "redis",
    "storage": "minio",
    "index": "qdrant",
    "metrics": "prometheus",
    "gauges": "redis-exporter",
    "charts": "grafana",
}


class Networks(pulumi.ComponentResource):
    """The stack's networks."""

    #: Names of the networks, or in a Swarm their ids, by what they are for.
    references: dict[str, Output[str]]

    def __init__(self, settings: Settings, stack: str, opts: ResourceOptions) -> None:
        super().__init__("lookingglass:infra:Networks", "networks", None, opts)
        self._settings, self._stack, self._own = settings, stack, ResourceOptions(parent=self)
        self._leads_out = _leads_out(settings)
        own = [name for name in CONVERSATIONS if name not in WITH or WITH[name] in settings.runs]
        self.references = {name: self._network(name, internal=True) for name in own}
        self.references[INGRESS] = self._network(INGRESS, internal=False)
        self.register_outputs({"references": self.references})

    def _network(self, name: str, *, internal: bool) -> Output[str]:
        swarm = self._settings.orchestrator == "swarm"
        options: dict[str, Input[str]] = {}
        if swarm and self._settings.encrypted_networks:
            options["encrypted"] = "true"
        elif not swarm and not internal:
            options["com.docker.network.bridge.enable_icc"] = "false"
        if swarm and self._settings.network_mtu != 1500:
            options["com.docker.network.driver.mtu"] = str(self._settings.network_mtu)
        network = docker.Network(
            name,
            name=f"lookingglass-{self._stack}-{name}",
            driver="overlay" if swarm else "bridge",
            internal=internal or None,
            options=options or None,
            labels=[docker.NetworkLabelArgs(label=LABEL, value=self._stack)],
            opts=self._own,
        )
        return network.id if swarm else network.name

    def of(self, role: str) -> dict[str, Output[str]]:
        """The networks a service is on."""
        wanted = [name for name, members in CONVERSATIONS.items() if role in members and name in self.references]
        if role in self._leads_out:
            wanted.append(INGRESS)
        return {name: self.references[name] for name in wanted}


def _leads_out(settings: Settings) -> set[str]:
    """Who is on the network that leads out: what is published there, and what talks to services outside."""
    if settings.orchestrator == "swarm":
        found = {"webhook", "minio", "registry"} & settings.runs
        if ip_address(settings.console_address).is_unspecified:
            found.add("console")
        if ip_address(settings.monitoring_address).is_unspecified:
            found |= {"prometheus", "grafana"} & settings.runs
        if settings.qdrant_url:
            found.add("gpu-worker")
    else:
        found = set(PUBLISHED) & settings.runs
    if settings.storage or (settings.redis_url and not settings.redis_url.startswith("unix:")):
        found |= {"worker", "webhook", "console"}
    return found
