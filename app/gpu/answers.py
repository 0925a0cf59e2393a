"""What the face service answers, described for `/openapi.json`; what these forbid, it does not say."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Said(BaseModel):
    """An answer, or a part of one, with all its members."""

    model_config = ConfigDict(extra="forbid")


class Success(Said):
    status: Literal["success"]


class Place(Said):
    """A face without its embedding; coordinates in pixels of the upright picture."""

    box: tuple[float, float, float, float]
    landmarks: list[tuple[float, float]]
    score: float
    #: The frame of an animation in which it was seen best.
    frame: int | None = None


class EmbeddedFace(Place):
    embedding: list[float]


class Faces(Success):
    model_id: str
    width: int
    height: int
    faces: list[EmbeddedFace]
    timings_ms: dict[str, float]
    note: str | None = None


class Record(BaseModel):
    """What the index knows of an object; the members that every record has."""

    item_id: str
    bucket: str
    key: str
    etag: str
    status: Literal["indexed", "rejected"]
    model_id: str
    face_count: int
    reason: str | None
    reason_code: str | None
    indexed_at: str


class Put(Success):
    item: Record
    #: Whether the index held this version already, so that nothing was analysed.
    unchanged: bool = False


class Item(Success):
    item: Record
    points: int
    #: Whether the record is of today's model and settings, and the index holds what it promises.
    current: bool
    #: Each face's payload, where `faces` was asked for.
    faces: list[dict[str, Any]] | None = None


class Items(Success):
    items: list[Record]
    #: Where the next page begins.
    after: str | None


class Ids(Success):
    ids: list[str]
    after: str | None


class Count(Success):
    items: int
    #: Of each value of the member that was asked for, where there are any; the most frequent thousand.
    by: dict[str, int] | None = None


class Found(BaseModel):
    etag: str
    model_id: str
    status: Literal["indexed", "rejected"]
    current: bool
    #: Whether it is whole, but was judged by other settings than those of now.
    judged_otherwise: bool


class Lookups(Success):
    #: Null, where ETags were given and nothing is known.
    items: dict[str, Found | None]


class Stray(Said):
    bucket: str
    key: str


class Strays(Success):
    strays: list[Stray]
    after: str | None


class Model(Said):
    model_id: str
    points: int
    items: int
    in_use: bool
    #: Whether it is what readers of the alias see.
    read: bool


class Models(Success):
    models: list[Model]


class Deleted(Success):
    deleted_points: int
    points: int


class Health(BaseModel):
    """What runs, on what; more may be said of engine and index."""

    status: Literal["healthy"]
    version: str
    engine: str
    model_id: str
    device: str
    processes: int
    #: Those that have loaded the service's own model; of the others, `problem` says what is wrong.
    processes_ready: int
    problem: str | None = None
    decoders: int
    #: Seconds within which a picture is answered, its wait included.
    answer_timeout_s: int
    index: dict[str, Any]
