"""A stack that uses a MinIO, a Redis and a Qdrant that stood before it, with an authority of their site's own."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import docker
import pytest
import redis
import trustme
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.notificationconfig import NotificationConfig
from pulumi import automation as auto
from pydantic.alias_generators import to_camel

from infra.contract import DURABLE_TARGET, HINT_TARGET, PORTS
from infra.local import tools
from infra.local.processes import ChildProcess
from tests import qdrant_server
from tests.fixtures import Interfaces, eventually, free_port
from tests.infra import engine
from tests.infra.stack import configure, open_stack, sweep
from tests.redis_server import redis_server

NAME = "existing"

USER, PASSWORD, REDIS_PASSWORD = "their-admin", "their-password", "s3cret"

pytestmark = pytest.mark.timeout(1800)  # the first run builds the images


@pytest.fixture(scope="module")
def host(docker_client: "docker.DockerClient") -> str:
    """This machine's address as containers reach it."""
    config = docker_client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    # An engine that made the bridge just now does not say which address it took: the first.
    return str(config.get("Gateway") or next(ip_network(config["Subnet"]).hosts()))


@pytest.fixture(scope="module")
def certificate(host: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate of that address, under the names that MinIO wants."""
    directory, issued = tmp_path_factory.mktemp("certs"), engine.authority().issue_cert(host)
    trustme.Blob(b"".join(blob.bytes() for blob in issued.cert_chain_pems)).write_to_path(directory / "public.crt")
    issued.private_key_pem.write_to_path(directory / "private.key")
    return directory


@pytest.fixture(scope="module")
def minio_url(host: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MinIO with a bucket of pictures in it, from long before."""
    directory, port = tmp_path_factory.mktemp("minio"), free_port()
    command = [str(tools.minio()), "server", "--quiet", "--address", f"{host}:{port}"]
    command += ["--certs-dir", str(certificate), str(directory / "data")]
    environment = os.environ | {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD}
    process = ChildProcess("minio", command, environment, directory / "log")
    with running(process):
        url = f"https://{host}:{port}"
        eventually(lambda: answers(f"{url}/minio/health/cluster"), "MinIO is up")
        client(url).make_bucket("images")
        yield url


@pytest.fixture(scope="module")
def redis_url(host: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    files = ["--tls-cert-file", str(certificate / "public.crt"), "--tls-key-file", str(certificate / "private.key")]
    options = [*files, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificate / "public.crt")]
    options += ["--bind", host, "--requirepass", REDIS_PASSWORD, "--maxmemory-policy", "noeviction"]
    with redis_server(tmp_path_factory.mktemp("redis"), *options) as port:
        yield f"rediss://:{REDIS_PASSWORD}@{host}:{port}/0"


@pytest.fixture(scope="module")
def qdrant_url(host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with running(qdrant_server.process(tmp_path_factory.mktemp("qdrant"), port, host)):
        url = f"http://{host}:{port}"
        eventually(lambda: qdrant_server.answers(url), "Qdrant is up")
        yield url


@contextmanager
def running(process: ChildProcess) -> Iterator[None]:
    process.start()
    try:
        yield
    finally:
        process.stop()


def pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(ca_certs=str(engine.ca_bundle()), timeout=60, retries=False)


def answers(url: str) -> bool:
    try:
        return pool().request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def client(url: str) -> Minio:
    address = url.removeprefix("https://")
    return Minio(address, access_key=USER, secret_key=PASSWORD, region="us-east-1", http_client=pool())


def targets(url: str) -> set[str]:
    """The webhook targets that MinIO uses."""
    address = url.removeprefix("https://")
    keys = StaticProvider(USER, PASSWORD)
    admin = MinioAdmin(endpoint=address, credentials=keys, region="us-east-1", http_client=pool())
    return {arn.split(":")[4] for arn in json.loads(admin.info()).get("sqsARN") or ()}


@pytest.fixture(scope="module")
def stack(
    docker_client: "docker.DockerClient",
    host: str,
    minio_url: str,
    redis_url: str,
    qdrant_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[auto.Stack]:
    config: dict[str, Any] = {
        "dockerHost": engine.address(docker_client),
        "baseImage": engine.base_image(docker_client),
        "caBundle": str(engine.ca_bundle()),
        "storage": {"endpoint": minio_url, "user": USER, "password": PASSWORD},
        "redisUrl": redis_url,
        "qdrantUrl": qdrant_url,
        "publicAddress": host,
        "openFiles": 4096,
        "workers": 1,
        **{f"{to_camel(name)}Port": free_port() for name in PORTS},
    }
    sweep(docker_client, NAME)
    try:
        yield open_stack(NAME, tmp_path_factory.mktemp("pulumi"), config)
    except tools.ToolError as error:
        pytest.skip(str(error))
    finally:
        sweep(docker_client, NAME)


def nothing(_line: str) -> None:
    pass


def test_minio_is_restarted_only_where_that_is_allowed(stack: auto.Stack, minio_url: str) -> None:
    with pytest.raises(auto.CommandError) as refusal:
        stack.up(on_output=tools.say)
    assert "uses them after a restart" in str(refusal.value)
    assert PASSWORD not in str(refusal.value)
    assert targets(minio_url) == set()
    storage = json.loads(stack.get_config("lookingglass:storage").value)
    configure(stack, {"storage": {**storage, "restart": True}})
    stack.up(on_output=nothing)
    assert targets(minio_url) == {DURABLE_TARGET, HINT_TARGET}


def test_a_photo_that_an_unchanged_crawler_uploads_is_indexed(
    stack: auto.Stack, docker_client: "docker.DockerClient", minio_url: str, photos: dict[str, bytes]
) -> None:
    outputs = {name: output.value for name, output in stack.outputs().items()}
    with pool() as http, redis.Redis() as none:
        interfaces = Interfaces(outputs, client(minio_url), none, http)
        etag = interfaces.put("images", "astronaut.png", photos["astronaut.png"])
        assert interfaces.indexed("images", "astronaut.png", etag)["points"] == 1
    names = {container.name for container in docker_client.containers.list(ignore_removed=True)}
    ours = {str(name).removeprefix(f"lookingglass-{NAME}-") for name in names if f"-{NAME}-" in str(name)}
    assert ours == {"webhook", "worker-1", "gpu-worker-1", "console"}


def test_nothing_changes_at_a_second_up_or_a_refresh(stack: auto.Stack) -> None:
    stack.up(expect_no_changes=True, on_output=nothing)
    stack.refresh(expect_no_changes=True, on_output=nothing)


def test_destroy_leaves_what_was_theirs(
    stack: auto.Stack, docker_client: "docker.DockerClient", minio_url: str, photos: dict[str, bytes]
) -> None:
    stack.destroy(on_output=nothing)
    theirs = client(minio_url)
    assert theirs.stat_object("images", "astronaut.png").size == len(photos["astronaut.png"])
    left: NotificationConfig = theirs.get_bucket_notification("images")
    assert not left.queue_config_list
    eventually(lambda: answers(f"{minio_url}/minio/health/cluster"), "MinIO is back")
    assert targets(minio_url) == set()
    assert docker_client.volumes.list(filters={"label": f"org.lookingglass.stack={NAME}"}) == []
