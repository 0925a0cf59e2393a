"""The face service: engine processes and index put together, opened in the background and reopened on trouble."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from app.common.errors import PermanentError, TransientError
from app.common.wire import EngineCrashedError
from app.gpu import metrics
from app.gpu.analysis import Analysis
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face
from app.gpu.index import Claim, FaceIndex, IndexAwayError, Payload, Vector, open_store
from app.gpu.judging import Judging, indexed_by, judging
from app.gpu.pool import EnginePool
from app.gpu.settings import FaceSettings
from app.gpu.turns import Lane

log = logging.getLogger(__name__)

#: Seconds between attempts to open what would not open: a model directory not yet mounted, a Qdrant not yet up.
RETRY_SECONDS = 5


class NotReadyError(TransientError):
    """The engine or the index is not there yet; the message says why."""


@dataclass(frozen=True, slots=True)
class Parts:
    pool: EnginePool
    index: FaceIndex


class FaceService:
    """Analyses pictures and keeps the index; safe to use from many threads."""

    def __init__(self, settings: FaceSettings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._problem = "The engine is still loading its models."
        self._closing = threading.Event()
        self._opener = threading.Thread(target=self._keep_opening, name="opener", daemon=True)
        self._opener.start()

    def health(self) -> dict[str, Any]:
        """What is running, on what.

        Raises:
            NotReadyError: the service cannot take pictures; the message says why.
            TransientError: the index does not answer.
        """
        parts = self._ready()
        pool, index = parts.pool, parts.index
        if pool.problem:
            raise NotReadyError(pool.problem)
        return {**pool.info.as_dict(), **pool.state(), "index": index.state()}

    @property
    def info(self) -> EngineInfo:
        return self._ready().pool.info

    def analyse(self, data: bytes, lane: Lane) -> Analysis:
        """Find the faces of a picture, when its turn has come.

        Raises:
            PermanentError: it can never be decoded.
            EngineCrashedError: it killed its engine process.
            BusyError, NotReadyError: come back later.
        """
        try:
            with metrics.HELD.track_inprogress():
                analysis = self._ready().pool.analyse(data, lane)
        except PermanentError as error:
            metrics.IMAGES.labels(error.code).inc()
            raise
        except EngineCrashedError:
            metrics.IMAGES.labels("crashed").inc()
            raise
        metrics.IMAGES.labels("analysed").inc()
        metrics.FACES.inc(len(analysis.faces))
        metrics.STAGE_SECONDS.labels("decode").observe(analysis.decode_ms / 1000)
        metrics.STAGE_SECONDS.labels("analyse").observe(analysis.analyse_ms / 1000)
        return analysis

    def claim(self, bucket: str, key: str, *, etag: str | None = None, looked_at: float | None = None) -> Claim:
        """Claim an item before its faces are found, see `FaceIndex.claim`."""
        return self._index.claim(bucket, key, etag=etag, looked_at=looked_at)

    def unchanged(self, claim: Claim, version: Payload) -> Payload | None:
        """The record of exactly this version, if it is of the model in use and its faces are all there.

        What else `version` says of it (`version_id`, `last_modified`) is written down where it is new. None for a
        verdict of others: whoever sends the picture now, judges otherwise.

        Raises:
            OvertakenError: the item was changed since it was claimed.
        """
        record = self._index.held(claim)
        if record is None or record["etag"] != version["etag"]:
            return None
        by, present = record.get("judged_by") or {}, self._judging()
        if not by.keys() <= present.keys() or _judged_otherwise(by, present):
            return None
        if all(record.get(name) == value for name, value in version.items() if name != "looked_at"):
            return record
        return self._index.update(claim, version)

    def index_image(self, item: Payload, data: bytes, claim: Claim) -> Payload:
        """Analyse a picture and make the index hold its faces.

        A picture that can never be decoded is recorded as rejected, with its reason, and raised.

        Raises:
            PermanentError, EngineCrashedError, BusyError: as `analyse`.
            OvertakenError: the item was changed meanwhile.
        """
        try:
            analysis = self.analyse(data, "pictures")
        except PermanentError as error:
            self.reject(item, error, claim)
            raise
        return self.index_faces(
            {
                **item,
                "kind": "image",
                "width": analysis.width,
                "height": analysis.height,
                **({"note": " ".join(analysis.notes)} if analysis.notes else {}),
                "judged_by": indexed_by(self.info),
                "timings_ms": {
                    "decode": round(analysis.decode_ms, 1),
                    "analyse": round(analysis.analyse_ms, 1),
                },
            },
            [(face.embedding, payload(face)) for face in analysis.faces],
            claim,
        )

    def index_faces(self, item: Payload, faces: Sequence[tuple[Vector, Payload]], claim: Claim) -> Payload:
        """Make the index hold exactly these faces for an item."""
        return self._put({**item, "status": "indexed", "reason": None, "reason_code": None}, faces, claim)

    def reject(self, item: Payload, error: PermanentError, claim: Claim) -> Payload:
        """Record why an item has no faces, and drop what an earlier version of it had."""
        rejected = {**item, "status": "rejected", "reason": str(error), "reason_code": error.code}
        if error.judged_by:
            rejected["judged_by"] = error.judged_by
        return self._put(rejected, [], claim)

    def item(self, bucket: str, key: str) -> tuple[Payload | None, list[Payload]]:
        """An item's record, and the payloads of its faces that are really in the index."""
        records = self._index.records
        record = records.get(bucket, key)
        return record, records.faces(record) if record else []

    def items(self, **selection: Any) -> tuple[list[Payload], str | None]:
        """A page of item records, see `Records.page`."""
        return self._index.records.page(**selection)

    def item_ids(self, bucket: str, after: str | None) -> tuple[list[str], str | None]:
        """The ids of a page of a bucket's records, see `Records.ids`."""
        return self._index.records.ids(bucket, after)

    def count_items(self, **selection: str | None) -> int:
        """How many item records there are with these members."""
        return self._index.records.count(**selection)

    def tally_items(self, member: str, **selection: str | None) -> dict[str, int]:
        """How many item records there are for each value of a member."""
        return self._index.records.tally(member, **selection)

    def lookup(self, bucket: str, keys: list[str], caller: Mapping[str, Any] | None = None) -> dict[str, Payload]:
        """What the index says of each of these objects that it knows: `etag`, `model_id`, `status`, `current`.

        Current is what is whole under the model in use, and was not judged by another value than this service, or
        the caller, has for the same name now; `judged_otherwise` tells that apart.
        """
        present = {**self._judging(), **(caller or {})}
        said = {}
        for key, record in self._index.records.lookup(bucket, keys).items():
            otherwise = record["whole"] and _judged_otherwise(record.get("judged_by") or {}, present)
            said[key] = {
                "etag": record["etag"],
                "model_id": record["model_id"],
                "status": record["status"],
                "current": record["whole"] and not otherwise,
                "judged_otherwise": otherwise,
            }
        return said

    def strays(self, after: str | None) -> tuple[list[Payload], str | None]:
        """Objects whose faces are in the index without a record, see `Records.strays`."""
        return self._index.records.strays(after)

    def models(self) -> list[Payload]:
        """The models that the index holds faces of."""
        return self._index.models()

    def switch_readers(self) -> None:
        """Point the alias at the model in use, see `FaceIndex.switch_readers`."""
        self._index.switch_readers()

    def drop_model(self, model_id: str) -> None:
        """Drop all faces of a model, see `FaceIndex.drop_model`."""
        self._index.drop_model(model_id)

    def count(self, bucket: str, key: str) -> int:
        """Points in the index that belong to an item, under every model."""
        return self._index.records.points(bucket, key)

    def delete(self, bucket: str, key: str, *, looked_at: float | None = None) -> int:
        """Remove an item and its faces, see `FaceIndex.delete`; return how many points there were."""
        removed = self._index.delete(bucket, key, looked_at=looked_at)
        metrics.DELETED.inc()
        return removed

    def close(self) -> None:
        """End the engine processes and close the index."""
        self._closing.set()
        self._opener.join()
        if self._parts:
            self._parts.index.close()

    def _put(self, item: Payload, faces: Sequence[tuple[Vector, Payload]], claim: Claim) -> Payload:
        started = time.perf_counter()
        stamped = {**item, "indexed_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        looked_at = stamped.pop("looked_at", None)
        record = self._index.put(stamped, faces, claim, looked_at=looked_at)
        metrics.STAGE_SECONDS.labels("index").observe(time.perf_counter() - started)
        metrics.indexed(record)
        return record

    @property
    def _index(self) -> FaceIndex:
        return self._ready().index

    def _judging(self) -> Judging:
        return judging(self._settings, self.info)

    def _ready(self) -> Parts:
        if self._parts is None:
            raise NotReadyError(self._problem)
        return self._parts

    def _keep_opening(self) -> None:
        pool: EnginePool | None = None
        while not self._closing.is_set():
            try:
                pool = pool or EnginePool(self._settings)
                self._parts = Parts(pool, self._open_index(pool.info))
            except (EngineUnavailableError, TransientError) as error:
                self._problem = str(error)
            except Exception as error:
                log.exception("The face service could not start")
                self._problem = f"{type(error).__name__}: {error}"
            else:
                metrics.ready(pool.info, pool.sizes.processes)
                log.info("Ready", extra={**pool.info.as_dict(), **asdict(pool.sizes)})
                break
            log.warning("Not ready: %s", self._problem)
            self._closing.wait(RETRY_SECONDS)
        while pool and not self._closing.wait(RETRY_SECONDS):
            self._keep_index()
        if pool:
            pool.close()

    def _keep_index(self) -> None:
        try:
            self._index.keep()
        except IndexAwayError as error:
            log.warning("%s", error)

    def _open_index(self, info: EngineInfo) -> FaceIndex:
        index = FaceIndex(open_store(self._settings), info)
        try:
            index.prepare()
        except BaseException:
            index.close()
            raise
        return index


def _judged_otherwise(by: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    return any(present.get(name, value) != value for name, value in by.items())


def payload(face: Face) -> Payload:
    """A face without its embedding, as it is stored and answered."""
    return {
        "box": [round(edge, 1) for edge in face.box],
        "landmarks": [[round(float(x), 1), round(float(y), 1)] for x, y in face.landmarks],
        "score": round(face.score, 4),
        **({} if face.frame is None else {"frame": face.frame}),
    }
