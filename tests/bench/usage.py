"""What processes use: CPU time and memory, of a process and all that it started."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

#: The face service's processes by what their command line holds, and what they are called here.
PARTS = {"app.gpu.decode": "decoders", "app.gpu.infer": "engines"}

#: What a ratio of CPU times is called: what beside took, over what ours took. Who has more processes gets more of a
#: machine that others use too, and seems faster than it is; this does not.
BY_CPU = "ratio by CPU time"

#: What is not overhead: decoding pictures and looking at them.
INHERENT = frozenset(PARTS.values())


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU milliseconds until now by what a process is, numbered ones (`worker-1`) together, ended children included.

    The face service's decoders and engines are counted for themselves.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for name, member in _members(pids):
        times = member.cpu_times()
        total[name] += (times.user + times.system + times.children_user + times.children_system) * 1000
    return dict(total)


def spent(before: Mapping[str, float], after: Mapping[str, float], share: int) -> dict[str, float]:
    """CPU milliseconds between two looks, divided by so many images."""
    return {name: (after[name] - before.get(name, 0.0)) / share for name in after}


def overhead(spent: Mapping[str, float]) -> float:
    """CPU milliseconds outside decoding and engine."""
    return sum(value for name, value in spent.items() if name not in INHERENT)


def memory_of(pids: Mapping[str, int]) -> dict[str, float]:
    """MB in memory by what a process is; what a fork shares with its parent is not counted twice (PSS).

    Pages of mapped files are left out, programs as well as the embedded index: the kernel takes those back.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for name, member in _members(pids):
        total[name] += _own_memory(member.pid) / 1e6
    return dict(total)


def _own_memory(pid: int) -> int:
    """Bytes of a process that are not those of a file."""
    sizes = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if ":" in line
    )
    return sum(int(sizes[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))


def _members(pids: Mapping[str, int]) -> Iterator[tuple[str, psutil.Process]]:
    for name, pid in pids.items():
        kind = name.rstrip("0123456789").rstrip("-")
        for member in _family(pid):
            try:
                with member.oneshot():
                    command = member.cmdline()
                    yield next((part for module, part in PARTS.items() if module in command), kind), member
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def _family(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
