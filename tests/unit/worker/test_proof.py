"""What is proved gone stays gone, also for jobs that saw the object before."""

from typing import Any

import pytest

from app.worker.converge import Context
from app.worker.reconcile import proof
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError


class Bucket:
    """Stands in for `Store`."""

    def __init__(self, version: str | None = None) -> None:
        self.version = version

    def time(self) -> float:
        return 100.0

    def now(self, _bucket: str, _key: str) -> str | None:
        return self.version


class Faces:
    """Stands in for `FaceClient`: what is left, and since when nothing may come back."""

    def __init__(self, record: dict[str, str] | None = None, points: int = 0) -> None:
        self.record, self.points = record, points
        self.guarded: list[float] = []
        self.seen_later = False

    def remains(self, _bucket: str, _key: str) -> tuple[dict[str, str] | None, int]:
        return self.record, self.points

    def delete(self, _bucket: str, _key: str, looked_at: float) -> int:
        if self.seen_later:
            raise ObjectChangedError
        self.guarded.append(looked_at)
        return 0


def proved(bucket: Any, faces: Any) -> dict[str, object]:
    return proof(Context(WorkerSettings(), bucket, faces), "images", "a.jpg")


def test_what_is_gone_is_guarded_from_the_look_on() -> None:
    faces = Faces()
    assert proved(Bucket(), faces)["gone"] is True
    assert faces.guarded == [100.0]


@pytest.mark.parametrize(
    ("bucket", "faces"),
    [(Bucket("v1"), Faces()), (Bucket(), Faces({"etag": "v1"}, 1)), (Bucket(), Faces(None, 1))],
)
def test_a_proof_removes_nothing(bucket: Bucket, faces: Faces) -> None:
    assert proved(bucket, faces)["gone"] is False
    assert faces.guarded == []


def test_an_object_that_another_job_saw_meanwhile_is_not_gone() -> None:
    faces = Faces()
    faces.seen_later = True
    assert proved(Bucket(), faces)["gone"] is False
