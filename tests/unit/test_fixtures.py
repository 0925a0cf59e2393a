"""Ports of the tests: still free when they are used, minutes after they were chosen."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from infra.local.tools import ROOT
from tests import fixtures
from tests.fixtures import free_port


def test_no_outgoing_connection_gets_a_chosen_port() -> None:
    low, high = (int(bound) for bound in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    assert [port for port in ports if low <= port <= high] == []


def test_a_port_is_chosen_once_among_all_processes_of_the_tests() -> None:
    ours = {free_port() for _ in range(50)}
    script = (
        "from tests.fixtures import _claimed; import sys; print(*(p for p in map(int, sys.argv[1:]) if _claimed(p)))"
    )
    command = [sys.executable, "-c", script, *map(str, ours)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_port_in_use_is_passed_over() -> None:
    port = free_port()
    os.close(fixtures._claims.pop())
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        assert not fixtures._claimed(port)
    assert fixtures._claimed(port)
