"""An item: one object of a bucket as the index knows it, and the ids that follow from its name."""

from uuid import UUID, uuid5

#: Never changes: every id in every index derives from it.
NAMESPACE = UUID("6f1d9a52-0c55-5f7e-9a0e-6b1f5a1c2d11")


def item_id(bucket: str, key: str) -> str:
    """The item's id, the same for every version of the object."""
    return str(uuid5(NAMESPACE, f"{bucket}/{key}"))


def point_id(item: str, etag: str, model_id: str, number: int) -> str:
    """The id of face `number` (from 0) of one version of an item under one model."""
    return str(uuid5(UUID(item), f"{etag}/{model_id}/{number}"))
