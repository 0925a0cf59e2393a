"""What verdicts depend on has the values that it has now."""

from dataclasses import replace

from app.gpu.engines import load
from app.gpu.judging import indexed_by, judging
from app.gpu.settings import FaceSettings


def test_a_setting_that_would_judge_otherwise_has_another_value() -> None:
    info = load(FaceSettings()).info
    before = judging(FaceSettings(), info)
    assert judging(FaceSettings(max_image_pixels=5000), info) == {**before, "MAX_IMAGE_PIXELS": 5000}
    assert judging(FaceSettings(max_image_bytes=5000), info) == {**before, "MAX_IMAGE_BYTES": 5000}
    assert judging(FaceSettings(), load(FaceSettings(min_score=0.75)).info) == {**before, "MIN_SCORE": 0.75}


def test_what_an_indexed_picture_depends_on_is_part_of_what_verdicts_may_depend_on() -> None:
    info = replace(load(FaceSettings()).info, min_score=0.5)
    assert indexed_by(info).items() <= judging(FaceSettings(), info).items()
    assert indexed_by(info)["MIN_SCORE"] == 0.5
