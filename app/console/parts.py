"""The parts of the pipeline behind the console, and asking many of them at once."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from app.common.errors import LookingGlassError
from app.common.inspection import jobs_by_state
from app.common.redis import connect, problem
from app.console.audit import Audit
from app.console.backlog import Backlog
from app.console.bucket import Bucket
from app.console.faces import FaceServices
from app.console.settings import ConsoleSettings
from app.console.upstream import LOOK_SECONDS, AwayError
from app.console.webhook import Webhook

#: Seconds after which a page is made without those that have not answered.
PATIENCE = LOOK_SECONDS + 0.25

#: Seconds for Redis to answer; it is asked once more where it does not, and a page waits.
REDIS_SECONDS = LOOK_SECONDS / 2

#: Questions under way at once, over all pages.
ASKERS = 32


class Parts:
    """One adapter for each part, made once."""

    def __init__(self, settings: ConsoleSettings, connection: Redis | None = None) -> None:
        self.settings = settings
        self.redis = connection or connect(settings.redis_url, timeout=REDIS_SECONDS)
        self.webhook = Webhook(settings)
        self.faces = FaceServices(settings)
        self.bucket = Bucket(settings)
        self.audit = Audit(self.redis)
        self.backlog = Backlog(lambda: waiting(jobs_by_state(self.redis, settings.all_queues())))
        self._askers = ThreadPoolExecutor(ASKERS, thread_name_prefix="asker")

    def close(self) -> None:
        """Let go of what is held open."""
        self.backlog.close()
        self._askers.shutdown(cancel_futures=True)
        self.redis.close()

    def ask(self, questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Ask all at once; an answer is a `LookingGlassError` where a part is away, refuses or is too slow."""
        asked = {name: self._askers.submit(self._answer, question) for name, question in questions.items()}
        done, _ = wait(asked.values(), timeout=PATIENCE)
        late = AwayError(f"No answer within {PATIENCE:.0f} s.")
        return {name: future.result() if future in done else late for name, future in asked.items()}

    def _answer(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RedisError as error:
            return AwayError(problem(error, self.settings.redis_url))
        except LookingGlassError as error:
            return error


def waiting(counts: Mapping[str, Mapping[str, int]]) -> int:
    """Jobs that are still to be done, over all queues."""
    return sum(of[f"{state}_jobs"] for of in counts.values() for state in ("queued", "started", "scheduled"))
