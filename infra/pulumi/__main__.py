"""What `pulumi up` runs."""

from lookingglass.environment import declare

declare()
