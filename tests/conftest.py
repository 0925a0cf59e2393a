"""What all tests share: in CI nothing may be skipped."""

import gc
import os
from collections.abc import Generator, Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.fixtures", "tests.infra.engine"]


#: What must not run beside each other: tests on one Docker engine, and tests that share a stack.
GROUPS = {"infra": "docker", "ansible": "docker", "pipeline": "stack", "unit": "stack"}


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each group of tests to one worker, for much of a test of failures, or on a machine, is waiting.

    In place of `--dist loadgroup`, which writes groups into node ids and has no effect since pytest 9.2
    (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    return GROUPS.get(nodeid.split("/")[1], nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """How `-n 2` distributes tests."""
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pulumi leaves an event loop open where a resource fails, and docker-py does not wait for its ssh."""
    for item in items:
        if _group(item.nodeid) == "docker":
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what a test on an engine left collected in that test, and not in a later one that minds."""
    yield
    if _group(request.node.nodeid) == "docker":
        gc.collect()


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
