"""A Docker engine for the tests, and the images they start from, made without an image registry."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests
import trustme
from lookingglass.images import stage_ca_bundle

from app.common.errors import LookingGlassError
from infra import contract
from infra.local import tools

HERE = Path(__file__).parent

#: Seconds for an engine to answer after its start, and how often it is started: it gives its containerd 15 s to open
#: its files, which a busy disk may not.
START_SECONDS = 60
STARTS = 3

#: What the images start from: Debian with Python and certificates, as `python:3.11-slim-bookworm` would be.
BASE = "lookingglass-test/base"
PACKAGES = "python3,ca-certificates"

REDIS = "lookingglass-test/redis:bookworm"

#: Images that a stack builds: the context and the arguments of each, as the program has them.
BUILT = {
    "app": ("", {"LOCK": "requirements/app.lock"}),
    "minio": ("infra/images", {"MINIO_MODULE": contract.MINIO_MODULE}),
}

#: The certificates that this machine trusts.
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class NoEngineError(LookingGlassError):
    """No Docker engine answers and none can be started; the message says what is missing."""


@contextmanager
def engine() -> Iterator[str]:
    """The URL of the engine to use: the one that answers, or one of our own while the context lasts.

    Its images are kept in the user's cache, so that the next run need not build them.

    Raises:
        NoEngineError: neither is to be had.
    """
    for url in filter(None, (os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock")):
        if _answers(url):
            yield url
            return
    if os.geteuid() or not shutil.which("dockerd"):
        raise NoEngineError("no Docker engine answers; start one, or as root have dockerd on PATH (docker.io)")
    with tempfile.TemporaryDirectory(prefix="lookingglass-docker-") as directory, _own(Path(directory)) as url:
        yield url


@contextmanager
def _own(directory: Path) -> Iterator[str]:
    data = tools.cache_dir() / "docker"
    data.mkdir(parents=True, exist_ok=True)
    with (data / "in-use").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NoEngineError(f"another run of the tests has an engine on {data}: let it end first") from error
        with _running(directory, data, lock.fileno()) as url:
            yield url


@contextmanager
def _running(directory: Path, data: Path, lock: int) -> Iterator[str]:
    """A dockerd, which holds the lock for as long as it lives."""
    url, log = f"unix://{directory}/docker.sock", directory / "dockerd.log"
    command = ["dockerd", "--host", url, "--data-root", str(data), "--exec-root", str(directory / "exec")]
    command += ["--pidfile", str(directory / "pid")]
    for _ in range(STARTS):
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, pass_fds=[lock])
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                if _answers(url):
                    yield url
                    return
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    raise NoEngineError(f"dockerd did not start, tried {STARTS} times: {log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    path = url.removeprefix("unix://")
    try:
        if path != url:  # docker-py leaves each socket that could not connect to the garbage collector
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
        with closing(docker.DockerClient(base_url=url, timeout=10)) as client:
            client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False
    return True


@pytest.fixture(scope="session")
def docker_client() -> Iterator["docker.DockerClient"]:
    """A client of the engine to use, which is started where none answers."""
    try:
        with engine() as url, closing(docker.DockerClient(base_url=url, timeout=600)) as client:
            yield client
    except NoEngineError as error:
        pytest.skip(str(error))


def address(client: docker.DockerClient) -> str:
    """The engine's address, as the stack's configuration wants it."""
    adapter: Any = client.api.get_adapter(client.api.base_url)
    return f"unix://{adapter.socket_path}"


def authority() -> trustme.CA:
    """A certificate authority of the tests' own, kept, so that images with it in them are built once."""
    with tools.once("authority.pem") as (kept, missing):
        if missing:
            new = trustme.CA()
            kept.write_bytes(new.cert_pem.bytes() + new.private_key_pem.bytes())
    return trustme.CA.from_pem(cert_bytes=(pem := kept.read_bytes()), private_key_bytes=pem)


def ca_bundle() -> Path:
    """The certificates that this machine trusts, which its package registries may need, and our own authority's."""
    bundle = tools.cache_dir() / "authorities.pem"
    written = bundle.with_suffix(f".{os.getpid()}")  # others may be reading it
    written.write_bytes(CA_BUNDLE.read_bytes() + authority().cert_pem.bytes())
    return written.replace(bundle)


def base_image(client: docker.DockerClient, suite: str = "bookworm") -> str:
    """The base image, made from Debian's packages where the engine has none."""
    image = f"{BASE}:{suite}"
    if not _has(client, image):
        if not shutil.which("mmdebstrap"):
            raise NoEngineError("there is no base image; have mmdebstrap on PATH to make one")
        tools.say(f"Making a base image from Debian {suite}'s packages, once.")
        with tempfile.TemporaryDirectory() as directory:
            tar = Path(directory) / "base.tar"
            command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", suite, str(tar)]
            subprocess.run(command, check=True)
            client.api.import_image(str(tar), repository=BASE, tag=suite)
    return image


def redis_image(client: docker.DockerClient) -> str:
    """A Redis of Debian's, laid out as the published image is."""
    base = base_image(client)
    if not _has(client, REDIS):
        tools.say("Making a Redis image from Debian's packages, once.")
        client.images.build(
            path=str(HERE / "redis"), tag=REDIS, buildargs={"BASE_IMAGE": base}, rm=True, forcerm=True
        )
    return REDIS


def stack_image(client: docker.DockerClient, name: str) -> str:
    """One of `BUILT`, built as a stack would; each stack's own build then takes all but the last steps from it."""
    folder, arguments = BUILT[name]
    with_authorities = {"SITE_CA": authorities} if (authorities := stage_ca_bundle(str(ca_bundle()))) else {}
    tag = f"lookingglass-test/{name}:source"
    client.images.build(
        path=str(tools.ROOT / folder),
        dockerfile=str(tools.ROOT / "infra" / "images" / name / "Dockerfile"),
        buildargs={"BASE_IMAGE": base_image(client), **arguments, **with_authorities},
        tag=tag,
        rm=True,
        forcerm=True,
    )
    return tag


def _has(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        return False
    return True
