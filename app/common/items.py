"""An item: one object of a bucket as the index knows it, and the ids that follow from its name."""

from hashlib import sha1
from uuid import UUID

#: Never changes: every id in every index derives from it.
NAMESPACE = UUID("6f1d9a52-0c55-5f7e-9a0e-6b1f5a1c2d11")

#: The digit of a UUID that holds its variant, by the digit of the hash that was there.
_VARIANT = {digit: "89ab"[number & 3] for number, digit in enumerate("0123456789abcdef")}


def item_id(bucket: str, key: str) -> str:
    """The item's id, the same for every version of the object."""
    return _uuid5(NAMESPACE.bytes, f"{bucket}/{key}")


def point_id(item: str, etag: str, model_id: str, number: int) -> str:
    """The id of face `number` (from 0) of one version of an item under one model."""
    return _uuid5(bytes.fromhex(item.replace("-", "")), f"{etag}/{model_id}/{number}")


def _uuid5(namespace: bytes, name: str) -> str:
    """`str(uuid.uuid5(…))` in half of its time: a comparison makes one for each object and each face."""
    digits = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"
