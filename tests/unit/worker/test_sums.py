"""Two sets of items are told apart, and where they differ."""

from app.common.items import item_id
from app.worker.sums import FIRST, PARTS, Sums

IDS = [item_id("images", f"{number}.jpg") for number in range(1000)]


def test_the_same_ids_in_any_order_do_not_differ() -> None:
    sums = Sums()
    sums.add(IDS)
    sums = Sums(str(sums))  # as a comparison does that goes on elsewhere
    sums.take(reversed(IDS))
    assert sums.next_difference(FIRST) is None
    assert not any(map(sums.differ_at, IDS))


def test_what_only_one_side_has_is_looked_for_where_it_is() -> None:
    more, less = IDS[500], IDS[501]
    sums = Sums()
    sums.add(one for one in IDS if one != more)
    sums.take(one for one in IDS if one != less)
    parts = {int(one[:2], 16) for one in (more, less)}
    assert {int(one[:2], 16) for one in IDS if sums.differ_at(one)} == parts
    found = []
    at = FIRST
    while following := sums.next_difference(at):
        found.append(int(following[:2], 16))
        assert sums.next_difference(following) == following
        if following[:2] == "ff":
            break
        at = f"{int(following[:2], 16) + 1:02x}{FIRST[2:]}"
    assert found == sorted(parts)


def test_there_are_as_many_parts_as_beginnings() -> None:
    assert len({one[:2] for one in IDS}) > PARTS // 2
    assert sorted(IDS) == sorted(IDS, key=lambda one: int(one.replace("-", ""), 16))
