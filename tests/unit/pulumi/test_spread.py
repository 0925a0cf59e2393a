"""Qdrant and MinIO over several nodes of a Swarm: one service to a node and its volume."""

import subprocess
from pathlib import Path

import pytest

from tests.unit.pulumi.test_environment import Declared, declare
from tests.unit.pulumi.test_swarm import SPREAD, SWARM, container, services


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Declared:
    return declare(monkeypatch, **SPREAD)


def test_each_node_has_a_service_with_volumes_of_its_own(declared: Declared) -> None:
    found = services(declared)
    assert {name for name in found if "-" in name} == {
        *(f"qdrant-{number}" for number in (1, 2, 3)),
        *(f"minio-{number}" for number in (1, 2, 3, 4)),
        "gpu-worker",
    }
    sources = []
    for name in found.keys() - {"gpu-worker"}:
        role, _, number = name.partition("-")
        if not number:
            continue
        props = found[name]
        assert props["taskSpec"]["placement"]["constraints"] == [f"node.labels.lookingglass.{role}=={number}"]
        assert props["mode"]["replicated"]["replicas"] == 1
        volumes = [mount["source"] for mount in container(props)["mounts"] if mount["type"] == "volume"]
        assert all(volume.endswith(f"-{number}") for volume in volumes), name
        sources += volumes
    assert len(set(sources)) == len(sources) == 3 + 2 * 4


def test_a_node_is_known_by_its_own_name_and_all_of_them_by_their_role(declared: Declared) -> None:
    for name, props in services(declared).items():
        role, _, number = name.partition("-")
        if role in ("qdrant", "minio"):
            assert container(props)["hostname"] == f"{role}-{number}"
            assert all(on["aliases"] == [role, name] for on in props["taskSpec"]["networksAdvanceds"])
        else:
            assert "hostname" not in container(props), name


def test_a_node_is_healthy_without_the_others_which_find_it_only_then(declared: Declared) -> None:
    for name, props in services(declared).items():
        [*_, script] = container(props)["healthcheck"]["tests"]
        if name.startswith("qdrant"):
            assert "GET /livez " in script
        if name.startswith("minio"):
            assert "GET /minio/health/live " in script


def test_every_minio_names_all_of_them_and_keeps_its_own_events(declared: Declared) -> None:
    for number in (1, 2, 3, 4):
        minio = services(declared)[f"minio-{number}"]
        assert container(minio)["args"][-1] == "http://minio-{1...4}:9000/data"
        mounted = {mount["target"]: mount.get("source") for mount in container(minio)["mounts"]}
        assert mounted["/events"] == f"lookingglass-dev-minio-events-{number}"
        assert {port["publishedPort"] for port in minio["endpointSpec"]["ports"]} == {9000, 9001}
    assert container(services(declared)["worker"])["env"]["MINIO_ENDPOINT"] == "minio:9000"


def test_a_qdrant_is_published_nowhere_and_only_face_services_are_on_its_network(declared: Declared) -> None:
    on_it = set()
    for name, props in services(declared).items():
        networks = {network["id"] for network in props["taskSpec"]["networksAdvanceds"]}
        if "index-id" in networks:
            on_it.add(name)
        if name.startswith("qdrant"):
            assert networks == {"index-id"}
            assert not props["endpointSpec"].get("ports")
            assert container(props)["env"]["QDRANT__CLUSTER__ENABLED"] == "true"
    assert on_it == {"qdrant-1", "qdrant-2", "qdrant-3", "gpu-worker"}
    assert declared.resources["docker:index/network:Network"]["index"]["internal"]


def test_the_face_service_knows_every_node_and_how_many_copies_to_ask_for(declared: Declared) -> None:
    environment = container(services(declared)["gpu-worker"])["env"]
    assert environment["QDRANT_URL"] == "http://qdrant-1:6333,http://qdrant-2:6333,http://qdrant-3:6333"
    assert (environment["QDRANT_REPLICAS"], environment["QDRANT_SHARDS"]) == ("3", "6")
    assert declared.outputs["qdrant_url"] == "http://qdrant:6333"


def test_one_node_has_neither_peers_nor_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = services(declare(monkeypatch, **SWARM))
    assert container(found["qdrant"])["args"] == ["./qdrant", "--config-path", "/run/secrets/qdrant.yaml"]
    assert "QDRANT__CLUSTER__ENABLED" not in container(found["qdrant"])["env"]
    assert "hostname" not in container(found["qdrant"])
    assert not {"QDRANT_REPLICAS", "QDRANT_SHARDS"} & container(found["gpu-worker"])["env"].keys()


@pytest.mark.parametrize(
    ("number", "there", "started"),
    [
        (1, [], "--uri http://qdrant-1:6335"),
        (1, ["qdrant-3"], "--uri http://qdrant-1:6335 --bootstrap http://qdrant-3:6335"),
        (2, ["qdrant-1", "qdrant-3"], "--uri http://qdrant-2:6335 --bootstrap http://qdrant-1:6335"),
        (2, ["qdrant-3"], "--uri http://qdrant-2:6335 --bootstrap http://qdrant-3:6335"),
        (3, [], "--uri http://qdrant-3:6335 --bootstrap http://qdrant-1:6335"),
    ],
)
def test_a_node_joins_one_that_is_there_and_only_the_first_ever_starts_alone(
    declared: Declared, tmp_path: Path, number: int, there: list[str], started: str
) -> None:
    """The command is run, with stand-ins for the server and for whether a port is open."""
    (tmp_path / "qdrant").write_text('#!/bin/sh\necho "$@"\n')
    answers = " || ".join(f'[ "$4" != "${{4%{name}/6335*}}" ]' for name in there) or "false"
    (tmp_path / "timeout").write_text(f"#!/bin/bash\n{answers}\n")
    for program in ("qdrant", "timeout"):
        (tmp_path / program).chmod(0o755)
    command = container(services(declared)[f"qdrant-{number}"])["args"]
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"--config-path /run/secrets/qdrant.yaml {started}"
