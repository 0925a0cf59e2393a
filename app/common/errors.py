"""The errors a user can act on.

Two branches, because the queue treats them differently: what may pass by itself (`TransientError`) and what
never will (`PermanentError`). Each message is a sentence: what was wrong, where, and what to do. Each class has a
`code`, a stable word for programs, and the HTTP `status` it is answered with.
"""

from collections.abc import Mapping

#: HTTP status of a permanent error by its code; 422 for what is not named.
PERMANENT_STATUS = {"bad_request": 400, "not_an_image": 415, "too_many_bytes": 413, "too_many_pixels": 413}


class LookingGlassError(Exception):
    """Root of the errors raised on purpose."""

    code = "internal"
    status = 500


class TransientError(LookingGlassError):
    """Something the job needs is away for a while; the job waits and is tried again."""

    code = "unavailable"
    status = 503


class NotFoundError(LookingGlassError):
    """There is no such thing; the message names where to look for those that there are."""

    code = "not_found"
    status = 404


class PermanentError(LookingGlassError):
    """This object, as it is, can never be processed.

    `code` is a stable word for programs, the message a sentence for people; both end up on the item record. So does
    `judged_by`: the settings and versions that the verdict depends on, by name, with the values they had.
    """

    def __init__(self, code: str, message: str, judged_by: Mapping[str, str | int | float] | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.judged_by = dict(judged_by or {})
        self.status = PERMANENT_STATUS.get(code, 422)

    def __str__(self) -> str:
        return self.message
