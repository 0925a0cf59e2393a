"""The program on a real Docker engine: up, use, change, break, refresh, destroy, and up again."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
import redis
import urllib3
from docker.models.containers import Container
from lookingglass.engine import LABEL
from minio import Minio
from minio.error import S3Error
from pulumi import automation as auto
from pydantic.alias_generators import to_camel

from infra.contract import EVENTS, PORTS
from infra.local import tools
from tests import media
from tests.fixtures import SOON, Interfaces, eventually, free_port
from tests.infra import engine
from tests.infra.docker_plugin import ROOT
from tests.infra.stack import configure, open_stack, sweep

NAME = "test"

#: Outputs whose values nobody but the operator may see.
SECRETS = (
    "minio_password",
    "webhook_token",
    "api_token",
    "gpu_worker_token",
    "console_token",
    "qdrant_api_key",
    "crawler_secret_key",
)

SERVICES = {"redis", "minio", "webhook", "worker-1", "gpu-worker-1", "console"}

pytestmark = pytest.mark.timeout(1800)  # the first run builds MinIO from source


@dataclass
class Environment(Interfaces):
    """A stack that is up, the engine it is on, and its interfaces."""

    stack: auto.Stack
    #: The directory of Pulumi's state.
    state: Path
    docker: "docker.DockerClient"

    def containers(self) -> dict[str, Container]:
        """The stack's containers that run, by service."""
        found = self.docker.containers.list(filters={"label": f"{LABEL}={NAME}"})
        return {str(container.name).removeprefix(f"lookingglass-{NAME}-"): container for container in found}

    def ids(self) -> dict[str, str | None]:
        """Which container each service runs in."""
        return {name: container.id for name, container in self.containers().items()}

    def waiting(self) -> int:
        """How many jobs wait, the one that the worker's last call took included."""
        queues = self.call("GET", "webhook/queue/stats")[1]["queues"].values()
        return sum(int(queue["queued_jobs"] + queue["started_jobs"]) for queue in queues)

    def crawler(self) -> Minio:
        """A client with the crawler's keys."""
        return _minio(self.outputs, "crawler_access_key", "crawler_secret_key")

    def up(self, **config: Any) -> dict[str, int]:
        """`pulumi up` with keys changed; how many resources each operation touched."""
        configure(self.stack, config)
        result = self.stack.up(on_output=_nothing)
        self.outputs.update({name: output.value for name, output in result.outputs.items()})
        changes = result.summary.resource_changes or {}
        return {str(getattr(kind, "value", kind)): count for kind, count in changes.items() if kind != "same"}


def _nothing(_line: str) -> None:
    pass


def _minio(outputs: dict[str, Any], user: str, password: str) -> Minio:
    return Minio(
        outputs["minio_url"].removeprefix("http://"),
        access_key=outputs[user],
        secret_key=outputs[password],
        secure=False,
        region="us-east-1",
    )


@pytest.fixture(scope="module")
def config(docker_client: "docker.DockerClient") -> dict[str, Any]:
    """Keys for an engine without a registry: images made here, and the index inside the face service."""
    ports = {f"{to_camel(name)}Port": free_port() for name in PORTS}
    return {
        "dockerHost": engine.address(docker_client),
        "baseImage": engine.base_image(docker_client),
        "redisImage": engine.redis_image(docker_client),
        "minioImage": "build",
        "index": "embedded",
        "caBundle": str(engine.ca_bundle()),
        "openFiles": 4096,
        "workers": 1,
        **ports,
    }


@pytest.fixture(scope="module")
def environment(
    docker_client: "docker.DockerClient", config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    """The stack after its first `up`; whatever it leaves is removed at the end."""
    sweep(docker_client, NAME)
    try:
        directory = tmp_path_factory.mktemp("pulumi")
        stack = open_stack(NAME, directory, config)
    except tools.ToolError as error:
        pytest.skip(str(error))
    started = time.monotonic()
    try:
        outputs = {name: output.value for name, output in stack.up(on_output=tools.say).outputs.items()}
        tools.say(f"The first `up` took {time.monotonic() - started:.0f} s.")
        found = Environment(
            outputs,
            _minio(outputs, "minio_user", "minio_password"),
            redis.Redis.from_url(outputs["redis_url"]),
            urllib3.PoolManager(timeout=60, retries=False),
            stack,
            directory / "state",
            docker_client,
        )
        yield found
        found.http.clear()
        found.redis.close()
    finally:
        sweep(docker_client, NAME)


def test_a_photo_that_a_crawler_uploads_is_indexed(environment: Environment, photos: dict[str, bytes]) -> None:
    assert set(environment.containers()) == SERVICES
    data = photos["astronaut.png"]
    etag = environment.crawler().put_object("images", "astronaut.png", BytesIO(data), len(data)).etag
    assert environment.indexed("images", "astronaut.png", etag)["points"] == 1


def test_nothing_changes_at_a_second_up_or_a_refresh(environment: Environment) -> None:
    before = environment.ids()
    environment.stack.up(expect_no_changes=True, on_output=_nothing)
    environment.stack.refresh(expect_no_changes=True, on_output=_nothing)
    environment.stack.preview(expect_no_changes=True, on_output=_nothing)
    assert environment.ids() == before


def test_no_secret_shows_in_the_engine_the_process_list_or_the_state(environment: Environment) -> None:
    secrets = [environment.outputs[name] for name in SECRETS]
    secrets.append(environment.outputs["redis_url"].partition("://:")[2].partition("@")[0])
    assert all(len(secret) >= 40 for secret in secrets)
    shown = "".join(path.read_text() for path in environment.state.rglob("*.json*"))
    assert NAME in shown
    for container in environment.docker.containers.list(all=True, filters={"label": f"{LABEL}={NAME}"}):
        shown += json.dumps(container.attrs) + container.logs().decode(errors="replace")
        if container.status == "running":
            shown += json.dumps(container.top(ps_args="auxewww"))
    assert [secret for secret in secrets if secret in shown] == []


def test_every_container_is_confined_and_only_what_was_chosen_is_published(environment: Environment) -> None:
    for name, container in environment.containers().items():
        host, user = container.attrs["HostConfig"], container.attrs["Config"]["User"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges"], name
        assert 0 < host["Memory"] == host["MemorySwap"], name
        assert user not in ("", "0", "root"), name
        published = [binding for port in container.ports.values() for binding in port or ()]
        assert {binding["HostIp"] for binding in published} <= {"127.0.0.1"}, name


def test_the_worker_has_no_way_out(environment: Environment) -> None:
    for name in environment.containers()["worker-1"].attrs["NetworkSettings"]["Networks"]:
        assert environment.docker.networks.get(name).attrs["Internal"], name


def test_the_worker_reaches_redis_minio_and_the_face_service_and_holds_no_key_of_the_index(
    environment: Environment,
) -> None:
    worker = environment.containers()["worker-1"]
    assert _run(worker, "ls", "/run/secrets").split() == ["gpu_worker_token", "minio_password", "redis_url"]
    face = environment.containers()["gpu-worker-1"].attrs["NetworkSettings"]["Networks"]
    reachable = set(worker.attrs["NetworkSettings"]["Networks"])
    assert set(face) & reachable == {f"lookingglass-{NAME}-faces"}


@pytest.mark.parametrize("forbidden", ["get", "list", "remove", "bucket"])
def test_a_crawler_may_put_and_nothing_else(environment: Environment, forbidden: str) -> None:
    crawler = environment.crawler()
    crawler.put_object("images", "crawled.txt", BytesIO(b"x"), 1)
    attempts: dict[str, Callable[[], Any]] = {
        "get": lambda: crawler.get_object("images", "crawled.txt"),
        "list": lambda: list(crawler.list_objects("images")),
        "remove": lambda: crawler.remove_object("images", "crawled.txt"),
        "bucket": lambda: crawler.make_bucket("of-its-own"),
    }
    with pytest.raises(S3Error, match="Access Denied"):
        attempts[forbidden]()


@pytest.mark.parametrize("forbidden", ["put", "remove", "bucket", "notification", "tags"])
def test_a_worker_may_read_and_nothing_else(environment: Environment, forbidden: str) -> None:
    environment.crawler().put_object("images", "read.txt", BytesIO(b"x"), 1)
    worker = environment.containers()["worker-1"]
    user = next(v for v in worker.attrs["Config"]["Env"] if v.startswith("MINIO_USER=")).partition("=")[2]
    password = _run(worker, "cat", "/run/secrets/minio_password").strip()
    endpoint = str(environment.outputs["minio_url"]).removeprefix("http://")
    client = Minio(endpoint, access_key=user, secret_key=password, secure=False, region="us-east-1")
    assert client.stat_object("images", "read.txt").size == 1
    assert "read.txt" in {found.object_name for found in client.list_objects("images")}
    attempts: dict[str, Callable[[], Any]] = {
        "put": lambda: client.put_object("images", "written.txt", BytesIO(b"x"), 1),
        "remove": lambda: client.remove_object("images", "read.txt"),
        "bucket": lambda: client.make_bucket("of-its-own"),
        "notification": lambda: client.delete_bucket_notification("images"),
        "tags": lambda: client.delete_object_tags("images", "read.txt"),
    }
    with pytest.raises(S3Error, match="Access Denied"):
        attempts[forbidden]()


def test_scaling_adds_workers_and_touches_nothing_else(environment: Environment) -> None:
    before = environment.ids()
    changes = environment.up(workers=3)
    assert set(changes) == {"create"}
    after = environment.ids()
    assert set(after) - set(before) == {"worker-2", "worker-3"}
    assert before.items() <= after.items()
    assert set(environment.up(workers=1)) == {"delete"}
    assert environment.ids() == before


def test_a_variable_of_one_service_replaces_only_its_containers(environment: Environment) -> None:
    before = environment.ids()
    environment.up(environment={"worker": {"VIDEO_MAX_FRAMES": "500"}})
    after = environment.ids()
    assert {name for name in before if before[name] != after[name]} == {"worker-1"}
    assert "VIDEO_MAX_FRAMES=500" in environment.containers()["worker-1"].attrs["Config"]["Env"]


def test_no_event_is_lost_while_a_changed_line_of_code_replaces_the_services(environment: Environment) -> None:
    before, stop = environment.ids(), threading.Event()
    uploaded: dict[str, str | None] = {}
    crawler, small = environment.crawler(), media.jpeg(media.numbered((160, 120), 1))

    def upload() -> None:
        while not stop.is_set():
            key = f"during/{len(uploaded)}.jpg"
            uploaded[key] = crawler.put_object("images", key, BytesIO(small), len(small)).etag
            time.sleep(0.2)

    line = ROOT / "app" / "changed_by_a_test.py"
    uploader = threading.Thread(target=upload)
    uploader.start()
    try:
        line.write_text('"""One more line of application code."""\n')
        environment.up()
    finally:
        line.unlink()
        stop.set()
        uploader.join()
    after = environment.ids()
    assert {name for name in before if before[name] == after[name]} == {"redis", "minio"}
    assert len(uploaded) > 10
    for key, etag in uploaded.items():
        environment.indexed("images", key, etag)
    environment.up()  # without the line
    replaced = environment.docker.images.list(filters={"label": f"{LABEL}={NAME}", "dangling": True})
    assert replaced == [], "images that no container uses any more are left"


def test_what_was_changed_by_hand_is_seen_and_mended(environment: Environment) -> None:
    environment.minio.delete_bucket_notification("images")
    environment.docker.containers.get(f"lookingglass-{NAME}-worker-1").remove(force=True)
    refreshed = environment.stack.refresh(on_output=_nothing).summary.resource_changes or {}
    assert {str(kind) for kind in refreshed} != {"same"}
    assert set(environment.up()) == {"create"}
    entries = environment.minio.get_bucket_notification("images").queue_config_list
    assert [sorted(entry.events) for entry in entries] == [sorted(EVENTS)] * 2
    assert set(environment.containers()) == SERVICES


def test_a_credential_is_rotated_by_replacing_one_resource(environment: Environment) -> None:
    before, token = environment.ids(), environment.outputs["api_token"]
    [urn] = [
        resource["urn"]
        for resource in (environment.stack.export_stack().deployment or {})["resources"]
        if resource["urn"].endswith("::api-token")
    ]
    result = environment.stack.up(replace=[urn], on_output=_nothing)
    environment.outputs["api_token"] = result.outputs["api_token"].value
    after = environment.ids()
    assert {name for name in before if before[name] != after[name]} == {"webhook", "console"}
    refused, _ = environment.call("GET", "webhook/queue/stats", Authorization=f"Bearer {token}")
    accepted, _ = environment.call("GET", "webhook/queue/stats")
    assert (refused, accepted) == (401, 200)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may kill a container's process")
def test_redis_killed_with_jobs_in_it_loses_none(environment: Environment) -> None:
    worker = environment.containers()["worker-1"]
    worker.pause()
    try:
        small = media.jpeg(media.numbered((160, 120), 2))
        etags = {key: environment.put("images", key, small) for key in (f"killed/{n}.jpg" for n in range(20))}
        eventually(lambda: environment.waiting() >= len(etags), "all jobs in Redis")
        server = environment.containers()["redis"]
        # The container's first process is an init, which would pass the signal on.
        [pid] = [int(row[1]) for row in server.top()["Processes"] if row[-1].startswith("redis-server")]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: _healthy(environment, "redis"), "Redis is back")
    finally:
        worker.unpause()
    for key, etag in etags.items():
        environment.indexed("images", key, etag, timeout=2 * SOON)


def _run(container: Container, *command: str) -> str:
    """What a command says in a container."""
    return bytes(container.exec_run(list(command)).output).decode()  # type: ignore[arg-type]


def _healthy(environment: Environment, name: str) -> bool:
    container = environment.containers().get(name)
    return container is not None and container.attrs["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"workers": 0}, "lookingglass:workers = '0'"),
        ({"engine": "dlip"}, "'dlib' or 'insightface'"),
        ({"wrokers": 3}, "lookingglass:wrokers"),
        ({"gpus": ["0"], "engine": "insightface"}, "no runtime `nvidia`"),
    ],
)
def test_a_wrong_setting_stops_before_anything_is_changed(
    environment: Environment, config: dict[str, Any], wrong: dict[str, Any], named: str
) -> None:
    before = environment.ids()
    configure(environment.stack, wrong)
    try:
        with pytest.raises(auto.CommandError) as refusal:
            environment.stack.up(on_output=_nothing)
    finally:
        for key in wrong:
            environment.stack.remove_config(f"lookingglass:{key}")
        configure(environment.stack, config)
    assert named in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    assert environment.ids() == before


def test_a_port_that_another_program_holds_is_named(environment: Environment, config: dict[str, Any]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        configure(environment.stack, {"webhookPort": holder.getsockname()[1]})
        try:
            with pytest.raises(auto.CommandError, match=r"webhookPort: port .* is taken by another program"):
                environment.stack.up(on_output=_nothing)
        finally:
            configure(environment.stack, config)


def test_destroy_leaves_the_data_and_the_next_up_finds_it(environment: Environment, photos: dict[str, bytes]) -> None:
    ours: dict[str, Any] = {"label": f"{LABEL}={NAME}"}
    data = photos["astronaut.png"]
    environment.indexed("images", "astronaut.png", environment.put("images", "astronaut.png", data))
    environment.stack.destroy(on_output=_nothing)
    engine_client = environment.docker
    assert engine_client.containers.list(all=True, filters=ours) == []
    assert engine_client.networks.list(filters=ours) == []
    assert engine_client.images.list(filters=ours) == []
    assert {volume.name for volume in engine_client.volumes.list(filters=ours)} == {
        f"lookingglass-{NAME}-{kept}" for kept in ("redis", "minio", "minio-events", "index")
    }
    assert set(environment.up()) == {"create"}
    environment.minio = _minio(environment.outputs, "minio_user", "minio_password")
    assert environment.item("images", "astronaut.png")["points"] == 1
    assert environment.minio.stat_object("images", "astronaut.png").size == len(data)
    environment.minio.remove_object("images", "astronaut.png")
    environment.gone("images", "astronaut.png")


def test_destroy_leaves_nothing_where_the_data_is_not_to_be_kept(environment: Environment) -> None:
    # As the index leaves one when it moves from the face service to a server, or back.
    environment.docker.volumes.create(f"lookingglass-{NAME}-elsewhere", labels={LABEL: NAME})
    environment.up(retainData=False)
    environment.stack.destroy(on_output=_nothing)
    assert environment.docker.volumes.list(filters={"label": f"{LABEL}={NAME}"}) == []
    assert environment.containers() == {}


def test_the_program_is_what_pulumi_finds() -> None:
    assert (ROOT / "infra" / "pulumi" / "__main__.py").is_file()
    assert (ROOT / "infra" / "pulumi" / ".venv").readlink() == Path("../../.venv")
