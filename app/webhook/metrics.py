"""What the webhook counts, for Prometheus, summed over its processes."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

EVENTS = Counter("lookingglass_events_total", "Event records received, by what became of them.", ["outcome"])


def exposition(stats: dict[str, dict[str, int]], held_back: int, compared: dict[str, float]) -> bytes:
    """Every metric as text.

    `stats` are the counts by state of each queue, `held_back` the seconds for which MinIO's durable target has sent
    nothing although there were events, `compared` the figures of the last comparison of buckets and index.
    """
    counted, queues = CollectorRegistry(), CollectorRegistry()
    multiprocess.MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    # A registry of its own: one of multiprocess values takes no other collectors.
    queues.register(_StateCollector(stats, held_back, compared))
    return generate_latest(counted) + generate_latest(queues)


class _StateCollector(Collector):
    def __init__(self, stats: dict[str, dict[str, int]], held_back: int, compared: dict[str, float]) -> None:
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
