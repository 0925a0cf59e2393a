"""The program on a Swarm of one node: up, use, scale, rotate, destroy; the refusals of what its node lacks."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import docker
import pytest
import urllib3
from docker.models.containers import Container
from lookingglass.engine import LABEL
from minio import Minio
from pulumi import automation as auto
from pydantic.alias_generators import to_camel

from infra.contract import PORTS
from infra.local import tools
from tests.fixtures import eventually, free_port
from tests.infra import engine
from tests.infra.stack import configure, open_stack, sweep

NAME = "swarm"
OURS: dict[str, Any] = {"label": f"{LABEL}={NAME}"}
PINNED = ("redis", "minio", "gpu-worker")

pytestmark = pytest.mark.timeout(1800)  # the first run builds MinIO from source


@pytest.fixture(scope="module")
def swarm(docker_client: "docker.DockerClient") -> Iterator["docker.DockerClient"]:
    """The engine as the manager of a Swarm of its own, as long as these tests run."""
    if docker_client.info()["Swarm"]["LocalNodeState"] != "inactive":
        pytest.skip("the engine is in a Swarm already, which the tests leave alone")
    docker_client.swarm.init(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{free_port()}")
    try:
        yield docker_client
    finally:
        for service in docker_client.services.list(filters=OURS):
            service.remove()  # type: ignore[no-untyped-call]
        eventually(lambda: not docker_client.containers.list(all=True, filters=OURS), "no task is left")
        docker_client.swarm.leave(force=True)
        sweep(docker_client, NAME)
        for volume in docker_client.volumes.list(filters={"name": f"lookingglass-{NAME}"}):
            volume.remove()


@pytest.fixture(scope="module")
def stack(swarm: "docker.DockerClient", tmp_path_factory: pytest.TempPathFactory) -> auto.Stack:
    config: dict[str, Any] = {
        "orchestrator": "swarm",
        "publicAddress": "0.0.0.0",
        "publicHost": "127.0.0.1",
        "dockerHost": engine.address(swarm),
        "baseImage": engine.base_image(swarm),
        "redisImage": engine.redis_image(swarm),
        "minioImage": "build",
        "index": "embedded",
        "caBundle": str(engine.ca_bundle()),
        "workers": 1,
        **{f"{to_camel(name)}Port": free_port() for name in PORTS},
    }
    try:
        return open_stack(NAME, tmp_path_factory.mktemp("pulumi"), config)
    except tools.ToolError as error:
        pytest.skip(str(error))


def nothing(_line: str) -> None:
    pass


def tasks(client: "docker.DockerClient", service: str) -> list[Container]:
    """The containers of a service's running tasks."""
    label = f"com.docker.swarm.service.name=lookingglass-{NAME}-{service}"
    return client.containers.list(filters={"label": label})


def outputs(stack: auto.Stack) -> dict[str, Any]:
    return {name: output.value for name, output in stack.outputs().items()}


#: Asks a face service from inside, for a Swarm publishes none.
ASK = """
import sys, urllib.error, urllib.request as request
token = open("/run/secrets/gpu_worker_token").read().strip()
url = "http://127.0.0.1:5001/items/images/" + sys.argv[1].replace(".", "%2E")
try:
    print(request.urlopen(request.Request(url, headers={"Authorization": "Bearer " + token})).read().decode())
except urllib.error.HTTPError:
    print("{}")
"""


def item(client: "docker.DockerClient", key: str) -> dict[str, Any]:
    """What the index knows of a picture."""
    [face] = tasks(client, "gpu-worker")
    answer: dict[str, Any] = json.loads(bytes(face.exec_run(["python", "-c", ASK, key]).output))  # type: ignore[arg-type]
    return answer


def test_a_node_without_the_labels_is_refused_before_the_first_resource(
    stack: auto.Stack, swarm: "docker.DockerClient"
) -> None:
    with pytest.raises(auto.CommandError) as refusal:
        stack.up(on_output=nothing)
    for role in PINNED:
        assert f"{role} keeps data, and no node that is ready has the label lookingglass.{role}=1" in str(
            refusal.value
        )
    assert swarm.networks.list(filters=OURS) == []
    [node] = swarm.nodes.list()
    labels = {f"lookingglass.{role}": "1" for role in PINNED}
    node.update({**node.attrs["Spec"], "Labels": labels})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"engine": "insightface", "gpus": ["GPU-1a2b"]}, "gpus: no node that is ready offers GPU-1a2b"),
        ({"registry": "127.0.0.1:9"}, "registry: 127.0.0.1:9 does not answer"),
        ({"webhooks": 2}, "webhooks: 2 need as many nodes"),
    ],
)
def test_what_the_nodes_lack_is_refused(stack: auto.Stack, wrong: dict[str, Any], named: str) -> None:
    configure(stack, wrong)
    try:
        with pytest.raises(auto.CommandError, match=named):
            stack.preview(on_output=nothing)
    finally:
        for key in wrong:
            stack.remove_config(f"lookingglass:{key}")


#: What `orchestrator: docker` leaves of a Redis: here, a key.
LEAVE = """
redis-server --dir /data --appendonly yes --daemonize yes >/dev/null
until redis-cli ping >/dev/null 2>&1; do sleep 0.1; done
redis-cli set left-by docker >/dev/null && redis-cli shutdown
"""


def test_a_stack_that_runs_as_containers_is_refused_and_its_data_left_for_what_comes(
    stack: auto.Stack, swarm: "docker.DockerClient"
) -> None:
    volume = swarm.volumes.create(f"lookingglass-{NAME}-redis", labels={LABEL: NAME})
    former = swarm.containers.run(
        engine.redis_image(swarm),
        ["bash", "-c", LEAVE],
        user="999:999",
        labels={LABEL: NAME},
        volumes={volume.name: {"bind": "/data", "mode": "rw"}},
        detach=True,
    )
    try:
        assert former.wait()["StatusCode"] == 0, former.logs()
        with pytest.raises(auto.CommandError, match="this stack runs as containers of this engine; `pulumi destroy`"):
            stack.preview(on_output=nothing)
    finally:
        former.remove(force=True)


def test_a_photo_is_indexed_and_a_second_up_changes_nothing(
    stack: auto.Stack, swarm: "docker.DockerClient", photos: dict[str, bytes]
) -> None:
    stack.up(on_output=tools.say)
    found, data = outputs(stack), photos["astronaut.png"]
    crawler = Minio(
        found["minio_url"].removeprefix("http://"),
        access_key=found["crawler_access_key"],
        secret_key=found["crawler_secret_key"],
        secure=False,
        region="us-east-1",
    )
    crawler.put_object("images", "astronaut.png", BytesIO(data), len(data))
    eventually(lambda: item(swarm, "astronaut.png").get("points") == 1, "the photo in the index")
    stack.up(expect_no_changes=True, on_output=nothing)
    stack.refresh(expect_no_changes=True, on_output=nothing)


def test_what_was_kept_without_a_swarm_is_there(swarm: "docker.DockerClient") -> None:
    [redis] = tasks(swarm, "redis")
    ask = 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli get left-by'
    assert redis.exec_run(["bash", "-c", ask]).output == b"docker\n"
    # Those that came with the Swarm are the stack's by the same sign, for the way back.
    ours = {volume.name for volume in swarm.volumes.list(filters=OURS)}
    assert {f"lookingglass-{NAME}-{name}" for name in ("redis", "minio", "index")} <= ours


def test_every_task_is_confined(swarm: "docker.DockerClient") -> None:
    for container in swarm.containers.list(filters=OURS):
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"], container.name
        assert host["CapDrop"] == ["ALL"], container.name
        assert host["Memory"] > 0, container.name
        assert container.attrs["Config"]["User"].partition(":")[0] not in ("", "0", "root"), container.name


def test_scaling_and_rotating_roll_what_they_touch_and_nothing_else(
    stack: auto.Stack, swarm: "docker.DockerClient"
) -> None:
    def running() -> dict[str, set[str | None]]:
        return {name: {task.id for task in tasks(swarm, name)} for name in (*PINNED, "webhook", "worker")}

    before = running()
    configure(stack, {"workers": 2})
    stack.up(on_output=nothing)
    after = running()
    assert len(after["worker"]) == 2  # new ones, perhaps: the plugin writes variables in no fixed order
    assert all(before[name] == after[name] for name in before if name != "worker")
    token = outputs(stack)["api_token"]
    resources = (stack.export_stack().deployment or {})["resources"]
    [urn] = [resource["urn"] for resource in resources if resource["urn"].endswith("::api-token")]
    stack.up(replace=[urn], on_output=nothing)
    rolled = running()
    assert {name for name in after if after[name] != rolled[name]} == {"webhook"}
    url = outputs(stack)["webhook_url"]
    with urllib3.PoolManager() as http:
        codes = [
            http.request("GET", f"{url}/queue/stats", headers={"Authorization": f"Bearer {key}"}).status
            for key in (token, outputs(stack)["api_token"])
        ]
    assert codes == [401, 200]


def test_destroy_leaves_nothing_but_the_data(stack: auto.Stack, swarm: "docker.DockerClient") -> None:
    stack.destroy(on_output=nothing)
    assert swarm.services.list() == []
    assert swarm.secrets.list() == []
    assert swarm.networks.list(filters=OURS) == []
    kept = {volume.name for volume in swarm.volumes.list(filters={"name": f"lookingglass-{NAME}"})}
    assert kept == {f"lookingglass-{NAME}-{name}" for name in ("redis", "minio", "minio-events", "index")}
