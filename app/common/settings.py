"""Settings from the environment, checked before anything starts.

A variable may also come from a file of its name in `SECRETS_DIR` (default /run/secrets), as container engines
mount them, so that a password need not stand in an environment.
"""

import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Values of variables whose name holds one of these are never printed.
SECRET_WORDS = ("PASSWORD", "TOKEN", "KEY", "SECRET", "URL")

SECRETS_DIR = Path(os.environ.get("SECRETS_DIR", "/run/secrets"))


class ServiceSettings(BaseSettings):
    """Base of each service's settings: a field `redis_url` is read from `REDIS_URL`."""

    model_config = SettingsConfigDict(
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None,
    )


S = TypeVar("S", bound=ServiceSettings)


def load(settings: type[S]) -> S:
    """Read the settings of a service, or end the process with one message that names every wrong variable."""
    try:
        return settings()
    except ValidationError as error:
        sys.exit(explain(settings, error))


def explain(settings: type[ServiceSettings], error: ValidationError) -> str:
    """One readable paragraph for a failed validation."""
    lines = [f"{settings.__module__.rpartition('.')[0]}: the environment is not usable:"]
    for problem in error.errors():
        # A check over several fields has no field of its own; its message names the variables.
        name = "_".join(str(part) for part in problem["loc"]).upper()
        secret = any(word in name for word in SECRET_WORDS) or not name
        value = "" if secret or problem["type"] == "missing" else f"={problem['input']!r}"
        lines.append(f"  {name}{value}: {problem['msg'].removeprefix('Value error, ')}".replace("  : ", "  "))
    return "\n".join(lines)


def require_token_beyond_loopback(host: str, token: SecretStr | None, *, host_name: str, token_name: str) -> None:
    """Refuse to listen where others can connect while nobody is asked for a token.

    Raises:
        ValueError: `host` is not a loopback address and there is no token.
    """
    if token or is_loopback(host):
        return
    raise ValueError(
        f"{host_name}={host!r} is reachable from other machines but {token_name} is not set: "
        f"set {token_name}, or {host_name}=127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether a listening address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
