"""Both HTTP APIs under what their own descriptions allow, and what they do not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import Pipeline, standing

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

#: Requests made up for each endpoint.
EXAMPLES = 40


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack of its own, for what is made up leaves its traces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBHOOK_TOKEN", "")
        with standing(tmp_path_factory.mktemp("fuzzed"), workers=1) as found:
            yield found


@pytest.mark.parametrize("service", ["webhook", "gpu_worker"])
def test_no_request_is_a_surprise(fuzzed: Pipeline, service: str, tmp_path: Path) -> None:
    url = str(fuzzed.outputs[f"{service}_url"])
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", str(EXAMPLES), "--workers", "2", "--request-timeout", "60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert fuzzed.call("GET", f"{service}/health")[0] == 200
    for process in fuzzed.stack.processes.values():
        assert process.running(), process.name
