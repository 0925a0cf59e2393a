"""The bucket: what is there now, and its bytes as they are stored, read-only."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from minio.error import MinioException, S3Error

from app.common.errors import LookingGlassError, TransientError
from app.common.media import HEAD_BYTES
from app.common.sockets import WATCHED
from app.worker.listing import Client, Listed
from app.worker.settings import WorkerSettings

#: What S3 answers when the object is not there: never was, deleted, or its bucket is gone.
GONE = frozenset(
    ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchObject", "MethodNotAllowed", "ResourceNotFound")
)
#: What S3 answers when an object is there, but cannot be read: denied to this user; encrypted with a key that its
#: owner keeps (`InvalidRequest`, and `BadRequest` where there is no body to say so); archived. Those of a KMS too.
UNREADABLE = frozenset(("AccessDenied", "InvalidRequest", "BadRequest", "InvalidObjectState"))

#: Seconds to connect, and between two bytes.
TIMEOUT = urllib3.Timeout(connect=5, read=60)

#: Requests at once, where many objects are asked for.
CONNECTIONS = 8

#: A video is read in ranges of this size: few requests, and little is fetched that is not looked at.
RANGE_BYTES = 2 * 2**20

#: Bytes read at a time from a body.
PIECE_BYTES = 2**18

#: Bytes left of a body that are read to keep the connection; for more, a new one is cheaper.
CHEAP_REST = 2**16

#: What is read must be what is stored, whatever its Content-Encoding says.
AS_STORED = {"Accept-Encoding": "identity"}


class ObjectChangedError(Exception):
    """The object is not the version any more that was being read."""


class UnreadableError(LookingGlassError):
    """The object is there, and cannot be read with the rights that this worker has."""

    def __init__(self, version: "ObjectVersion", reason: str) -> None:
        super().__init__(reason)
        self.version = version


class NoBucketError(TransientError):
    """There is no such bucket, which need not mean that there is to be none."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object."""

    bucket: str
    key: str
    etag: str
    size: int
    version_id: str | None
    #: ISO 8601.
    last_modified: str
    #: When it was seen, see `Store.time`; 0 where that is not known.
    looked_at: float = field(default=0.0, compare=False)

    def same(self, other: "ObjectVersion | None") -> bool:
        """Whether both are one version of the object."""
        return other is not None and (self.etag, self.version_id) == (other.etag, other.version_id)


class Body:
    """An object's bytes on their way, as stored: the first are here, the rest comes as it is read."""

    def __init__(
        self, version: ObjectVersion, encoding: str, response: urllib3.BaseHTTPResponse, head: bytes
    ) -> None:
        self.version = version
        #: What the uploader said of it in Content-Encoding, true or not.
        self.encoding = encoding
        #: The first bytes, `HEAD_BYTES` or all there are.
        self.head = head
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """All bytes, once, piece by piece.

        Raises:
            TransientError: they end early.
        """
        yield self.head
        got = len(self.head)
        while got < self.version.size:
            try:
                piece = self._response.read(PIECE_BYTES, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise TransientError(f"MinIO does not send all of the object: {error}") from error
            if not piece:
                raise TransientError(f"MinIO sent {got} bytes of an object of {self.version.size}.")
            got += len(piece)
            yield piece

    def read(self) -> bytes:
        """All bytes at once; the caller minds their number first."""
        return b"".join(self.pieces())


class Store:
    """Reads objects from MinIO, or anything that speaks S3."""

    def __init__(self, settings: WorkerSettings) -> None:
        scheme, _, host = settings.minio_endpoint.rpartition("://")
        self._endpoint = settings.minio_endpoint
        retries = urllib3.Retry(2, backoff_factor=0.2)
        self._http = _Clocked(timeout=TIMEOUT, maxsize=CONNECTIONS, retries=retries, socket_options=WATCHED)
        self._client = Client(
            host.rstrip("/"),
            access_key=settings.minio_user,
            secret_key=settings.minio_password.get_secret_value(),
            secure=scheme == "https",
            region=settings.minio_region,
            http_client=self._http,
        )

    def time(self) -> float:
        """The present time by the store's clock, in seconds since 1970: what was seen later, was seen later."""
        return time.time() + self._http.ahead

    def stat(self, bucket: str, key: str) -> ObjectVersion | None:
        """The object's current version; None if there is none.

        Raises:
            UnreadableError: it is there, but not for us.
            TransientError: the store does not answer, or does not let us look.
        """
        looked_at = self.time()
        try:
            with self._errors(bucket, key):
                found = self._client.stat_object(bucket, key)
        except (ObjectChangedError, ValueError):  # minio-py checks a bucket's name before it asks
            return None
        return ObjectVersion(
            bucket=bucket,
            key=key,
            etag=found.etag or "",
            size=found.size or 0,
            version_id=found.version_id,
            last_modified=found.last_modified.isoformat() if found.last_modified else "",
            looked_at=looked_at,
        )

    def now(self, bucket: str, key: str) -> ObjectVersion | None:
        """The object's current version, readable or not; None if there is none.

        Raises:
            TransientError: the store does not answer, or does not let us look.
        """
        try:
            return self.stat(bucket, key)
        except UnreadableError as error:
            return error.version

    def check(self, version: ObjectVersion) -> None:
        """Look whether this is still the object's version, before much is done with it.

        Raises:
            ObjectChangedError: there is another version now, or none.
            TransientError: the store does not answer, or does not let us look.
        """
        if not version.same(self.now(version.bucket, version.key)):
            raise ObjectChangedError

    @contextmanager
    def get(self, bucket: str, key: str) -> Iterator[Body | None]:
        """The object's current version with its bytes, in one request; None if there is none.

        Raises:
            UnreadableError: it is there, but not for us.
            TransientError: the store does not answer, or does not let us look.
        """
        looked_at = self.time()
        try:
            with self._errors(bucket, key):
                response = self._client.get_object(bucket, key, request_headers=dict(AS_STORED))
        except (ObjectChangedError, ValueError):
            yield None
            return
        try:
            with self._errors(bucket, key):
                head = response.read(HEAD_BYTES, decode_content=False)
            version = _version(bucket, key, response.headers, looked_at)
            yield Body(version, response.headers.get("Content-Encoding", ""), response, head)
            _finish(response)
        finally:
            response.close()
            response.release_conn()

    def absent(self, bucket: str, keys: Sequence[str]) -> list[str]:
        """Which of these objects are not there.

        Raises:
            NoBucketError: there is no such bucket.
            TransientError: the store does not answer, or does not let us look.
        """
        self.page(bucket, None, 1)  # of a bucket that is gone every object seems to be
        with ThreadPoolExecutor(CONNECTIONS) as askers:
            found = askers.map(lambda key: self.now(bucket, key), keys)
            return [key for key, version in zip(keys, found, strict=True) if version is None]

    def page(self, bucket: str, after: str | None, limit: int) -> list[Listed]:
        """The next objects of a bucket, as the first of `pages`; none after the last."""
        return next(self.pages(bucket, after, limit), [])

    def pages(self, bucket: str, after: str | None, limit: int) -> Iterator[list[Listed]]:
        """The objects of a bucket after a key, up to 1,000 a page, in the order of keys.

        Raises:
            NoBucketError: there is no such bucket.
            TransientError: the store does not answer, or does not let us look.
        """
        try:
            with self._errors():
                yield from self._client.pages(bucket, after, limit)
        except ObjectChangedError as error:
            # Not taken for an empty one: a wrong name must not cost the index of the right one.
            raise NoBucketError(f"There is no bucket {bucket}.") from error

    def read(self, version: ObjectVersion, offset: int = 0, length: int = 0) -> bytes:
        """Bytes of exactly this version, all of them unless a range is given.

        Raises:
            ObjectChangedError: there is another version now, or none.
            TransientError: the store does not answer.
        """
        with self._errors():
            response = self._client.get_object(
                version.bucket,
                version.key,
                offset=offset,
                length=length,
                request_headers={**AS_STORED, "If-Match": f'"{version.etag}"'},
            )
            try:
                data: bytes = response.read(decode_content=False)
                return data
            finally:
                response.close()
                response.release_conn()

    @contextmanager
    def open(self, version: ObjectVersion) -> Iterator[io.BufferedReader]:
        """A seekable stream over exactly this version that fetches only the ranges that are read.

        Raises:
            ObjectChangedError, TransientError: on leaving it, if a read failed, as `read` does; readers written
                in C may have taken that for the end of the file.
        """
        ranges = _Ranges(self, version)
        try:
            yield io.BufferedReader(ranges, RANGE_BYTES)
        finally:
            if ranges.failure:
                raise ranges.failure

    @contextmanager
    def _errors(self, bucket: str = "", key: str = "") -> Iterator[None]:
        """What the store's refusals and silence mean; with a key, whether they are this object's alone."""
        try:
            yield
        except S3Error as error:
            if error.code in GONE or error.code == "PreconditionFailed":
                raise ObjectChangedError from error
            if error.code == "BadRequest" and _is_impossible(error.object_name or ""):
                raise ObjectChangedError from error
            if key and (error.code in UNREADABLE or "kms" in (error.code or "").lower()):
                self._unreadable(bucket, key, error)
            raise TransientError(f"MinIO at {self._endpoint} refused: {error.code}: {error.message}") from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"MinIO at {self._endpoint} does not answer: {error}") from error

    def _unreadable(self, bucket: str, key: str, refusal: S3Error) -> None:
        """Raise what a refusal means for this object; the bucket's listing says whether it is there.

        Where that is refused too, it is no matter of the object, and is raised as what it is.
        """
        looked_at = self.time()
        with self._errors():
            found = next(iter(self._client.list_objects(bucket, prefix=key, recursive=True)), None)
        if found is None or found.object_name != key:
            raise ObjectChangedError from refusal
        version = ObjectVersion(
            bucket=bucket,
            key=key,
            etag=(found.etag or "").strip('"'),
            size=found.size or 0,
            version_id=None,
            last_modified=found.last_modified.isoformat() if found.last_modified else "",
            looked_at=looked_at,
        )
        reason = (
            f"The object is there but cannot be read with MINIO_USER's rights ({refusal.code}: {refusal.message}): "
            "its policy, or encryption with a key that only its owner has. It is tried again once a day."
        )
        raise UnreadableError(version, reason) from refusal


def _version(bucket: str, key: str, headers: Mapping[str, str], looked_at: float) -> ObjectVersion:
    """The version that a GET answered with."""
    modified = headers.get("Last-Modified")
    return ObjectVersion(
        bucket=bucket,
        key=key,
        etag=headers.get("ETag", "").strip('"'),
        size=int(headers.get("Content-Length", 0)),
        version_id=headers.get("x-amz-version-id"),
        last_modified=parsedate_to_datetime(modified).isoformat() if modified else "",
        looked_at=looked_at,
    )


def _finish(response: urllib3.BaseHTTPResponse) -> None:
    """Read what little is left of a body, so that its connection can be used again."""
    if 0 < (response.length_remaining or 0) <= CHEAP_REST:
        try:
            response.read(decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            response.close()


def _is_impossible(key: str) -> bool:
    """Whether MinIO refuses a key outright, so that nothing can ever be stored under it."""
    return "//" in key or key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/"))


class _Clocked(urllib3.PoolManager):
    """Learns from each answer's Date how far the store's clock is ahead of this host's, where they disagree.

    Looks of all workers are ordered by the one clock of the store, yet its Date has whole seconds only: within them
    hosts whose clocks are right tell themselves which came first.
    """

    ahead = 0.0

    def urlopen(self, *arguments: Any, **more: Any) -> urllib3.BaseHTTPResponse:
        sent = time.time()
        response = super().urlopen(*arguments, **more)
        try:
            date = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
        except ValueError:
            return response
        self.ahead = min(max(self.ahead, date - time.time()), date + 1 - sent)
        return response


class _Ranges(io.RawIOBase):
    """The raw side of `Store.open`; one request for each read of the buffer above it."""

    def __init__(self, store: Store, version: ObjectVersion) -> None:
        self._store = store
        self._version = version
        self._position = 0
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._version.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._version.size - self._position)
        if length <= 0:
            return 0
        try:
            data = self._store.read(self._version, self._position, length)
        except Exception as error:
            self.failure = error
            raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
