"""The images: ours built from the working tree, the others pulled, each replaceable by configuration."""

import hashlib
import os
from pathlib import Path

import pulumi
import pulumi_docker
from pulumi import Input, Output, ResourceOptions

from infra import contract
from lookingglass import ROOT
from lookingglass.settings import ServiceName, Settings, SettingsError

#: Where the builds find a site's certificates.
SITE_CA = ROOT / "infra" / "images" / "ca"


class Images(pulumi.ComponentResource):
    """The image of each service, in the form in which a container refers to it."""

    app: Output[str]
    face: Output[str]
    #: None where the stack runs none.
    minio: Output[str] | None
    redis: Output[str] | None
    qdrant: Output[str] | None
    prometheus: Output[str] | None
    grafana: Output[str] | None
    redis_exporter: Output[str] | None
    gpu_exporter: Output[str] | None

    def __init__(self, settings: Settings, stack: str, opts: ResourceOptions, *before: pulumi.Resource) -> None:
        super().__init__("lookingglass:infra:Images", "images", None, opts)
        self._settings, self._stack, self._own = settings, stack, ResourceOptions(parent=self)
        self._build_opts = ResourceOptions(parent=self, depends_on=list(before))
        self._site_ca = stage_ca_bundle(settings.ca_bundle)
        self.app = self._app("app", settings.app_image, "requirements/app.lock")
        builds_face = settings.builds["faceImage"]
        self.face = (
            self._app("face", settings.face_image, "requirements/gpu.lock")
            if builds_face or settings.face_image
            else self.app
        )
        self.minio = self._minio() if settings.builds["minioImage"] else self._of("minio", settings.minio_image)
        self.redis = self._of("redis", settings.redis_image)
        self.qdrant = self._of("qdrant", settings.qdrant_image)
        self.prometheus = self._of("prometheus", settings.prometheus_image)
        self.grafana = self._of("grafana", settings.grafana_image)
        self.redis_exporter = self._of("redis-exporter", settings.redis_exporter_image)
        self.gpu_exporter = self._of("gpu-exporter", settings.gpu_exporter_image)
        self.register_outputs({})

    @property
    def built(self) -> list[Output[str]]:
        """What changes with any image of the stack."""
        return [image for image in (self.app, self.face, self.minio) if image is not None]

    def _app(self, name: str, replacement: str | None, lock: str) -> Output[str]:
        if replacement:
            return self._pulled(name, replacement)
        return self._built(name, context=".", dockerfile="infra/images/app/Dockerfile", LOCK=lock)

    def _minio(self) -> Output[str]:
        arguments = {"MINIO_MODULE": contract.MINIO_MODULE}
        if self._settings.go_proxy:
            arguments["GOPROXY"] = self._settings.go_proxy
        return self._built("minio", context="infra/images", dockerfile="infra/images/minio/Dockerfile", **arguments)

    def _built(self, name: str, context: str, dockerfile: str, **arguments: str) -> Output[str]:
        settings = self._settings
        arguments |= {"BASE_IMAGE": settings.base_image, "STACK": self._stack}
        if self._site_ca:
            arguments["SITE_CA"] = self._site_ca
        if settings.pip_index_url:
            arguments["PIP_INDEX_URL"] = settings.pip_index_url
        repository = f"lookingglass-{self._stack}/{name}"
        image = pulumi_docker.Image(
            name,
            image_name=f"{settings.registry}/{repository}:latest" if settings.registry else f"{repository}:latest",
            build=pulumi_docker.DockerBuildArgs(
                context=_from_program(context),
                dockerfile=_from_program(dockerfile),
                args=dict[str, Input[str]](sorted(arguments.items())),
            ),
            build_on_preview=False,
            skip_push=settings.registry is None,
            opts=self._build_opts,
        )
        # A build is referred to by its digest: by its name, a container would never be replaced.
        return image.repo_digest

    def _of(self, role: ServiceName, reference: str) -> Output[str] | None:
        return self._pulled(role, reference) if role in self._settings.runs else None

    def _pulled(self, name: str, reference: str) -> Output[str]:
        if self._settings.orchestrator == "swarm":
            return Output.from_input(reference)  # each node pulls it
        image = pulumi_docker.RemoteImage(name, name=reference, keep_locally=True, opts=self._own)
        return image.image_id


def stage_ca_bundle(bundle: str | None) -> str | None:
    """Put a site's certificates where the builds find them, under a name made of what they are.

    So stacks of one working tree that differ in it may be worked on at once.

    Returns:
        The name without its ending; None for None.

    Raises:
        SettingsError: there is no such file, or it holds no certificate.
    """
    if bundle is None:
        return None
    path = ROOT / Path(bundle).expanduser()
    content = path.read_bytes() if path.is_file() else b""
    if b"BEGIN CERTIFICATE" not in content:
        raise SettingsError(f"lookingglass:caBundle = {bundle!r}: there is no file of PEM certificates at {path}")
    name = hashlib.sha256(content).hexdigest()[:16]
    staged = SITE_CA / f"{name}.crt"
    if not staged.is_file() or staged.read_bytes() != content:
        written = SITE_CA.parent / f".{name}.{os.getpid()}"  # in no build's context
        written.write_bytes(content)
        written.replace(staged)
    return name


def _from_program(path: str) -> str:
    """A path of the project as seen from the program's folder: the same on every machine that shares the state."""
    return os.path.relpath(ROOT / path, ROOT / "infra" / "pulumi")
