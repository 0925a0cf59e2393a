"""What a crawler does to the buckets while things break: uploads, overwrites, deletions; and what must come of it."""

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import urllib3
from minio.deleteobjects import DeleteObject
from minio.error import MinioException
from PIL import Image

from tests import media
from tests.fixtures import JSON, Pipeline

Photos = dict[str, bytes]
Name = tuple[str, str]

#: Objects in a page of the face service's answers.
PAGE = 1000

#: Shares of objects that are overwritten, and deleted.
OVERWRITTEN = 0.2
DELETED = 0.15


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, which has the same number of faces whenever it is looked at."""

    name: str
    bucket: str
    suffix: str
    #: Of a hundred objects, so many are of this kind.
    weight: int
    make: Callable[[Photos], bytes]


def _small(photos: Photos) -> Image.Image:
    return media.portrait(photos).resize((133, 147))


KINDS = (
    Kind("one face", "images", ".jpg", 55, lambda photos: media.jpeg(_small(photos))),
    Kind(
        "two faces",
        "images",
        ".jpg",
        10,
        lambda photos: media.jpeg(
            media.scene((300, 160), (_small(photos), 0, 0), (media.stranger(photos).resize((150, 160)), 145, 0))
        ),
    ),
    Kind("no face", "images", ".jpg", 25, lambda _: media.jpeg(media.numbered((64, 64), 5))),
    Kind("no picture", "images", ".jpg", 8, lambda _: b"a text"),
    Kind(
        "video",
        "videos",
        ".mp4",
        2,
        lambda photos: media.video(media.scene((176, 176), (_small(photos), 10 + n, 10)) for n in range(12)),
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to a bucket: an upload of a kind, or a deletion."""

    bucket: str
    key: str
    kind: Kind | None


class Crawler(threading.Thread):
    """Works off a plan at an even pace; tries again what MinIO could not take, as crawlers do."""

    def __init__(self, found: Pipeline, photos: Photos, rng: random.Random, objects: int, seconds: float) -> None:
        super().__init__(name="crawler", daemon=True)
        self._found = found
        self._content = {kind.name: kind.make(photos) for kind in KINDS}
        #: What is done, in order.
        self.plan = plan(rng, objects)
        self._pause = seconds / len(self.plan)
        self._numbers = iter(range(1, 10**9))
        self.tries_again = 0
        #: What the buckets hold after what was done so far: ETag and kind.
        self.expected: dict[Name, tuple[str, Kind]] = {}

    @property
    def uploads(self) -> int:
        """How many uploads there are in all."""
        return sum(step.kind is not None for step in self.plan)

    def run(self) -> None:
        started = time.monotonic()
        for number, step in enumerate(self.plan):
            time.sleep(max(0.0, started + number * self._pause - time.monotonic()))
            self._until_taken(step)

    def _until_taken(self, step: Step) -> None:
        while True:
            try:
                if step.kind is None:
                    self._found.minio.remove_object(step.bucket, step.key)
                    self.expected.pop((step.bucket, step.key), None)
                else:
                    data = self._new(step.kind)
                    etag = self._found.put(step.bucket, step.key, data)
                    self.expected[step.bucket, step.key] = etag, step.kind
                return
            except (MinioException, urllib3.exceptions.HTTPError, OSError):
                self.tries_again += 1
                time.sleep(0.3)

    def _new(self, kind: Kind) -> bytes:
        """Bytes of a kind that no other object has."""
        number = struct.pack(">Q", next(self._numbers))
        end = struct.pack(">I", 16) + b"free" + number if kind.bucket == "videos" else number
        return self._content[kind.name] + end


def plan(rng: random.Random, objects: int) -> list[Step]:
    """So many objects uploaded in order, some overwritten later, some deleted after that."""
    steps: list[tuple[float, Step]] = []
    for number in range(objects):
        [kind] = rng.choices(KINDS, [kind.weight for kind in KINDS])
        if number < len(KINDS):
            kind = KINDS[number]  # at least one of each
        key = f"{rng.choice(['a', 'b c', 'ü'])}/{number}{kind.suffix}"
        at = rng.random() if number else 0.0
        steps.append((at, Step(kind.bucket, key, kind)))
        if rng.random() < OVERWRITTEN:
            at += (1 - at) * rng.random()
            other = rng.choice([other for other in KINDS if other.bucket == kind.bucket])
            steps.append((at, Step(kind.bucket, key, other)))
        if rng.random() < DELETED:
            at += (1 - at) * rng.random()
            steps.append((at, Step(kind.bucket, key, None)))
    return [step for _, step in sorted(steps, key=lambda pair: pair[0])]


def faces_of(found: Pipeline, photos: Photos) -> dict[str, int]:
    """How many faces each kind has, in a run in which nothing breaks."""
    counts = {}
    for number, kind in enumerate(KINDS):
        key = f"calm/{number}{kind.suffix}"
        etag = found.put(kind.bucket, key, kind.make(photos))
        counts[kind.name] = found.indexed(kind.bucket, key, etag)["item"]["face_count"]
        found.minio.remove_object(kind.bucket, key)
        found.gone(kind.bucket, key)
    return counts


def disagreements(found: Pipeline, expected: dict[Name, tuple[str, Kind]], faces: dict[str, int]) -> list[str]:
    """Where bucket and index differ, object by object, ETag by ETag, face by face; the bucket is read itself."""
    stored = {
        (bucket, str(entry.object_name)): (entry.etag or "").strip('"')
        for bucket in ("images", "videos")
        for entry in found.minio.list_objects(bucket, recursive=True)
    }
    records = {(record["bucket"], record["key"]): record for record in _records(found)}
    wrong = [f"{name}: not what was uploaded last" for name in stored if stored[name] != _etag(expected, name)]
    wrong += [f"{name}: lost by the store" for name in expected.keys() - stored.keys()]
    wrong += [f"{name}: in the index, not in the bucket" for name in records.keys() - stored.keys()]
    wrong += [f"{name}: in the bucket, not in the index" for name in stored.keys() - records.keys()]
    whole = _whole(found, stored)
    for name in records.keys() & stored.keys() & expected.keys():
        record, (etag, kind) = records[name], expected[name]
        said = record["etag"], record["face_count"], name in whole
        if said != (etag, faces[kind.name], True):
            wrong.append(f"{name}, {kind.name}: {said}, not {(etag, faces[kind.name], True)}")
    points = found.call("GET", "gpu_worker/health")[1]["index"]["faces"]
    promised = sum(record["face_count"] for record in records.values())
    if points != promised:
        wrong.append(f"{points} points in the index where its records promise {promised}")
    return sorted(wrong)


def _etag(expected: dict[Name, tuple[str, Kind]], name: Name) -> str | None:
    return expected[name][0] if name in expected else None


def remove_all(found: Pipeline) -> None:
    """Empty the buckets."""
    for bucket in ("images", "videos"):
        names = [DeleteObject(str(entry.object_name)) for entry in found.minio.list_objects(bucket, recursive=True)]
        assert list(found.minio.remove_objects(bucket, names)) == []


def _records(found: Pipeline) -> Iterator[JSON]:
    after = ""
    while True:
        answer = found.call("GET", f"gpu_worker/items?limit={PAGE}{after and f'&after={after}'}")[1]
        yield from answer["items"]
        if not answer["after"]:
            return
        after = answer["after"]


def _whole(found: Pipeline, stored: dict[Name, str]) -> set[Name]:
    """The objects whose points are all in the index, counted anew."""
    whole: set[Name] = set()
    for bucket in ("images", "videos"):
        keys = [key for where, key in stored if where == bucket]
        for at in range(0, len(keys), PAGE):
            body = {"bucket": bucket, "keys": keys[at : at + PAGE]}
            said = found.call("POST", "gpu_worker/items/lookup", body)[1]["items"]
            whole |= {(bucket, key) for key, what in said.items() if what["current"]}
    return whole
