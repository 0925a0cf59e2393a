"""S3 event documents: what a record says, or why it can never be processed.

The structure is AWS's (version 2.x) as MinIO sends it; MinIO adds the top-level `EventName` and `Key`.
"""

import json
from hashlib import blake2b
from typing import Annotated, Any
from urllib.parse import unquote_plus

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from app.common.web import first_problem

CREATED = frozenset(f"s3:ObjectCreated:{how}" for how in ("Put", "Post", "Copy", "CompleteMultipartUpload"))
REMOVED = "s3:ObjectRemoved:"

#: The largest object S3 allows.
MAX_OBJECT_BYTES = 5 * 2**40

#: The largest key S3 allows, in bytes of UTF-8.
MAX_KEY_BYTES = 1024


class MalformedDocumentError(ValueError):
    """The request's body is not an S3 event document; the message says what is missing."""


class Metadata(dict[str, str]):
    """An upload's user metadata, looked up by its bare, lower-case name."""

    @classmethod
    def parse(cls, value: Any) -> "Metadata":
        if not isinstance(value, dict):
            return cls()
        return cls({str(k).lower().removeprefix("x-amz-meta-"): str(v) for k, v in value.items()})


def check_key(key: str) -> str:
    """An object's key, if it can be one.

    Raises:
        ValueError: it cannot; the message says why.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise ValueError("an object's key must be valid Unicode") from error
    if size > MAX_KEY_BYTES:
        raise ValueError(f"an object's key has at most {MAX_KEY_BYTES} bytes, this one {size}")
    return key


def _decoded(value: Any) -> Any:
    return unquote_plus(value, errors="strict") if isinstance(value, str) else value


def _size(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value <= MAX_OBJECT_BYTES else 0


def _name(value: str) -> str:
    # AWS leaves the prefix off, MinIO does not.
    return value if value.startswith("s3:") else f"s3:{value}"


class _Bucket(BaseModel):
    name: str = Field(min_length=1, max_length=255)


class _Object(BaseModel):
    key: Annotated[str, Field(min_length=1), AfterValidator(check_key), BeforeValidator(_decoded)]
    sequencer: str = ""
    version_id: str = Field("", alias="versionId")
    content_type: str = Field("", alias="contentType")
    #: Bytes, where the event says so.
    size: Annotated[int, BeforeValidator(_size)] = 0
    user_metadata: Annotated[dict[str, str], BeforeValidator(Metadata.parse)] = Field({}, alias="userMetadata")


class _S3(BaseModel):
    bucket: _Bucket
    object: _Object


class Event(BaseModel):
    """One record of a document."""

    name: Annotated[str, AfterValidator(_name)] = Field(alias="eventName")
    s3: _S3

    @property
    def bucket(self) -> str:
        return self.s3.bucket.name

    @property
    def key(self) -> str:
        return self.s3.object.key

    @property
    def created(self) -> bool:
        return self.name in CREATED

    @property
    def removed(self) -> bool:
        return self.name.startswith(REMOVED)

    @property
    def high_priority(self) -> bool:
        """Whether the uploader asked for it, with metadata `priority: high`."""
        return self.s3.object.user_metadata.get("priority", "").lower() == "high"

    @property
    def job_id(self) -> str | None:
        """The same for a redelivery of this event and for no other; None where the event does not say.

        The sequencer orders the events of one key and differs between any two of them.
        """
        if not self.s3.object.sequencer:
            return None
        parts = (self.bucket, self.key, self.name, self.s3.object.version_id, self.s3.object.sequencer)
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def records(body: bytes) -> list[Any]:
    """The raw records of a document.

    Raises:
        MalformedDocumentError: it is not an S3 event document.
    """
    document = load_json(body)
    if not isinstance(document, dict):
        raise MalformedDocumentError("The body is JSON but not an object; send an S3 event document.")
    if not isinstance(document.get("Records"), list):
        raise MalformedDocumentError("The body has no list named Records; send an S3 event document.")
    found: list[Any] = document["Records"]
    return found


def load_json(body: bytes) -> Any:
    """Read a JSON body.

    Raises:
        MalformedDocumentError: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedDocumentError(f"The body is not JSON: {error}.") from error


def parse(record: Any) -> Event:
    """Read one record.

    Raises:
        ValueError: it can never be processed; the message says why.
    """
    try:
        return Event.model_validate(record)
    except ValidationError as error:
        raise ValueError(first_problem(error, "the record")) from error
