"""Who did what, and when: every action and every look at a picture."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from redis import Redis

log = logging.getLogger(__name__)

#: Redis list of entries, newest first, and how many are kept; the service's log has all.
AUDIT = "lookingglass:audit"
KEPT = 100_000

JSON = dict[str, Any]


class Audit:
    """The audit log. What cannot be written into it is not done."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def write(self, address: str, how: str, what: str, about: str = "", outcome: str = "") -> None:
        """Add an entry: `how` is whoever asked (`browser` or `api`), `what` the action, `about` its object.

        Raises:
            RedisError: it could not be kept.
        """
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "address": address,
            "how": how,
            "what": what,
            "about": about,
            "outcome": outcome,
        }
        log.info("Audit: %s %s", what, about, extra={"audit": entry})
        with self._redis.pipeline() as pipe:
            pipe.lpush(AUDIT, json.dumps(entry))
            pipe.ltrim(AUDIT, 0, KEPT - 1)
            pipe.execute()

    def page(self, start: int, limit: int) -> tuple[int, list[JSON]]:
        """How many entries there are, and those from `start` on, newest first."""
        found = self._redis.lrange(AUDIT, start, start + limit - 1)
        return int(self._redis.llen(AUDIT)), [json.loads(entry) for entry in found]
