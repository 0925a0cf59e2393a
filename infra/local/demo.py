"""The demo: real photos and a video through the real pipeline, watched from outside."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from minio import Minio
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.common.errors import LookingGlassError
from infra.local.demo_media import counted, draw, photo_of_one, walk_past
from infra.local.photos import FACES, photos
from infra.local.settings import LocalSettings
from infra.local.stack import Stack

#: Seconds within which each step has to have happened.
PATIENCE = 180

#: People in the video that the demo makes.
PEOPLE_IN_VIDEO = 2

Answer = dict[str, Any]


class DemoError(LookingGlassError):
    """A step did not happen; the message says which, and what was seen instead."""


def run(settings: LocalSettings, console: Console, *, picture: Path, keep: bool) -> int:
    """Run the demo; return 0 only if every step really happened.

    Raises:
        DemoError: a step did not.
    """
    pictures = photos()
    with Stack(settings) as stack:
        watcher = Watcher(stack)
        uploads = {
            ("images", "group.jpg"): pictures["group.jpg"].read_bytes(),
            ("images", "astronaut.png"): pictures["astronaut.png"].read_bytes(),
            ("images", "portrait.jpg"): photo_of_one(pictures),
            ("images", "not a photo.jpg"): b"This only calls itself a photo.",
            ("videos", "walk past.mp4"): walk_past(pictures),
        }
        expected = {"group.jpg": FACES["group.jpg"], "astronaut.png": 1, "portrait.jpg": 1, "not a photo.jpg": 0}
        expected["walk past.mp4"] = PEOPLE_IN_VIDEO
        results = _upload(watcher, uploads, console)
        console.print(_table(results))
        for (_, key), (answer, _) in results.items():
            _require(answer["points"] == expected[key], f"{key} has {counted(answer['points'])}, not {expected[key]}")
        rejected = results["images", "not a photo.jpg"][0]["item"]
        _require(rejected["status"] == "rejected", "what is no photo was not rejected")
        shown = {key: (data, results[where][0]) for where, data in uploads.items() if (key := where[1])}
        draw({key: pair for key, pair in shown.items() if pair[1]["points"]}, picture)
        console.print(f"The faces found, and the people tracked through the video: [bold]{picture.absolute()}[/bold]")
        _follow_changes(watcher, uploads, console)
        if keep:
            console.print(f"Still running, with the outputs in {stack.directory / 'outputs.json'}; Ctrl-C stops it.")
            while True:
                stack.check()
                time.sleep(0.5)
        watcher.clean(uploads)
    console.print("[green]Every step happened.[/green] `make serve` runs the same stack for your own pictures.")
    return 0


class Watcher:
    """Uploads with the MinIO client, and watches through the face service's HTTP API."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._url = stack.outputs["gpu_worker_url"]
        self._buckets = {"images": stack.settings.image_bucket, "videos": stack.settings.video_bucket}
        self._http = urllib3.PoolManager(timeout=30, retries=2)
        self.minio: Minio = stack.minio()

    def upload(self, bucket: str, key: str, data: bytes) -> str:
        """Upload an object; return its ETag."""
        return self.minio.put_object(self._buckets[bucket], key, io.BytesIO(data), len(data)).etag or ""

    def remove(self, bucket: str, key: str) -> None:
        self.minio.remove_object(self._buckets[bucket], key)

    def look(self, bucket: str, key: str) -> Answer:
        """What the index knows of an object."""
        url = f"{self._url}/items/{quote(self._buckets[bucket], safe='')}/{quote(key, safe='')}?faces=1"
        return dict(self._http.request("GET", url).json())

    def wait(self, what: str, probe: Callable[[], Answer | None]) -> Answer:
        """Wait until a probe finds what it looks for.

        Raises:
            DemoError: it did not in time.
        """
        deadline = time.monotonic() + PATIENCE
        while (found := probe()) is None:
            self._stack.check()
            _require(time.monotonic() < deadline, f"{what}: not within {PATIENCE} s")
            time.sleep(0.05)
        return found

    def indexed(self, bucket: str, key: str, etag: str) -> Answer | None:
        """The index's answer once it has this version."""
        answer = self.look(bucket, key)
        return answer if answer.get("current") and answer["item"]["etag"] == etag else None

    def gone(self, bucket: str, key: str) -> Answer | None:
        """The index's answer once nothing is left of an object."""
        answer = self.look(bucket, key)
        return answer if answer.get("code") == "not_found" and answer["points"] == 0 else None

    def clean(self, uploads: dict[tuple[str, str], bytes]) -> None:
        """Remove what the demo uploaded, and wait until the index has followed."""
        for bucket, key in uploads:
            self.remove(bucket, key)
        for bucket, key in uploads:
            self.wait(f"{key} gone", lambda where=(bucket, key): self.gone(*where))  # type: ignore[misc]


def _upload(
    watcher: Watcher, uploads: dict[tuple[str, str], bytes], console: Console
) -> dict[tuple[str, str], tuple[Answer, float]]:
    """Upload everything; return the index's answer and the seconds it took, by object."""
    results: dict[tuple[str, str], tuple[Answer, float]] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        started, etags, tasks = {}, {}, {}
        for where, data in uploads.items():
            tasks[where] = progress.add_task(f"{where[0]}/{where[1]}: uploaded, {len(data) / 1e6:.1f} MB", total=1)
            started[where], etags[where] = time.monotonic(), watcher.upload(*where, data)

        def look() -> Answer | None:
            for where in uploads.keys() - results.keys():
                if answer := watcher.indexed(*where, etags[where]):
                    results[where] = answer, time.monotonic() - started[where]
                    text = f"{where[0]}/{where[1]}: {answer['item']['status']}, {counted(answer['points'])}"
                    progress.update(tasks[where], description=text, completed=1)
            return {} if len(results) == len(uploads) else None

        watcher.wait("every upload in the index", look)
    return {where: results[where] for where in uploads}


def _table(results: dict[tuple[str, str], tuple[Answer, float]]) -> Table:
    table = Table(title="What became of each object")
    table.add_column("object", no_wrap=True)
    for name in ("status", "faces", "upload to index", "why"):
        table.add_column(name)
    for (bucket, key), (answer, seconds) in results.items():
        item = answer["item"]
        table.add_row(
            f"{bucket}/{key}", item["status"], str(answer["points"]), f"{seconds:.2f} s", item["reason"] or ""
        )
    return table


def _follow_changes(watcher: Watcher, uploads: dict[tuple[str, str], bytes], console: Console) -> None:
    """Replace one object and delete another, and see the index follow."""
    started = time.monotonic()
    etag = watcher.upload("images", "astronaut.png", uploads["images", "group.jpg"])
    answer = watcher.wait("the replaced photo", lambda: watcher.indexed("images", "astronaut.png", etag))
    _require(answer["points"] == FACES["group.jpg"], f"the replaced photo has {counted(answer['points'])}")
    seconds = time.monotonic() - started
    console.print(f"Replaced images/astronaut.png: 1 face became {counted(answer['points'])} in {seconds:.2f} s.")
    started = time.monotonic()
    watcher.remove("images", "group.jpg")
    answer = watcher.wait("the deleted photo", lambda: watcher.gone("images", "group.jpg"))
    console.print(
        f"Deleted images/group.jpg: {answer['points']} points are left after {time.monotonic() - started:.2f} s."
    )


def _require(happened: bool, otherwise: str) -> None:
    if not happened:
        raise DemoError(f"The demo failed: {otherwise}.")
