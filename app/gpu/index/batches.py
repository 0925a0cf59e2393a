"""Changes of many threads, made together by one of them: all that waits, and nothing waits for more.

Who finds nobody at it has the turn, sees to all that waits and passes the turn on. So who is alone waits for no other
thread, and the more there are, the more is made at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.gpu.index.changes import Change, Changes
from app.gpu.index.store import Payload

#: Claims and changes made at once, and the faces in them, unless one item alone has more.
MOST_CHANGES = 256
MOST_FACES = 2048


@dataclass(slots=True, eq=False)
class _Wish:
    """What a thread asks for: an item to be claimed, a change, or something else to be done."""

    what: "str | Change | Callable[[], Any]"
    answer: Any = None
    answered: bool = False
    #: Set when it is answered, or has the turn.
    called: threading.Event = field(default_factory=threading.Event)

    def give(self, answer: Any) -> None:
        self.answer, self.answered = answer, True
        self.called.set()


class Batches:
    """Claims and changes of many threads; `Changes` is used by one of them at a time."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._lock = threading.Lock()
        #: Whether somebody has the turn, and who waits; the first of them is the next who has it.
        self._turn_taken = False
        self._waiting: deque[_Wish] = deque()

    def claim(self, item: str) -> Payload:
        """The record of an item as it is now, see `Changes.claim`."""
        found: Payload = self._ask(item)
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
        """Wait until nobody waits any more."""
        while not self._is_idle():
            self.call(lambda: None)

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._turn_taken

    def _ask(self, what: "str | Change | Callable[[], Any]") -> Any:
        wish = _Wish(what)
        with self._lock:
            self._waiting.append(wish)
            waits, self._turn_taken = self._turn_taken, True
        if waits:
            wish.called.wait()
        if not wish.answered:
            try:
                self._answer_all(self._take())
            finally:
                self._pass_on()
        answer, wish.answer = wish.answer, None
        if isinstance(answer, BaseException):
            try:
                raise answer
            finally:
                # It knows of this frame: the picture would stay until a garbage collector comes.
                del answer
        return answer

    def _take(self) -> list[_Wish]:
        """What waits, but for a second change of one item, and what is too much: that waits on."""
        taken: list[_Wish] = []
        put_off: list[_Wish] = []
        items: set[str] = set()
        faces = 0
        with self._lock:
            for wish in self._waiting:
                if isinstance(wish.what, Change):
                    item = wish.what.claim.item_id
                    if item in items or len(taken) >= MOST_CHANGES or (items and faces > MOST_FACES):
                        put_off.append(wish)
                        continue
                    items.add(item)
                    faces += len(wish.what.faces)
                taken.append(wish)
            self._waiting = deque(put_off)
        return taken

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].called.set()
            else:
                self._turn_taken = False

    def _answer_all(self, wishes: Sequence[_Wish]) -> None:
        self._answer([wish for wish in wishes if isinstance(wish.what, str)], self._claim)
        self._answer([wish for wish in wishes if isinstance(wish.what, Change)], self._changes.make)
        for wish in wishes:
            if callable(wish.what):
                self._answer([wish], lambda calls: [call() for call in calls])

    def _claim(self, items: list[str]) -> list[Payload]:
        found = self._changes.claim(items)
        return [found[item] for item in items]

    def _answer(self, wishes: Sequence[_Wish], work: Callable[[list[Any]], Sequence[Any]]) -> None:
        if not wishes:
            return
        try:
            answers = work([wish.what for wish in wishes])
        except BaseException as error:  # everybody is told, and the turn goes on
            for wish in wishes:
                wish.give(error)
        else:
            for wish, answer in zip(wishes, answers, strict=True):
                wish.give(answer)
