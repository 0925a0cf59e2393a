"""Grafana's dashboards, as code: made with Grafana's own SDK, from the panels that stand here."""

from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

#: The data source that Grafana is given, see `provisioning`.
SOURCE = "lookingglass-prometheus"

#: Panels in a row, of a width of 24.
IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart: what it answers, in which of Grafana's units, and its queries with what each line is called."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


PIPELINE = (
    Panel(
        "How long does an upload take to the index?",
        "s",
        tuple(
            (
                f"histogram_quantile({quantile}, sum by (le, kind) "
                "(rate(lookingglass_upload_to_index_seconds_bucket[10m])))",
                f"{{{{kind}}}}, {name}",
            )
            for quantile, name in ((0.5, "median"), (0.95, "95 %"))
        ),
    ),
    Panel("What waits?", "short", (('max by (queue) (rq_jobs{status="queued"})', "{{queue}}"),)),
    Panel(
        "For how long has the next job waited?",
        "s",
        (("max by (queue) (lookingglass_oldest_job_seconds)", "{{queue}}"),),
    ),
    Panel(
        "What comes in?",
        "cps",
        (
            ("sum by (outcome) (rate(lookingglass_events_total[5m]))", "{{outcome}}"),
            ("sum(rate(lookingglass_duplicates_total[5m]))", "of these known already"),
        ),
    ),
    Panel(
        "What is written into the index?",
        "cps",
        (
            ("sum by (status) (rate(lookingglass_items_indexed_total[5m]))", "{{status}}"),
            ("sum(rate(lookingglass_items_deleted_total[5m]))", "deleted"),
        ),
    ),
    Panel(
        "What is rejected, and why?",
        "cps",
        (("sum by (reason_code) (rate(lookingglass_rejections_total[10m]))", "{{reason_code}}"),),
    ),
    Panel("Who works?", "short", (("sum by (state) (max by (state, queues) (rq_workers))", "{{state}}"),)),
    Panel(
        "What failed, or is put off?",
        "short",
        (('max by (queue, status) (rq_jobs{status=~"failed|scheduled"})', "{{queue}}, {{status}}"),),
    ),
    Panel("Are events held back?", "s", (("max(lookingglass_events_held_back_seconds)", "held back"),)),
    Panel(
        "What did the last comparison find?",
        "short",
        (("max(lookingglass_reconcile_differences)", "differences"),),
    ),
    Panel("What is in the index?", "short", (("sum by (model_id) (lookingglass_index_items)", "{{model_id}}"),)),
    Panel(
        "How full is Redis?",
        "percentunit",
        (("lookingglass_redis_used_bytes / lookingglass_redis_limit_bytes", "memory"),),
    ),
)

FACE_SERVICE = (
    Panel(
        "Where does the time of a picture go?",
        "s",
        (
            (
                "sum by (stage) (rate(lookingglass_stage_seconds_sum[5m])) "
                "/ sum by (stage) (rate(lookingglass_stage_seconds_count[5m]))",
                "{{stage}}, on average",
            ),
        ),
    ),
    Panel(
        "How long do the slowest take?",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, stage) (rate(lookingglass_stage_seconds_bucket[5m])))",
                "{{stage}}, 95 %",
            ),
        ),
    ),
    Panel(
        "How many pictures a second?",
        "cps",
        (("sum by (outcome) (rate(lookingglass_images_total[5m]))", "{{outcome}}"),),
    ),
    Panel(
        "Which share of the engines' time is work?",
        "percentunit",
        (("rate(lookingglass_engine_seconds_sum[5m]) / lookingglass_engine_lines", "{{instance}}"),),
    ),
    Panel(
        "How large are batches?",
        "short",
        (
            (
                "rate(lookingglass_engine_batch_views_sum[5m]) / rate(lookingglass_engine_batch_views_count[5m])",
                "{{instance}}",
            ),
        ),
    ),
    Panel("How many pictures are held?", "short", (("lookingglass_images_held", "{{instance}}"),)),
    Panel("How many faces a second?", "cps", (("sum(rate(lookingglass_faces_total[5m]))", "faces"),)),
    Panel("Is it ready?", "short", (("lookingglass_face_service_ready", "{{instance}}"),)),
    Panel(
        "What runs?",
        "short",
        (
            ("lookingglass_engine_info", "{{engine}} {{model_id}} on {{device}}"),
            ("lookingglass_build_info", "{{version}}"),
        ),
    ),
)

#: Of Redis, by its exporter.
REDIS = (
    Panel("Does it answer?", "short", (("redis_up", "up"), ("redis_aof_last_write_status", "can write its log"))),
    Panel(
        "How much memory does it use?",
        "bytes",
        (("redis_memory_used_bytes", "used"), ("redis_memory_max_bytes", "limit")),
    ),
    Panel("How many commands a second?", "cps", (("rate(redis_commands_processed_total[5m])", "commands"),)),
    Panel(
        "Who is connected?",
        "short",
        (("redis_connected_clients", "connected"), ("redis_blocked_clients", "wait for a job")),
    ),
    Panel("How many keys?", "short", (("sum by (db) (redis_db_keys)", "{{db}}"),)),
    Panel(
        "How much goes in and out?",
        "Bps",
        (
            ("rate(redis_net_input_bytes_total[5m])", "in"),
            ("rate(redis_net_output_bytes_total[5m])", "out"),
        ),
    ),
)

#: Of NVIDIA's cards, by DCGM's exporter: what `cards.FIELDS` names.
CARDS = (
    Panel("Which share of the time do they work?", "percent", (("DCGM_FI_DEV_GPU_UTIL", "card {{gpu}}"),)),
    Panel(
        "How full is their memory?",
        "percentunit",
        (("DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)", "card {{gpu}}"),),
    ),
    Panel("How hot are they?", "celsius", (("DCGM_FI_DEV_GPU_TEMP", "card {{gpu}}"),)),
    Panel("What do they draw?", "watt", (("DCGM_FI_DEV_POWER_USAGE", "card {{gpu}}"),)),
    Panel("What was their last error?", "short", (("DCGM_FI_DEV_XID_ERRORS", "card {{gpu}}, XID"),)),
)

#: The dashboards by the name of their file, each with its title.
DASHBOARDS = {
    "pipeline": ("LookingGlass: the pipeline", PIPELINE),
    "face-service": ("LookingGlass: the face service", FACE_SERVICE),
    "redis": ("LookingGlass: Redis", REDIS),
    "cards": ("LookingGlass: cards", CARDS),
}


def dashboards() -> Iterator[tuple[str, str]]:
    """The name and the JSON of each dashboard."""
    for name, (title, panels) in DASHBOARDS.items():
        built = dashboard.Dashboard(title).uid(f"lookingglass-{name}").tags(["lookingglass"]).refresh("30s")
        built.time("now-6h", "now").timezone("utc").readonly()
        for panel in panels:
            built.with_panel(_panel(panel))
        yield name, JSONEncoder(sort_keys=True, indent=2).encode(built.build())


def _panel(panel: Panel) -> timeseries.Panel:
    source = DataSourceRef(type_val="prometheus", uid=SOURCE)
    built = timeseries.Panel().title(panel.title).unit(panel.unit).datasource(source).min(0).height(8)
    built.span(24 // IN_A_ROW)
    for expression, legend in panel.queries:
        built.with_target(prometheus.Dataquery().expr(expression).legend_format(legend))
    return built
