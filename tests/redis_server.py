"""Redis servers of a test's own, with whatever options it needs."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from infra.local import tools
from infra.local.processes import ChildProcess
from tests.fixtures import free_port

#: Seconds for a server to start.
START_SECONDS = 20


@contextmanager
def redis_server(directory: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """A server on loopback that keeps nothing, and its port; TLS alone where the options name a `--tls-port`."""
    try:
        program = str(tools.redis_server())
    except tools.ToolError as error:
        pytest.skip(str(error))
    port = port or free_port()
    directory.mkdir(exist_ok=True)
    listening = ["--tls-port", str(port), "--port", "0"] if "--tls-cert-file" in options else ["--port", str(port)]
    if "--tls-cert-file" in options and "libssl" not in _libraries(program):
        pytest.skip(f"{program} was built without TLS: apt-get install redis-server")
    command = [program, "--bind", "127.0.0.1", *listening, "--save", "", "--dir", str(directory), *options]
    process = ChildProcess("redis", command, dict(os.environ), directory / "redis.log")
    process.start()
    try:
        process.wait_until(lambda: "Ready to accept connections" in process.log.read_text(), START_SECONDS)
        yield port
    finally:
        process.stop()


def _libraries(program: str) -> str:
    """What a program is linked with."""
    return subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout


@contextmanager
def sentinel(directory: Path, master_port: int, *, name: str = "faces", password: str = "") -> Iterator[int]:
    """A Sentinel that watches a master, and its port."""
    try:
        program = str(tools.redis_server())
    except tools.ToolError as error:
        pytest.skip(str(error))
    port = free_port()
    directory.mkdir(exist_ok=True)
    configuration = directory / "sentinel.conf"
    lines = [f"port {port}", "bind 127.0.0.1", f"sentinel monitor {name} 127.0.0.1 {master_port} 1"]
    lines += [f"sentinel auth-pass {name} {password}"] if password else []
    configuration.write_text("\n".join(lines) + "\n")
    command = [program, str(configuration), "--sentinel"]
    process = ChildProcess("sentinel", command, dict(os.environ), directory / "sentinel.log")
    process.start()
    try:
        with redis.Redis(port=port) as probe:
            process.wait_until(lambda: _knows(probe, name), START_SECONDS)
        yield port
    finally:
        process.stop()


def _knows(probe: "redis.Redis", name: str) -> bool:
    try:
        state = probe.sentinel_master(name)
    except redis.RedisError:
        time.sleep(0.1)
        return False
    return isinstance(state, dict) and not state["is_sdown"]
