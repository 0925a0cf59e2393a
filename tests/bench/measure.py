"""Two things measured in turn, round by round, and what comes of it: a ratio with its spread."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.usage import BY_CPU

Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be: at least, or at most, so much; or it is only told."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "–" if self.most is None else f"≤ {self.most:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    #: Number of the target, and a name that stays from run to run.
    number: int
    name: str
    #: What was compared with what, for people.
    what: str
    beside: str
    target: Target
    #: A value a round; mostly a ratio.
    values: Sequence[float]
    #: Medians of both sides, in `unit`.
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""
    #: What else was seen: CPU milliseconds by process, percentiles, round trips.
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the target is met by the ratio as it is told, and by that of CPU times where there is one."""
        return self.target.holds(rounded(self.value)) and self.target.holds(self.more.get(BY_CPU, self.value))

    def as_dict(self) -> dict[str, Any]:
        """As `docs/benchmarks.json` has it."""
        return {
            "number": self.number,
            "name": self.name,
            "ratio": rounded(self.value),
            "target": str(self.target),
            "holds": self.holds,
            "min": rounded(min(self.values)),
            "max": rounded(max(self.values)),
            "rounds": len(self.values),
            "what": self.what,
            "beside": self.beside,
            "ours": None if self.ours is None else rounded(self.ours),
            "theirs": None if self.theirs is None else rounded(self.theirs),
            "unit": self.unit,
            "more": _rounded_all(self.more),
        }


def in_turn(rounds: int, *measures: Measure, warm_up: bool = True) -> list[list[float]]:
    """Measure each in turn, so many rounds after one that warms up; a list of values for each."""
    seen: list[list[float]] = [[] for _ in measures]
    for number in range(rounds + warm_up):
        for values, measure in zip(seen, measures, strict=True):
            value = measure()
            if number >= warm_up:
                values.append(value)
    return seen


def compared(
    number: int,
    name: str,
    what: str,
    beside: str,
    target: Target,
    unit: str,
    series: Sequence[Sequence[float]],
    more: dict[str, Any] | None = None,
) -> Figure:
    """The figure of two series, ours and theirs, that were taken in turn."""
    ours, theirs = series
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    middle = statistics.median(ours), statistics.median(theirs)
    return Figure(number, name, what, beside, target, ratios, *middle, unit, more or {})


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rounded(value: float) -> float:
    """To three digits that count."""
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)


def _rounded_all(value: Any) -> Any:
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, dict):
        return {name: _rounded_all(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_rounded_all(member) for member in value]
    return value
