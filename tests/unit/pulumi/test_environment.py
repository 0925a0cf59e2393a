"""What the program declares, with Pulumi's engine mocked: the rules no container may break."""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from lookingglass import environment, preflight
from lookingglass.go import duration, short_duration
from lookingglass.networks import CONVERSATIONS, INGRESS
from pulumi.runtime import mocks, set_all_config, set_mocks
from pulumi.runtime.rpc import is_rpc_secret, unwrap_rpc_secret

from app.common.settings import ServiceSettings
from app.console.settings import ConsoleSettings
from app.gpu.settings import FaceSettings
from app.webhook.settings import WebhookSettings
from app.worker.settings import WorkerSettings
from infra.contract import OUTPUTS, PORTS, SECRET_OUTPUTS
from tests.infra.docker_schema import refused, written_back

CONTAINER = "docker:index/container:Container"

#: The settings that each service reads, and what it reads besides.
READ_BY: dict[str, type[ServiceSettings]] = {
    "webhook": WebhookSettings,
    "worker": WorkerSettings,
    "gpu-worker": FaceSettings,
    "console": ConsoleSettings,
}
READ_BY_THE_RUNTIME = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}

Props = dict[str, Any]


@dataclass
class Declared(mocks.Mocks):
    """Everything a program declared, by type and name."""

    resources: dict[str, dict[str, Props]] = field(default_factory=dict)
    outputs: Props = field(default_factory=dict)
    #: What was declared more than once.
    repeated: list[str] = field(default_factory=list)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, Props]:
        inputs = bare(args.inputs)
        of_type = self.resources.setdefault(args.typ, {})
        self.repeated += [args.name] * (args.name in of_type)
        of_type[args.name] = inputs
        made = {"repoDigest": f"sha256:{args.name}", "imageId": f"sha256:{args.name}"}
        if "entropy" in args.inputs:
            made["value"] = secret(args.name)
        if args.typ.endswith("pulumi:Stack"):
            self.outputs = args.inputs
        return f"{args.name}-id", {**inputs, **made}

    def call(self, args: mocks.MockCallArgs) -> tuple[Props, None]:
        return {}, None

    def containers(self) -> dict[str, Props]:
        """The containers that run."""
        return {name: props for name, props in self.resources[CONTAINER].items() if props.get("start", True)}

    def uploaders(self) -> dict[str, Props]:
        """The containers that only upload secrets."""
        return {name: props for name, props in self.resources[CONTAINER].items() if "uploads" in props}


def bare(value: Any) -> Any:
    """A value without what marks it, or a part of it, as secret."""
    if is_rpc_secret(value):
        return bare(unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {name: bare(item) for name, item in value.items()}
    return [bare(item) for item in value] if isinstance(value, list) else value


def secret(name: str) -> str:
    return f"the-secret-value-of-{name}"


def declare(monkeypatch: pytest.MonkeyPatch, **config: Any) -> Declared:
    """Run the program with a configuration."""
    declared = Declared()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    monkeypatch.setattr(preflight, "check", lambda *_: {"minio": "10.0.0.9"})
    exported: Props = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    set_mocks(declared, project="lookingglass", stack="dev")
    set_all_config({f"lookingglass:{key}": value for key, value in texts.items()})

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def run() -> pulumi.Output[None]:
        environment.declare()
        return pulumi.Output.all(**exported).apply(declared.outputs.update)

    run()
    return declared


def requests(monkeypatch: pytest.MonkeyPatch) -> Props:
    """What Pulumi's engine will have been asked for, by the resource's name: more than a mock is told."""
    found: Props = {}
    register: Any = mocks.MockMonitor.RegisterResource

    def noting(monitor: Any, request: Any) -> Any:
        found[request.name] = request
        return register(monitor, request)

    monkeypatch.setattr(mocks.MockMonitor, "RegisterResource", noting)
    return found


GPU: Props = {"engine": "insightface", "gpus": ["0", "GPU-1a2b"], "workers": 3}


@pytest.fixture(params=["dev", "gpu"])
def declared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Declared:
    return declare(monkeypatch, **(GPU if request.param == "gpu" else {}))


def role(name: str) -> str:
    return name.rstrip("0123456789-") if name[-1].isdigit() else name


def environment_of(props: Props) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in props.get("envs", []))


def test_each_service_runs_as_often_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(declare(monkeypatch).containers()) == {
        *("redis", "minio", "qdrant", "webhook", "gpu-worker-1", "worker-1", "worker-2", "console"),
    }
    with_gpus = set(declare(monkeypatch, **GPU).containers())
    assert {"gpu-worker-1", "gpu-worker-2", "worker-3"} <= with_gpus


def test_nothing_is_declared_twice_which_pulumi_refuses(declared: Declared) -> None:
    assert declared.repeated == []


def test_no_container_runs_without_its_limits(declared: Declared) -> None:
    for name, props in declared.containers().items():
        assert props["readOnly"], name
        assert props["capabilities"] == {"drops": ["ALL"]}, name
        assert props["securityOpts"] == ["no-new-privileges"], name
        assert props["memory"] == props["memorySwap"] > 0, name
        assert {limit["name"] for limit in props["ulimits"]} == {"nofile", "nproc"}, name
        assert props["logOpts"]["max-size"], name
        assert props["restart"] == "unless-stopped", name
        assert props["destroyGraceSeconds"] == props["stopTimeout"] >= 30, name
        assert props["networkMode"] == "bridge", name
        uid, _, gid = props["user"].partition(":")
        assert int(uid) > 0 < int(gid), name


def test_every_container_is_watched_by_a_check_of_its_service(declared: Declared) -> None:
    for name, props in declared.containers().items():
        check = " ".join(props["healthcheck"]["tests"])
        assert any(word in check for word in ("GET /", "redis-cli ping", "app.worker.health")), name
        assert props["wait"], name


def test_nothing_is_declared_in_a_form_that_the_plugin_refuses_or_rewrites(declared: Declared) -> None:
    for typ, resources in declared.resources.items():
        if not typ.startswith("docker:"):
            continue
        kind = typ.rpartition(":")[2]
        for name, props in resources.items():
            inputs = as_sent(props)
            assert list(refused(kind, inputs)) == [], name
            if inputs.get("start", True):
                assert {key: inputs.get(key) for key in written_back(kind, inputs)} == written_back(kind, inputs), (
                    name
                )


def as_sent(value: Any) -> Any:
    """Inputs as the plugin gets them: every number with a fraction."""
    if isinstance(value, dict):
        return {name: as_sent(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [as_sent(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("seconds", "written"), [(5, "5s"), (60, "1m0s"), (90, "1m30s"), (240, "4m0s"), (3600, "1h0m0s"), (0, "0s")]
)
def test_durations_are_written_as_go_writes_them_back(seconds: int, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(5, "5s"), (60, "1m"), (90, "1m30s"), (3600, "1h"), (3660, "1h1m"), (7230, "2h0m30s"), (0, "0s")],
)
def test_durations_of_a_swarm_are_written_without_zeros_at_their_end(seconds: int, written: str) -> None:
    assert short_duration(seconds) == written


def test_every_image_is_pinned(declared: Declared) -> None:
    for name, props in declared.resources[CONTAINER].items():
        assert props["image"].startswith("sha256:"), name
    for props in declared.resources["docker:index/remoteImage:RemoteImage"].values():
        assert ":" in props["name"], props


def test_only_minio_and_the_webhook_can_be_published_beyond_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("127.0.0.1", "10.0.0.7"):
        for name, props in declare(monkeypatch, publicAddress=address).containers().items():
            addresses = {port["ip"] for port in props.get("ports", [])}
            public = name in ("minio", "webhook")
            assert addresses <= ({address} if public else {"127.0.0.1"}), name


def test_the_console_is_published_where_it_is_chosen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, consoleAddress="10.0.0.8", publicAddress="10.0.0.7")
    assert [port["ip"] for port in declared.containers()["console"]["ports"]] == ["10.0.0.8"]
    assert declared.outputs["console_url"] == "http://10.0.0.8:5003"
    assert declare(monkeypatch, publicAddress="10.0.0.7").outputs["console_url"] == "http://127.0.0.1:5003"


def test_no_secret_is_anywhere_but_in_an_uploaded_file(declared: Declared) -> None:
    for name, props in declared.resources[CONTAINER].items():
        rest = {key: value for key, value in props.items() if key != "uploads"}
        assert "the-secret-value" not in json.dumps(rest), name
    for typ, resources in declared.resources.items():
        if typ.startswith("docker:") and typ != CONTAINER:
            assert "the-secret-value" not in json.dumps(resources), typ


def test_a_secret_reaches_only_those_who_need_it(declared: Declared) -> None:
    holders: dict[str, set[str]] = {}
    credentials = [
        *("redis-password", "minio-root-password", "minio-worker-password", "minio-console-password"),
        *("qdrant-api-key", "api-token", "gpu-worker-token", "console-token"),
    ]
    for name, props in declared.uploaders().items():
        for upload in props["uploads"]:
            for credential in credentials:
                if secret(credential) in upload["content"]:
                    holders.setdefault(credential, set()).add(role(name.removesuffix("-secrets")))
    assert holders == {
        "redis-password": {"redis", "webhook", "worker", "console"},
        "minio-root-password": {"minio"},
        "minio-worker-password": {"worker"},
        "minio-console-password": {"console"},
        "qdrant-api-key": {"qdrant", "gpu-worker"},
        "api-token": {"webhook", "console"},
        "gpu-worker-token": {"gpu-worker", "worker", "console"},
        "console-token": {"console"},
    }


def test_a_changed_secret_replaces_the_containers_that_read_it(declared: Declared) -> None:
    digests = {
        name: [label["value"] for label in props["labels"] if label["label"] == "org.lookingglass.secrets"]
        for name, props in declared.containers().items()
    }
    assert all(len(digest) == 1 for digest in digests.values())
    assert digests["redis"] != digests["webhook"]


def test_containers_share_a_network_only_to_talk(declared: Declared) -> None:
    networks = declared.resources["docker:index/network:Network"]
    assert networks.keys() == {*CONVERSATIONS, INGRESS} - {"metrics", "gauges", "charts"}
    assert all(network.get("internal") for name, network in networks.items() if name != INGRESS)
    assert networks[INGRESS]["options"] == {"com.docker.network.bridge.enable_icc": "false"}
    on = {
        name: {network["name"].rpartition("-")[2] for network in props["networksAdvanced"]}
        for name, props in declared.containers().items()
    }
    assert on["worker-1"] == {"jobs", "storage", "faces"}
    assert not on["worker-1"] & on["qdrant"]
    assert not (on["console"] & on["qdrant"]) - {"ingress"}
    for name, props in declared.containers().items():
        for network in props["networksAdvanced"]:
            named = bool(network.get("aliases"))
            assert named != network["name"].endswith(INGRESS), f"{name} is found where it cannot be reached"


def test_services_get_only_variables_that_they_read(declared: Declared) -> None:
    for name, props in declared.containers().items():
        if settings := READ_BY.get(role(name)):
            files = [upload["file"] for upload in declared.uploaders()[f"{name}-secrets"]["uploads"]]
            given = {*environment_of(props), *(file.rpartition("/")[2].upper() for file in files)}
            known = {field.upper() for field in settings.model_fields}
            assert given - READ_BY_THE_RUNTIME <= known, name


def test_a_gpu_is_required_where_one_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = declare(monkeypatch, **GPU).containers()
    for number, gpu in enumerate(GPU["gpus"], 1):
        props = containers[f"gpu-worker-{number}"]
        variables = environment_of(props)
        assert (props["runtime"], variables["NVIDIA_VISIBLE_DEVICES"], variables["DEVICE"]) == ("nvidia", gpu, "cuda")
    without = declare(monkeypatch).containers()["gpu-worker-1"]
    assert "runtime" not in without
    assert environment_of(without)["DEVICE"] == "cpu"


def test_a_worker_may_finish_its_longest_job(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = declare(monkeypatch, videoJobTimeout=600).containers()["worker-1"]
    assert worker["stopTimeout"] > 600
    assert environment_of(worker)["VIDEO_JOB_TIMEOUT"] == "600"


def test_a_server_of_the_index_may_write_what_it_holds(declared: Declared) -> None:
    assert declared.containers()["qdrant"]["stopTimeout"] >= 60
    assert environment_of(declared.containers()["qdrant"])["QDRANT_INIT_FILE_PATH"].startswith("/tmp/")


def test_what_the_application_user_keeps_is_given_to_it_before_it_is_used(declared: Declared) -> None:
    for kept in ("minio", "minio-events"):
        owner = declared.resources[CONTAINER][f"{kept}-owner"]
        assert (owner["start"], owner["image"]) == (False, "sha256:app")
        assert [volume["volumeName"] for volume in owner["volumes"]] == [f"lookingglass-dev-{kept}"]
    assert declared.containers()["minio"]["user"] == declared.containers()["webhook"]["user"]


def test_silo_is_pulled_and_minio_is_built_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = declare(monkeypatch).resources["docker:index/remoteImage:RemoteImage"]
    assert pulled["minio"]["name"].startswith("pgsty/silo:RELEASE.")
    built = declare(monkeypatch, minioImage="build")
    assert "minio" in built.resources["docker:index/image:Image"]
    assert "minio" not in built.resources["docker:index/remoteImage:RemoteImage"]


def test_queues_of_their_own_are_known_to_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = declare(monkeypatch, videoQueueName="video_processing", cleanupQueueName="cleanup").containers()
    served = environment_of(containers["worker-1"])["QUEUE_NAMES"]
    assert served == "facial_recognition,video_processing,cleanup"
    webhook = environment_of(containers["webhook"])
    assert (webhook["VIDEO_QUEUE_NAME"], webhook["CLEANUP_QUEUE_NAME"]) == ("video_processing", "cleanup")


def test_data_outlives_the_stack_under_names_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = declare(monkeypatch).resources["docker:index/volume:Volume"]
    data = {props["name"] for name, props in volumes.items() if name.endswith("-data")}
    assert data == {f"lookingglass-dev-{name}" for name in ("redis", "minio", "minio-events", "qdrant")}


def test_the_outputs_are_those_of_every_way_of_standing_it_up(declared: Declared) -> None:
    assert {*OUTPUTS, *SECRET_OUTPUTS} <= declared.outputs.keys()
    assert declared.outputs["webhook_url"] == f"http://127.0.0.1:{PORTS['webhook']}"
    assert declared.outputs["crawler_secret_key"] == secret("minio-crawler-password")


def test_a_replaced_image_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    own = declare(monkeypatch, appImage="registry.example/app:1", minioImage="registry.example/minio:2")
    assert "docker:index/image:Image" not in own.resources


STANDING: Props = {
    "storage": {"endpoint": "https://minio.example:9000", "user": "admin", "password": "the-secret-value-of-theirs"},
    "redisUrl": "rediss://:the-secret-value-of-redis@redis.example:6379/0",
    "qdrantUrl": "https://qdrant.example:6333",
    "qdrantApiKey": "the-secret-value-of-qdrant",
    "publicAddress": "10.0.0.7",
}


def test_with_services_that_stand_already_no_other_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **STANDING)
    assert set(declared.containers()) == {"webhook", "console", "gpu-worker-1", "worker-1", "worker-2"}
    assert set(declared.resources["docker:index/network:Network"]) == {"faces", "operators", INGRESS}
    volumes = declared.resources["docker:index/volume:Volume"]
    assert set(volumes) == {f"{name}-secrets" for name in declared.containers()}
    dynamic = {
        name for name, props in declared.resources["pulumi-python:dynamic:Resource"].items() if "endpoint" in props
    }
    assert dynamic == {
        "images",
        "videos",
        "minio-worker",
        "minio-console",
        "minio-crawler",
        "targets",
        "images-events",
        "videos-events",
    }
    assert "docker:index/remoteImage:RemoteImage" not in declared.resources
    for props in declared.resources[CONTAINER].values():
        assert "the-secret-value" not in json.dumps({key: value for key, value in props.items() if key != "uploads"})


def test_services_are_told_where_those_are_that_stand_already(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, **STANDING)
    worker, face = (environment_of(declared.containers()[name]) for name in ("worker-1", "gpu-worker-1"))
    assert worker["MINIO_ENDPOINT"] == "https://minio.example:9000"
    assert face["QDRANT_URL"] == "https://qdrant.example:6333"
    files = {
        (name, upload["file"].rpartition("/")[2]): upload["content"]
        for name, props in declared.uploaders().items()
        for upload in props["uploads"]
    }
    assert files["webhook-secrets", "redis_url"] == files["worker-1-secrets", "redis_url"] == STANDING["redisUrl"]
    assert files["gpu-worker-1-secrets", "qdrant_api_key"] == STANDING["qdrantApiKey"]
    assert declared.outputs["redis_url"] == STANDING["redisUrl"]
    assert (declared.outputs["minio_url"], declared.outputs["minio_user"]) == ("https://minio.example:9000", "admin")
    on = {
        name: {network["name"].rpartition("-")[2] for network in declared.containers()[name]["networksAdvanced"]}
        for name in ("worker-1", "console")
    }
    assert on == {"worker-1": {"faces", INGRESS}, "console": {"faces", "operators", INGRESS}}


def test_a_socket_of_redis_is_mounted_and_needs_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    containers = declare(monkeypatch, redisUrl="unix:///run/redis/redis.sock?db=1").containers()
    assert "redis" not in containers
    for name in ("webhook", "worker-1", "console"):
        mounts = {volume.get("hostPath"): volume["containerPath"] for volume in containers[name]["volumes"]}
        assert mounts["/run/redis"] == "/run/redis"
    assert not any(network["name"].endswith(INGRESS) for network in containers["worker-1"]["networksAdvanced"])


def test_monitoring_adds_both_hardened_as_the_others_and_tells_them_what_to_look_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declared = declare(monkeypatch, monitoring=True)
    assert {"prometheus", "grafana"} <= declared.containers().keys()
    test_no_container_runs_without_its_limits(declared)
    test_nothing_is_declared_twice_which_pulumi_refuses(declared)
    test_nothing_is_declared_in_a_form_that_the_plugin_refuses_or_rewrites(declared)
    test_no_secret_is_anywhere_but_in_an_uploaded_file(declared)
    for name in ("prometheus", "grafana"):
        props = declared.containers()[name]
        assert {port["ip"] for port in props["ports"]} == {"127.0.0.1"}
        assert props["healthcheck"]["tests"][1] == "wget"
    files = {
        upload["file"]: upload["content"]
        for name in ("prometheus", "grafana")
        for upload in declared.uploaders()[f"{name}-secrets"]["uploads"]
    }
    scraped = {job["job_name"]: job for job in json.loads(files["/run/secrets/prometheus.yml"])["scrape_configs"]}
    assert scraped["lookingglass-webhook"]["authorization"] == {"credentials": secret("api-token")}
    assert scraped["lookingglass-face-service"]["dns_sd_configs"][0]["names"] == ["gpu-worker"]
    assert scraped["minio"]["static_configs"] == [{"targets": ["minio:9000"]}]
    assert json.loads(files["/run/secrets/dashboards/pipeline.json"])["panels"]
    assert "prometheus:9090" in files["/run/secrets/provisioning/datasources/lookingglass.yml"]
    assert declared.outputs["grafana_password"] == secret("grafana-password")
    if promtool := shutil.which("promtool"):
        for name in ("prometheus.yml", "alerts.yml"):
            (tmp_path / name).write_text(files[f"/run/secrets/{name}"].replace("/run/secrets/", f"{tmp_path}/"))
        command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_monitoring_tells_of_redis_and_of_cards_by_their_own_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, monitoring=True, **GPU)
    test_no_container_runs_without_its_limits(declared)
    test_every_image_is_pinned(declared)
    test_nothing_is_declared_in_a_form_that_the_plugin_refuses_or_rewrites(declared)
    test_no_secret_is_anywhere_but_in_an_uploaded_file(declared)
    redis, cards = (declared.containers()[name] for name in ("redis-exporter", "gpu-exporter"))
    files = {
        upload["file"]: upload["content"]
        for name in ("redis-exporter", "gpu-exporter", "prometheus")
        for upload in declared.uploaders()[f"{name}-secrets"]["uploads"]
    }
    assert json.loads(files["/run/secrets/redis_passwords.json"]) == {"redis://redis:6379": secret("redis-password")}
    assert "--redis.addr=redis://redis:6379" in redis["command"]
    assert "--redis.password-file=/run/secrets/redis_passwords.json" in redis["command"]
    assert (cards["runtime"], environment_of(cards)["NVIDIA_VISIBLE_DEVICES"]) == ("nvidia", "0,GPU-1a2b")
    assert cards["entrypoints"] == ["/usr/bin/dcgm-exporter"]
    assert "DCGM_FI_DEV_GPU_TEMP, gauge," in files["/run/secrets/counters.csv"]
    scraped = {job["job_name"]: job for job in json.loads(files["/run/secrets/prometheus.yml"])["scrape_configs"]}
    for name, port in (("redis-exporter", 9121), ("gpu-exporter", 9400)):
        assert scraped[name]["static_configs"] == [{"targets": [f"{name}:{port}"]}]
        assert not declared.containers()[name].get("ports"), name
    on = {
        name: {network["name"].rpartition("-")[2] for network in props["networksAdvanced"]}
        for name, props in declared.containers().items()
    }
    assert (on["redis-exporter"], on["gpu-exporter"]) == ({"jobs", "gauges"}, {"metrics"})


def test_exporters_are_there_for_what_the_stack_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gpu-exporter" not in declare(monkeypatch, monitoring=True).containers()
    assert "redis-exporter" not in declare(monkeypatch, monitoring=True, **STANDING).containers()


def test_without_it_there_is_nothing_of_monitoring(declared: Declared) -> None:
    assert not {"prometheus", "grafana", "redis-exporter", "gpu-exporter"} & declared.containers().keys()
    assert not {"metrics", "gauges", "charts"} & declared.resources["docker:index/network:Network"].keys()
    assert "grafana_password" not in declared.outputs


def test_monitoring_is_published_where_it_is_chosen_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = declare(monkeypatch, monitoring=True, monitoringAddress="10.0.0.8", publicAddress="10.0.0.7")
    for name in ("prometheus", "grafana"):
        assert [port["ip"] for port in declared.containers()[name]["ports"]] == ["10.0.0.8"]
    assert declared.outputs["grafana_url"] == "http://10.0.0.8:3000"
    assert declare(monkeypatch, monitoring=True).outputs["prometheus_url"] == "http://127.0.0.1:9090"
