"""Strangers' names and reasons, for people to read."""

import unicodedata

#: Unicode categories of what a terminal or a browser would obey instead of showing it: controls, formats (which turn
#: the direction of writing), lone surrogates, line and paragraph separators.
_OBEYED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    """The text with everything that is obeyed rather than shown written as an escape, on one line."""
    return "".join(_escape(c) if unicodedata.category(c) in _OBEYED else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
