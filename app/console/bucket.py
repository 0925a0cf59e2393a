"""The bucket, as the console looks into it: read-only, briefly, never more of an object than it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from app.console.settings import ConsoleSettings
from app.console.upstream import LOOK_SECONDS, AwayError

JSON = dict[str, Any]


class Bucket:
    """The objects as they are now, in MinIO or anything that speaks S3."""

    def __init__(self, settings: ConsoleSettings) -> None:
        scheme, _, host = settings.minio_endpoint.rpartition("://")
        self._endpoint = settings.minio_endpoint
        self._client = Minio(
            host.rstrip("/"),
            access_key=settings.minio_user,
            secret_key=settings.minio_password.get_secret_value(),
            secure=scheme == "https",
            region=settings.minio_region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=1, read=LOOK_SECONDS), maxsize=4, retries=False
            ),
        )

    def page(self, bucket: str, prefix: str, after: str | None, limit: int) -> list[JSON]:
        """The next objects under a prefix, in the order of keys.

        Raises:
            AwayError: the store does not answer, or does not let us look.
        """
        with self._errors():
            found = self._client.list_objects(bucket, prefix=prefix or None, recursive=True, start_after=after)
            return [
                {
                    "bucket": bucket,
                    "key": str(listed.object_name),
                    "size": listed.size or 0,
                    "etag": (listed.etag or "").strip('"'),
                    "last_modified": listed.last_modified.isoformat() if listed.last_modified else None,
                }
                for listed in islice(found, limit)
            ]

    def stat(self, bucket: str, key: str) -> JSON | None:
        """What is stored under a key now; None if nothing is. Raises as `page`."""
        try:
            with self._errors():
                found = self._client.stat_object(bucket, key)
        except (KeyError, ValueError):  # ValueError: minio-py checks names before it asks
            return None
        return {
            "size": found.size or 0,
            "etag": found.etag,
            "content_type": found.content_type,
            "last_modified": found.last_modified.isoformat() if found.last_modified else None,
        }

    def read(self, bucket: str, key: str, etag: str, limit: int) -> bytes:
        """All bytes of exactly this version.

        Raises:
            AwayError: as `page`.
            KeyError: there is another version now, none, or one of more than `limit` bytes.
        """
        with self._errors():
            response = self._client.get_object(bucket, key, request_headers={"If-Match": f'"{etag}"'})
            try:
                data: bytes = response.read(limit + 1)
            finally:
                response.close()
                response.release_conn()
        if len(data) > limit:
            raise KeyError(key)
        return data

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject", "PreconditionFailed", "MethodNotAllowed", "BadRequest"):
                raise KeyError(error.code) from error
            raise AwayError(f"MinIO at {self._endpoint} refused: {error.code}: {error.message}") from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise AwayError(f"MinIO at {self._endpoint} does not answer.") from error
