"""Two sets of items told apart without holding either: their ids are added on one side and taken off on the other.

Ids are hashes, so where the sum comes to nothing both sides had the same. There is one for each part of the ids, by
their first two digits: the index has them in that order, so what differs need be looked for in some parts alone.
"""

from collections.abc import Iterable

#: Parts, each of the ids that begin with its number in hexadecimal digits.
PARTS = 256
_DIGITS, _SIZE = 2, 16
#: Where the first of them begins.
FIRST = "00000000-0000-0000-0000-000000000000"
_MODULUS = 256**_SIZE


class Sums:
    """Sums of ids by their part."""

    def __init__(self, told: str | None = None) -> None:
        """Nothing, or what `str` told of others."""
        data = bytes.fromhex(told) if told else bytes(PARTS * _SIZE)
        self._parts = [int.from_bytes(data[at : at + _SIZE], "big") for at in range(0, PARTS * _SIZE, _SIZE)]

    def __str__(self) -> str:
        return b"".join(part.to_bytes(_SIZE, "big") for part in self._parts).hex()

    def add(self, ids: Iterable[str]) -> None:
        """Add ids of one side."""
        for identifier in ids:
            self._add(identifier, 1)

    def take(self, ids: Iterable[str]) -> None:
        """Take off ids of the other side."""
        for identifier in ids:
            self._add(identifier, -1)

    def differ_at(self, identifier: str) -> bool:
        """Whether the sides differ in the part of this id."""
        return bool(self._parts[_part(identifier)])

    def next_difference(self, identifier: str) -> str | None:
        """This id if the sides differ in its part, else where the next part begins in which they do, if any."""
        first = _part(identifier)
        if self._parts[first]:
            return identifier
        following = (part for part in range(first + 1, PARTS) if self._parts[part])
        return next((f"{part:0{_DIGITS}x}000000-0000-0000-0000-000000000000" for part in following), None)

    def _add(self, identifier: str, sign: int) -> None:
        part = _part(identifier)
        self._parts[part] = (self._parts[part] + sign * int(identifier.replace("-", ""), 16)) % _MODULUS


def _part(identifier: str) -> int:
    return int(identifier[:_DIGITS], 16)
