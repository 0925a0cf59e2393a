"""What a verdict of this service on a picture depends on, by name, so that one that outlives its cause is noticed."""

from app.gpu import views
from app.gpu.engines.base import EngineInfo
from app.gpu.images import DECODER
from app.gpu.settings import FaceSettings

Judging = dict[str, str | int | float]


def judging(settings: FaceSettings, info: EngineInfo) -> Judging:
    """The present values of all that a verdict on a picture may depend on.

    A record keeps those that its own verdict did depend on, see `indexed_by` and `PermanentError.judged_by`; it is
    current as long as each of them is what it is here.
    """
    return {
        **indexed_by(info),
        "MAX_IMAGE_BYTES": settings.max_image_bytes,
        "MAX_IMAGE_PIXELS": settings.max_image_pixels,
        "decoder": DECODER,
    }


def indexed_by(info: EngineInfo) -> Judging:
    """What the faces found in a picture depended on, beside its bytes and the model."""
    return {"MIN_SCORE": info.min_score, "views": views.VERSION}
