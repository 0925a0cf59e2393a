"""What the face service counts, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import REGISTRY, Collector

from app.common.errors import TransientError
from app.gpu.engines.base import EngineInfo

IMAGES = Counter("lookingglass_images_total", "Pictures analysed, by outcome.", ["outcome"])
FACES = Counter("lookingglass_faces_total", "Faces found in pictures.")
STAGE_SECONDS = Histogram(
    "lookingglass_stage_seconds",
    "Seconds a picture spent in each stage.",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
HELD = Gauge("lookingglass_images_held", "Pictures held in memory, waiting or being analysed.")
BATCH = Histogram(
    "lookingglass_engine_batch_views",
    "Views of pictures that an engine process took at once.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
ENGINE_SECONDS = Summary("lookingglass_engine_seconds", "Seconds of work of all engine processes, by batch.")
LINES = Gauge("lookingglass_engine_lines", "Batches that engine processes may work on at once.")
UNUSABLE = Gauge("lookingglass_engine_processes_unusable", "Engine processes that cannot be used; health says why.")
INDEXED = Counter("lookingglass_items_indexed_total", "Item records written, by status.", ["status"])
REJECTED = Counter("lookingglass_rejections_total", "Objects rejected, by reason.", ["reason_code"])
UPLOAD_TO_INDEX = Histogram(
    "lookingglass_upload_to_index_seconds",
    "Seconds from the upload of an object, as the bucket says it, to its record.",
    ["kind"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)
DELETED = Counter("lookingglass_items_deleted_total", "Items deleted from the index.")
ENGINE = Gauge("lookingglass_engine_info", "1, labelled with what the engine is.", ["engine", "model_id", "device"])

Models = Callable[[], Sequence[Mapping[str, Any]]]


def ready(info: EngineInfo, processes: int) -> None:
    """Note what runs."""
    ENGINE.labels(info.engine, info.model_id, info.device).set(1)
    LINES.set(processes * info.threads)


def indexed(record: Mapping[str, Any]) -> None:
    """Count a record that was written."""
    INDEXED.labels(record["status"]).inc()
    if record.get("reason_code"):
        REJECTED.labels(record["reason_code"]).inc()
    elif uploaded := record.get("last_modified"):
        try:
            at = datetime.fromisoformat(uploaded)
        except ValueError:  # a caller's own words
            return
        seconds = (datetime.now(UTC) - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds()
        UPLOAD_TO_INDEX.labels(record.get("kind") or "unknown").observe(max(0.0, seconds))


def exposition(models: Models) -> bytes:
    """Every metric as text; `models` tells of the index, or raises `TransientError` while it cannot."""
    now = CollectorRegistry()
    now.register(_IndexCollector(models))
    return generate_latest(REGISTRY) + generate_latest(now)


class _IndexCollector(Collector):
    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            held = self._models()
        except TransientError:
            held = None
        text = "1 while engine and index answer."
        yield GaugeMetricFamily("lookingglass_face_service_ready", text, value=int(held is not None))
        labels = ["model_id", "in_use", "read"]
        items = GaugeMetricFamily("lookingglass_index_items", "Objects in the index, by model.", labels=labels)
        faces = GaugeMetricFamily("lookingglass_index_faces", "Faces in the index, by model.", labels=labels)
        for model in held or ():
            values = [model["model_id"], str(model["in_use"]).lower(), str(model["read"]).lower()]
            items.add_metric(values, model["items"])
            faces.add_metric(values, model["points"])
        yield items
        yield faces
