"""What every service is built from, as one value."""

from dataclasses import dataclass

import pulumi
from pulumi import ResourceOptions

from lookingglass.credentials import Credentials
from lookingglass.endpoints import Endpoints
from lookingglass.images import Images
from lookingglass.leftovers import Leftovers
from lookingglass.networks import Networks
from lookingglass.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The stack's configuration and what is there before its images, which a registry of its own goes without."""

    settings: Settings
    stack: str
    networks: Networks
    leftovers: Leftovers
    #: The engine that everything is on.
    engine: ResourceOptions

    @property
    def prefix(self) -> str:
        """What the name of everything on the engine begins with."""
        return f"lookingglass-{self.stack}"

    def after(self, *others: pulumi.Resource) -> ResourceOptions:
        """Options of what starts when others are healthy."""
        return ResourceOptions.merge(self.engine, ResourceOptions(depends_on=list(others)))


@dataclass(frozen=True, kw_only=True)
class Foundation(Ground):
    """All that the stack's services share."""

    credentials: Credentials
    endpoints: Endpoints
    images: Images

    @property
    def webhook_url(self) -> str:
        """The webhook as a MinIO outside the stack reaches it."""
        settings = self.settings
        given = settings.storage.webhook_url if settings.storage else None
        return (given or f"http://{settings.host}:{settings.webhook_port}").rstrip("/")
