"""A Qdrant server as it may be configured wrongly: each refusal names the URL, the variable and what is wrong."""

import os
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from app.gpu.index.server import connect
from app.gpu.index.store import IndexAwayError
from tests.fixtures import free_port


class Answers(BaseHTTPRequestHandler):
    """Answers every request alike, and remembers what it was asked."""

    asked: list[str]
    status = 200
    body = b'{"result":{"collections":[]},"status":"ok","time":0}'

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    Answers.asked, Answers.status = [], 200
    Answers.body = b'{"result":{"collections":[]},"status":"ok","time":0}'
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: ThreadingHTTPServer, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.server_port}"


def test_a_url_without_a_port_means_its_scheme_s() -> None:
    with pytest.raises(IndexAwayError, match=r"QDRANT_URL=http://127\.0\.0\.1:"):
        connect("http://127.0.0.1", None).collections()  # nobody listens on 80
    for given, port in (("http://qdrant", 80), ("https://qdrant", 443), ("http://qdrant:6333", 6333)):
        [(_, client)] = connect(given, None)._nodes
        assert f"qdrant:{port}" in client._client.rest_uri  # type: ignore[attr-defined]


def test_a_proxy_of_the_environment_is_not_asked(
    answering: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert connect(url(answering), None).collections() == set()
    assert Answers.asked == ["/collections"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b"The plain HTTP request was sent to HTTPS port", "expects https was asked in http"),
        (401, b"Must provide an API key", "QDRANT_API_KEY"),
        (404, b"not found", "no Qdrant"),
        (500, b"disk full", "disk full"),
    ],
)
def test_a_refusal_names_the_url_and_its_meaning(
    answering: ThreadingHTTPServer, status: int, body: bytes, said: str
) -> None:
    Answers.status, Answers.body = status, body
    with pytest.raises(IndexAwayError, match=said) as raised:
        connect(url(answering), None).collections()
    assert f"QDRANT_URL={url(answering)}" in str(raised.value)


def test_nobody_there_names_the_url() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(IndexAwayError, match=f"QDRANT_URL={address}"):
        connect(address, None).collections()


def test_https_spoken_to_http_and_http_to_https_say_so(answering: ThreadingHTTPServer) -> None:
    with pytest.raises(IndexAwayError, match="https") as raised:
        connect(url(answering, "https"), None).collections()
    assert f"QDRANT_URL={url(answering, 'https')}" in str(raised.value)


@pytest.fixture
def authority(answering: ThreadingHTTPServer, tmp_path: Path) -> Path:
    """Has the server speak https with a certificate of a private authority, whose own is in the file."""
    private = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private.issue_cert("127.0.0.1").configure_cert(context)
    answering.socket = context.wrap_socket(answering.socket, server_side=True)
    private.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def test_a_private_authority_is_trusted_by_ssl_cert_file(
    answering: ThreadingHTTPServer, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "SSL_CERT_FILE" in os.environ:
        monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(IndexAwayError, match="SSL_CERT_FILE"):
        connect(url(answering, "https"), None).collections()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert connect(url(answering, "https"), None).collections() == set()


def test_http_spoken_to_an_https_port_says_so(answering: ThreadingHTTPServer, authority: Path) -> None:
    with pytest.raises(IndexAwayError, match="https"):
        connect(url(answering), None).collections()
