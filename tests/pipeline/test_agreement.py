"""After a storm of uploads, overwrites and deletions the index says exactly what the bucket says."""

import os
import random

from tests import media
from tests.fixtures import Pipeline, eventually

#: Objects in the storm; `LOOKINGGLASS_OBJECTS=500` makes it a large one.
OBJECTS = int(os.environ.get("LOOKINGGLASS_OBJECTS", "60"))


def test_the_index_equals_the_bucket_after_a_storm(running: Pipeline, photos: dict[str, bytes]) -> None:
    face = media.jpeg(media.portrait(photos))
    chance = random.Random(7)
    keys = [f"storm/{number}.jpg" for number in range(OBJECTS)]
    for number, key in enumerate(keys):
        running.put("images", key, face + number.to_bytes(4, "big"))
    for key in chance.sample(keys, OBJECTS // 5):
        running.put("images", key, face + b"overwritten" + key.encode())
    for key in chance.sample(keys, OBJECTS // 10):
        running.minio.remove_object("images", key)

    def bucket() -> dict[str, str]:
        return {
            str(found.object_name): str(found.etag).strip('"')
            for found in running.minio.list_objects("images", "storm/", recursive=True)
        }

    def index() -> dict[str, str]:
        records, after = [], ""
        while after is not None:
            answer = running.call("GET", f"gpu_worker/items?bucket=images{after and f'&after={after}'}")[1]
            records += answer["items"]
            after = answer["after"]
        return {record["key"]: record["etag"] for record in records if record["key"].startswith("storm/")}

    eventually(lambda: index() == bucket(), "index equals bucket", timeout=60 + OBJECTS)
    running.idle()
    assert index() == bucket()
    assert len(bucket()) == OBJECTS - OBJECTS // 10
    for key in keys:
        assert running.item("images", key)["points"] == (1 if key in bucket() else 0)
