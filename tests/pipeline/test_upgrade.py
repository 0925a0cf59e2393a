"""What version 0.1.0 left is opened by this one: its buckets, the jobs on its queues, and its embedded index."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models
from rq import Queue
from rq.serializers import JSONSerializer

from app.common.items import item_id, point_id
from app.common.version import VERSION
from infra.local import tools
from tests import media
from tests.fixtures import eventually, standing


def leave_index(directory: Path, key: str, etag: str) -> None:
    """An embedded index as 0.1.0 kept it, in qdrant-client's local mode, of a photo with a face."""
    with_faces = "faces_dlib_resnet_v1-of-before"
    record: dict[str, Any] = {
        "item_id": item_id("images", key),
        "bucket": "images",
        "key": key,
        "etag": etag,
        "status": "indexed",
    }
    record |= {
        "model_id": with_faces.removeprefix("faces_"),
        "face_count": 1,
        "indexed_at": "2026-11-24T10:00:00+00:00",
    }
    client = QdrantClient(path=str(directory))
    client.create_collection("items", vectors_config={})
    vectors = models.VectorParams(size=128, distance=models.Distance.EUCLID)
    client.create_collection(with_faces, vectors_config=vectors)
    client.upsert("items", [models.PointStruct(id=record["item_id"], vector={}, payload=record)])
    face = point_id(record["item_id"], etag, record["model_id"], 0)
    payload = {**{name: record[name] for name in ("item_id", "bucket", "key", "etag")}, "face": 0}
    client.upsert(with_faces, [models.PointStruct(id=face, vector=[0.1] * 128, payload=payload)])
    client.close()


def test_buckets_queues_and_an_embedded_index_of_0_1_0_end_up_as_they_should(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    directory = tmp_path / "state"
    photo = media.jpeg(media.portrait(photos))
    with standing(directory, workers=1) as before:
        before.indexed("images", "old.jpg", etag := before.put("images", "old.jpg", photo))
        before.idle()
        before.redis.set("rq:suspended", 1)
    shutil.rmtree(directory / "data" / "index")
    leave_index(directory / "data" / "index", "old.jpg", etag)
    with standing(directory, workers=1) as now:
        # A job as 0.1.0 enqueued it, of an event whose object has come since.
        now.put("images", "queued.jpg", photo + b"queued")
        now.redis.delete("rq:queue:facial_recognition")
        job = Queue.prepare_data(
            "app.worker.jobs.route_processing_job",
            kwargs={"bucket": "images", "object": "queued.jpg", "event": "s3:ObjectCreated:Put"},
            job_id="0123456789abcdef",
            timeout=180,
            result_ttl=3600,
            failure_ttl=2592000,
            description="s3:ObjectCreated:Put images/queued.jpg",
        )
        Queue("facial_recognition", connection=now.redis, serializer=JSONSerializer).enqueue_many([job])
        now.redis.delete("rq:suspended")
        now.indexed("images", "queued.jpg")
        eventually(
            lambda: now.call("GET", "webhook/job/0123456789abcdef")[1].get("status") == "finished", "the job done"
        )
        # The embedded index is replaced by an empty one, which a comparison fills: CHANGELOG.md says so.
        assert now.item("images", "old.jpg").get("item") is None
        command = [str(tools.ROOT / "scripts" / "lookingglass"), "--outputs", str(directory / "outputs.json")]

        def compared() -> bool:
            done = subprocess.run([*command, "reconcile", "--wait"], capture_output=True, text=True, timeout=120)
            return done.returncode == 0

        eventually(compared, "a comparison")
        assert now.indexed("images", "old.jpg", etag)["points"] == 1
        assert "held an index of an earlier version" in now.log("gpu-worker")
        assert now.call("GET", "gpu_worker/items/count")[1]["items"] == 2
        for service in ("webhook", "gpu_worker", "console"):
            health = now.http.request("GET", f"{now.outputs[f'{service}_url']}/health").json()
            assert health["version"] == VERSION, service
