"""The engine as the program asks it."""

import gc
import os
import socket
from pathlib import Path

import pytest
from docker.transport import sshconn
from lookingglass.engine import EngineError, connect


# docker-py leaves each socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("address", ["unix://{0}/none.sock", "tcp://127.0.0.1:9", "unix://{0}/file"])
def test_an_address_where_no_engine_answers_is_named_with_the_key_that_says_it(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    address = address.format(tmp_path)
    said = f"no Docker engine answers at {address}: start it, or set lookingglass:dockerHost"
    with pytest.raises(EngineError, match=said), connect(address, timeout=2):
        pytest.fail("an engine answered")
    gc.collect()


def test_ssh_is_started_without_a_fork_that_grpc_might_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, ssh = tmp_path / "said", tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >{said}\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hooks: list[str] = []
    os.register_at_fork(before=lambda: hooks.append("ran"))
    connection = sshconn.SSHSocket("ops@192.0.2.1:2222")
    connection.connect()
    assert connection.proc
    connection.proc.communicate()
    socket.socket.close(connection)
    assert said.read_text() == "-l ops -p 2222 -- 192.0.2.1 docker system dial-stdio\n"
    assert hooks == []
