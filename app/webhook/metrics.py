"""What the webhook counts, for Prometheus, summed over its processes."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

EVENTS = Counter("lookingglass_events_total", "Event records received, by what became of them.", ["outcome"])


def exposition(stats: dict[str, dict[str, int]]) -> bytes:
    """Every metric as text; `stats` are the counts by state of each queue."""
    counted, queues = CollectorRegistry(), CollectorRegistry()
    multiprocess.MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    # A registry of its own: one of multiprocess values takes no other collectors.
    queues.register(_QueueCollector(stats))
    return generate_latest(counted) + generate_latest(queues)


class _QueueCollector(Collector):
    def __init__(self, stats: dict[str, dict[str, int]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily("lookingglass_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for queue, counts in self._stats.items():
            for state, count in counts.items():
                gauge.add_metric([queue, state.removesuffix("_jobs")], count)
        yield gauge
