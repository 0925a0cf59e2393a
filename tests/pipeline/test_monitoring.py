"""A real Prometheus on a real pipeline: what it scrapes, its rules, and every query of the dashboards."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

from infra.monitoring.dashboards import DASHBOARDS
from tests import media
from tests.fixtures import Pipeline, eventually, free_port, standing
from tests.unit.monitoring.test_alerts import RULES
from tests.unit.monitoring.test_metrics_exist import OF_REDIS


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Iterator[Pipeline]:
    """A stack that a Prometheus watches, in which something has happened."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not on PATH: Debian's package")
    with standing(tmp_path_factory.mktemp("stack"), prometheus_port=free_port(), workers=1) as found:
        found.indexed("images", "a.jpg", found.put("images", "a.jpg", media.jpeg(media.portrait(photos))))
        found.indexed("images", "b.jpg", found.put("images", "b.jpg", b"no photo"))
        yield found


def ask(watched: Pipeline, path: str, **query: str) -> Any:
    url = f"http://127.0.0.1:{watched.stack.settings.prometheus_port}/api/v1/{path}"
    answer = watched.http.request("GET", url, fields=query).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def test_every_service_is_scraped(watched: Pipeline) -> None:
    def up() -> dict[str, str] | None:
        found = ask(watched, "targets")["activeTargets"]
        jobs = {target["labels"]["job"]: target["health"] for target in found}
        return jobs if set(jobs.values()) == {"up"} else None

    assert set(eventually(up, "every target scraped")) == {
        "lookingglass-webhook",
        "lookingglass-face-service",
        "minio",
    }


def test_its_rules_are_loaded_and_none_alerts_while_all_is_well(watched: Pipeline) -> None:
    eventually(lambda: ask(watched, "query", query="rq_workers")["result"], "a scrape")

    def evaluated() -> list[dict[str, Any]] | None:
        [group] = ask(watched, "rules")["groups"]
        rules: list[dict[str, Any]] = group["rules"]
        return rules if all(rule["health"] == "ok" for rule in rules) else None

    rules = eventually(evaluated, "rules evaluated")
    assert {rule["name"] for rule in rules} == set(RULES)
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_every_query_of_a_panel_is_answered_with_something(watched: Pipeline) -> None:
    eventually(lambda: ask(watched, "query", query="lookingglass_items_indexed_total")["result"], "a scrape")
    of_ours = [panel for name in ("pipeline", "face-service") for panel in DASHBOARDS[name][1]]
    queries = [query for panel in of_ours for query, _ in panel.queries]
    assert len(queries) > 20

    def unanswered() -> list[str]:
        return [query for query in queries if not ask(watched, "query", query=query)["result"]]

    # Rates want two scrapes.
    eventually(lambda: len(unanswered()) == 0, f"an answer to {unanswered()}", 90)


def test_minio_s_space_has_the_names_that_the_alert_knows(watched: Pipeline) -> None:
    expression = RULES["StorageNearlyFull"]["expr"].partition("<")[0]
    [found] = eventually(lambda: ask(watched, "query", query=expression)["result"], "MinIO's space")
    assert 0 < float(found["value"][1]) <= 1


def test_redis_is_told_of_under_the_names_that_alerts_and_panels_know(watched: Pipeline, tmp_path: Path) -> None:
    """Debian's build of the exporter whose image a stack runs, given the password as there."""
    program = shutil.which("prometheus-redis-exporter")
    if not program:
        pytest.skip("prometheus-redis-exporter is not on PATH: Debian's package")
    url = urlsplit(str(watched.outputs["redis_url"]))
    address, passwords, port = f"redis://{url.hostname}:{url.port}", tmp_path / "passwords.json", free_port()
    passwords.write_text(json.dumps({address: url.password or ""}))
    options = [f"--redis.addr={address}", f"--redis.password-file={passwords}"]
    with subprocess.Popen([program, *options, f"--web.listen-address=127.0.0.1:{port}"]) as exporter:
        try:
            figures = f"http://127.0.0.1:{port}/metrics"
            text = eventually(lambda: _text(watched, figures), "the exporter's figures")
        finally:
            exporter.terminate()
    told = dict(re.findall(r"^(redis_\w+)(?:\{.*\})? (\S+)$", text, re.M))
    assert told.keys() >= OF_REDIS
    assert told["redis_up"] == "1"


def _text(watched: Pipeline, url: str) -> str | None:
    try:
        return watched.http.request("GET", url, retries=False).data.decode()
    except urllib3.exceptions.HTTPError:
        return None


def test_a_scrape_is_cheap(watched: Pipeline) -> None:
    for service in ("webhook", "gpu_worker"):
        began = time.monotonic()
        watched.http.request("GET", f"{watched.outputs[f'{service}_url']}/metrics")
        assert time.monotonic() - began < 0.5, service
