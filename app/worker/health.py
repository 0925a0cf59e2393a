"""`python -m app.worker.health`: exit 0 if the worker of this host gave a sign of life lately.

For a container's health check, where host and container are one.
"""

import socket
import sys

from rq import Worker
from rq.utils import as_text

from app.common.redis import connect
from app.common.settings import load
from app.worker.settings import WorkerSettings

#: Seconds for Redis to answer.
REDIS_TIMEOUT = 5


def main() -> None:
    """Look for this host's worker among those that Redis knows; they vanish when they fall silent."""
    settings = load(WorkerSettings)
    connection = connect(settings.redis_url, timeout=REDIS_TIMEOUT)
    prefix = f"{Worker.redis_worker_namespace_prefix}{settings.worker_name}.{socket.gethostname()}."
    known = (as_text(key) for key in connection.smembers(Worker.redis_workers_keys))
    alive = any(connection.exists(key) for key in known if key.startswith(prefix))
    sys.exit(None if alive else f"app.worker: no worker {prefix}* is known to Redis")


if __name__ == "__main__":
    main()
