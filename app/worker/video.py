"""Videos: sampled frames to the face service, faces to tracks, tracks to the index."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rq.timeouts import JobTimeoutException

from app.common.errors import LookingGlassError
from app.worker.faces import FaceClient, FoundFace, Model
from app.worker.frames import Report, Sampling, Video
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectVersion, Store
from app.worker.tracks import Tracker, points

#: Frames under way to the face service at once: enough to keep it busy while the next one is decoded.
IN_FLIGHT = 3

JPEG_QUALITY = 95

#: A video that ends this much before it says it does is truncated: seconds, and share of its duration.
EARLY_END_S = 2.0
EARLY_END_SHARE = 0.05


class VideoTimeoutError(LookingGlassError):
    """The job's time ran out while the video was decoded and looked at."""


def index_video(settings: WorkerSettings, store: Store, faces: FaceClient, version: ObjectVersion) -> dict[str, Any]:
    """Have one version of a video indexed, one face per track; return its item record.

    Raises:
        PermanentError: it can never be.
        ObjectChangedError: there is another version now.
        ModelChangedError: the face service was restarted with another model on the way.
        VideoTimeoutError: it took longer than its job may.
    """
    started = time.perf_counter()
    model = faces.model()
    sampling = Sampling(
        interval_s=settings.video_frame_interval,
        max_frames=settings.video_max_frames,
        max_pixels=settings.video_max_pixels,
        max_side=model.max_side,
    )
    try:
        report, tracker = _look(store, faces, version, sampling, model)
    except JobTimeoutException as error:
        raise VideoTimeoutError(f"The video took longer than its job may: {error}") from error
    return faces.put_faces(
        version,
        model.model_id,
        points(tracker.tracks),
        kind="video",
        width=report.width,
        height=report.height,
        duration_s=report.duration_s,
        frames={
            "sampled": report.sampled,
            "black": report.black,
            "same": report.same,
            "damaged_packets": report.damaged_packets,
            "interval_s": round(report.interval_s, 3),
            "until_s": round(report.until_s, 3),
        },
        note=_note(report, tracker),
        timings_ms={"total": round((time.perf_counter() - started) * 1000, 1)},
    )


def _look(
    store: Store, faces: FaceClient, version: ObjectVersion, sampling: Sampling, model: Model
) -> tuple[Report, Tracker]:
    """Decode a video and link the faces in it."""
    tracker = Tracker(model)
    with store.open(version) as stream:
        video = Video(stream, sampling)
        for at, found in _found_faces(video, faces):
            if found is None:
                tracker.repeat(at)
            else:
                tracker.add(found, at)
    return video.report, tracker


def _found_faces(video: Video, faces: FaceClient) -> Iterator[tuple[float, list[FoundFace] | None]]:
    """Time and faces of each frame in order, in the video's own pixels; None: the same as in the frame before."""
    waiting: deque[tuple[float, Future[list[FoundFace]] | None]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT) as senders:
        try:
            for frame in video.frames():
                if frame.pixels is None:
                    waiting.append((frame.time_s, None))
                else:
                    scale = video.report.width / frame.pixels.shape[1]
                    waiting.append((frame.time_s, senders.submit(_find, faces, frame.pixels, scale)))
                while sum(future is not None for _, future in waiting) > IN_FLIGHT:
                    at, future = waiting.popleft()
                    yield at, future.result() if future else None
            for at, future in waiting:
                yield at, future.result() if future else None
        finally:
            senders.shutdown(cancel_futures=True)


def _find(faces: FaceClient, pixels: NDArray[np.uint8], scale: float) -> list[FoundFace]:
    return [face.scaled(scale) for face in faces.find(_jpeg(pixels))]


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _note(report: Report, tracker: Tracker) -> str | None:
    """What a person should know of a video that was indexed in part."""
    notes = []
    if report.budget_spent:
        notes.append(f"VIDEO_MAX_FRAMES was reached at {report.until_s:.0f} s.")
    elif report.duration_s:
        missing = report.duration_s - report.until_s - report.interval_s
        if missing > max(EARLY_END_S, EARLY_END_SHARE * report.duration_s):
            notes.append(f"The video is truncated: it ends at {report.until_s:.0f} s of {report.duration_s:.0f} s.")
    if tracker.dropped:
        notes.append(f"{tracker.dropped} faces beyond {len(tracker.tracks)} tracks were left out.")
    return " ".join(notes) or None
