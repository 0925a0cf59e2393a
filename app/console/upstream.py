"""The HTTP services behind the console: asked briefly, for a page waits for their answers."""

import json
from typing import Any
from urllib.parse import urlencode

import urllib3
from pydantic import SecretStr

from app.common.errors import LookingGlassError, TransientError

#: Seconds for a service to answer before its part of a page says that it is away.
LOOK_SECONDS = 1.25
#: Seconds for what changes something, or counts much.
WORK_SECONDS = 30

#: Codes of what the console itself refuses, by status.
CODES = {400: "bad_request", 404: "not_found", 409: "conflict", 503: "unavailable"}

JSON = dict[str, Any]


class AwayError(TransientError):
    """A part of the pipeline does not answer; the message says which, and how it failed."""


class RefusedError(LookingGlassError):
    """A service answered that it will not; the message is the service's own."""

    def __init__(self, message: str, status: int, answer: JSON | None = None) -> None:
        super().__init__(message)
        self.status = status if 400 <= status < 500 else 503
        #: The whole answer, where it was JSON.
        self.answer = answer or {}
        self.code = str(self.answer.get("code") or CODES.get(self.status, "refused"))


class Service:
    """One service, by its URL and token."""

    def __init__(self, name: str, url: str, token: SecretStr | None) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._http = urllib3.PoolManager(maxsize=8, retries=False)

    def get(self, path: str, **query: str | int | None) -> JSON:
        """The JSON that a GET answers, within `LOOK_SECONDS`.

        Raises:
            AwayError: no answer.
            RefusedError: an answer other than 2xx.
        """
        return self.ask("GET", path, query=query, seconds=LOOK_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: JSON | None = None,
        query: dict[str, str | int | None] | None = None,
        seconds: float = WORK_SECONDS,
    ) -> JSON:
        """The JSON that a request answers; raises as `get`."""
        data = None if body is None else json.dumps(body).encode()
        raw = self.send(method, path, data, "application/json" if body is not None else None, query, seconds)
        answer: JSON = json.loads(raw)
        return answer

    def send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        content_type: str | None,
        query: dict[str, str | int | None] | None = None,
        seconds: float = WORK_SECONDS,
    ) -> bytes:
        """The bytes that a request answers; raises as `get`."""
        fields = {name: str(value) for name, value in (query or {}).items() if value not in (None, "")}
        headers = self._headers | ({"Content-Type": content_type} if content_type else {})
        url = self.url + path + ("?" + urlencode(fields) if fields else "")
        try:
            answer = self._http.request(
                method, url, body=data, headers=headers, timeout=urllib3.Timeout(connect=1, read=seconds)
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AwayError(f"{self.name} at {self.url} does not answer ({_why(error)}).") from error
        if not 200 <= answer.status < 300:
            said = _json(answer.data)
            raise RefusedError(said.get("error") or f"{self.name} answered {answer.status}.", answer.status, said)
        return bytes(answer.data)


def _why(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "no such host"
    return "connection refused" if "refused" in str(error) else type(error).__name__


def _json(data: bytes) -> JSON:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
