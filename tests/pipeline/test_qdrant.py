"""The index on a server: the same answers, and nothing lost when the server is away."""

from collections.abc import Iterator

import pytest
import urllib3

from infra.local.processes import ChildProcess
from tests import media, qdrant_server
from tests.fixtures import Pipeline, eventually, free_port, standing
from tests.pipeline.test_reconcile import operate


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChildProcess, str]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = qdrant_server.process(tmp_path_factory.mktemp("qdrant"), port)
    process.start()
    process.wait_until(lambda: qdrant_server.answers(url), 60)
    yield process, url
    process.stop()


@pytest.fixture(scope="module")
def served(
    server: tuple[ChildProcess, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pipeline, ChildProcess]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QDRANT_URL", server[1])
        patch.setenv("RECONCILE_INTERVAL", "0")
        with standing(tmp_path_factory.mktemp("served"), workers=1, qdrant_url=server[1]) as found:
            yield found, server[0]


def test_what_is_uploaded_changed_and_removed(
    served: tuple[Pipeline, ChildProcess], photos: dict[str, bytes]
) -> None:
    found, _ = served
    assert found.call("GET", "gpu_worker/health")[1]["index"]["where"] == "server"
    first = found.put("images", "a.jpg", photos["group.jpg"])
    assert found.indexed("images", "a.jpg", first)["points"] == 6
    second = found.put("images", "a.jpg", media.jpeg(media.portrait(photos)))
    answer = found.indexed("images", "a.jpg", second)
    assert (answer["points"], len(answer["faces"])) == (1, 1)
    rejected = found.put("images", "b.jpg", b"no picture")
    found.indexed("images", "b.jpg", rejected)
    listed = found.call("GET", "gpu_worker/items?status=rejected")[1]["items"]
    assert [item["key"] for item in listed] == ["b.jpg"]
    assert found.call("GET", "gpu_worker/items/count?bucket=images")[1]["items"] == 2
    said = found.call("POST", "gpu_worker/items/lookup", {"bucket": "images", "keys": ["a.jpg", "c.jpg"]})[1]["items"]
    assert {key: item["current"] for key, item in said.items()} == {"a.jpg": True}
    assert found.call("GET", "gpu_worker/strays")[1] == {"status": "success", "strays": [], "after": None}
    [model] = found.call("GET", "gpu_worker/models")[1]["models"]
    assert (model["points"], model["items"], model["in_use"], model["read"]) == (1, 2, True, True)
    assert "Differences: none." in operate(found, "reconcile", "--wait").stderr
    for key in ("a.jpg", "b.jpg"):
        found.minio.remove_object("images", key)
        found.gone("images", key)


def test_a_server_that_lost_its_volume_is_filled_again_without_a_restart(
    served: tuple[Pipeline, ChildProcess], server: tuple[ChildProcess, str], photos: dict[str, bytes]
) -> None:
    found, _ = served
    etag = found.put("images", "kept.jpg", media.jpeg(media.portrait(photos)))
    found.indexed("images", "kept.jpg", etag)
    listed = urllib3.request("GET", f"{server[1]}/collections").json()["result"]["collections"]
    assert {"items", "services"} < {collection["name"] for collection in listed}
    for collection in listed:
        urllib3.request("DELETE", f"{server[1]}/collections/{collection['name']}")
    status, health = found.call("GET", "gpu_worker/health")
    assert (status, health["index"]["items"]) == (200, 0)
    assert "1 missing" in operate(found, "reconcile", "--wait").stderr
    assert found.indexed("images", "kept.jpg", etag)["points"] == 1
    found.minio.remove_object("images", "kept.jpg")
    found.gone("images", "kept.jpg")


def test_nothing_is_lost_while_the_server_is_away(
    served: tuple[Pipeline, ChildProcess], photos: dict[str, bytes]
) -> None:
    found, server = served
    face = media.jpeg(media.portrait(photos))
    found.put("images", "before.jpg", face)
    found.indexed("images", "before.jpg")
    server.kill()
    etags = {f"{number}.jpg": found.put("images", f"{number}.jpg", face + bytes([number])) for number in range(5)}
    found.minio.remove_object("images", "before.jpg")
    _, answer = found.call("POST", "webhook/test/queue", {"bucket": "images", "object": "0.jpg"})
    report = eventually(
        lambda: (job := found.call("GET", f"webhook/job/{answer['job_id']}")[1])["status"] == "scheduled" and job,
        "a job that waits",
    )
    assert "The index does not answer" in report["error"]
    assert report["retries_left"] == 3  # an outage is not a poisonous object
    assert found.call("GET", "gpu_worker/health")[0] == 503
    server.start()
    for key, etag in etags.items():
        assert found.indexed("images", key, etag, timeout=200)["points"] == 1
    found.gone("images", "before.jpg", timeout=200)
    assert found.call("GET", "webhook/jobs/failed")[1]["failed_jobs"] == 0
