"""The stack's configuration: what is taken, and what is refused in which words."""

import re
from typing import Any

import pytest
import yaml
from lookingglass.settings import Settings, SettingsError, load
from pydantic.alias_generators import to_camel

from tests.infra.docker_plugin import ROOT

SWARM = {"orchestrator": "swarm", "publicAddress": "0.0.0.0"}
STORAGE = '{"endpoint": "https://m.example:9000", "user": "admin", "password": "p"}'

PAGE = (ROOT / "docs" / "pulumi.md").read_text()


def test_values_are_taken_as_pulumi_hands_them_over() -> None:
    taken = load({"workers": "4", "retainData": "false", "gpus": '["0", "1"]', "engine": "insightface"})
    assert (taken.workers, taken.retain_data, taken.gpus) == (4, False, ["0", "1"])
    assert load({"gpus": "[0, 1]", "engine": "insightface"}).gpus == ["0", "1"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"workers": "none"}, "lookingglass:workers = 'none': Input should be a valid integer"),
        ({"wrokers": "2"}, "lookingglass:wrokers: there is no such key; the keys are"),
        ({"engine": "tensorflow"}, "Input should be 'dlib' or 'insightface'"),
        ({"gpus": '["0"]'}, "gpus: the dlib engine runs on the CPU"),
        ({"gpus": '["0", "0"]', "engine": "insightface"}, "gpus: a GPU is named twice"),
        ({"gpus": '["0", "1"]', "engine": "insightface", "index": "embedded"}, "index: embedded serves one"),
        ({"publicAddress": "gpu1"}, "lookingglass:publicAddress = 'gpu1': give an IP address"),
        ({"dockerHost": "ssh://ops@gpu1"}, "publicAddress: with an engine on another host"),
        ({"dockerHost": "gpu1"}, "lookingglass:dockerHost = 'gpu1'"),
        ({"redisImage": "redis"}, "lookingglass:redisImage = 'redis': name a version"),
        ({"redisImage": "redis:latest"}, "name a version"),
        ({"imageBucket": "Images"}, "lookingglass:imageBucket = 'Images'"),
        ({"imageBucket": "videos"}, "videoBucket: must differ"),
        ({"redisPort": "5002"}, "are the same"),
        ({"environment": '{"worker": {"MINIO_PASSWORD": "x"}}'}, "worker: MINIO_PASSWORD would show"),
        ({"environment": '{"wroker": {}}'}, "lookingglass:environment.wroker"),
        ({"storage": '{"endpoint": "https://m:9000", "user": "a"}'}, "lookingglass:storage.password: Field required"),
        ({"storage": STORAGE.replace("m.example", "localhost"), "publicAddress": "10.0.0.7"}, "loopback is its own"),
        ({"storage": STORAGE}, "publicAddress: the storage posts its events to the webhook"),
        ({"redisUrl": "redis://127.0.0.1:6379"}, "lookingglass:redisUrl: a container's loopback is its own"),
        ({"redisUrl": "http://redis"}, "lookingglass:redisUrl: String should match"),
        ({"qdrantUrl": "https://q:6333", "index": "embedded"}, "index: embedded needs no qdrantUrl"),
        ({"qdrantApiKey": "x"}, "qdrantApiKey: goes with a qdrantUrl"),
        ({"orchestrator": "swarm"}, "publicAddress: a Swarm publishes"),
        ({**SWARM, "monitoringAddress": "10.0.0.7"}, "monitoringAddress: a Swarm publishes on all addresses"),
        ({**SWARM, "retainData": "false"}, "retainData: a Swarm's volumes"),
        ({**SWARM, "engine": "insightface", "gpus": "[0]"}, "gpus: in a Swarm name each by its UUID"),
        ({"registry": "registry.example/faces"}, "registry: is for the nodes of a Swarm"),
        ({"runRegistry": "true"}, "runRegistry: is for the nodes of a Swarm"),
        ({**SWARM, "runRegistry": "true"}, "runRegistry: registry has to be the IP address and port of its node"),
        ({**SWARM, "runRegistry": "true", "registry": "a.example:5000"}, "runRegistry: registry has to be the IP"),
        ({**SWARM, "runRegistry": "true", "registry": "10.0.0.9:99999"}, "runRegistry: registry has to be the IP"),
        ({**SWARM, "runRegistry": "true", "registry": "10.0.0.9:9000"}, "registry: port 9000 is another service's"),
        ({"webhooks": "2"}, "webhooks: more than one need a Swarm"),
        ({"index": "embedded", "faceServices": "2"}, "index: embedded serves one face service only"),
        ({**SWARM, "qdrantNodes": "2"}, "qdrantNodes: of two, one is no majority"),
        ({"qdrantNodes": "3"}, "qdrantNodes: more than one need a Swarm"),
        ({**SWARM, "qdrantNodes": "3", "index": "embedded"}, "qdrantNodes: is for a service of the stack's own"),
        ({**SWARM, "qdrantNodes": "3", "qdrantReplicas": "4"}, "qdrantReplicas: 4 copies need as many nodes"),
        ({**SWARM, "qdrantNodes": "3", "qdrantReplicas": "1"}, "qdrantReplicas: with one copy, a lost node"),
        ({"qdrantReplicas": "2"}, "qdrantReplicas: 2 copies need as many nodes, and qdrantNodes is 1"),
        ({"qdrantReplicas": "1", "index": "embedded"}, "qdrantReplicas: an embedded index has one copy"),
        ({**SWARM, "minioNodes": "2"}, "minioNodes: 2 cannot lose one and go on writing; take 4 or more"),
        ({**SWARM, "minioNodes": "3"}, "minioNodes: 3 cannot lose one and go on writing; take 4 or more"),
        ({"minioNodes": "4"}, "minioNodes: more than one need a Swarm"),
        ({**SWARM, "minioNodes": "17"}, "lookingglass:minioNodes = '17': Input should be less than or equal to 16"),
        ({**SWARM, "minioNodes": "4", "storage": STORAGE}, "minioNodes: is for a service of the stack's own"),
        ({"pipIndexUrl": "https://me:secret@mirror.example/simple"}, "lookingglass:pipIndexUrl"),
    ],
)
def test_a_wrong_key_is_named_with_its_value_and_what_is_allowed(config: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        load(config)


@pytest.mark.parametrize(
    "config",
    [
        {"environment": '{"worker": {"MINIO_PASSWORD": "hunter2"}}'},
        {"environment": '{"worker": {"minio_password": "hunter2"}}'},
        {"environment": '{"worker": "hunter2"}'},
        {"environment": "hunter2"},
        {"pipIndexUrl": "https://me:hunter2@mirror.example/simple"},
        {"goProxy": "https://me:hunter2@mirror.example"},
        {"minioPasword": "hunter2"},
        {"imageBucket": "hunter2!"},
        {"storage": '{"endpoint": "https://m:9000", "user": "a", "pasword": "hunter2"}'},
        {"redisUrl": "rediss://:hunter2@localhost"},
        {"qdrantApiKey": '["hunter2"]'},
    ],
)
def test_no_value_that_may_be_a_secret_is_shown(config: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(config, secret_keys=["imageBucket"])
    assert f"lookingglass:{next(iter(config))}" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_an_index_on_several_nodes_has_three_copies_where_nothing_else_is_said() -> None:
    assert load({}).index_copies is None
    assert load({**SWARM, "qdrantNodes": "3"}).index_copies == 3
    assert load({**SWARM, "qdrantNodes": "5"}).index_copies == 3
    assert load({**SWARM, "qdrantNodes": "5", "qdrantReplicas": "2"}).index_copies == 2
    assert load({"qdrantUrl": "https://q.example:6333", "qdrantReplicas": "3"}).index_copies == 3


def test_what_must_be_had_is_named_by_its_key() -> None:
    assert set(load({}).pulled_images) == {"redisImage", "qdrantImage", "minioImage", "baseImage"}
    made_elsewhere = load({"appImage": "own/app:1", "index": "embedded"})
    assert set(made_elsewhere.pulled_images) == {"redisImage", "minioImage", "appImage"}
    assert "minioImage" not in load({"minioImage": "build"}).pulled_images


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        load({"workers": "0", "redisPort": "99999"})
    assert "lookingglass:workers" in str(refusal.value)
    assert "lookingglass:redisPort" in str(refusal.value)


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({}, "127.0.0.1"),
        ({"publicAddress": "10.0.0.7"}, "10.0.0.7"),
        ({"publicAddress": "0.0.0.0"}, "127.0.0.1"),
        ({"publicAddress": "0.0.0.0", "dockerHost": "ssh://ops@gpu1"}, "gpu1"),
        ({"publicAddress": "0.0.0.0", "publicHost": "faces.example"}, "faces.example"),
    ],
)
def test_urls_name_the_docker_host_as_it_is_reached(config: dict[str, str], host: str) -> None:
    assert load(config).host == host


def test_every_key_is_documented_with_its_default() -> None:
    written = dict(re.findall(r"^\| `([A-Za-z]+)` \| ([^|]+?) \|", PAGE, re.M))
    assert written.keys() == {to_camel(name) for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default, said = field.get_default(call_default_factory=True), written[to_camel(name)]
        assert said == ("–" if default in (None, [], {}) else f"`{_text(default)}`"), name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_committed_stack_is_usable_as_it_is() -> None:
    config = yaml.safe_load((ROOT / "Pulumi.gpu.yaml").read_text())["config"]
    taken = Settings.model_validate({key.removeprefix("lookingglass:"): value for key, value in config.items()})
    assert taken.gpus
