"""What else the stack leaves on the engine: images, build cache, volumes that another configuration had."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import CreateResult, Resource, ResourceProvider, UpdateResult

from lookingglass.engine import LABEL, connect
from lookingglass.settings import Settings

#: Label of the images that only builds start from; they save the next build its longest steps until destroy.
BUILD_LABEL = "org.lookingglass.build"

#: Build cache that is kept, as BuildKit orders it from what was used last: enough for both images' packages.
CACHE_BYTES = 4 * 2**30

#: Cache that something used within this time is kept however much there is: the engine may have other users.
CACHE_UNUSED = "24h"


#: Seconds for the engine to remove what may be gigabytes.
LONG = 600


class LeftoversProvider(ResourceProvider):
    """Does nothing until it is deleted: last of all, since everything on the engine depends on it."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Stand for what will carry the stack's label."""
        return CreateResult(f"leftovers-of-{props['stack']}", props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take note of what is to be kept."""
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove the stack's images, and its volumes unless the data is to be kept."""
        with connect(props.get("docker_host") or None, LONG) as client:
            for label in (LABEL, BUILD_LABEL):
                for image in client.images.list(filters={"label": f"{label}={props['stack']}"}):
                    with _unless_used():
                        client.images.remove(str(image.id), force=len(image.tags) > 1)
            _prune_cache(client)
            if not props["retain_data"]:
                for volume in client.volumes.list(filters={"label": f"{LABEL}={props['stack']}"}):
                    with _unless_used():
                        volume.remove()


class Leftovers(Resource):
    """Removes on destroy what the stack's other resources leave; they all depend on it."""

    def __init__(self, settings: Settings, stack: str) -> None:
        props = {"stack": stack, "docker_host": settings.docker_host, "retain_data": settings.retain_data}
        super().__init__(LeftoversProvider(), "leftovers", props)


class TidyingProvider(ResourceProvider):
    """Removes what a change of the images has left over."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Nothing is left over yet but what an earlier, interrupted `up` left."""
        _tidy(props)
        return CreateResult(f"tidying-of-{props['stack']}", props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Remove the images that the new ones replaced."""
        _tidy(news)
        return UpdateResult(news)


class Tidying(Resource):
    """Runs after the services were replaced by those of new images."""

    def __init__(self, settings: Settings, stack: str, images: list[Output[str]], opts: ResourceOptions) -> None:
        props: dict[str, Input[Any]] = {"stack": stack, "docker_host": settings.docker_host, "images": images}
        super().__init__(TidyingProvider(), "tidying", props, opts)


def _tidy(props: dict[str, Any]) -> None:
    """Remove the stack's images that have neither name nor container, and cache beyond its bound."""
    with connect(props.get("docker_host") or None, LONG) as client:
        with _unless_used():
            client.images.prune(filters={"dangling": True, "label": f"{LABEL}={props['stack']}"})
        _prune_cache(client)


def _prune_cache(client: docker.DockerClient) -> None:
    with _unless_used():
        client.api.prune_builds(keep_storage=CACHE_BYTES, filters={"until": CACHE_UNUSED})


@contextmanager
def _unless_used() -> Iterator[None]:
    """Leave what is used by something that is not ours, or gone already."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise
