"""What the store makes of what S3 answers.

The answers are those of real servers to what cannot be had here on demand, such as a key that only the owner has;
the pipeline tests run a real MinIO.
"""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from app.common.errors import TransientError
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectVersion, Store, UnreadableError

LISTING = """<?xml version="1.0"?><ListBucketResult><Name>images</Name><IsTruncated>false</IsTruncated>
<Contents><Key>a.jpg</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;e1&quot;</ETag>
<Size>7</Size></Contents></ListBucketResult>"""

ERROR = "<Error><Code>{}</Code><Message>{}</Message><BucketName>images</BucketName></Error>"

LISTED = ObjectVersion("images", "a.jpg", "e1", 7, None, "2026-01-02T03:04:05+00:00")


class S3(BaseHTTPRequestHandler):
    """Answers as it is told; its server holds the answers."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        listing = urlsplit(self.path).path.strip("/") == "images"
        self.server.encodings.append(self.headers.get("Accept-Encoding", ""))
        status, body, headers = self.server.listing if listing else self.server.object
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/xml", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.ahead if timestamp is None else timestamp)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    #: Seconds that its clock is ahead.
    ahead = 0.0
    encodings: list[str]
    listing: tuple[int, bytes, dict[str, str]]
    object: tuple[int, bytes, dict[str, str]]


@pytest.fixture
def s3() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), S3)
    server.encodings, server.listing = [], (200, LISTING.encode(), {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def store_of(s3: Server) -> Store:
    return Store(WorkerSettings(minio_endpoint=f"127.0.0.1:{s3.server_address[1]}"))


def refusal(status: int, code: str) -> tuple[int, bytes, dict[str, str]]:
    return status, ERROR.format(code, "The reason.").encode(), {}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "InvalidRequest"),  # encrypted with a key that only its owner has
        (403, "AccessDenied"),
        (403, "InvalidObjectState"),  # archived
        (400, "KMS.NotFoundException"),
    ],
)
def test_an_object_that_is_there_and_cannot_be_read_is_known_from_the_listing(
    s3: Server, status: int, code: str
) -> None:
    s3.object = refusal(status, code)
    store = store_of(s3)
    with pytest.raises(UnreadableError, match=code) as raised, store.get("images", "a.jpg"):
        pass
    assert raised.value.version == LISTED
    assert store.now("images", "a.jpg") == LISTED


def test_an_object_that_is_denied_and_not_there_is_gone(s3: Server) -> None:
    s3.object = refusal(403, "AccessDenied")
    with store_of(s3).get("images", "a") as body:
        assert body is None


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_what_is_denied_for_the_whole_bucket_is_no_matter_of_the_object(s3: Server, code: str) -> None:
    s3.object = s3.listing = refusal(403, code)
    with pytest.raises(TransientError, match=code), store_of(s3).get("images", "a.jpg"):
        pass
    with pytest.raises(TransientError, match=code):
        store_of(s3).now("images", "a.jpg")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_bytes_are_read_as_they_are_stored_whatever_their_encoding_says(s3: Server, encoding: str) -> None:
    data = b"\xff\xd8\xff" + bytes(1000)
    s3.object = 200, data, {"Content-Encoding": encoding, "ETag": '"e2"', "x-amz-version-id": "v1"}
    store = store_of(s3)
    with store.get("images", "a.jpg") as body:
        assert body is not None
        assert (body.version.etag, body.version.version_id, body.version.size) == ("e2", "v1", len(data))
        assert (body.head, body.encoding) == (data[:512], encoding)
        assert body.read() == data
        version = body.version
    assert store.read(version) == data
    assert version.same(store.now("images", "a.jpg"))
    assert set(s3.encodings[:2]) == {"identity"}


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_looks_are_ordered_by_the_store_s_clock(s3: Server, ahead: float) -> None:
    s3.object = (200, b"picture", {"ETag": '"e1"'})
    store = store_of(s3)
    assert store.now("images", "a.jpg")
    assert store.time() == pytest.approx(time.time(), abs=0.5)  # two that agree: to the fraction of a second
    s3.ahead = ahead
    store.now("images", "a.jpg")
    seen = store.now("images", "a.jpg")
    assert seen is not None
    assert seen.looked_at == pytest.approx(time.time() + ahead, abs=3)
    with store.get("images", "a.jpg") as body:
        assert body is not None
        assert body.version.looked_at > seen.looked_at - 1
    assert store.page("images", None, 1)
