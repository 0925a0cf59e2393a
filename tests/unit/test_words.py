"""Numbers, times and names as people read them."""

import pytest

from app.common.text import visible
from app.common.words import ago, clock, count, moment, size, span


def test_numbers_and_lengths_of_time() -> None:
    assert [count(n, "job") for n in (0, 1, 2000, None)] == [
        "0 jobs",
        "1 job",
        "2,000 jobs",
        "an unknown number of jobs",
    ]
    assert [span(s) for s in (0, 2.5, 59.6, 119, 120, 7200, 172800, None)] == [
        "0 s", "2.5 s", "60 s", "119 s", "2 min", "2 h", "2 d", "–",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1400, 2_500_000, None)] == ["0 B", "999 B", "1.4 kB", "2.5 MB", "–"]


def test_moments_come_as_text_or_seconds_and_nonsense_is_none() -> None:
    assert moment("2026-11-01T10:00:00Z") == moment("2026-11-01T10:00:00") == moment(1793527200)
    assert clock("2026-11-01T12:00:00+02:00") == "2026-11-01 10:00:00 UTC"
    for nothing in (None, "", "yesterday", 1e300):
        assert (moment(nothing), clock(nothing), ago(nothing)) == (None, "–", "never")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 😀 .jpg", "plain é 😀 .jpg"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u200b\u2028\x85\ud800", "\\u200b\\u2028\\x85\\ud800"),
    ],
)
def test_what_a_terminal_or_a_browser_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert visible(text) == shown
