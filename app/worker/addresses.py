"""The face services there are, in turn: several URLs, and of each every address that its name stands for."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3

from app.common.sockets import WATCHED

#: Seconds for which a name's addresses are believed: a service that was added is found so soon.
BELIEVED_S = 10
#: Seconds for which an address that did not answer is asked last.
PASSED_OVER_S = 10

#: Connections kept to each; a video has a few frames under way at once.
CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Address:
    """One face service: where it is, and what it is called."""

    url: str
    scheme: str
    host: str
    port: int
    #: What a certificate must name, and what the header Host says.
    name: str


class Addresses:
    """Takes turns over face services, the dead ones last."""

    def __init__(self, urls: str) -> None:
        self._urls = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
        self._turn = itertools.count()
        self._known: list[Address] = []
        self._known_until = 0.0
        self._silent_until: dict[Address, float] = {}
        self._pools: dict[Address, urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return ", ".join(self._urls)

    def in_turn(self) -> Iterator[tuple[Address, urllib3.HTTPConnectionPool]]:
        """Every face service once, beginning with the one whose turn it is; those that fell silent come last."""
        with self._lock:
            now = time.monotonic()
            if now >= self._known_until:
                self._resolve()
                self._known_until = now + BELIEVED_S
            first = next(self._turn) % len(self._known)
            order = self._known[first:] + self._known[:first]
            order.sort(key=lambda address: self._silent_until.get(address, 0.0) > now)
            pairs = [(address, self._pools.setdefault(address, _pool(address))) for address in order]
        return iter(pairs)

    def silent(self, address: Address) -> None:
        """Pass over an address for a while: it did not answer."""
        self._silent_until[address] = time.monotonic() + PASSED_OVER_S
        self._known_until = 0.0

    def _resolve(self) -> None:
        found = dict.fromkeys(address for url in self._urls for address in _addresses(url))
        for gone in self._pools.keys() - found.keys():
            self._pools.pop(gone).close()
        self._silent_until = {a: until for a, until in self._silent_until.items() if a in found}
        self._known = list(found)


def _addresses(url: str) -> list[Address]:
    """Every address of a URL's host; the name itself where it cannot be resolved now, which the call then tells."""
    parts = urlsplit(url)
    name, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = {info[4][0] for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    except OSError:
        found = {name}
    if len(found) > 1 and name == "localhost":
        found = {name}  # one service with two families
    return [Address(url, parts.scheme, str(host), port, name) for host in sorted(map(str, found))]


def _pool(address: Address) -> urllib3.HTTPConnectionPool:
    if address.scheme == "https":
        return urllib3.HTTPSConnectionPool(
            address.host,
            address.port,
            maxsize=CONNECTIONS,
            retries=False,
            assert_hostname=address.name,
            server_hostname=address.name,
            socket_options=WATCHED,
        )
    return urllib3.HTTPConnectionPool(
        address.host, address.port, maxsize=CONNECTIONS, retries=False, socket_options=WATCHED
    )
