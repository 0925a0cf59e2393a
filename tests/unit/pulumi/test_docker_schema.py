"""The stand-in for Pulumi's docker plugin refuses and rewrites what the real one does."""

from typing import Any

import pytest

from tests.infra.docker_schema import go_duration, refused, written_back

FINE: dict[str, Any] = {
    "image": "sha256:1",
    "command": ["redis-server"],
    "envs": ["A=b"],
    "healthcheck": {
        "tests": ["CMD", "true"],
        "interval": "5s",
        "timeout": "5s",
        "startPeriod": "2m0s",
        "retries": 3.0,
    },
    "wait": True,
    "waitTimeout": 60.0,
    "ports": [{"internal": 80.0, "external": 8080.0, "ip": "127.0.0.1"}],
    "tmpfs": {"/tmp": "size=64m"},
    "readOnly": True,
    "memory": 64.0,
    "memorySwap": 64.0,
    "networkMode": "bridge",
}


def test_what_the_program_declares_is_taken() -> None:
    assert list(refused("Container", FINE)) == []
    assert list(refused("Volume", {"name": "a", "labels": [{"label": "b", "value": "c"}]})) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"command": ["--save", ""]}, "command"),
        ({"command": "redis-server"}, "command"),
        ({"memmory": 64.0}, "memmory"),
        ({"memory": "64"}, "memory"),
        ({"memory": 1.5}, "memory"),
        ({"memory": -1.0}, "memory"),
        ({"readOnly": "true"}, "readOnly"),
        ({"ports": [{"internal": 80.0, "publish": 8080.0}]}, "ports[0].publish"),
        ({"ports": [{"internal": 0.0}]}, "ports[0].internal"),
        ({"healthcheck": {"tests": ["CMD"], "interval": "5"}}, "healthcheck.interval"),
        ({"tmpfs": {"/tmp": 64.0}}, "tmpfs./tmp"),
        ({"restart": "sometimes"}, "restart"),
        ({"volumes": [{"volumeName": "a", "containerPath": "data"}]}, "volumes[0].containerPath"),
        ({"uploads": [{"file": "/run/secrets/a", "content": "b"}]}, "uploads"),
    ],
)
def test_what_the_plugin_refuses_is_refused_by_its_name(wrong: dict[str, Any], named: str) -> None:
    assert [name for name, _ in refused("Container", {**FINE, **wrong})] == [named]


def test_what_is_left_out_is_missed() -> None:
    assert [name for name, _ in refused("Container", {})] == ["image"]
    without = {name: value for name, value in FINE.items() if name != "healthcheck"}
    assert [name for name, _ in refused("Container", without)] == ["wait"]


def test_a_form_of_its_own_is_written_back() -> None:
    assert {name: FINE[name] for name in written_back("Container", FINE)} == written_back("Container", FINE)
    given = {
        **FINE,
        "healthcheck": {**FINE["healthcheck"], "startPeriod": "120s"},
        "ports": [{"internal": 90.0}, {"internal": 80.0}],
    }
    del given["memorySwap"], given["networkMode"]
    back = written_back("Container", given)
    assert back["healthcheck"]["startPeriod"] == "2m0s"
    assert back["ports"] == [{"internal": 80.0}, {"internal": 90.0}]
    assert (back["memorySwap"], back["networkMode"]) == (128.0, "bridge")


@pytest.mark.parametrize(("seconds", "written"), [(0.5, "0.5s"), (59, "59s"), (120, "2m0s"), (3605, "1h0m5s")])
def test_durations_are_those_of_go(seconds: float, written: str) -> None:
    assert go_duration(int(seconds * 1e9)) == written
