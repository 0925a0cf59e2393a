"""How every service finds Redis: by URL, plain, with TLS, over a socket, or through Sentinel.

`redis+sentinel://:password@host:26379,host:26379/name/0` asks the Sentinels for the master called `name`;
`?sentinel_password=…` is what they themselves want. A CA of one's own is named by SSL_CERT_FILE.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379

#: Seconds for which a service that starts waits for a Redis that does not answer yet, and for each answer.
START_SECONDS = 15
START_TIMEOUT = 5

#: What no waiting mends: a password missing or wrong, a right not given, not a Redis.
REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError, ResponseError)


class SentinelAddress(NamedTuple):
    """A master as Sentinels know it."""

    hosts: list[tuple[str, int]]
    name: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def check_url(url: str) -> str:
    """A URL that `connect` takes.

    Raises:
        ValueError: it is none; the message says why, without a password.
    """
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{known}://' for known in SCHEMES)}")
    if scheme.endswith("+sentinel"):
        _sentinel_address(url)
    else:
        Redis.from_url(url).close()  # it parses, and does not connect yet
    return url


def connect(url: str, *, timeout: float | None = None, patient: bool = False) -> Redis:
    """A client of the Redis at a URL; it connects when it is first used.

    `timeout` is in seconds, for connecting and for each answer. A `patient` client tries a command for about 10 s
    before it fails, for Redis may be restarted at any moment.
    """
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if patient:
        options["retry"] = _PatientRetry(ExponentialBackoff(cap=2, base=0.1), 8)
        options["retry_on_error"] = [RedisConnectionError, RedisTimeoutError]
        options["health_check_interval"] = 30
    else:
        options["retry"] = Retry(NoBackoff(), 1)  # a connection that was closed while it was idle
    if "+sentinel://" not in url:
        return Redis.from_url(url, **options)
    found = _sentinel_address(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        found.hosts,
        sentinel_kwargs={"socket_timeout": START_TIMEOUT, **found.sentinel_options},
        **{**options, **found.options},
    )
    master: Redis = sentinel.master_for(found.name)  # type: ignore[no-untyped-call]
    return master


def require(url: str, service: str) -> None:
    """End the process with a message if Redis does not let this service in, or does not answer for a while."""
    deadline = time.monotonic() + START_SECONDS
    with connect(url, timeout=START_TIMEOUT) as connection:
        while True:
            try:
                connection.ping()
            except REFUSALS as error:
                sys.exit(f"{service}: {problem(error, url)}")
            except RedisError as error:
                if time.monotonic() > deadline:
                    sys.exit(f"{service}: {problem(error, url)}")
                time.sleep(0.5)
            else:
                return


def problem(error: RedisError, url: str) -> str:
    """A sentence for what Redis, or the way to it, said."""
    said, scheme = str(error) or type(error).__name__, url.partition("://")[0]
    secure = scheme.startswith("rediss")
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"Redis's certificate is not of a known CA ({said}): name the CA's file in SSL_CERT_FILE."
    if secure and ("SSL" in said.upper() or isinstance(error, RedisTimeoutError)):
        return f"Redis does not speak TLS there, or is not up ({said}): is it redis:// in REDIS_URL, or another port?"
    if isinstance(error, (NoPermissionError, AuthorizationError)):
        return f"Redis denies this user something ({said}): give it every command on every key of this database."
    if isinstance(error, AuthenticationError):
        return f"Redis does not take the password in REDIS_URL, or wants one ({said})."
    if not secure and ("closed by server" in said or "reset by peer" in said):
        return f"Redis does not answer ({said}): it may want TLS, with rediss:// in REDIS_URL, or not be up."
    return f"Redis does not answer ({said}): is REDIS_URL right, and Redis up?"


class _PatientRetry(Retry):
    """Waits for a Redis that is away, but not for one that refuses: no waiting mends that."""

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        def may_pass(error: Exception) -> bool:
            return not isinstance(error, REFUSALS) and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, may_pass, with_failure_count)


def _sentinel_address(url: str) -> SentinelAddress:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not (database or "0").isdigit():
        raise ValueError("must end in /NAME or /NAME/0: the master's name in Sentinel, and the database")
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if unknown := query.keys() - {"sentinel_password", "sentinel_username"}:
        raise ValueError(
            f"knows only sentinel_password and sentinel_username after ?, not {', '.join(sorted(unknown))}"
        )
    tls = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    options = {
        "username": unquote(username) or None,
        "password": unquote(password) or None,
        "db": int(database or 0),
        **tls,
    }
    sentinel_options: dict[str, Any] = {key.removeprefix("sentinel_"): value for key, value in query.items()}
    return SentinelAddress([_host(host) for host in hosts.split(",")], name, options, {**sentinel_options, **tls})


def _host(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not host or not (port or "0").isdigit():
        raise ValueError("must name each Sentinel as host or host:port, separated by commas")
    return host, int(port or SENTINEL_PORT)
