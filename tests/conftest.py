"""What all tests share: in CI nothing may be skipped."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

pytest_plugins = ["tests.fixtures", "tests.infra.engine"]


#: What must not run beside each other: tests on one Docker engine, and tests that share a stack.
GROUPS = {"infra": "docker", "ansible": "docker", "pipeline": "stack", "unit": "stack"}


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2` groups run beside each other: much of a test of failures, or on a machine, is waiting."""
    for item in items:
        directory = item.path.relative_to(Path(__file__).parent).parts[0]
        if group := GROUPS.get(directory):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a skip is a failure: a group of tests that cannot run there proves nothing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {call.excinfo and call.excinfo.value}"
    return report
