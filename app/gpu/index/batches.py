"""The one thread that changes the index: it takes all that waits, and answers when that is durable."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from app.gpu.index.changes import Change, Changes
from app.gpu.index.store import Payload

#: Claims and changes made at once, and the faces in them, unless one item alone has more.
MOST_CHANGES = 256
MOST_FACES = 2048

_END = object()


class Batches:
    """Claims and changes of many threads, made together; nothing waits for more to come."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def claim(self, item: str) -> Payload | None:
        """The record of an item as it is now, see `Changes.claim`."""
        found: Payload | None = self._ask(item)
        return found

    def make(self, change: Change) -> Payload:
        """Make a change; return the record once it is durable.

        Raises:
            OvertakenError: the item was changed since it was claimed.
        """
        record: Payload = self._ask(change)
        return record

    def call(self, work: Callable[[], Any]) -> Any:
        """Do something else that changes the index, in between."""
        return self._ask(work)

    def close(self) -> None:
        """Finish what waits, and end."""
        self._waiting.put((_END, None))
        self._thread.join()

    def _ask(self, wish: Any) -> Any:
        answer: Future[Any] = Future()
        self._waiting.put((wish, answer))
        return answer.result()

    def _run(self) -> None:
        put_off: list[tuple[Any, Future[Any]]] = []
        ended = False
        while not ended or put_off:
            taken, put_off = self._take(put_off, wait=not put_off)
            ended = ended or any(wish is _END for wish, _ in taken)
            self._answer(
                [(wish, answer) for wish, answer in taken if isinstance(wish, str)],
                lambda items: [found.get(item) for found in [self._changes.claim(items)] for item in items],
            )
            self._answer([(wish, answer) for wish, answer in taken if isinstance(wish, Change)], self._changes.make)
            for wish, answer in taken:
                if callable(wish):
                    self._answer([(wish, answer)], lambda calls: [call() for call in calls])

    def _take(
        self, first: list[tuple[Any, Future[Any]]], *, wait: bool
    ) -> tuple[list[tuple[Any, Future[Any]]], list[tuple[Any, Future[Any]]]]:
        """What waits, and what of it is put off: a second change of one item, and what is too much."""
        taken: list[tuple[Any, Future[Any]]] = []
        put_off: list[tuple[Any, Future[Any]]] = []
        items: set[str] = set()
        faces = 0
        for wish, answer in [*first, *self._all_waiting(wait)]:
            if isinstance(wish, Change):
                if wish.claim.item_id in items or len(taken) >= MOST_CHANGES or (items and faces > MOST_FACES):
                    put_off.append((wish, answer))
                    continue
                items.add(wish.claim.item_id)
                faces += len(wish.faces)
            taken.append((wish, answer))
        return taken, put_off

    def _all_waiting(self, wait: bool) -> list[tuple[Any, Future[Any]]]:
        found = [self._waiting.get()] if wait else []
        while True:
            try:
                found.append(self._waiting.get_nowait())
            except queue.Empty:
                return found

    def _answer(self, asked: list[tuple[Any, Future[Any]]], work: Callable[[list[Any]], list[Any]]) -> None:
        if not asked:
            return
        try:
            results = work([wish for wish, _ in asked])
        except Exception as error:  # whoever asked is told, and the thread goes on
            results = [error] * len(asked)
        for (_, answer), result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
