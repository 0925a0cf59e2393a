"""Videos: sampled frames to the face service, faces to tracks, tracks to the index."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import simplejpeg
from rq.timeouts import JobTimeoutException

from app.common.errors import LookingGlassError, TransientError
from app.worker.faces import FaceClient, FoundFace, Model, ModelChangedError
from app.worker.frames import Frame, Report, Sampling, Video
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectVersion, Store
from app.worker.streams import DECODER
from app.worker.tracks import Sighting, Tracker, points, sharpness

#: What this way of sampling, comparing and tracking is called in records; raised when it finds other faces.
SAMPLING_VERSION = 2

#: Frames under way to the face service at once: enough to keep it busy while the next one is decoded.
IN_FLIGHT = 3

JPEG_QUALITY = 95

#: A video that ends this much before it says it does is truncated: seconds, and share of its duration.
EARLY_END_S = 2.0
EARLY_END_SHARE = 0.05

#: Seconds to wait before a frame that the face service had no place for is offered again: doubled up to the longest.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
#: Seconds for which one frame is offered again and again; a face service that is away for longer is an outage, and
#: the job is better put off.
PATIENCE_S = 900.0

#: Longest note, as the face service takes it.
NOTE_LENGTH = 2000


class VideoTimeoutError(LookingGlassError):
    """The job's time ran out while the video was decoded and looked at."""


def judging(settings: WorkerSettings) -> dict[str, str | int | float]:
    """The present values of all that verdicts on videos depend on, for `judged_by`."""
    return {
        "VIDEO_FRAME_INTERVAL": settings.video_frame_interval,
        "VIDEO_MAX_FRAMES": settings.video_max_frames,
        "VIDEO_MAX_PIXELS": settings.video_max_pixels,
        "video_decoder": DECODER,
        "video_sampling": SAMPLING_VERSION,
    }


def index_video(settings: WorkerSettings, store: Store, faces: FaceClient, version: ObjectVersion) -> dict[str, Any]:
    """Have one version of a video indexed, one face per track; return its item record.

    Raises:
        PermanentError: it can never be.
        ObjectChangedError: there is another version now, or none.
        ModelChangedError: the face service was restarted with another model on the way.
        TransientError: the face service was away or busy for too long.
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
    patience = Patience()
    try:
        report, people = _look(store, faces, version, sampling, model, patience)
    except JobTimeoutException as error:
        if patience.waited_s > (time.perf_counter() - started) / 2:
            raise TransientError(
                f"The face service had no place for the video's frames for {patience.waited_s:.0f} s; {error}"
            ) from error
        raise VideoTimeoutError(f"The video took longer than its job may: {error}") from error
    # It took long: what was deleted meanwhile must not come back, not even until the look afterwards.
    store.check(version)
    return faces.put_faces(
        version,
        model.model_id,
        people.points(report),
        kind="video",
        width=report.width,
        height=report.height,
        duration_s=report.duration_s,
        frames={
            "sampled": report.sampled,
            "sent": report.sent,
            "black": report.black,
            "same": report.same,
            "damaged_packets": report.damaged_packets,
            "interval_s": round(report.interval_s, 3),
            "until_s": round(report.until_s, 3),
        },
        streams=[
            {"index": stream.index, "codec": stream.codec, "width": stream.width, "height": stream.height}
            | {"frames": stream.sampled}
            | ({"left_out": stream.left_out} if stream.left_out else {})
            for stream in report.streams.values()
        ],
        judged_by=_judged_by(settings, report),
        note=_note(report, people, settings.video_frame_interval, settings.video_max_frames),
        timings_ms={"total": round((time.perf_counter() - started) * 1000, 1)},
    )


@dataclass(slots=True)
class Patience:
    """Offers frames again that the face service has no place for: waiting is no failure, and nothing begins anew."""

    #: Seconds that were spent waiting for it, and how often it had no place.
    waited_s: float = 0.0
    refused: int = 0
    _enough: Event = field(default_factory=Event)

    def find(self, faces: FaceClient, jpeg: bytes) -> list[FoundFace]:
        """The faces in a frame.

        Raises:
            TransientError: the face service had no place for it for `PATIENCE_S`, or runs another model now.
        """
        began, wait = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                return faces.find(jpeg)
            except ModelChangedError:
                raise
            except TransientError:
                self.refused += 1
                if time.monotonic() - began + wait > PATIENCE_S or self._enough.wait(wait):
                    raise
                wait = min(2 * wait, LONGEST_WAIT_S)

    def result(self, finding: "Future[list[Sighting]]") -> list[Sighting]:
        """What was found, with the time that it took counted as waiting if frames were refused meanwhile."""
        began, before = time.monotonic(), self.refused
        try:
            return finding.result()
        finally:
            if self.refused > before:
                self.waited_s += time.monotonic() - began

    def end(self) -> None:
        """Nobody waits for the frames any more."""
        self._enough.set()


@dataclass(slots=True)
class People:
    """The people in a video, stream by stream: a place in one stream is none in another."""

    model: Model
    _trackers: dict[int, Tracker] = field(default_factory=dict)
    #: Size of each stream's frames as shown, which places are compared in: that of the first frame.
    _sizes: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, frame: Frame, found: list[Sighting] | None) -> None:
        """Link the faces of the next frame, in pixels of the frame as it was handed out."""
        tracker = self._trackers.setdefault(frame.stream, Tracker(self.model))
        if found is None or frame.size is None:
            tracker.repeat(frame.time_s)
            return
        width, height = frame.size
        size = self._sizes.setdefault(frame.stream, (width * frame.scale[0], height * frame.scale[1]))
        tracker.add([_scaled(one, size[0] / width, size[1] / height) for one in found], frame.time_s)

    @property
    def dropped(self) -> int:
        """Faces beyond the most tracks of a stream."""
        return sum(tracker.dropped for tracker in self._trackers.values())

    @property
    def poor(self) -> int:
        """People of whom there is no good picture."""
        return sum(track.poor for tracker in self._trackers.values() for track in tracker.tracks)

    def points(self, report: Report) -> list[dict[str, Any]]:
        """A point for each, its box in the size that the report gives its stream."""
        several = sum(stream.left_out is None for stream in report.streams.values()) > 1
        found = []
        for index, tracker in self._trackers.items():
            shown, size = report.streams[index], self._sizes.get(index, (1.0, 1.0))
            for track in tracker.finish():
                track.best = _scaled(track.best, shown.width / size[0], shown.height / size[1])
            found += [point | ({"stream": index} if several else {}) for point in points(tracker.tracks)]
        return found


def _look(
    store: Store, faces: FaceClient, version: ObjectVersion, sampling: Sampling, model: Model, patience: Patience
) -> tuple[Report, People]:
    """Decode a video and link the faces in it."""
    people = People(model)
    with store.open(version) as stream:
        video = Video(stream, sampling)
        for frame, found in _found_faces(video, faces, patience):
            people.add(frame, found)
    return video.report, people


def _found_faces(
    video: Video, faces: FaceClient, patience: Patience
) -> Iterator[tuple[Frame, list[Sighting] | None]]:
    """Each frame in order, with its faces in the frame's own pixels; None: the same as in the frame before."""
    waiting: deque[tuple[Frame, Future[list[Sighting]] | None]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT) as senders:
        try:
            for frame in video.frames():
                future = senders.submit(_find, faces, frame, patience) if frame.size else None
                waiting.append((replace(frame, decoded=None), future))
                while sum(future is not None for _, future in waiting) > IN_FLIGHT:
                    one, future = waiting.popleft()
                    yield one, patience.result(future) if future else None
            for one, future in waiting:
                yield one, patience.result(future) if future else None
        finally:
            patience.end()
            senders.shutdown(cancel_futures=True)


def _find(faces: FaceClient, frame: Frame, patience: Patience) -> list[Sighting]:
    if (pixels := frame.pixels) is None:
        return []
    # Colours that the video has for every other pixel only gain next to nothing by being sent for each.
    subsampling = "420" if frame.subsampled else "444"
    jpeg = simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling=subsampling)
    found = patience.find(faces, bytes(jpeg))
    return [Sighting(face, sharpness(pixels, face.box)) for face in found]


def _scaled(one: Sighting, x: float, y: float) -> Sighting:
    left, top, right, bottom = one.face.box
    return replace(
        one,
        face=replace(
            one.face,
            box=(left * x, top * y, right * x, bottom * y),
            landmarks=[(to_right * x, down * y) for to_right, down in one.face.landmarks],
        ),
    )


def _judged_by(settings: WorkerSettings, report: Report) -> dict[str, str | int | float]:
    """What another run would have to differ in, to judge otherwise."""
    present = judging(settings)
    names = {"VIDEO_FRAME_INTERVAL", "video_sampling"}
    if report.thinned:
        names.add("VIDEO_MAX_FRAMES")
    if any(stream.left_out for stream in report.streams.values()):
        names |= {"VIDEO_MAX_PIXELS", "video_decoder"}
    if report.damaged_packets:
        names.add("video_decoder")
    return {name: value for name, value in present.items() if name in names}


def _note(report: Report, people: People, interval: float, max_frames: int) -> str | None:
    """What a person should know of a video that was indexed in part."""
    notes = []
    if report.thinned:
        notes.append(
            f"VIDEO_MAX_FRAMES={max_frames} are too few for a look every {interval:g} s: "
            f"it was looked at as seldom as every {report.interval_s:.1f} s."
        )
    stated, real = report.stated_s, report.duration_s or 0.0
    if stated and stated - real > max(EARLY_END_S, EARLY_END_SHARE * stated):
        notes.append(
            f"The file says that it lasts {stated:.0f} s, but its pictures end at {real:.0f} s: "
            "it is truncated, or what it says is wrong."
        )
    if report.clock_restarts:
        notes.append(
            f"Its clock starts again {report.clock_restarts} times, as in recordings that were joined; "
            "times are counted on from its beginning."
        )
    if report.damaged_packets:
        notes.append(f"{report.damaged_packets} damaged packets could not be decoded.")
    for stream in report.streams.values():
        if stream.left_out:
            notes.append(f"Stream {stream.index} was not looked at: {stream.left_out}")
        elif not stream.sampled:
            notes.append(f"Not one frame of stream {stream.index} could be decoded.")
    if people.poor:
        notes.append(f"{people.poor} of the people were seen in poor, blurred frames only.")
    if people.dropped:
        notes.append(f"{people.dropped} faces beyond the most people of a video were left out.")
    return " ".join(notes)[:NOTE_LENGTH] or None
