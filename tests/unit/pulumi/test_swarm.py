"""What the program declares for a Swarm: the rules that no container may break, and what Swarm adds."""

import base64
import json
import re
from typing import Any

import pytest
from lookingglass.networks import CONVERSATIONS, INGRESS
from lookingglass.redis import ALONE

from infra import contract
from tests.infra.docker_schema import refused, written_back
from tests.unit.pulumi.test_environment import STANDING, Declared, Props, as_sent, declare, requests, secret

SWARM: Props = {"orchestrator": "swarm", "publicAddress": "0.0.0.0", "registry": "registry.example:5000/faces"}
CARDS: Props = {**SWARM, "engine": "insightface", "gpus": ["GPU-1a", "GPU-2b"], "workers": 3, "webhooks": 2}

SPREAD: Props = {**SWARM, "qdrantNodes": 3, "minioNodes": 4}

OWN: Props = {**SWARM, "registry": "10.0.0.9:5050", "runRegistry": True}


@pytest.fixture(params=["plain", "cards", "standing", "spread", "own"])
def declared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Declared:
    more = {"plain": SWARM, "cards": CARDS, "standing": {**STANDING, **SWARM}, "spread": SPREAD, "own": OWN}
    return declare(monkeypatch, **more[request.param])


def services(declared: Declared) -> dict[str, Props]:
    """The services that go on running."""
    every = declared.resources["docker:index/service:Service"]
    return {name: props for name, props in every.items() if not name.endswith("-owner")}


def container(props: Props) -> Props:
    found: Props = props["taskSpec"]["containerSpec"]
    return found


def test_a_webhook_is_not_replaced_for_want_of_redis_and_redis_waits_to_be_alone(declared: Declared) -> None:
    every = services(declared)
    check = container(every["webhook"])["healthcheck"]["tests"][-1]
    assert "GET /health " in check
    assert "GET /health/live " in check
    if redis := every.get("redis"):
        assert container(redis)["args"][: len(ALONE)] == list(ALONE)


def test_no_service_runs_without_its_limits(declared: Declared) -> None:
    for name, props in services(declared).items():
        inner, task = container(props), props["taskSpec"]
        assert inner["readOnly"], name
        assert inner["capDrops"] == ["ALL"], name
        assert int(inner["user"].partition(":")[0]) > 0, name
        assert task["resources"]["limits"]["memoryBytes"] > 0, name
        assert task["logDriver"]["options"]["max-size"], name
        assert task["restartPolicy"]["condition"] == "any", name
        assert inner["healthcheck"]["tests"], name
        assert props["convergeConfig"]["timeout"], name


def test_nothing_is_declared_in_a_form_that_the_plugin_refuses_or_rewrites(declared: Declared) -> None:
    for typ, resources in declared.resources.items():
        kind = typ.rpartition(":")[2]
        for name, props in resources.items() if typ.startswith("docker:") else ():
            inputs = as_sent(props)
            assert list(refused(kind, inputs)) == [], name
            back = written_back(kind, inputs)
            assert {key: inputs.get(key) for key in back} == back, name


def test_each_service_has_as_many_tasks_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def replicas(**config: Any) -> dict[str, int]:
        declared = services(declare(monkeypatch, **config)).items()
        return {name: props["mode"]["replicated"]["replicas"] for name, props in declared}

    assert replicas(**SWARM) == {
        "redis": 1,
        "minio": 1,
        "qdrant": 1,
        "webhook": 1,
        "worker": 2,
        "gpu-worker": 1,
        "console": 1,
    }
    assert replicas(**SWARM, faceServices=4)["gpu-worker"] == 4
    with_cards = replicas(**CARDS)
    assert (with_cards["gpu-worker"], with_cards["worker"], with_cards["webhook"]) == (2, 3, 2)


def test_what_keeps_data_is_pinned_and_the_rest_spreads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, props in services(declare(monkeypatch, **SWARM)).items():
        pinned = name in ("redis", "minio", "qdrant")
        constraints = props["taskSpec"]["placement"].get("constraints") or []
        assert constraints == ([f"node.labels.lookingglass.{name}==1"] if pinned else []), name
        assert any(mount["type"] == "volume" for mount in container(props)["mounts"]) == pinned, name


def test_volumes_have_the_names_and_labels_of_those_without_a_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = declare(monkeypatch, index="embedded").resources["docker:index/volume:Volume"]
    every = declare(monkeypatch, **SWARM, index="embedded").resources["docker:index/service:Service"].values()
    mounts = [mount for props in every for mount in container(props)["mounts"] if mount["type"] == "volume"]
    assert {(mount["source"], str(mount["volumeOptions"]["labels"])) for mount in mounts} == {
        (props["name"], str(props["labels"])) for name, props in alone.items() if name.endswith("-data")
    }


def test_a_card_is_reserved_for_each_face_service_which_leaves_it_before_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = services(declare(monkeypatch, **CARDS))
    face = found["gpu-worker"]
    reserved = face["taskSpec"]["resources"]["reservation"]["genericResources"]
    assert reserved == {"discreteResourcesSpecs": ["GPU=1"]}
    assert container(face)["env"]["DEVICE"] == "cuda"
    assert "NVIDIA_VISIBLE_DEVICES" not in container(face)["env"]
    assert face["updateConfig"]["order"] == "stop-first"
    assert found["worker"]["updateConfig"]["order"] == "start-first"
    assert "reservation" not in found["worker"]["taskSpec"]["resources"]


def test_the_console_is_published_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    console = services(declare(monkeypatch, **SWARM, consoleAddress="0.0.0.0"))["console"]
    [port] = console["endpointSpec"]["ports"]
    assert port["publishedPort"] == 5003


def test_only_minio_the_webhook_and_the_registry_are_published(declared: Declared) -> None:
    for name, props in services(declared).items():
        ports = props["endpointSpec"].get("ports") or []
        assert bool(ports) == (name.rstrip("-1234") in ("minio", "webhook", "registry")), name
        assert {port["publishMode"] for port in ports} <= {"host"}, name
        assert props["endpointSpec"]["mode"] == "dnsrr", name


def test_secrets_are_files_of_their_reader_named_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **SWARM)
    held = declared.resources["docker:index/secret:Secret"]
    for name, props in services(declared).items():
        uid = container(props)["user"].partition(":")[0]
        for file in container(props)["secrets"]:
            assert file["fileUid"] == uid, name
            assert "/" not in file["fileName"], name
        assert "the-secret-value" not in json.dumps(props), name
    names = [props["name"] for props in held.values()]
    assert all(len(name) <= 64 for name in names)
    assert {name.rpartition("-")[2] for name in names if "redis_url" in name} == {
        held["webhook-redis_url"]["name"].rpartition("-")[2]
    }
    assert secret("webhook-token") not in json.dumps(held)


def test_monitoring_is_pinned_sees_every_task_and_takes_its_files_as_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **CARDS, monitoring=True, monitoringAddress="0.0.0.0")
    found = services(declared)
    test_no_service_runs_without_its_limits(declared)
    test_nothing_is_declared_in_a_form_that_the_plugin_refuses_or_rewrites(declared)
    assert "gpu-exporter" not in found  # a card that it reserved would be lost to a face service
    for name in ("prometheus", "grafana"):
        assert found[name]["taskSpec"]["placement"]["constraints"] == [f"node.labels.lookingglass.{name}==1"]
        [port] = found[name]["endpointSpec"]["ports"]
        assert (port["publishMode"], port["targetPort"]) == ("host", {"prometheus": 9090, "grafana": 3000}[name])
    held = declared.resources["docker:index/secret:Secret"]
    for props in held.values():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", props["name"]), props["name"]
        assert len(props["data"]) < 500_000
    assert len({props["name"] for props in held.values()}) == len(held)
    files = {file["fileName"] for file in container(found["grafana"])["secrets"]}
    assert {"dashboards/redis.json", "provisioning/datasources/lookingglass.yml", "admin_password"} <= files
    scraped = json.loads(base64.b64decode(held["prometheus-prometheus.yml"]["data"]))["scrape_configs"]
    seen = {job["job_name"]: job for job in scraped}
    for job, name in (("lookingglass-webhook", "webhook"), ("lookingglass-face-service", "gpu-worker")):
        assert seen[job]["dns_sd_configs"][0]["names"] == [name]
    assert "redis-exporter" in seen
    assert declared.outputs["grafana_url"] == "http://127.0.0.1:3000"


def test_monitoring_that_is_not_published_is_named_as_the_services_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **SWARM, monitoring=True)
    for name in ("prometheus", "grafana"):
        assert not services(declared)[name]["endpointSpec"].get("ports")
    assert declared.outputs["prometheus_url"] == "http://prometheus:9090"


def test_networks_have_the_mtu_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = declare(monkeypatch, **SWARM, networkMtu=1400).resources["docker:index/network:Network"]
    assert {json.dumps(props["options"]) for props in networks.values()} == {
        '{"com.docker.network.driver.mtu": "1400"}'
    }
    networks = declare(monkeypatch, **SWARM).resources["docker:index/network:Network"]
    assert not any(props.get("options") for props in networks.values())


def test_networks_are_overlays_and_known_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **SWARM, encryptedNetworks=True)
    networks = declared.resources["docker:index/network:Network"]
    assert set(networks) == {*CONVERSATIONS, INGRESS} - {"metrics", "gauges", "charts"}
    for name, props in networks.items():
        assert (props["driver"], props["options"]) == ("overlay", {"encrypted": "true"})
        assert bool(props.get("internal")) == (name != INGRESS)
    on = {
        name: {network["id"].removesuffix("-id") for network in props["taskSpec"]["networksAdvanceds"]}
        for name, props in services(declared).items()
    }
    assert on["worker"] == {"jobs", "storage", "faces"}
    assert on["gpu-worker"] == {"faces", "index"}


def test_our_images_come_from_the_registry_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **SWARM)
    image = declared.resources["docker:index/image:Image"]["app"]
    assert image["imageName"].startswith("registry.example:5000/faces/lookingglass-dev/app:")
    assert not image["skipPush"]
    assert container(services(declared)["worker"])["image"] == "sha256:app"
    assert container(services(declared)["redis"])["image"].startswith("redis:")


def test_a_registry_of_its_own_is_up_before_an_image_is_pushed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(monkeypatch)
    declared = declare(monkeypatch, **OWN)
    registry = services(declared)["registry"]
    [port] = registry["endpointSpec"]["ports"]
    assert (port["publishedPort"], port["targetPort"], port["publishMode"]) == (5050, 5000, "host")
    assert registry["taskSpec"]["placement"]["constraints"] == ["node.labels.lookingglass.registry==1"]
    assert {network["id"] for network in registry["taskSpec"]["networksAdvanceds"]} == {f"{INGRESS}-id"}
    image = declared.resources["docker:index/image:Image"]["app"]
    assert image["imageName"] == "10.0.0.9:5050/lookingglass-dev/app:latest"
    assert any(urn.endswith("Service::registry") for urn in asked["app"].dependencies)
    assert "registry" not in services(declare(monkeypatch, **SWARM))


def test_the_platforms_that_a_registry_tells_of_are_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(monkeypatch)
    every = declare(monkeypatch, **OWN).resources["docker:index/service:Service"]
    for name in every:
        assert list(asked[name].ignoreChanges) == ["taskSpec.placement.platforms"], name


def test_a_registry_of_its_own_demands_certificates_which_its_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **OWN)
    inner = container(services(declared)["registry"])
    [bound] = [mount for mount in inner["mounts"] if mount["type"] == "bind"]
    assert (bound["source"], bound["readOnly"]) == (contract.REGISTRY_DIRECTORY, True)
    secret = declared.resources["docker:index/secret:Secret"]["registry-registry.yml"]
    http = json.loads(base64.b64decode(secret["data"]))["http"]
    assert http["tls"] == {
        "certificate": f"{bound['target']}/server.crt",
        "key": f"{bound['target']}/server.key",
        "clientcas": [f"{bound['target']}/ca.crt"],
    }
    assert http["debug"]["addr"].startswith("127.0.0.1:")


def test_minio_is_named_by_the_node_that_it_is_pinned_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert declare(monkeypatch, **SWARM).outputs["minio_url"] == "http://10.0.0.9:9000"
    named = declare(monkeypatch, **SWARM, publicHost="faces.example").outputs
    assert (named["minio_url"], named["webhook_url"]) == ("http://faces.example:9000", "http://faces.example:5002")
    assert named["gpu_worker_url"] == "http://gpu-worker:5001"
