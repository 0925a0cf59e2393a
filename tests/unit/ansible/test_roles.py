"""Rules that every role keeps."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "infra" / "ansible" / "roles"
PLAYBOOKS = ("gpu_hosts.yml", "swarm.yml")

NAMES = sorted(role.name for role in ROLES.iterdir())


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_described_and_every_option_has_a_default_or_is_required(role: str) -> None:
    options = _load(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]["main"].get("options", {})
    assert {name for name, option in options.items() if not option.get("required")} == set(
        _load(ROLES / role / "defaults" / "main.yml") or {}
    )
    for name, option in options.items():
        assert name.startswith(f"{role}_"), name
        assert option["description"].strip().endswith("."), name


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_role_that_changes_a_host_is_checked_first_and_has_its_tag(playbook: str) -> None:
    plays = [play for play in _load(ROLES.parent / playbook) if "roles" in play]
    assert plays
    for play in plays:
        tasks = [task for task in play["pre_tasks"] if "ansible.builtin.import_role" in task]
        checked = {task["ansible.builtin.import_role"]["name"]: task["tags"] for task in tasks}
        for role in play["roles"]:
            assert role["tags"] == role["role"]
            if (ROLES / role["role"] / "tasks" / "preflight.yml").exists():
                assert checked[role["role"]] == role["role"]


def test_a_key_of_nvidias_is_named_by_the_end_of_its_fingerprint() -> None:
    keys = _load(ROLES / "nvidia_driver" / "vars" / "main.yml")["nvidia_driver_keys"]
    assert set(keys) >= {"apt", "dnf"}
    for key in keys.values():
        assert key["fingerprint"].endswith(key["file"].removesuffix(".pub").upper())


@pytest.mark.parametrize("path", sorted(ROLES.rglob("*.yml")), ids=lambda path: str(path.relative_to(ROLES)))
def test_nothing_is_fetched_over_plain_http(path: Path) -> None:
    assert "http://" not in path.read_text().replace("swarm_api: http://localhost", "")  # over a unix socket
    assert "validate_certs: false" not in path.read_text()
