"""A video's frames go to the face service, and its people to the index, whatever the face service is busy with."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rq.timeouts import JobTimeoutException

from app.common.errors import PermanentError, TransientError
from app.worker import video
from app.worker.faces import FoundFace, Model, ModelChangedError
from app.worker.settings import WorkerSettings
from app.worker.store import ObjectChangedError, ObjectVersion
from app.worker.streams import DECODER
from app.worker.video import VideoTimeoutError, index_video, judging
from tests import media

SIZE = (320, 240)
VERSION = ObjectVersion("videos", "a.mp4", "etag", 1, None, "")


class Bucket:
    """Stands in for the store: one video."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.deleted = False

    @contextmanager
    def open(self, _version: ObjectVersion) -> Iterator[io.BytesIO]:
        yield io.BytesIO(self.data)

    def check(self, _version: ObjectVersion) -> None:
        if self.deleted:
            raise ObjectChangedError


class FaceService:
    """Stands in for the face service: finds a face in the white of a picture, and may be busy."""

    def __init__(self, refuse: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.refuse = refuse
        self.asked = 0
        self.found = 0
        self.put: dict[str, Any] = {}

    def model(self) -> Model:
        return Model("m", "euclid", 0.5, 1600)

    def find(self, jpeg: bytes) -> list[FoundFace]:
        self.asked += 1
        if error := self.refuse(self.asked):
            raise error
        self.found += 1
        white = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")) > 200
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        if not len(rows):
            return []
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        return [FoundFace(box, [(box[0], box[1])], 1.0, np.ones(8, np.float32))]

    def put_faces(self, version: ObjectVersion, model_id: str, faces: list[Any], **more: Any) -> dict[str, Any]:
        self.put = {"faces": faces, **more}
        return self.put


def marked(size: tuple[int, int], number: int) -> Image.Image:
    """A frame with a white square of a quarter of its width, a little further in each."""
    square = Image.effect_noise((size[0] // 4, size[0] // 4), 20).point(lambda grey: 225 + grey // 10).convert("RGB")
    return media.scene(size, (square, size[0] // 8 + number, size[1] // 4), background="navy")


def clip(frames: int = 100, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    return media.video((marked(size, number) for number in range(frames)), **options)


def index(data: bytes, faces: FaceService, **settings: Any) -> dict[str, Any]:
    return index_video(WorkerSettings(**settings), Bucket(data), faces, VERSION)  # type: ignore[arg-type]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are a hundredth as long."""
    monkeypatch.setattr(video, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(video, "LONGEST_WAIT_S", 0.05)


def test_a_record_tells_what_was_looked_at_and_what_the_verdict_depends_on() -> None:
    found = index(clip(), FaceService())
    [face] = found["faces"]
    assert (face["first_seen_s"], face["frames_seen"]) == (0, found["frames"]["sampled"])
    assert face["last_seen_s"] == pytest.approx(9.9, abs=0.2)
    [stream] = found["streams"]
    assert stream == {"index": 0, "codec": "h264", "width": 320, "height": 240, "frames": found["frames"]["sampled"]}
    assert found["judged_by"] == {"VIDEO_FRAME_INTERVAL": 1.0, "video_sampling": video.SAMPLING_VERSION}
    assert found["note"] is None
    assert "stream" not in face


def test_nothing_is_written_of_a_video_that_was_deleted_while_it_was_looked_at() -> None:
    faces, bucket = FaceService(), Bucket(clip())

    def deleted(asked: int) -> None:
        bucket.deleted = asked > 3

    faces.refuse = deleted
    with pytest.raises(ObjectChangedError):
        index_video(WorkerSettings(), bucket, faces, VERSION)  # type: ignore[arg-type]
    assert (faces.found > 3, faces.put) == (True, {})


@pytest.mark.usefixtures("impatient")
def test_a_face_service_that_is_busy_for_long_costs_no_frame_and_no_new_beginning() -> None:
    faces = FaceService(lambda asked: TransientError("busy") if asked % 8 else None)
    found = index(clip(), faces)
    assert faces.found == found["frames"]["sent"]
    assert faces.asked > 7 * faces.found / 2
    assert len(found["faces"]) == 1


@pytest.mark.usefixtures("impatient")
def test_an_outage_puts_the_job_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", 0.2)
    with pytest.raises(TransientError, match="away"):
        index(clip(), FaceService(lambda asked: TransientError("away") if asked > 3 else None))


def test_another_model_is_not_waited_for() -> None:
    with pytest.raises(ModelChangedError):
        index(clip(), FaceService(lambda asked: ModelChangedError("another") if asked > 3 else None))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("busy", "error"), [(True, TransientError), (False, VideoTimeoutError)])
def test_time_spent_waiting_does_not_count_against_the_video(
    monkeypatch: pytest.MonkeyPatch, busy: bool, error: type[Exception]
) -> None:
    result = video.Patience.result

    def timed_out(self: video.Patience, finding: Any) -> Any:
        try:
            return result(self, finding)
        finally:
            if self.refused > 20 or not busy:
                raise JobTimeoutException("the job's time is over")

    monkeypatch.setattr(video.Patience, "result", timed_out)
    with pytest.raises(error):
        index(clip(20), FaceService(lambda asked: TransientError("busy") if busy and asked < 60 else None))


def test_boxes_are_in_the_size_of_the_record_where_the_size_changes_midway() -> None:
    data = clip(80, container="mpegts") + clip(80, (640, 480), container="mpegts")
    found = index(data, FaceService())
    assert (found["width"], found["height"]) == (640, 480)
    [face] = found["faces"]
    left, _, right, _ = face["box"]
    assert right - left == pytest.approx(160, abs=8)
    assert "joined" in found["note"]


def test_people_of_two_cameras_are_told_with_their_stream() -> None:
    def frames(size: tuple[int, int]) -> Iterator[Image.Image]:
        return (marked(size, number) for number in range(50))

    found = index(media.streams(frames(SIZE), frames((640, 480))), FaceService())
    widths = {face["stream"]: face["box"][2] - face["box"][0] for face in found["faces"]}
    assert widths == {0: pytest.approx(80, abs=4), 1: pytest.approx(160, abs=8)}
    assert [stream["width"] for stream in found["streams"]] == [320, 640]


def test_a_stream_that_was_left_out_is_named_in_the_note() -> None:
    frames = [[marked(size, n) for n in range(20)] for size in (SIZE, (640, 480))]
    found = index(media.streams(*frames), FaceService(), video_max_pixels=100_000)
    assert "Stream 1 was not looked at: The video has 640 × 480 pixels" in found["note"]
    assert found["judged_by"]["VIDEO_MAX_PIXELS"] == 100_000


def test_a_video_that_is_looked_at_more_thinly_says_so() -> None:
    found = index(clip(300), FaceService(), video_max_frames=10)
    assert found["frames"]["sent"] <= 10
    assert "VIDEO_MAX_FRAMES=10" in found["note"]
    assert found["judged_by"]["VIDEO_MAX_FRAMES"] == 10


@pytest.mark.parametrize(
    ("data", "settings", "judged_by"),
    [
        (clip(5), {"video_max_pixels": 50_000}, {"VIDEO_MAX_PIXELS": 50_000}),
        (clip(5)[:-400], {}, {"video_decoder": DECODER}),
    ],
)
def test_a_rejection_tells_what_it_depends_on(data: bytes, settings: Any, judged_by: Any) -> None:
    with pytest.raises(PermanentError) as refused:
        index(data, FaceService(), **settings)
    assert refused.value.judged_by == judged_by
    assert judging(WorkerSettings(**settings)).items() >= judged_by.items()
