"""What the webhook counts and sees, for Prometheus; of queues and workers under the names that rq-exporter uses."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector

_EVENTS = Counter("lookingglass_events_total", "Event records received, by what became of them.", ["outcome"])
JOBS, IGNORED, DEAD_LETTERS = (_EVENTS.labels(outcome) for outcome in ("job", "ignored", "dead_letter"))
DUPLICATES = Counter("lookingglass_duplicates_total", "Event records whose job was known already.")


class Figures(NamedTuple):
    """What Redis tells of the pipeline at a moment."""

    #: Counts by state of each queue.
    jobs: Mapping[str, Mapping[str, int]]
    #: For how many seconds the next job of each queue has waited.
    oldest: Mapping[str, float]
    #: As `app.common.inspection.workers` describes them.
    workers: Sequence[Mapping[str, Any]]
    paused: bool
    #: Seconds for which MinIO's durable target has sent nothing although there were events.
    held_back: int
    #: `ended_at`, `seconds` and `differences` of the last comparison of buckets and index; none before the first.
    compared: Mapping[str, float]
    #: Bytes that Redis uses, and may use.
    redis_used: int
    redis_limit: int


def exposition(figures: Figures) -> bytes:
    """Every metric as text."""
    now = CollectorRegistry()
    now.register(_StateCollector(figures))
    return generate_latest(REGISTRY) + generate_latest(now)


class _StateCollector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._queues()
        yield self._workers()
        seen = self._figures
        single = {
            "lookingglass_workers_paused": ("1 while workers were told to take no jobs.", int(seen.paused)),
            "lookingglass_events_held_back_seconds": (
                "For so long MinIO has sent none of its events.",
                seen.held_back,
            ),
            "lookingglass_reconcile_end_timestamp_seconds": (
                "When buckets and index were last compared.",
                seen.compared.get("ended_at"),
            ),
            "lookingglass_reconcile_seconds": ("How long that took.", seen.compared.get("seconds")),
            "lookingglass_reconcile_differences": (
                "How many differences it found.",
                seen.compared.get("differences"),
            ),
            "lookingglass_redis_used_bytes": ("Memory that Redis uses.", seen.redis_used),
            "lookingglass_redis_limit_bytes": ("Memory that it may use, or that there is.", seen.redis_limit),
        }
        for name, (text, value) in single.items():
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)

    def _queues(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("rq_jobs", "Jobs by queue and status.", labels=["queue", "status"])
        for queue, counts in self._figures.jobs.items():
            for state, count in counts.items():
                jobs.add_metric([queue, state.removesuffix("_jobs")], count)
        yield jobs
        oldest = GaugeMetricFamily(
            "lookingglass_oldest_job_seconds", "For so long a queue's next job has waited.", labels=["queue"]
        )
        for queue, seconds in self._figures.oldest.items():
            oldest.add_metric([queue], seconds)
        yield oldest

    def _workers(self) -> GaugeMetricFamily:
        workers = GaugeMetricFamily(
            "rq_workers", "Workers by state and the queues they serve.", labels=["state", "queues"]
        )
        alike = Tally((worker["state"], ",".join(worker["queues"])) for worker in self._figures.workers)
        for labels, count in alike.items():
            workers.add_metric(labels, count)
        return workers
