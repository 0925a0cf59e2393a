"""The bucket: what is there now, and its bytes, read-only."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from app.common.errors import TransientError
from app.worker.settings import WorkerSettings

#: What S3 answers when the object is not there: never was, deleted, or its bucket is gone.
GONE = frozenset(
    ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchObject", "MethodNotAllowed", "ResourceNotFound")
)
#: Seconds to connect, and between two bytes.
TIMEOUT = urllib3.Timeout(connect=5, read=60)

#: Requests at once, where many objects are asked for.
CONNECTIONS = 8

#: A video is read in ranges of this size: few requests, and little is fetched that is not looked at.
RANGE_BYTES = 2 * 2**20


class ObjectChangedError(Exception):
    """The object is not the version any more that was being read."""


class NoBucketError(TransientError):
    """There is no such bucket, which need not mean that there is to be none."""


class Listed(NamedTuple):
    """An object as a listing of its bucket has it."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object."""

    bucket: str
    key: str
    etag: str
    size: int
    version_id: str | None
    content_type: str
    #: ISO 8601.
    last_modified: str


class Store:
    """Reads objects from MinIO, or anything that speaks S3."""

    def __init__(self, settings: WorkerSettings) -> None:
        scheme, _, host = settings.minio_endpoint.rpartition("://")
        self._endpoint = settings.minio_endpoint
        self._client = Minio(
            host.rstrip("/"),
            access_key=settings.minio_user,
            secret_key=settings.minio_password.get_secret_value(),
            secure=scheme == "https",
            region=settings.minio_region,
            http_client=urllib3.PoolManager(
                timeout=TIMEOUT, maxsize=CONNECTIONS, retries=urllib3.Retry(2, backoff_factor=0.2)
            ),
        )

    def stat(self, bucket: str, key: str) -> ObjectVersion | None:
        """The object's current version; None if there is none.

        Raises:
            TransientError: the store does not answer, or does not let us look.
        """
        try:
            with self._errors():
                found = self._client.stat_object(bucket, key)
        except (ObjectChangedError, ValueError):  # minio-py checks a bucket's name before it asks
            return None
        return ObjectVersion(
            bucket=bucket,
            key=key,
            etag=found.etag or "",
            size=found.size or 0,
            version_id=found.version_id,
            content_type=found.content_type or "",
            last_modified=found.last_modified.isoformat() if found.last_modified else "",
        )

    def absent(self, bucket: str, keys: Sequence[str]) -> list[str]:
        """Which of these objects are not there.

        Raises:
            NoBucketError: there is no such bucket.
            TransientError: the store does not answer, or does not let us look.
        """
        self.page(bucket, None, 1)  # of a bucket that is gone every object seems to be
        with ThreadPoolExecutor(CONNECTIONS) as askers:
            found = askers.map(lambda key: self.stat(bucket, key), keys)
            return [key for key, version in zip(keys, found, strict=True) if version is None]

    def page(self, bucket: str, after: str | None, limit: int) -> list[Listed]:
        """The next objects of a bucket, in the order of keys; none after the last.

        Raises:
            NoBucketError: there is no such bucket.
            TransientError: the store does not answer, or does not let us look.
        """
        try:
            with self._errors():
                found = self._client.list_objects(bucket, recursive=True, start_after=after)
                return [
                    Listed(str(o.object_name), (o.etag or "").strip('"'), o.size or 0) for o in islice(found, limit)
                ]
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
                request_headers={"If-Match": f'"{version.etag}"'},
            )
            try:
                data: bytes = response.read()
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
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.code in GONE or error.code == "PreconditionFailed":
                raise ObjectChangedError from error
            if error.code == "BadRequest" and _is_impossible(error.object_name or ""):
                raise ObjectChangedError from error
            raise TransientError(f"MinIO at {self._endpoint} refused: {error.code}: {error.message}") from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"MinIO at {self._endpoint} does not answer: {error}") from error


def _is_impossible(key: str) -> bool:
    """Whether MinIO refuses a key outright, so that nothing can ever be stored under it."""
    return "//" in key or key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/"))


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
