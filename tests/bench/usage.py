"""What processes use: CPU time and memory, of a process and all that it started."""

from collections.abc import Iterator, Mapping

import psutil

MB = 2**20


def cpu_ms(pid: int) -> float:
    """CPU milliseconds of a process and its descendants until now, those that have ended included."""
    total = 0.0
    for member in _family(pid):
        times = member.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total * 1000


def rss(pid: int) -> int:
    """Bytes in memory of a process and its descendants; pages that they share are counted once for each sharer.

    Proportional set sizes, so what a fork shares with its parent is not counted twice.
    """
    total = 0
    for member in _family(pid):
        total += int(member.memory_full_info().pss)
    return total


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU milliseconds by the name of a process, numbered ones (`worker-1`) together."""
    total: dict[str, float] = {}
    for name, pid in pids.items():
        kind = name.rstrip("0123456789").rstrip("-")
        total[kind] = total.get(kind, 0.0) + cpu_ms(pid)
    return total


def spent(before: Mapping[str, float], after: Mapping[str, float], share: int) -> dict[str, float]:
    """CPU milliseconds between two looks, divided by so many images."""
    return {name: (after[name] - before[name]) / share for name in after}


def _family(pid: int) -> Iterator[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in members:
        try:
            with member.oneshot():
                yield member
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
