"""What all tests share: in CI nothing may be skipped."""

import gc
import os
from collections.abc import Generator, Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.fixtures", "tests.infra.engine"]


#: What must not run beside each other, by the first of these that a test's id begins with: stacks made from the
#: working tree, and clusters; machines; what shares a stack of plain processes. Any other test is its own group.
GROUPS = {
    "tests/infra/": "docker",
    "tests/ansible/test_cluster_stack.py": "docker",
    "tests/ansible/test_swarm.py": "docker",
    "tests/ansible/": "machines",
    "tests/pipeline/": "stack",
    "tests/unit/": "stack",
}

#: The groups whose tests have a Docker engine.
ON_ENGINE = ("docker", "machines")


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each group of tests to one worker, for much of a test of failures, or on a machine, is waiting.

    In place of `--dist loadgroup`, which writes groups into node ids and has no effect since pytest 9.2
    (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    return next((group for begin, group in GROUPS.items() if nodeid.startswith(begin)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """How `-n 2` distributes tests."""
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pulumi leaves an event loop open where a resource fails, and docker-py does not wait for its ssh."""
    for item in items:
        if _group(item.nodeid) in ON_ENGINE:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what a test on an engine left collected in that test, and not in a later one that minds."""
    yield
    if _group(request.node.nodeid) in ON_ENGINE:
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
