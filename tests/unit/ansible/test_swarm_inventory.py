"""What the inventory of a cluster may not say: refused with one line, before any host is asked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import contract

PLAYBOOKS = Path(__file__).parents[3] / "infra" / "ansible"

#: A playbook with the first play only: what follows would ask the hosts.
FIRST_PLAY = {
    "hosts": "localhost",
    "connection": "local",
    "gather_facts": False,
    "tasks": [{"ansible.builtin.import_role": {"name": "swarm", "tasks_from": "inventory"}}],
}


#: Says what each host would open, without asking it.
RULES = {
    "hosts": "all",
    "connection": "local",
    "gather_facts": False,
    "vars": {"swarm_registry_port": 5000},
    "tasks": [
        {"ansible.builtin.include_vars": str(PLAYBOOKS / "roles" / "swarm" / "vars" / "main.yml")},
        {"ansible.builtin.debug": {"msg": "{{ swarm_ufw_rules }} {{ swarm_firewalld_rules }}"}},
    ],
}


def check(
    directory: Path, play: dict[str, Any] = FIRST_PLAY, **groups: dict[str, dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """Check an inventory, given as the variables of the hosts of each group."""
    inventory, playbook = directory / "hosts.json", directory / "check.yml"
    inventory.write_text(json.dumps({group: {"hosts": hosts} for group, hosts in groups.items()}))
    playbook.write_text(yaml.safe_dump([play]))
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", inventory, playbook],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(PLAYBOOKS / "roles"),
            "ANSIBLE_HOME": str(directory),
            "ANSIBLE_NOCOLOR": "1",
        },
    )


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"swarm_workers": {"a": {}}}, "has no host in the group swarm_managers: name one there"),
        ({"swarm_managers": {"a": {"swarm_state": "absent"}}}, "swarm_managers that stays (swarm_state)"),
        (
            {"swarm_managers": {"a": {}}, "swarm_workers": {"a": {}}},
            "a cannot be in swarm_managers and in swarm_workers",
        ),
        (
            {"swarm_managers": {"a": {"swarm_state": "gone"}}},
            "swarm_state is active, drained or absent, not {'a': 'gone'}",
        ),
        ({"swarm_managers": {"a": {"swarm_keeps": {"mysql": 1}}}}, "and not mysql"),
        (
            {
                "swarm_managers": {"a": {"swarm_keeps": {"redis": 1}}},
                "swarm_workers": {"b": {"swarm_keeps": {"redis": 1}}},
            },
            "Two hosts keep the same",
        ),
        ({"swarm_managers": {"a": {"swarm_keeps": {"registry": 2}}}}, "There is one registry"),
        (
            {
                "swarm_managers": {"a": {}},
                "swarm_workers": {"b": {"swarm_keeps": {"redis": 1}, "swarm_state": "absent"}},
            },
            'b is to leave the cluster and keeps {"redis": 1}: move that',
        ),
        (
            {
                "swarm_managers": {"a": {}},
                "swarm_workers": {"b": {}},
                "gpu_hosts": {"b": {"nvidia_container_toolkit_version": "1.18.2"}},
            },
            "1.18.2 of b is too old for a Swarm; 1.19 or newer",
        ),
    ],
    ids=[
        "no-manager",
        "no-manager-left",
        "two-roles",
        "state",
        "service",
        "kept-twice",
        "registry",
        "data-leaves",
        "toolkit",
    ],
)
def test_nonsense_is_refused(tmp_path: Path, groups: dict[str, dict[str, dict[str, Any]]], sentence: str) -> None:
    result = check(tmp_path, **groups)
    assert result.returncode != 0
    assert sentence in " ".join(result.stdout.split())
    assert "failed=1" in result.stdout


def test_three_managers_pass_in_silence_and_four_are_warned_of(tmp_path: Path) -> None:
    three = check(tmp_path, swarm_managers={name: {} for name in "abc"})
    assert (three.returncode, "WARNING" in three.stdout) == (0, False), three.stdout
    four = check(tmp_path, swarm_managers={name: {} for name in "abcd"})
    assert four.returncode == 0
    assert "WARNING: 4 managers can lose no more" in " ".join(four.stdout.split())


def test_pulumi_and_ansible_mean_the_same_labels() -> None:
    variables = yaml.safe_load((PLAYBOOKS / "roles" / "swarm" / "vars" / "main.yml").read_text())
    assert tuple(variables["swarm_data_services"]) == contract.DATA_SERVICES
    assert variables["swarm_label_prefix"] + "data" == contract.DATA_LABEL
    served = variables["swarm_registry_served"].replace(
        "{{ swarm_registry_directory }}", variables["swarm_registry_directory"]
    )
    assert (served, variables["swarm_registry_user"]) == (contract.REGISTRY_DIRECTORY, contract.REGISTRY_USER)
    assert contract.data_label("redis") == variables["swarm_label_prefix"] + "redis"


def test_the_registrys_port_is_opened_on_its_host_only(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"a": {}, "b": {"swarm_keeps": {"registry": 1}}}
    said = " ".join(check(tmp_path, RULES, swarm_managers=hosts, gpu_hosts={}).stdout.split())
    a, b = sorted(said.partition("PLAY RECAP")[0].split(" => ")[1:], key=lambda opened: "5000" in opened)
    assert ("2377,7946'" in a, "5000" in a) == (True, False)
    assert ("2377,7946,5000'" in b, "port port=5000 protocol=tcp" in b) == (True, True)
