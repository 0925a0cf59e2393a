"""How the index is laid out: its collections, and what a record holds beside what is told of the item.

Collection `items` holds one record without a vector per object; `faces_<model id>` one point per face; `services` one
record per face service at work. The alias `faces` is what readers use.
"""

from typing import Any

from app.common.items import point_id
from app.gpu.engines.base import EngineInfo
from app.gpu.index.store import Payload, Store, VectorSpace

ITEMS = "items"
FACES_PREFIX = "faces_"
ALIAS = "faces"
SERVICES = "services"

#: Members by which records can be selected, and points. Not `revision`, whatever writes under a condition of it: the
#: storage looks at the points that are written alone, and an index keeps every value there ever was in memory.
ITEM_KEYWORDS = ("bucket", "status", "reason_code", "model_id")
ITEM_TIMES = ("indexed_at",)
FACE_KEYWORDS = ("item_id", "bucket")

#: Status of a record that only guards an item: the index holds nothing of it.
ABSENT = "absent"

#: Whose item the blank points are that keep late ones out.
NOBODY = "nobody"

#: Members of a record or a face that writers keep for each other, and nobody is told of.
#: `revision`: another one after each change. `fence`: what orders the changes of an item. `writing`: writers that may
#: still be writing points. `since`: when a record became absent.
KEPT = ("revision", "fence", "writing", "since")

#: Seconds after which no request of a writer that was overtaken can be under way any more, whatever stopped it.
RETENTION = 24 * 3600


def collection_of(model_id: str) -> str:
    """The collection of a model's faces."""
    return FACES_PREFIX + model_id


def face_collections(store: Store) -> list[str]:
    """The collections of faces that there are."""
    return sorted(name for name in store.collections() if name.startswith(FACES_PREFIX))


def prepare(store: Store, info: EngineInfo) -> None:
    """Create what is missing: collections, and the alias where there is none."""
    store.create(ITEMS, None, ITEM_KEYWORDS, ITEM_TIMES)
    store.create(SERVICES, None, ())
    collection = collection_of(info.model_id)
    store.create(collection, VectorSpace(info.embedding_size, info.distance), FACE_KEYWORDS)
    if store.alias(ALIAS) is None:
        store.set_alias(ALIAS, collection)


def told(payload: Payload) -> Payload:
    """A record or a face without what writers keep for each other."""
    return {name: value for name, value in payload.items() if name not in KEPT}


def is_absent(record: Payload | None) -> bool:
    """Whether the index holds nothing of the item."""
    return record is None or record["status"] == ABSENT


def is_open(record: Payload) -> bool:
    """Whether a writer announced points of the item and has not completed the record, or never will."""
    return any(note["fence"] == record["fence"] for note in record.get("writing", ()))


def points_of(record: dict[str, Any]) -> list[str]:
    """The ids of the points that a record, or a writer's note in one, speaks of."""
    return [
        point_id(record["item_id"], record["etag"], record["model_id"], number)
        for number in range(record["face_count"])
    ]
