"""Who may call what, and where the secrets are not."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from redis import Redis

from app.common.settings import is_loopback
from app.gpu.api import create_app as face_app
from app.gpu.settings import FaceSettings
from app.webhook.api import create_app as webhook_app
from app.webhook.settings import WebhookSettings
from infra.local import tools
from tests import media
from tests.fixtures import TOKENS, Pipeline, standing
from tests.pipeline.test_rough_clients import connections, status

#: Secrets that are found by searching for them.
SECRETS = {name: f"secret{name.lower().replace('_', '')}{uuid4().hex}" for name in ("WEBHOOK_TOKEN", "API_TOKEN")}
SECRETS["GPU_WORKER_TOKEN"] = f"secretgpu{uuid4().hex}"
SECRETS["MINIO_PASSWORD"] = f"secretminio{uuid4().hex}"

#: What anybody may ask, for whoever watches over the processes.
OPEN = {"GET /health", "GET /health/live"}

#: What stands in an endpoint's path for what it names.
PARTS = {"bucket": "images", "key": "some.jpg", "job_id": "none", "model_id": "none"}


def endpoints(app: Any) -> list[str]:
    """Every method and path of a service."""
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda part: PARTS.get(part[1], part[1]), rule.rule)
        found += [f"{method} {path}" for method in rule.methods - {"HEAD", "OPTIONS"} if rule.endpoint != "static"]
    return sorted(found)


TABLE = [("webhook", endpoint) for endpoint in endpoints(webhook_app(WebhookSettings(), Redis()))]
TABLE += [("gpu_worker", endpoint) for endpoint in endpoints(face_app(None, FaceSettings()))]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack with every token set."""
    with ExitStack() as stands:
        with pytest.MonkeyPatch.context() as patch:  # for this stack, and for none that starts beside it
            for name, value in SECRETS.items():
                patch.setenv(name, value)
            directory = tmp_path_factory.mktemp("guarded")
            found = stands.enter_context(standing(directory, workers=1, minio_password=SECRETS["MINIO_PASSWORD"]))
        found.outputs |= {TOKENS["webhook"]: SECRETS["API_TOKEN"]}
        found.outputs |= {TOKENS["gpu_worker"]: SECRETS["GPU_WORKER_TOKEN"]}
        yield found


@pytest.mark.parametrize(("service", "endpoint"), TABLE)
def test_every_endpoint_without_a_token_with_a_wrong_one_and_with_its_own(
    guarded: Pipeline, service: str, endpoint: str
) -> None:
    method, path = endpoint.split()
    right = SECRETS["WEBHOOK_TOKEN" if path == "/webhook/minio" else TOKENS[service].upper()]
    others = set(SECRETS.values()) - {right}
    body = b"{}" if method in ("POST", "PUT") else None

    def status(**headers: str) -> int:
        url = f"{guarded.outputs[f'{service}_url']}{path}"
        return guarded.http.request(method, url, body=body, headers=headers).status

    refused = [status()] + [status(Authorization=given) for given in ("", "Bearer", "Bearer ", f"Basic {right}")]
    refused += [
        status(Authorization=f"Bearer {wrong}") for wrong in (*others, right[:-1], f"{right}x", right.upper())
    ]
    assert set(refused) == ({200} if endpoint in OPEN else {401})
    assert status(Authorization=f"Bearer {right}") != 401


def test_without_tokens_everything_listens_on_loopback_only(running: Pipeline) -> None:
    seen = 0
    for process in running.stack.processes.values():
        leader = psutil.Process(process.pid)
        for member in (leader, *leader.children(recursive=True)):
            for connection in member.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert is_loopback(connection.laddr.ip)
                    seen += 1
    assert seen >= 5


@pytest.mark.parametrize(
    ("module", "variables"),
    [
        ("app.webhook", {"WEBHOOK_HOST": "0.0.0.0"}),
        ("app.webhook", {"WEBHOOK_HOST": "0.0.0.0", "API_TOKEN": "one of two"}),
        ("app.gpu", {"GPU_WORKER_HOST": "::"}),
    ],
)
def test_a_service_without_its_tokens_refuses_to_listen_beyond_loopback(
    module: str, variables: dict[str, str]
) -> None:
    environment = {"PYTHONPATH": str(tools.ROOT), **variables}
    ended = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "reachable from other machines" in ended.stderr


def test_the_secrets_are_in_no_log_answer_metric_or_process_list(guarded: Pipeline, photos: dict[str, bytes]) -> None:
    guarded.put("images", "seen.jpg", media.jpeg(media.portrait(photos)))
    guarded.put("images", "bad.jpg", b"no picture")
    guarded.indexed("images", "seen.jpg")
    guarded.indexed("images", "bad.jpg")
    worker = guarded.stack.processes["worker-1"]
    # Trouble makes services talkative: a wrong password, a job that fails, a service that is away.
    environment = {**worker.environment, "MINIO_PASSWORD": "another one", "MINIO_ENDPOINT": "127.0.0.1:1"}
    command = [sys.executable, "-m", "app.worker", "proof", "images", "seen.jpg"]
    failed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert failed.returncode == 1
    guarded.stack.processes["gpu-worker"].stop()
    body = {"bucket": "images", "object": "bad.jpg"}
    job = guarded.call("POST", "webhook/test/queue", body)[1]["job_id"]
    guarded.call("POST", "webhook/webhook/minio", b"{", **guarded.token())
    said = [failed.stdout, failed.stderr, json.dumps(guarded.call("GET", f"webhook/job/{job}"))]
    for path in ("webhook/health", "webhook/jobs/failed", "webhook/events/dead", "webhook/queue/stats"):
        said.append(json.dumps(guarded.call("GET", path)))
    guarded.stack.processes["gpu-worker"].start()
    guarded.stack.processes["gpu-worker"].wait_until(guarded.face_service_ready, 60)
    guarded.idle()
    for service in TOKENS:
        headers = {"Authorization": f"Bearer {guarded.outputs[TOKENS[service]]}"}
        answer = guarded.http.request("GET", f"{guarded.outputs[f'{service}_url']}/metrics", headers=headers)
        assert answer.status == 200
        said.append(answer.data.decode())
    for process in guarded.stack.processes.values():
        leader = psutil.Process(process.pid)
        said += [" ".join(member.cmdline()) for member in (leader, *leader.children(recursive=True))]
        said.append(process.log.read_text(errors="replace"))
    for key in guarded.redis.scan_iter("*"):
        said.append(repr(guarded.redis.dump(key)))
    for name, secret in SECRETS.items():
        assert not [text[:200] for text in said if secret in text], name


def test_a_body_without_the_token_is_not_kept(guarded: Pipeline) -> None:
    """Its sender gets an answer although it sends everything first, and nothing is reserved for it."""
    lines = ["POST /webhook/minio HTTP/1.1", "Host: here", "Content-Length: 900000"]
    with connections(guarded, "webhook", 200) as strangers:
        for connection in strangers:  # three times what may be under way together
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert guarded.call("POST", "webhook/webhook/minio", {"Records": []}, **guarded.token())[0] == 200
        for connection in strangers[:5]:
            connection.sendall(b"x" * 900_000)
            assert status(connection) == 401


@pytest.mark.parametrize(
    "key",
    [
        "a\nlevel: forged.jpg",
        "\x1b[2J\x1b]0;title\x07.jpg",
        "<script>alert(1)</script>.jpg",
        "$(touch /tmp/x);`id`.jpg",
    ],
)
def test_a_name_reaches_no_log_line_or_page_as_it_is(running: Pipeline, photos: dict[str, bytes], key: str) -> None:
    etag = running.put("images", key, media.jpeg(media.portrait(photos)) + key.encode())
    assert running.indexed("images", key, etag)["points"] == 1
    for name in ("webhook", "worker-1", "worker-2", "gpu-worker"):
        log = running.log(name)
        assert "\x1b" not in log
        for line in filter(None, log.splitlines()):
            assert line[0] == "{", line  # every line is one of ours
    url = f"{running.outputs['gpu_worker_url']}/items?bucket=images"
    assert running.http.request("GET", url).headers["Content-Type"] == "application/json"
    running.minio.remove_object("images", key)
    running.gone("images", key)
    assert not Path("/tmp/x").exists()
