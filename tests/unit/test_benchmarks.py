"""The benchmark's own arithmetic, and that the docs tell what was measured."""

import json
import re

import pytest

from tests.bench.measure import Target, compared, in_turn, percentile
from tests.bench.plot import curve, way
from tests.bench.report import FIGURES, PLOT, TEXT, WAY, document, pictures, steps, table
from tests.bench.usage import BY_CPU


def test_two_things_are_measured_in_turn_and_the_warm_up_does_not_count() -> None:
    taken: list[str] = []

    def measure(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    ours, theirs = in_turn(2, lambda: measure("ours"), lambda: measure("theirs"))
    assert taken == ["ours", "theirs"] * 3
    assert (ours, theirs) == ([3, 5], [4, 6])


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    figure = compared(1, "x", "ours", "theirs", Target(least=0.9), "/s", ([10, 30, 20], [10, 10, 40]))
    assert figure.value == 1
    assert figure.holds
    assert figure.as_dict() | {"ratio": 1, "min": 0.5, "max": 3, "target": "≥ 0.9", "holds": True} == figure.as_dict()


@pytest.mark.parametrize(
    ("target", "value", "holds"),
    [
        (Target(least=0.9), 0.89, False),
        (Target(least=0.9), 0.9, True),
        (Target(most=1.2), 1.21, False),
        (Target(most=1.2), 1.2, True),
        (Target(), 0.0, True),
    ],
)
def test_a_target_is_held_or_not(target: Target, value: float, holds: bool) -> None:
    assert target.holds(value) is holds


def test_the_99th_percentile_is_what_one_in_a_hundred_exceeds() -> None:
    assert percentile(list(range(1000)), 0.99) == 990


def test_a_higher_cost_is_drawn_higher_up() -> None:
    drawn = curve({100: 5.0, 1000: 10.0})
    low, high = (point.split(",") for point in drawn.partition('points="')[2].partition('"')[0].split(" "))
    assert float(low[0]) < float(high[0])
    assert float(low[1]) > float(high[1])


def test_the_steps_of_an_image_s_way_cost_together_what_all_processes_do() -> None:
    costs = {"MinIO": 3.4, "webhook": 0.7, "redis": 0.5, "worker": 3.1, "face service": 1.7}
    costs |= {"decoders": 2.4, "engines": 15.0}
    taken = steps(costs, {"upload": 1.2, "read": 0.9})
    assert sum(step.cost or 0 for step in taken) == pytest.approx(sum(costs.values()))
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="\d+" fill="#0074d9"', way(taken))]
    assert [step.cost for step in taken[1:]].index(15) == widths.index(max(widths))


def test_every_figure_says_whether_its_target_holds() -> None:
    figures = json.loads(FIGURES.read_text())
    for figure in figures:
        sign, _, bound = figure["target"].partition(" ")
        ratios = figure["ratio"], figure["more"].get(BY_CPU, figure["ratio"])
        within = {"≥": min(ratios) >= float(bound or 0), "≤": max(ratios) <= float(bound or 0), "–": True}
        assert figure["holds"] is within[sign], figure["name"]


def test_a_busy_machine_that_favours_more_processes_does_not_meet_a_target() -> None:
    flattered = compared(3, "x", "ours", "loops", Target(least=0.9), "/s", ([12.0], [10.0]), {BY_CPU: 0.8})
    assert not flattered.holds


def test_the_page_shows_the_figures() -> None:
    figures = json.loads(FIGURES.read_text())
    assert table(figures) in TEXT.read_text()
    assert document(TEXT.read_text(), figures) == TEXT.read_text()
    drawn = pictures(figures)
    assert set(drawn) == {PLOT, WAY}
    assert {path: path.read_text() for path in drawn} == drawn
