"""Rewrite the shards of an embedded index without what was deleted.

In a process of its own, for Qdrant Edge lets no other thread of its process run meanwhile.
"""

import logging
import subprocess
import sys
from pathlib import Path

import qdrant_edge as edge

log = logging.getLogger(__name__)

#: Seconds after which it is left for another time; a million faces take about one minute.
TIMEOUT = 600


def vacuum(directory: Path) -> None:
    """Rewrite the shards in a directory that nobody has open, so far as a fifth of one was deleted."""
    if not _shards(directory):
        return
    command = [sys.executable, __file__, str(directory)]  # by its file: it needs nothing else of ours
    try:
        subprocess.run(command, check=True, timeout=TIMEOUT, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        log.warning("The index could not be rewritten without what was deleted: %s", error.stderr[-500:])
    except subprocess.TimeoutExpired:
        log.warning("The index was not rewritten without what was deleted: that took more than %d s", TIMEOUT)


def main(directory: Path) -> None:
    for path in _shards(directory):
        shard = edge.EdgeShard.load(str(path))
        shard.optimize()
        shard.close()


def _shards(directory: Path) -> list[Path]:
    return sorted(config.parent for config in directory.glob("*/edge_config.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
