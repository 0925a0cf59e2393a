"""What the face service tells Prometheus of what it wrote, and of the index."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.common.errors import TransientError
from app.gpu import metrics
from app.gpu.engines.base import EngineInfo


def value(name: str, **labels: str) -> float:
    def held() -> list[dict[str, object]]:
        return [{"model_id": "m", "items": 3, "points": 5, "in_use": True, "read": False}]

    for family in text_string_to_metric_families(metrics.exposition(held).decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0


def test_a_written_record_counts_with_its_reason_or_with_the_time_it_took() -> None:
    def counted() -> tuple[float, ...]:
        return (
            value("lookingglass_upload_to_index_seconds_bucket", kind="image", le="60.0"),
            value("lookingglass_upload_to_index_seconds_bucket", kind="image", le="10.0"),
            value("lookingglass_upload_to_index_seconds_count", kind="image"),
            value("lookingglass_rejections_total", reason_code="damaged"),
        )

    before = counted()
    uploaded = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    metrics.indexed({"status": "indexed", "kind": "image", "last_modified": uploaded, "reason_code": None})
    metrics.indexed({"status": "rejected", "reason_code": "damaged", "last_modified": uploaded})
    metrics.indexed({"status": "indexed", "kind": "image", "last_modified": "yesterday"})
    metrics.indexed({"status": "indexed", "kind": "image"})
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 0, 1, 1]


def test_the_index_is_shown_by_model_and_its_absence_too() -> None:
    assert value("lookingglass_index_items", model_id="m", in_use="true", read="false") == 3
    assert value("lookingglass_face_service_ready") == 1

    def away() -> list[dict[str, object]]:
        raise TransientError("The index does not answer.")

    text = metrics.exposition(away).decode()
    assert "lookingglass_face_service_ready 0.0" in text
    assert "lookingglass_index_items{" not in text


@pytest.mark.parametrize(("processes", "threads", "lines"), [(2, 1, 2), (1, 4, 4)])
def test_what_runs_is_labelled(processes: int, threads: int, lines: int) -> None:
    info = EngineInfo("dlib", "m-1", "cpu", 128, "euclid", 0.6, 1000, threads=threads)
    metrics.ready(info, processes)
    assert value("lookingglass_engine_lines") == lines
    assert value("lookingglass_engine_info", engine="dlib", device="cpu") == 1
