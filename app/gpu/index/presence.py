"""Which face services are at work on an index, told in the index itself."""

import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable

from app.gpu.index.layout import SERVICES
from app.gpu.index.store import Point, Store, Where

#: Seconds between two signs of life, and after which a silent service counts as gone; clocks may differ a little.
INTERVAL = 15.0
GONE_AFTER = 90.0

#: Services listed; nobody runs more.
MOST = 1000


class Presence:
    """One face service's sign of life among the others'."""

    def __init__(self, store: Store, model_id: str, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._model_id = model_id
        self._now = now
        self._id = str(uuid.uuid4())

    def announce(self) -> None:
        """Say that this service is at work with its model; forget those that are long gone."""
        sign = {
            "service": self._id,
            "model_id": self._model_id,
            "host": socket.gethostname(),
            "seen_at": self._now(),
        }
        self._store.upsert(SERVICES, [Point(self._id, None, sign)])
        self._store.delete(SERVICES, Where(below={"seen_at": self._now() - 10 * GONE_AFTER}))

    def other_models(self) -> dict[str, int]:
        """The models that other services are at work with, and how many each."""
        found, _ = self._store.page(SERVICES, Where(), limit=MOST, members=("model_id", "seen_at"))
        alive = [sign for sign in found.values() if sign["seen_at"] > self._now() - GONE_AFTER]
        return dict(Counter(sign["model_id"] for sign in alive if sign["model_id"] != self._model_id))

    def leave(self) -> None:
        """Say that this service is at work no longer."""
        self._store.delete(SERVICES, Where(having={"service": self._id}))
