"""Redis is found in every way that operators have it, and one that refuses is told from one that is away."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import trustme
from rq.serializers import JSONSerializer

from app.common.jobs import queue
from app.common.redis import check_url, connect, problem
from app.worker.reliable import GuardedJob, ReliableQueue, ReliableWorker
from tests.fixtures import free_port
from tests.redis_server import redis_server, sentinel

#: Seconds within which a refusal is said.
AT_ONCE = 10


def said(url: str, **environment: str) -> str:
    """What `require` ends a process with; empty where it lets it go on."""
    code = f"from app.common.redis import require; require({url!r}, 'it')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


@pytest.mark.parametrize(("password", "right"), [("", False), ("wrong", False), ("s3cret", True)])
def test_a_password_that_is_missing_or_wrong_is_said_at_once(tmp_path: Path, password: str, right: bool) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret") as port:
        started = time.monotonic()
        message = said(f"redis://:{password}@127.0.0.1:{port}/0" if password else f"redis://127.0.0.1:{port}/0")
        assert time.monotonic() - started < AT_ONCE
        assert (message == "") is right
        assert right or "the password in REDIS_URL" in message
        assert "Traceback" not in message


def test_a_patient_client_waits_for_one_that_is_away_and_not_for_one_that_refuses(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret") as port:
        started = time.monotonic()
        with connect(f"redis://127.0.0.1:{port}/0", patient=True) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        assert time.monotonic() - started < AT_ONCE
    started = time.monotonic()
    with connect(f"redis://127.0.0.1:{free_port()}/0", patient=True) as client:
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert time.monotonic() - started > 3


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return authority, path


def tls_options(authority: trustme.CA, directory: Path) -> list[str]:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    files = ["--tls-cert-file", str(directory / "cert.pem"), "--tls-key-file", str(directory / "key.pem")]
    return [*files, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(directory / "cert.pem")]


def trouble(url: str) -> str:
    """What is said of a Redis that cannot be used."""
    with connect(url, timeout=1) as client, pytest.raises(redis.RedisError) as raised:
        client.ping()
    return problem(raised.value, url)


def test_tls_with_an_authority_of_ones_own(tmp_path: Path, authority: tuple[trustme.CA, Path]) -> None:
    ca, path = authority
    with redis_server(tmp_path, *tls_options(ca, tmp_path)) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        assert said(url, SSL_CERT_FILE=str(path)) == ""
        assert "SSL_CERT_FILE" in trouble(url)
        assert "rediss://" in trouble(f"redis://127.0.0.1:{port}/0")


def test_tls_spoken_to_a_redis_without_it(tmp_path: Path) -> None:
    with redis_server(tmp_path) as port:
        assert "does not speak TLS" in trouble(f"rediss://127.0.0.1:{port}/0")


def test_over_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server(tmp_path, "--unixsocket", str(path)), connect(f"unix://{path}?db=1") as client:
        assert client.set("key", "value")


def test_a_job_is_enqueued_and_run_through_sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedJob, "functions", {"time.sleep"})
    with (
        redis_server(tmp_path / "master", "--requirepass", "s3cret") as port,
        sentinel(tmp_path / "sentinel", port, password="s3cret") as watching,
    ):
        url = f"redis+sentinel://:s3cret@127.0.0.1:{free_port()},127.0.0.1:{watching}/faces/0"
        assert said(url) == ""
        with connect(url, patient=True) as client:
            job = queue("facial_recognition", client).enqueue("time.sleep", 0)
            worker = ReliableWorker(
                ["facial_recognition"], connection=client, queue_class=ReliableQueue, serializer=JSONSerializer
            )
            worker.work(burst=True, with_scheduler=True, logging_level=None)
            assert job.get_status() == "finished"


def test_a_master_that_no_sentinel_knows_is_said(tmp_path: Path) -> None:
    with redis_server(tmp_path / "master") as port, sentinel(tmp_path / "sentinel", port) as watching:
        url = f"redis+sentinel://127.0.0.1:{watching}/others"
        assert "others" in trouble(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://:p%40ss@h/3",
        "rediss://u:p@h:6380/0",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://h1,h2:26380/faces",
        "rediss+sentinel://u:p@[::1]:26379,h2/faces/2?sentinel_password=x",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://redis",
        "redis",
        "",
        "redis://:s3cret@h:port/0",
        "redis+sentinel://:s3cret@h1:26379",
        "redis+sentinel://:s3cret@h1:x/faces",
        "redis+sentinel://:s3cret@h1/faces/x",
        "redis+sentinel://:s3cret@h1/faces?db=1",
        "redis+sentinel://:s3cret@,h1/faces",
    ],
)
def test_urls_that_are_not_and_what_is_said_keeps_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        check_url(url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("patient", [False, True])
def test_a_connection_that_was_closed_while_idle_is_no_error(tmp_path: Path, patient: bool) -> None:
    with redis_server(tmp_path) as port, connect(f"redis://127.0.0.1:{port}/0", patient=patient) as client:
        assert client.ping()
        with redis.Redis(port=port) as other:
            other.client_kill_filter(_type="normal", skipme=True)
        assert client.ping()
