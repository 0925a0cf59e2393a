"""The images: ours built from the working tree, the others pulled, each replaceable by configuration."""

import os
import shutil
from pathlib import Path
from typing import Any

import docker as engine
import docker.errors
import pulumi
import pulumi_docker
from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

from infra import contract
from lookingglass import ROOT
from lookingglass.preflight import LABEL, connect
from lookingglass.settings import Settings, SettingsError

#: Where the builds find a site's certificates.
SITE_CA = ROOT / "infra" / "images" / "ca" / "site.crt"


class Images(pulumi.ComponentResource):
    """The image of each service, in the form in which a container refers to it."""

    app: Output[str]
    face: Output[str]
    minio: Output[str]
    redis: Output[str]
    #: None with an embedded index.
    qdrant: Output[str] | None

    def __init__(self, settings: Settings, stack: str, opts: ResourceOptions) -> None:
        super().__init__("lookingglass:infra:Images", "images", None, opts)
        self._settings, self._stack, self._own = settings, stack, ResourceOptions(parent=self)
        stage_ca_bundle(settings.ca_bundle)
        sweeper = ImageSweeper(stack, settings.docker_host, self._own)
        self._build_opts = ResourceOptions.merge(self._own, ResourceOptions(depends_on=[sweeper]))
        self.app = self._app("app", settings.app_image, "requirements/app.lock")
        with_gpu_packages = settings.engine == "insightface"
        self.face = (
            self._app("face", settings.face_image, "requirements/gpu.lock")
            if with_gpu_packages or settings.face_image
            else self.app
        )
        self.minio = (
            self._pulled("minio", settings.minio_image)
            if settings.minio_image
            else self._built(
                "minio",
                context="infra/images",
                dockerfile="infra/images/minio/Dockerfile",
                MINIO_MODULE=contract.MINIO_MODULE,
                **({"GOPROXY": settings.go_proxy} if settings.go_proxy else {}),
            )
        )
        self.redis = self._pulled("redis", settings.redis_image)
        self.qdrant = self._pulled("qdrant", settings.qdrant_image) if settings.index == "server" else None
        self.register_outputs({})

    def _app(self, name: str, replacement: str | None, lock: str) -> Output[str]:
        if replacement:
            return self._pulled(name, replacement)
        return self._built(name, context=".", dockerfile="infra/images/app/Dockerfile", LOCK=lock)

    def _built(self, name: str, context: str, dockerfile: str, **arguments: str) -> Output[str]:
        settings = self._settings
        arguments |= {"BASE_IMAGE": settings.base_image, "STACK": self._stack}
        if settings.pip_index_url:
            arguments["PIP_INDEX_URL"] = settings.pip_index_url
        image = pulumi_docker.Image(
            name,
            image_name=f"lookingglass-{self._stack}/{name}:latest",
            build=pulumi_docker.DockerBuildArgs(
                context=_from_program(context),
                dockerfile=_from_program(dockerfile),
                args=dict[str, Input[str]](sorted(arguments.items())),
            ),
            build_on_preview=False,
            skip_push=True,
            opts=self._build_opts,
        )
        # A local build is referred to by its digest: by its name, a container would never be replaced.
        return image.repo_digest

    def _pulled(self, name: str, reference: str) -> Output[str]:
        image = pulumi_docker.RemoteImage(name, name=reference, keep_locally=True, opts=self._own)
        return image.image_id


class ImageSweeperProvider(ResourceProvider):
    """Does nothing until it is deleted: Pulumi's Image leaves what it built."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Stand for the images that will carry the stack's label."""
        return CreateResult(f"images-of-{props['stack']}", props)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove every image with the stack's label; one that something else uses is left."""
        with connect(props.get("docker_host") or None) as client:
            for image in client.images.list(all=False, filters={"label": f"{LABEL}={props['stack']}"}):
                try:
                    client.images.remove(str(image.id), force=len(image.tags) > 1)
                except engine.errors.APIError as error:
                    if error.status_code not in (404, 409):
                        raise


class ImageSweeper(Resource):
    """Removes the stack's built images on destroy."""

    def __init__(self, stack: str, docker_host: str | None, opts: ResourceOptions) -> None:
        super().__init__(ImageSweeperProvider(), "image-sweeper", {"stack": stack, "docker_host": docker_host}, opts)


def stage_ca_bundle(bundle: str | None) -> None:
    """Put a site's certificates where the builds find them, or take away those of another configuration.

    Raises:
        SettingsError: there is no such file, or it holds no certificate.
    """
    if bundle is None:
        SITE_CA.unlink(missing_ok=True)
        return
    path = ROOT / Path(bundle).expanduser()
    if not path.is_file() or "BEGIN CERTIFICATE" not in path.read_text(errors="replace"):
        raise SettingsError(f"lookingglass:caBundle = {bundle!r}: there is no file of PEM certificates at {path}")
    if not SITE_CA.is_file() or SITE_CA.read_bytes() != path.read_bytes():
        shutil.copyfile(path, SITE_CA)


def _from_program(path: str) -> str:
    """A path of the project as seen from the program's folder: the same on every machine that shares the state."""
    return os.path.relpath(ROOT / path, ROOT / "infra" / "pulumi")
