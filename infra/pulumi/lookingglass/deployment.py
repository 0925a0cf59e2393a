"""A service on the engine, or on the Swarm, that the configuration names."""

import pulumi
from pulumi import ResourceOptions

from lookingglass import container, swarm
from lookingglass.foundation import Ground
from lookingglass.service import Service


class Deployment(pulumi.ComponentResource):
    """What each service of the stack derives from: its one description, rendered."""

    def __init__(self, service: Service, base: Ground, *after: pulumi.Resource) -> None:
        super().__init__(f"lookingglass:infra:{type(self).__name__}", service.name, None, base.after(*after))
        render = swarm.SwarmService if base.settings.orchestrator == "swarm" else container.Container
        self.register_outputs({"id": render(service, base, ResourceOptions(parent=self)).id})
