"""What is said of a backlog follows from what was seen, and nothing else."""

from app.console.backlog import LEAST_SPAN, Look, outlook


def looks(*jobs: int, every: float = 5) -> list[Look]:
    return [Look(number * every, count) for number, count in enumerate(jobs)]


def test_nothing_waiting_needs_no_time() -> None:
    assert outlook([]) == ("none", None)
    assert outlook(looks(100, 50, 0)) == ("none", None)


def test_too_short_a_look_says_nothing() -> None:
    assert outlook(looks(100, 90)) == ("measuring", None)
    assert LEAST_SPAN > 5


def test_a_shrinking_one_ends_at_the_pace_that_was_seen() -> None:
    assert outlook(looks(100, 95, 90, 85, 80)) == ("shrinking", 80)


def test_a_growing_one_has_no_end_and_a_steady_one_neither() -> None:
    assert outlook(looks(10, 20, 30, 40)) == ("growing", None)
    assert outlook(looks(10, 10, 10, 10)) == ("steady", None)


def test_what_was_before_it_was_empty_does_not_count() -> None:
    # Long shrinking, then empty, then growing: by its first and last look it would be shrinking.
    assert outlook(looks(1000, 500, 0, 100, 200, 300)) == ("growing", None)
