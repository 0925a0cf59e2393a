"""Data that outlives containers and, unless configured otherwise, the stack."""

import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from lookingglass.preflight import LABEL
from lookingglass.settings import Settings


def data_volume(name: str, settings: Settings, stack: str, opts: ResourceOptions) -> Output[str]:
    """The name of a volume; a fixed one, by which the next stack finds it again."""
    volume = docker.Volume(
        f"{name}-data",
        name=f"lookingglass-{stack}-{name}",
        labels=[docker.VolumeLabelArgs(label=LABEL, value=stack)],
        opts=ResourceOptions.merge(opts, ResourceOptions(retain_on_delete=settings.retain_data)),
    )
    return volume.name
