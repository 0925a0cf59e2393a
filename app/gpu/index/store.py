"""The port to where the index is kept: a Qdrant server, or Qdrant Edge in this process.

Points are written and deleted under conditions that the storage itself checks, one point at a time and without
anybody in between; nothing else keeps two writers apart. A point that does not meet a condition is left as it is,
without an error: who needs to know reads it back.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.common.errors import TransientError

Payload = dict[str, Any]
Vector = NDArray[np.float32]

#: Members that a condition may be on. A store may keep all others in whatever form it likes.
CONDITIONAL = frozenset(
    [
        *("bucket", "status", "reason_code", "model_id", "etag", "item_id", "indexed_at"),
        *("revision", "fence", "since", "blank_since", "service", "seen_at"),
    ]
)

#: What happens to points that are there or not: written anyway, left if there, left if not there.
Mode = Literal["upsert", "insert_only", "update_only"]


class IndexAwayError(TransientError):
    """The index does not answer, is unwell, or its disk is full."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"The index does not answer: {reason}")


class CollectionMissingError(IndexAwayError):
    """A collection that was there is there no longer: the index lost its volume, or was restored."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point with its id, a UUID; without a vector in a collection that has none."""

    id: str
    vector: Vector | None
    payload: Payload


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """What vectors a collection holds and how they are compared."""

    size: int
    distance: Literal["cosine", "euclid"]


@dataclass(frozen=True, slots=True)
class Where:
    """Which points are meant: those that meet all conditions, on members that are `CONDITIONAL`."""

    #: Members with this value, or one of these.
    having: Mapping[str, str | Collection[str]] = field(default_factory=dict)
    #: Members without this value.
    lacking: Mapping[str, str] = field(default_factory=dict)
    #: Numbers that are there and below.
    below: Mapping[str, float] = field(default_factory=dict)
    #: Numbers that are not there, or below.
    not_from: Mapping[str, float] = field(default_factory=dict)
    #: Members that are times, from the first to the last of two where these are given.
    between: Mapping[str, tuple[datetime | None, datetime | None]] = field(default_factory=dict)
    #: Members that are there.
    there: Sequence[str] = ()
    #: Members that are not there.
    absent: Sequence[str] = ()
    #: Ids, of which theirs is one; none are given where it does not matter.
    ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        for members in (self.having, self.lacking, self.below, self.not_from, self.between, self.there, self.absent):
            if members and not CONDITIONAL.issuperset(members):
                raise ValueError(f"Conditions may be on {sorted(CONDITIONAL)}, not on {sorted(members)}.")


class Store(Protocol):
    """Collections of points; every call may raise `IndexAwayError`, on one collection `CollectionMissingError`.

    What was written when a call returned is there after the process or the server was killed.
    """

    #: `server` or `embedded`, for people.
    where: str

    def collections(self) -> set[str]:
        """The collections that there are."""

    def create(
        self, collection: str, space: VectorSpace | None, keywords: Sequence[str], times: Sequence[str] = ()
    ) -> None:
        """Create a collection, as far as it is not there, to be selected from by these members."""

    def drop(self, collection: str) -> None:
        """Drop a collection with all its points."""

    def dimension(self, collection: str) -> int:
        """How many numbers its vectors have."""

    def alias(self, name: str) -> str | None:
        """The collection that readers of an alias see; None before there is one."""

    def set_alias(self, name: str, collection: str) -> None:
        """Let readers of an alias see a collection, in one step that they cannot see the middle of."""

    def upsert(
        self, collection: str, points: Sequence[Point], where: Where | None = None, mode: Mode = "upsert"
    ) -> None:
        """Write points as a whole; one that is there is left as it is if it does not meet `where`."""

    def delete(self, collection: str, where: Where) -> None:
        """Delete all points that meet a condition."""

    def retrieve(
        self, collection: str, ids: Sequence[str], members: Sequence[str] | None = None
    ) -> dict[str, Payload]:
        """The payloads, or some of their members, of those points that are there, by id."""

    def page(
        self,
        collection: str,
        where: Where,
        *,
        limit: int,
        after: str | None = None,
        members: Sequence[str] | None = None,
    ) -> tuple[dict[str, Payload], str | None]:
        """The payloads of a page of points, in the order of ids, and where the next one starts."""

    def count(self, collection: str, where: Where) -> int:
        """How many points meet a condition."""

    def tally(self, collection: str, member: str, where: Where) -> dict[str, int]:
        """How many points that meet a condition have each value of an indexed member, the most frequent first."""

    def expect_faces(self) -> None:
        """Raise `IndexAwayError` if there is no room for more faces; deletions and records may go on."""

    def keep(self) -> None:
        """Do what is due from time to time, so that the index opens fast after a kill."""

    def close(self) -> None:
        """Let go of what is open."""
