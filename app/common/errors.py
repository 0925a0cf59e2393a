"""The errors a user can act on.

Two branches, because the queue treats them differently: what may pass by itself (`TransientError`) and what
never will (`PermanentError`). Each message is a sentence: what was wrong, where, and what to do.
"""

from collections.abc import Mapping


class LookingGlassError(Exception):
    """Root of the errors raised on purpose."""


class TransientError(LookingGlassError):
    """Something the job needs is away for a while; the job waits and is tried again."""


class PermanentError(LookingGlassError):
    """This object, as it is, can never be processed.

    `code` is a stable word for programs, the message a sentence for people; both end up on the item record.
    `judged_by` holds the settings and versions that the verdict depends on: under others it may be a different one.
    """

    def __init__(self, code: str, message: str, judged_by: Mapping[str, str | int | float] | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.judged_by = dict(judged_by or {})

    def __str__(self) -> str:
        return self.message
