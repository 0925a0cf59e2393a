"""Every metric of an alert or a panel is one that a service really tells; and most that are told are looked at."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.common import version
from app.gpu import metrics as face_metrics
from app.webhook import metrics as webhook_metrics
from infra.monitoring.cards import FIELDS, counters
from infra.monitoring.dashboards import DASHBOARDS, SOURCE, dashboards
from tests.unit.monitoring.test_alerts import RULES

#: MinIO's and Redis's exporter's, looked for in running ones by tests/pipeline/test_monitoring.py; and Prometheus's.
OF_REDIS = {
    *("redis_up", "redis_aof_last_write_status", "redis_memory_used_bytes", "redis_memory_max_bytes"),
    *("redis_commands_processed_total", "redis_connected_clients", "redis_blocked_clients", "redis_db_keys"),
    *("redis_net_input_bytes_total", "redis_net_output_bytes_total"),
}
OF_OTHERS = {"minio_cluster_capacity_usable_free_bytes", "minio_cluster_capacity_usable_total_bytes", "up"} | OF_REDIS

#: Words of PromQL that look like metrics.
WORDS = {
    *(
        "sum",
        "max",
        "by",
        "le",
        "rate",
        "increase",
        "vector",
        "time",
        "offset",
        "and",
        "on",
        "or",
        "histogram_quantile",
    ),
    *("db", "kind", "queue", "outcome", "status", "reason_code", "state", "queues", "stage", "model_id"),
}


def told() -> set[str]:
    """The names of all samples of both services; in one process here, so each may have the other's."""
    figures = webhook_metrics.Figures({"q": {"queued_jobs": 1}}, {"q": 1.0}, [], False, 0, {}, 1, 2)
    figures = figures._replace(compared={"ended_at": 1.0, "seconds": 1.0, "differences": 1.0})
    assert version.VERSION  # with the module comes its metric
    text = webhook_metrics.exposition(figures).decode() + face_metrics.exposition(list).decode()
    names = set()
    for family in text_string_to_metric_families(text.replace("# EOF\n", "")):
        names |= {sample.name for sample in family.samples}
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names


def named(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"\b[A-Za-z_][A-Za-z0-9_]*\b", bare)) - WORDS - set(re.findall(r"\b\d+[a-z]\b", bare))


EXPRESSIONS = {
    **{f"alert {name}": rule["expr"] for name, rule in RULES.items()},
    **{
        f"{name}: {panel.title} {number}": expression
        for name, (_, panels) in DASHBOARDS.items()
        for panel in panels
        for number, (expression, _) in enumerate(panel.queries)
    },
}


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_metric_that_is_looked_at_exists(where: str) -> None:
    wanted = named(EXPRESSIONS[where])
    assert wanted
    assert wanted <= told() | OF_OTHERS | FIELDS.keys()


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert named('sum(rate(lookingglass_made_up_total{a="b"}[5m])) > 1') == {"lookingglass_made_up_total"}
    assert not {"lookingglass_made_up_total"} <= told()


def test_what_the_services_tell_is_looked_at() -> None:
    looked_at = set().union(*(named(expression) for expression in EXPRESSIONS.values()))
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in looked_at}
    ours = {name for name in told() if name.startswith(("lookingglass_", "rq_")) and not name.endswith("_created")}
    unseen = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in ours} - families
    assert unseen == {"lookingglass_reconcile_seconds", "lookingglass_index_faces"}  # the console shows them


def test_what_a_card_s_exporter_is_asked_for_is_looked_at_in_the_form_that_it_reads() -> None:
    assert FIELDS.keys() <= set().union(*(named(expression) for expression in EXPRESSIONS.values()))
    for line in counters().splitlines():
        field, kind, meaning = line.split(", ", 2)  # a comma in the meaning would be a fourth column
        assert (field in FIELDS, kind, "," in meaning) == (True, "gauge", False), line


def test_the_dashboards_are_whole_as_the_sdk_writes_them(tmp_path: Path) -> None:
    for name, text in dashboards():
        made = json.loads(text)
        _, panels = DASHBOARDS[name]
        assert [panel["title"] for panel in made["panels"]] == [panel.title for panel in panels]
        for written, panel in zip(made["panels"], panels, strict=True):
            assert [target["expr"] for target in written["targets"]] == [query for query, _ in panel.queries]
            assert written["datasource"]["uid"] == SOURCE
            assert written["gridPos"]["w"] == 8
