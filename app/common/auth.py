"""Bearer tokens, compared in constant time."""

import hmac

from pydantic import SecretStr


def bearer_matches(header: str | None, token: SecretStr | None) -> bool:
    """Whether an `Authorization` header carries `token`; anything does where no token is set."""
    if token is None:
        return True
    given = (header or "").strip()
    if given[:7].lower() == "bearer ":
        given = given[7:].strip()
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.get_secret_value().encode())
