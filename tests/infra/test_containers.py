"""`make ps`, `logs`, `restart` and `scale`: the habits of docker-compose, on the containers of a stack."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from lookingglass.engine import LABEL

from infra.local import tools
from tests.fixtures import eventually
from tests.infra import engine
from tests.infra.docker_plugin import ROOT
from tests.infra.pulumi_cli import pulumi_cli

STACK = "habits"

SERVICES = ("webhook", "worker-1", "worker-2", "gpu-worker-1")


@pytest.fixture(scope="module")
def containers(docker_client: "docker.DockerClient") -> Iterator[dict[str, Container]]:
    """Containers named and labelled as those of a stack, each writing who it is and when it started."""
    try:
        image = engine.base_image(docker_client)
    except (engine.NoEngineError, tools.ToolError) as error:
        pytest.skip(str(error))
    made: dict[str, Container] = {}
    try:
        for service in SERVICES:
            script = f"trap 'exit 0' TERM; echo {service} started; while :; do sleep 0.1; done"
            made[service] = docker_client.containers.run(
                image,
                ["bash", "-c", script],
                name=f"lookingglass-{STACK}-{service}",
                labels={LABEL: STACK},
                network_mode="none",
                detach=True,
            )
        made["webhook-secrets"] = docker_client.containers.create(
            image, ["true"], name=f"lookingglass-{STACK}-webhook-secrets", labels={LABEL: STACK}
        )
        for service in SERVICES:
            eventually(lambda service=service: made[service].logs(), f"a word of {service}")  # type: ignore[misc]
        yield made
    finally:
        for container in made.values():
            container.remove(force=True)


@pytest.fixture
def make(docker_client: "docker.DockerClient") -> "Make":
    return Make(docker_client.api.base_url.replace("http+docker://localhost", _socket(docker_client)))


def _socket(client: "docker.DockerClient") -> str:
    adapter = client.api.get_adapter(client.api.base_url)
    return f"unix://{adapter.socket_path}"  # type: ignore[attr-defined]


class Make:
    """`make`, as an operator types it, on this engine."""

    def __init__(self, host: str) -> None:
        self.environment = {**os.environ, "DOCKER_HOST": host, "STACK": STACK}

    def __call__(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["make", "--silent", *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout + done.stderr


def test_ps_lists_what_runs_and_what_stopped(make: Make, containers: dict[str, Container]) -> None:
    containers["worker-2"].kill()
    containers["worker-2"].wait()
    status, listed = make("ps")
    assert status == 0
    states = {line.split()[0].removeprefix(f"lookingglass-{STACK}-"): line for line in listed.splitlines()[1:]}
    assert set(states) == set(SERVICES)
    assert "Up " in states["webhook"]
    assert "Exited" in states["worker-2"]
    containers["worker-2"].start()


def test_logs_are_of_one_service_or_of_all(make: Make, containers: dict[str, Container]) -> None:
    assert make("logs", "SERVICE=webhook", "FOLLOW=") == (0, "webhook started\n")
    status, shown = make("logs", "SERVICE=worker", "FOLLOW=", "TAIL=1")
    assert (status, sorted(shown.splitlines())) == (
        0,
        ["worker-1 | worker-1 started", "worker-2 | worker-2 started"],
    )
    assert len(make("logs", "FOLLOW=")[1].splitlines()) >= len(SERVICES)


def test_logs_are_followed(make: Make, containers: dict[str, Container]) -> None:
    command = ["make", "--silent", "logs", "SERVICE=gpu-worker-1"]
    with subprocess.Popen(command, cwd=ROOT, env=make.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        assert following.stdout.readline() == "gpu-worker-1 started\n"
        time.sleep(0.5)
        assert following.poll() is None
        containers["gpu-worker-1"].restart(timeout=5)
        assert following.wait(30) == 0


def test_a_service_is_restarted_and_no_other(make: Make, containers: dict[str, Container]) -> None:
    def starts() -> dict[str, str]:
        for service in SERVICES:
            containers[service].reload()
        return {service: containers[service].attrs["State"]["StartedAt"] for service in SERVICES}

    before = starts()
    assert make("restart", "SERVICE=worker")[0] == 0
    after = starts()
    assert {service for service in SERVICES if before[service] != after[service]} == {"worker-1", "worker-2"}


@pytest.mark.parametrize("words", [("logs", "SERVICE=rq-worker", "FOLLOW="), ("restart", "SERVICE=rq-worker")])
def test_a_service_that_is_not_there_is_named_with_those_that_are(
    make: Make, containers: dict[str, Container], words: tuple[str, ...]
) -> None:
    status, said = make(*words)
    assert status != 0
    assert "There is no container of rq-worker" in said
    assert f"lookingglass-{STACK}-worker-1" in said


def test_a_stack_that_is_not_there_says_how_to_stand_it_up(make: Make) -> None:
    status, said = make("logs", "STACK=nowhere", "FOLLOW=")
    assert status != 0
    assert "make up STACK=nowhere" in said


def test_the_engine_is_the_one_that_the_stack_names(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "Pulumi.far.yaml").write_text('config:\n  lookingglass:dockerHost: "tcp://127.0.0.1:9"\n')
    done = subprocess.run(
        [tmp_path / "scripts" / "containers.sh", "far", "ps"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "tcp://127.0.0.1:9" in done.stderr


def test_scaling_sets_the_number_and_brings_it_up(tmp_path: Path, make: Make) -> None:
    try:
        cli = pulumi_cli()
    except tools.ToolError as error:
        pytest.skip(str(error))
    for path in ("scripts", "bin"):
        (tmp_path / path).mkdir()
    shutil.copy(ROOT / "scripts" / "pulumi.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    (tmp_path / "bin" / "pulumi").symlink_to(cli)
    (tmp_path / ".pulumi-state").mkdir()
    status, commands = make("--dry-run", "scale", "WORKERS=4")
    assert status == 0
    setting, bringing_up = commands.strip().splitlines()[-2:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")}
    environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PULUMI_SKIP_UPDATE_CHECK": "true"}
    environment |= {"PULUMI_HOME": str(tmp_path / "home")}
    subprocess.run(["bash", "-c", setting], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert 'lookingglass:workers: "4"' in (tmp_path / f"Pulumi.{STACK}.yaml").read_text()
    assert bringing_up.split()[-3:] == ["scripts/pulumi.sh", STACK, "up"]
    assert make("scale")[0] != 0
