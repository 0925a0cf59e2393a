"""The face services, as the console calls them."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

from app.console.settings import ConsoleSettings
from app.console.upstream import LOOK_SECONDS, AwayError, RefusedError, Service

#: Records in one answer at most.
PAGE = 1000

JSON = dict[str, Any]
T = TypeVar("T")


class FaceServices:
    """All of them, of which any answers for the index."""

    def __init__(self, settings: ConsoleSettings) -> None:
        token = settings.gpu_worker_token
        self.each = [Service("The face service", url, token) for url in settings.face_services()]

    def health(self, service: Service) -> JSON:
        """What one runs on and how busy it is; `problem` where it is not ready."""
        try:
            answer = service.get("/health")
        except RefusedError as error:
            return {"problem": str(error)}
        return {**answer, "load": self._load(service)}

    def records(
        self, *, limit: int = PAGE, after: str | None = None, **selection: str | None
    ) -> tuple[list[JSON], str | None]:
        """A page of records with these members, and where the next begins."""
        answer = self._any("GET", "/items", query={"limit": limit, "after": after, **selection}, seconds=LOOK_SECONDS)
        return answer["items"], answer["after"]

    def count(self, **selection: str | None) -> int:
        """How many records there are with these members."""
        return int(self._any("GET", "/items/count", query={**selection}, seconds=LOOK_SECONDS)["items"])

    def rejections(self) -> dict[str, int]:
        """How many records are rejected, by reason code; no others have one."""
        return dict(self._any("GET", "/items/count", query={"by": "reason_code"}, seconds=LOOK_SECONDS)["by"])

    def lookup(self, bucket: str, keys: list[str]) -> dict[str, JSON]:
        """What the index says of these objects, by key."""
        return dict(self._any("POST", "/items/lookup", body={"bucket": bucket, "keys": keys})["items"])

    def item(self, bucket: str, key: str) -> JSON:
        """An object's record (none where nothing is known of it), the points there are, its faces.

        `{"item", "points", "current", "faces"}`.
        """
        try:
            return self._any("GET", _path(bucket, key), query={"faces": "1"}, seconds=LOOK_SECONDS)
        except RefusedError as error:
            if error.status != 404:
                raise
            return {"item": None, "points": error.answer.get("points", 0), "current": False, "faces": []}

    def delete(self, bucket: str, key: str) -> int:
        """Drop an object's record and faces; return how many points there were."""
        return int(self._any("DELETE", _path(bucket, key))["deleted_points"])

    def models(self) -> list[JSON]:
        """The models that the index holds faces of."""
        return list(self._any("GET", "/models", seconds=LOOK_SECONDS)["models"])

    def switch_readers(self) -> None:
        """Let readers see the model in use."""
        self._any("POST", "/alias")

    def drop_model(self, model_id: str) -> None:
        """Drop the faces of a model that is not in use."""
        self._any("DELETE", f"/models/{quote(model_id, safe='')}")

    def _any(self, method: str, path: str, **more: Any) -> JSON:
        return self._reached(lambda service: service.ask(method, path, **more))

    def _reached(self, call: Callable[[Service], T]) -> T:
        """Call the first that answers; the last one's silence is raised."""
        for service in self.each[:-1]:
            with suppress(AwayError):
                return call(service)
        return call(self.each[-1])

    def _load(self, service: Service) -> JSON:
        """What its metrics tell of its work now."""
        try:
            text = service.send("GET", "/metrics", None, None, seconds=LOOK_SECONDS).decode()
        except (AwayError, RefusedError):
            return {}
        return {
            name: float(value)
            for name, value in re.findall(r"^lookingglass_(images_held|engine_busy_ratio) (\S+)$", text, re.M)
        }


def _path(bucket: str, key: str) -> str:
    # Dots too: "." and ".." would be taken for steps in a path.
    return "/items/" + "/".join(quote(part, safe="").replace(".", "%2E") for part in (bucket, key))
