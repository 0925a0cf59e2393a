"""The wire between worker and face service: the errors it carries, and the binary form of what goes over it.

An error travels as its class's `status` and `code` and comes out as the same class. Bodies are JSON, or msgpack
(`MSGPACK`) with the same members, where an embedding is the bytes of its little-endian float32 numbers.
"""

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.common.errors import LookingGlassError, NotFoundError, PermanentError, TransientError

MSGPACK = "application/msgpack"

#: How an embedding's numbers lie in its bytes.
EMBEDDING = np.dtype("<f4")


class BusyError(TransientError):
    """There is no place for the picture right now; come back in a moment."""

    code = "busy"


class OvertakenError(TransientError):
    """Somebody else changed the item meanwhile, so nothing was written."""

    code = "overtaken"
    status = 409


class ModelChangedError(TransientError):
    """The faces are of another model than the one that the face service runs."""

    code = "model_changed"
    status = 409


class ConflictError(LookingGlassError):
    """What was asked for does not fit the state of the index; the message says why."""

    code = "conflict"
    status = 409


class EngineCrashedError(LookingGlassError):
    """An engine process died, hung or failed on this picture; others are not affected."""

    code = "engine_crashed"


class FaceServiceError(LookingGlassError):
    """The face service failed in a way that was not foreseen, which need not be this object's fault."""


_BY_CODE: dict[str, type[LookingGlassError]] = {
    error.code: error
    for error in (BusyError, OvertakenError, ModelChangedError, ConflictError, EngineCrashedError, NotFoundError)
}


def raised_by(status: int, code: str, message: str) -> LookingGlassError:
    """The error that an answer of the face service tells of.

    A verdict on the object needs a status and a code of ours: without a code it is not the face service that speaks,
    and 401 or an unknown status is for an operator to mend, while the job waits.
    """
    if known := _BY_CODE.get(code):
        return known(message)
    if status in (413, 415, 422) and code:
        return PermanentError(code, message)
    if status in (400, 500):
        return FaceServiceError(message)
    return TransientError(f"The face service answered {status}: {message}")


def pack(value: Any) -> bytes:
    """A value as msgpack."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes) -> Any:
    """A value from msgpack.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgpack.unpackb(data)
    except (msgpack.UnpackException, ValueError, RecursionError) as error:
        raise ValueError(f"the body is not msgpack: {error or type(error).__name__}") from error


def pack_embedding(embedding: ArrayLike | Sequence[float]) -> bytes:
    """An embedding's numbers as bytes."""
    return np.asarray(embedding, EMBEDDING).tobytes()


def unpack_embedding(data: bytes) -> NDArray[np.float32]:
    """An embedding from its bytes, read-only.

    Raises:
        ValueError: they are no whole number of float32, or not all of them finite.
    """
    embedding = np.frombuffer(data, EMBEDDING)
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding's numbers must be finite")
    return embedding
