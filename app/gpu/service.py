"""The face service: engine processes and index put together, opened in the background and reopened on trouble."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from app.common.errors import PermanentError, TransientError
from app.common.wire import ConflictError, EngineCrashedError
from app.gpu import metrics
from app.gpu.analysis import Analysis
from app.gpu.engines.base import EngineInfo, EngineUnavailableError, Face
from app.gpu.index import INDEX_ERRORS, Claim, FaceIndex, Payload, connect
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
        with _index_errors():
            totals, alias = index.totals(), index.alias_target()
        return {
            **pool.info.as_dict(),
            **pool.state(),
            "index": {
                "where": "server" if self._settings.qdrant_url else "embedded",
                "collection": index.collection,
                "alias": alias,
                **totals,
            },
        }

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

    def claim(self, bucket: str, key: str) -> AbstractContextManager[Claim]:
        """Hold a claim on an item while its faces are found, see `FaceIndex.claim`."""
        return self._ready().index.claim(bucket, key)

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
            [(face.embedding.tolist(), payload(face)) for face in analysis.faces],
            claim,
        )

    def index_faces(self, item: Payload, faces: list[tuple[list[float], Payload]], claim: Claim) -> Payload:
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
        with _index_errors():
            index = self._ready().index
            record = index.get(bucket, key)
            return record, index.faces(record) if record else []

    def items(self, **selection: Any) -> tuple[list[Payload], str | None]:
        """A page of item records, see `FaceIndex.page`."""
        with _index_errors():
            return self._ready().index.page(**selection)

    def count_items(self, **selection: str | None) -> int:
        """How many item records there are with these members."""
        with _index_errors():
            return self._ready().index.items(**selection)

    def lookup(self, bucket: str, keys: list[str], caller: Mapping[str, Any] | None = None) -> dict[str, Payload]:
        """What the index says of each of these objects that it knows, see `FaceIndex.lookup`.

        What was judged by another value than this service, or the caller, has for the same name now,
        is not current.
        """
        present = {**self._judging(), **(caller or {})}
        with _index_errors():
            found = self._ready().index.lookup(bucket, keys)
        for said in found.values():
            by = said.pop("judged_by") or {}
            otherwise = any(name in by and by[name] != value for name, value in present.items())
            said["judged_otherwise"] = bool(said["current"] and otherwise)
            said["current"] = said["current"] and not otherwise
        return found

    def current(self, bucket: str, key: str, etag: str) -> Payload | None:
        """The record of exactly this version, if it is of the model in use and its faces are all there.

        None for a verdict of others: whoever sends the picture now, judges otherwise.
        """
        said = self.lookup(bucket, [key]).get(key)
        if not (said and said["current"] and said["etag"] == etag):
            return None
        record = self.item(bucket, key)[0]
        by = (record or {}).get("judged_by") or {}
        return record if by.keys() <= self._judging().keys() else None

    def strays(self, after: str | None) -> tuple[list[Payload], str | None]:
        """Objects whose faces are in the index without a record, see `FaceIndex.strays`."""
        with _index_errors():
            return self._ready().index.strays(after)

    def models(self) -> list[Payload]:
        """The models that the index holds faces of."""
        with _index_errors():
            return self._ready().index.held_models()

    def switch_readers(self) -> None:
        """Point the alias at the model in use, once every item is of it.

        Raises:
            ConflictError: some are not yet.
        """
        with _index_errors():
            index = self._ready().index
            if index.alias_target() == index.collection:
                return
            if behind := index.behind():
                raise ConflictError(f"{behind} items are still of another model: reconcile first.")
            index.switch_readers()
        log.info("Readers of the alias now see %s", index.collection)

    def drop_model(self, model_id: str) -> None:
        """Drop all faces of a model.

        Raises:
            ConflictError: it is in use, or readers see it.
            KeyError: the index holds no faces of it.
        """
        with _index_errors():
            index = self._ready().index
            model = next((held for held in index.held_models() if held["model_id"] == model_id), None)
            if model is None:
                raise KeyError(model_id)
            if model["in_use"] or model["read"]:
                raise ConflictError(f"The model {model_id} is in use, or what readers see.")
            index.drop_model(model_id)
        log.info("Dropped the faces of %s", model_id)

    def count(self, bucket: str, key: str) -> int:
        """Points in the index that belong to an item, under every model."""
        with _index_errors():
            return self._ready().index.count(bucket, key)

    def delete(self, bucket: str, key: str) -> int:
        """Remove an item and its faces; return how many points there were."""
        with _index_errors():
            removed = self._ready().index.delete(bucket, key)
        metrics.DELETED.inc()
        return removed

    def close(self) -> None:
        """End the engine processes and close the index."""
        self._closing.set()
        self._opener.join()
        if self._parts:
            self._parts.index.close()

    def _put(self, item: Payload, faces: list[tuple[list[float], Payload]], claim: Claim) -> Payload:
        started = time.perf_counter()
        stamped = {**item, "indexed_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with _index_errors():
            record = self._ready().index.put(stamped, faces, claim)
        metrics.STAGE_SECONDS.labels("index").observe(time.perf_counter() - started)
        metrics.INDEXED.labels(record["status"]).inc()
        return record

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
            except (EngineUnavailableError, TransientError, *INDEX_ERRORS) as error:
                self._problem = str(error)
            except Exception as error:
                log.exception("The face service could not start")
                self._problem = f"{type(error).__name__}: {error}"
            else:
                metrics.ENGINE.labels(pool.info.engine, pool.info.model_id, pool.info.device).set(1)
                log.info("Ready", extra={**pool.info.as_dict(), **asdict(pool.sizes)})
                break
            log.warning("Not ready: %s", self._problem)
            self._closing.wait(RETRY_SECONDS)
        self._closing.wait()
        if pool:
            pool.close()

    def _open_index(self, info: EngineInfo) -> FaceIndex:
        client = connect(self._settings)
        index = FaceIndex(client, info, embedded=self._settings.qdrant_url is None)
        try:
            index.prepare()
        except BaseException:
            client.close()
            raise
        return index


def payload(face: Face) -> Payload:
    """A face without its embedding, as it is stored and answered."""
    return {
        "box": [round(edge, 1) for edge in face.box],
        "landmarks": [[round(float(x), 1), round(float(y), 1)] for x, y in face.landmarks],
        "score": round(face.score, 4),
        **({} if face.frame is None else {"frame": face.frame}),
    }


@contextmanager
def _index_errors() -> Iterator[None]:
    try:
        yield
    except INDEX_ERRORS as error:
        raise TransientError(f"The index does not answer: {error}") from error
