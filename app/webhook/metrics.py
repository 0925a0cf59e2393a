"""What the webhook counts, for Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector

_EVENTS = Counter("lookingglass_events_total", "Event records received, by what became of them.", ["outcome"])
JOBS, IGNORED, DEAD_LETTERS = (_EVENTS.labels(outcome) for outcome in ("job", "ignored", "dead_letter"))


def exposition(stats: Mapping[str, Mapping[str, int]], held_back: int, compared: Mapping[str, float]) -> bytes:
    """Every metric as text.

    `stats` are the counts by state of each queue, `held_back` the seconds for which MinIO's durable target has sent
    nothing although there were events, `compared` the figures of the last comparison of buckets and index.
    """
    now = CollectorRegistry()
    now.register(_StateCollector(stats, held_back, compared))
    return generate_latest(REGISTRY) + generate_latest(now)


class _StateCollector(Collector):
    def __init__(self, stats: Mapping[str, Mapping[str, int]], held_back: int, compared: Mapping[str, float]) -> None:
        self._stats = stats
        self._single = {
            "lookingglass_events_held_back_seconds": (
                "For so long MinIO has sent none of its events.",
                held_back,
            ),
            "lookingglass_reconcile_end_timestamp_seconds": (
                "When buckets and index were last compared.",
                compared.get("ended_at"),
            ),
            "lookingglass_reconcile_seconds": ("How long that took.", compared.get("seconds")),
            "lookingglass_reconcile_differences": ("How many differences it found.", compared.get("differences")),
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily("lookingglass_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for queue, counts in self._stats.items():
            for state, count in counts.items():
                gauge.add_metric([queue, state.removesuffix("_jobs")], count)
        yield gauge
        for name, (text, value) in self._single.items():
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
