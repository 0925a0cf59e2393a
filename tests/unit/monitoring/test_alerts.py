"""Alerts come when they should and not otherwise, and name a page and a paragraph that are there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.monitoring.prometheus import ALERTS

ROOT = Path(__file__).parents[3]
RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
TESTS = yaml.safe_load(ALERTS.with_name("alerts_test.yml").read_text())["tests"]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not on PATH: Debian's prometheus")
    return found


def test_the_rules_are_sound_and_alert_on_made_up_series_as_they_should(promtool: str) -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=ALERTS.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", RULES)
def test_each_alert_is_tried_both_ways(name: str) -> None:
    tried = [case["exp_alerts"] for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    assert [alerts for alerts in tried if alerts], "no series raises it"
    if name not in ("FaceServiceOnCPU",):  # its one case holds series that must not raise it
        assert [alerts for alerts in tried if not alerts], "no series leaves it alone"


@pytest.mark.parametrize("name", RULES)
def test_each_alert_names_the_page_and_the_paragraph_that_help(name: str) -> None:
    annotations = RULES[name]["annotations"]
    assert annotations["page"] in ("/", "/objects", "/trouble", "/actions")
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert annotations["help"] in anchors
    assert RULES[name]["labels"]["severity"] in ("critical", "warning")
