"""The console's HTTP API, as the command calls it."""

import json
from typing import Any

import urllib3

from app.cli.where import Where
from app.common.errors import LookingGlassError

#: Seconds to connect and to answer; one call may work through many objects.
TIMEOUT = urllib3.Timeout(connect=5, read=120)

JSON = dict[str, Any]


class UnreachableError(LookingGlassError):
    """The console does not answer, or does not know the token."""


class RefusedError(LookingGlassError):
    """What was asked for was not done; the message says why."""


class Console:
    """Reads what its pages show, and does what its buttons do."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=False)

    def get(self, path: str, **query: str | int | None) -> JSON:
        """What a page shows.

        Raises:
            UnreachableError, RefusedError
        """
        fields = {name: str(value) for name, value in query.items() if value not in (None, "")}
        return self._call("GET", path, fields=fields)

    def do(self, action: str, **given: str) -> JSON:
        """Do an action: `{"done": what was done, "more": whether the same again would do more}`.

        Raises:
            UnreachableError, RefusedError
        """
        return self._call("POST", f"/do/{action}", body=json.dumps(given).encode())

    def _call(self, method: str, path: str, **more: Any) -> JSON:
        url = self._where.url
        headers = {"Authorization": f"Bearer {self._where.token}", "Content-Type": "application/json"}
        try:
            answer = self._http.request(method, url + path, headers=headers, redirect=False, **more)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"The console at {url} does not answer: {error}") from error
        try:
            said: JSON = json.loads(answer.data)
        except ValueError as error:
            raise UnreachableError(f"What answers at {url} is no console (HTTP {answer.status}).") from error
        if answer.status == 401:
            raise UnreachableError(f"The console at {url} does not know the token.")
        if answer.status != 200:
            raise RefusedError(said.get("error") or f"The console answered {answer.status}.")
        return said
