"""What goes over the wire between worker and face service arrives as it was."""

import pickle

import numpy as np
import pytest

from app.common import wire
from app.common.errors import LookingGlassError, NotFoundError, PermanentError, TransientError


@pytest.mark.parametrize(
    "error",
    [
        wire.BusyError("no place"),
        wire.OvertakenError("by another"),
        wire.ModelChangedError("of another"),
        wire.ConflictError("not yet"),
        wire.EngineCrashedError("gone"),
        NotFoundError("there is none"),
        PermanentError("not_an_image", "a text"),
        PermanentError("too_many_pixels", "too large"),
        PermanentError("damaged", "no pixels"),
        TransientError("not ready"),
    ],
)
def test_an_error_arrives_as_the_class_that_was_raised(error: LookingGlassError) -> None:
    arrived = wire.raised_by(error.status, error.code, str(error))
    assert type(arrived) is type(error)
    assert arrived.code == error.code
    assert str(error) in str(arrived)


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (404, ""), (413, ""), (415, ""), (422, ""), (502, "")]
)
def test_what_is_not_said_by_the_face_service_is_no_verdict(status: int, code: str) -> None:
    assert isinstance(wire.raised_by(status, code, "<html>"), TransientError)


@pytest.mark.parametrize(("status", "code"), [(400, "bad_request"), (500, "internal"), (500, "")])
def test_a_bug_on_either_side_is_neither_waited_for_nor_a_verdict(status: int, code: str) -> None:
    assert type(wire.raised_by(status, code, "a bug")) is wire.FaceServiceError


def test_an_embedding_travels_in_its_own_bytes() -> None:
    embedding = np.linspace(-1, 1, 512, dtype=np.float32)
    packed = wire.unpack(wire.pack({"faces": [{"embedding": wire.pack_embedding(embedding)}]}))
    assert np.array_equal(wire.unpack_embedding(packed["faces"][0]["embedding"]), embedding)
    assert len(packed["faces"][0]["embedding"]) == 4 * 512


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\x91" * 5000])
def test_what_is_no_msgpack_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="msgpack"):
        wire.unpack(data)


@pytest.mark.parametrize("data", [b"123", wire.pack_embedding([np.nan]), wire.pack_embedding([np.inf])])
def test_a_broken_embedding_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"multiple of element size|finite"):
        wire.unpack_embedding(data)


def test_a_verdict_tells_on_what_it_depends_also_from_another_process() -> None:
    error = PermanentError("too_many_pixels", "too large", {"MAX_IMAGE_PIXELS": 10})
    arrived = pickle.loads(pickle.dumps(error))
    assert (arrived.code, arrived.message, arrived.judged_by) == (error.code, error.message, error.judged_by)
    assert PermanentError("damaged", "no pixels").judged_by == {}
