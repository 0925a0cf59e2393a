"""The embedded index: durable, of one process alone, and in place of what an earlier version left."""

import logging
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient

from app.common.errors import TransientError
from app.common.wire import OvertakenError
from app.gpu.index import ITEMS, FaceIndex, IndexAwayError
from app.gpu.index.edge import EdgeStore
from app.gpu.index.layout import ITEM_KEYWORDS, ITEM_TIMES
from app.gpu.index.store import Point, VectorSpace, Where
from tests.unit.gpu.index.conftest import INFO, put

#: Puts items one after another and says which it was told were written.
WRITER = """
import sys
from pathlib import Path
from app.gpu.index import FaceIndex
from app.gpu.index.edge import EdgeStore
from tests.unit.gpu.index.conftest import INFO, put

index = FaceIndex(EdgeStore(Path(sys.argv[1])), INFO)
index.prepare()
for number in range(100_000):
    put(index, f"{number}.jpg", "v1", 2)
    print(number, flush=True)
"""


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 200:
            writer.kill()
            break
    acknowledged = 200 + len(writer.communicate()[0].splitlines())
    assert writer.returncode == -signal.SIGKILL
    index = FaceIndex(EdgeStore(tmp_path), INFO)
    index.prepare()
    said = index.records.lookup("images", [f"{number}.jpg" for number in range(acknowledged + 1)])
    assert len(said) == acknowledged + 1
    assert all(record["whole"] for record in said.values())
    index.close()


def test_an_index_of_a_version_before_is_given_what_it_is_selected_by(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("items", None, ("bucket",))
    at = datetime(2026, 11, 1, tzinfo=UTC)
    ids = [str(UUID(int=number)) for number in (1, 2)]
    store.upsert(
        "items", [Point(one, None, {"indexed_at": at.replace(day=n).isoformat()}) for n, one in enumerate(ids, 1)]
    )
    store.create("items", None, ("bucket", "status"), ("indexed_at",))
    assert set(store._shards["items"].info().payload_schema) == {"bucket", "status", "indexed_at"}
    found, _ = store.page("items", Where(between={"indexed_at": (at.replace(day=2), None)}), limit=10)
    assert list(found) == [ids[1]]
    store.close()


def test_what_the_indexes_count_is_what_there_is_whatever_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qdrant calls these numbers estimates; here they are held against what was written."""
    monkeypatch.setattr("app.gpu.index.edge.FEW_POINTS", 0)
    random, kinds = Random(7), ("first", "second", "third")
    held: dict[str, str] = {}
    store = EdgeStore(tmp_path)
    for turn in range(30):
        store.create("items", None, ("reason_code",))
        ids = [str(UUID(int=random.randrange(3000))) for _ in range(200)]
        given = {one: random.choice(kinds) for one in ids}
        store.upsert("items", [Point(one, None, {"reason_code": kind}) for one, kind in given.items()])
        held |= given
        if turn % 3 == 0:
            gone = random.choice(kinds)
            store.delete("items", Where(having={"reason_code": gone}))
            held = {one: kind for one, kind in held.items() if kind != gone}
        if turn % 10 == 9:
            store.close()
            store = EdgeStore(tmp_path)  # which is rewritten on the way
        counts = Counter(held.values())
        assert store.tally("items", "reason_code", Where()) == counts
        assert {kind: store.count("items", Where(having={"reason_code": kind})) for kind in counts} == counts
        assert store.count("items", Where()) == counts.total()
    store.close()


def test_a_member_without_an_index_is_counted_by_a_look_at_each(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("items", None, ())
    ids = [str(UUID(int=number)) for number in range(50)]
    store.upsert(
        "items", [Point(one, None, {"reason_code": "rare" if n < 3 else "other"}) for n, one in enumerate(ids)]
    )
    assert store.count("items", Where(having={"reason_code": "rare"})) == 3
    store.close()


def test_everything_is_counted_without_a_look_at_each(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("items", None, ("reason_code",))
    ids = [str(UUID(int=number)) for number in range(50)]
    store.upsert("items", [Point(one, None, {"reason_code": "first"}) for one in ids])
    store.upsert("items", [Point(one, None, {"reason_code": "second"}) for one in ids[:20]])
    store.delete("items", Where(having={"reason_code": "first"}))
    assert store.count("items", Where()) == store.count("items", Where(having={"reason_code": "second"})) == 20
    store.close()
    again = EdgeStore(tmp_path)
    assert again.count("items", Where()) == 20
    again.close()


def test_it_is_as_it_was_after_a_restart(tmp_path: Path) -> None:
    index = FaceIndex(EdgeStore(tmp_path), INFO)
    index.prepare()
    put(index, "a.jpg", "v1", 3)
    index.close()
    reopened = FaceIndex(EdgeStore(tmp_path), INFO)
    reopened.prepare()
    assert reopened.alias_target() == reopened.collection
    put(reopened, "a.jpg", "v2", 1)
    assert reopened.records.points("images", "a.jpg") == 1
    reopened.close()


def test_what_no_condition_is_on_comes_back_as_it_was_and_so_does_what_an_earlier_version_wrote(
    tmp_path: Path,
) -> None:
    store = EdgeStore(tmp_path)
    store.create("items", None, ("bucket",))
    payload = {"bucket": "images", "key": "é/\n", "score": 0.1, "box": [1.5, 2], "by": {"views": 1}, "reason": None}
    new, old = (str(UUID(int=number)) for number in (1, 2))
    store.upsert("items", [Point(new, None, payload)])
    as_it_was = edge.UpdateOperation.upsert_points([edge.Point(old, {}, payload)], None, edge.UpdateMode.Upsert)
    store._shards["items"].update(as_it_was)
    assert store.retrieve("items", [new, old]) == {new: payload, old: payload}
    some = {name: payload[name] for name in ("bucket", "key")}
    assert store.retrieve("items", [new, old], ("bucket", "key", "unknown")) == {new: some, old: some}
    assert store.page("items", Where(), limit=10, members=("key",))[0] == {one: {"key": "é/\n"} for one in (new, old)}
    assert store.page("items", Where(), limit=10, members=())[0] == {new: {}, old: {}}
    with pytest.raises(ValueError, match="not on \\['key'\\]"):
        store.count("items", Where(having={"key": "a"}))
    store.close()


def test_what_an_earlier_version_selected_by_is_kept_in_memory_no_longer(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create(ITEMS, None, ("bucket", "revision"))
    index = FaceIndex(store, INFO)
    index.prepare()
    assert set(store._shards[ITEMS].info().payload_schema) == {*ITEM_KEYWORDS, *ITEM_TIMES}
    put(index, "a.jpg", "v1", 1)
    claims = [index.claim("images", "a.jpg") for _ in range(2)]
    index.put({"etag": "v2", "status": "indexed"}, [], claims[0])
    with pytest.raises(OvertakenError):  # a write under a condition of it is still made under it
        index.put({"etag": "v3", "status": "indexed"}, [], claims[1])
    index.close()


def test_it_is_open_in_one_process_only(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    with pytest.raises(TransientError, match="open in another process"):
        EdgeStore(tmp_path)
    store.close()
    EdgeStore(tmp_path).close()


def test_a_collection_whose_creation_was_cut_off_is_created_anew(tmp_path: Path) -> None:
    (tmp_path / "edge" / "faces_model-a" / "segments").mkdir(parents=True)
    (tmp_path / "edge" / "faces_model-a" / "segments" / "half").write_text("")
    store = EdgeStore(tmp_path)
    store.create("faces_model-a", VectorSpace(4, "euclid"), ("item_id",))
    assert store.dimension("faces_model-a") == 4
    store.close()


def test_an_index_of_an_earlier_version_is_left_with_a_word_and_nothing_of_it_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = QdrantClient(path=str(tmp_path))
    earlier.create_collection("items", vectors_config={})
    earlier.close()
    with caplog.at_level(logging.WARNING):
        index = FaceIndex(EdgeStore(tmp_path), INFO)
        index.prepare()
    assert "an earlier version" in caplog.text
    assert "reconcile" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["edge"]
    put(index, "a.jpg", "v1", 1)
    index.close()
    caplog.clear()
    EdgeStore(tmp_path).close()
    assert caplog.text == ""


def test_a_broken_shard_is_an_outage_that_names_the_directory(tmp_path: Path) -> None:
    index = FaceIndex(EdgeStore(tmp_path), INFO)
    index.prepare()
    index.close()
    (tmp_path / "edge" / "items" / "edge_config.json").write_text("nonsense")
    with pytest.raises(IndexAwayError, match=str(tmp_path)):
        EdgeStore(tmp_path)


def test_on_a_disk_that_is_nearly_full_no_face_is_written_and_deletions_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FaceIndex(EdgeStore(tmp_path), INFO)
    index.prepare()
    put(index, "a.jpg", "v1", 1)
    with monkeypatch.context() as full:
        full.setattr("app.gpu.index.edge.FREE_FOR_FACES", 2**60)
        with pytest.raises(IndexAwayError, match=r"INDEX_DIR=.* of its disk are free"):
            put(index, "b.jpg", "v1", 1)
        assert index.records.lookup("images", ["b.jpg"]) == {}  # nor was it announced
        assert index.delete("images", "a.jpg") == 1
        index.close()
        index = FaceIndex(EdgeStore(tmp_path), INFO)
        index.prepare()
        full.setattr("app.gpu.index.edge.FREE_AT_LEAST", 2**60)
        with pytest.raises(IndexAwayError, match=r"INDEX_DIR=.* of its disk are free"):
            index.delete("images", "b.jpg")
    put(index, "b.jpg", "v1", 1)
    assert index.records.lookup("images", ["b.jpg"])["b.jpg"]["whole"]
    index.close()


def test_a_directory_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    index = FaceIndex(EdgeStore(tmp_path / "index"), INFO)
    index.prepare()
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    with pytest.raises(IndexAwayError, match=r"INDEX_DIR="):
        put(index, "a.jpg", "v1", 1)
    index.close()


#: Puts items while no file may grow, and again when they may.
CRAMPED = """
import resource, signal, sys
from pathlib import Path
from app.gpu.index import FaceIndex, IndexAwayError
from app.gpu.index.edge import EdgeStore
from tests.unit.gpu.index.conftest import INFO, put

index = FaceIndex(EdgeStore(Path(sys.argv[1])), INFO)
index.prepare()
put(index, "before.jpg", "v1", 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    for number in range(100_000):
        put(index, f"{number}.jpg", "v1", 20)
except IndexAwayError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(index, "after.jpg", "v1", 1)
found = index.records.lookup("images", ["before.jpg", "after.jpg"])
print(sorted(key for key, record in found.items() if record["whole"]))
index.close()
"""


def test_an_update_that_fails_is_not_the_end_of_the_index(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", CRAMPED, str(tmp_path)], capture_output=True, text=True, check=True)
    failure, _, found = ran.stdout.strip().rpartition("\n")
    assert str(tmp_path) in failure
    assert found == "['after.jpg', 'before.jpg']"


def test_what_was_deleted_leaves_the_disk_at_the_next_start(tmp_path: Path) -> None:
    def occupied() -> int:
        return sum(path.stat().st_blocks for path in tmp_path.glob("edge/faces_*/segments/**/*"))

    store = EdgeStore(tmp_path)
    store.create("faces_large", VectorSpace(1024, "euclid"), ())
    ids = [str(UUID(int=number)) for number in range(3000)]
    store.upsert("faces_large", [Point(one, np.ones(1024, np.float32), {"etag": one[-1]}) for one in ids])
    store.delete("faces_large", Where(having={"etag": list("0123456789abcd")}))
    left = store.count("faces_large", Where())
    store.keep()
    store.close()
    before = occupied()
    store = EdgeStore(tmp_path)
    assert occupied() < before / 2
    assert store.count("faces_large", Where()) == left > 0
    store.close()
