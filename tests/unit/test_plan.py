"""The simulation behind the plan in docs/hosts.md is right where one can reckon by hand."""

import numpy as np
import pytest

from infra.local.tools import ROOT
from tests.bench import plan
from tests.bench.plan import DAY, Stage


def steady(a_second: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.full(2 * DAY, a_second)


def test_what_comes_at_once_leaves_as_fast_as_a_stage_is() -> None:
    coming = np.zeros(20)
    coming[3] = 100
    leaving, waiting = plan.through(coming, 10)
    assert leaving[3:13] == pytest.approx(10)
    assert leaving.sum() == pytest.approx(100)
    assert waiting[3:13] == pytest.approx(range(90, -1, -10))


def test_nothing_waits_where_no_more_comes_than_passes() -> None:
    outcome = plan.run(steady(10), [Stage("cards", 10)])
    assert outcome.most_waiting["cards"] == pytest.approx(0, abs=1e-6)
    assert (outcome.half_s, outcome.most_s) == (0, 0)


def test_a_burst_waits_before_the_slowest_stage_and_for_as_long_as_that_takes() -> None:
    coming = steady(10)
    coming[DAY + 100] += 36_000  # 40 a second pass, of which 30 are to spare: 1,200 s
    outcome = plan.run(coming, [Stage("quick", 10_000), Stage("cards", 40)])
    assert outcome.most_waiting["quick"] == pytest.approx(26_010)
    assert outcome.most_waiting["cards"] == pytest.approx(36_000, rel=0.01)
    assert outcome.half_s == 0  # of the day's 432,000 that count, only those that came meanwhile waited
    assert 800 < outcome.most_s <= 1200


def test_a_day_brings_what_was_said_and_a_wave() -> None:
    coming = plan.arrivals(100, 2, np.random.default_rng(1))
    assert coming.mean() == pytest.approx(100, rel=0.01)
    noon, midnight = coming[DAY // 2 - 3600 : DAY // 2 + 3600], coming[DAY - 3600 : DAY + 3600]
    assert np.median(noon) / np.median(midnight) == pytest.approx((1 + plan.SWING) / (1 - plan.SWING), rel=0.1)


def test_more_put_up_is_less_waited_for() -> None:
    coming = plan.arrivals(100, 3, np.random.default_rng(2))
    times = [plan.run(coming, [Stage("all", 100 * spare)]).most_s for spare in plan.SPARE]
    assert times == sorted(times, reverse=True)
    assert times[0] > 10 * times[-1]


def test_the_plan_says_what_the_simulation_does(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main()
    told = (ROOT / "docs" / "hosts.md").read_text()
    assert [line for line in capsys.readouterr().out.splitlines() if line not in told.splitlines()] == []
