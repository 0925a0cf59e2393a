"""The ids that follow from an object's name, on which every index that there is depends."""

from uuid import UUID, uuid5

import pytest

from app.common.items import NAMESPACE, item_id, point_id


@pytest.mark.parametrize("number", range(32))
def test_ids_are_those_of_uuid5(number: int) -> None:
    item = item_id("images", f"ä/{number}\n.jpg")
    assert item == str(uuid5(NAMESPACE, f"images/ä/{number}\n.jpg"))
    assert point_id(item, "etag", "model", number) == str(uuid5(UUID(item), f"etag/model/{number}"))
