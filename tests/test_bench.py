"""What the benchmarks rest on: percentiles, schedules and slopes."""

import subprocess
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import pytest

from bench import machine
from bench.broker import FIRST_ORDER_ID, frame, number_in
from bench.load import order, schedule
from bench.order_report import Found, Goal
from bench.order_runs import LEGS, Plan, Row, Session, measure
from bench.orders import planned
from bench.percentiles import curve, percentile, slope, summary
from ticker_actors.model.orders import conflicts


def test_percentiles_are_samples_of_the_nearest_rank() -> None:
    """A percentile is the smallest sample that so many percent do not exceed."""
    ordered = [float(number) for number in range(1, 1001)]
    found = [percentile(ordered, percent) for percent in (0, 50, 90, 99, 99.9, 100)]
    assert found == [1, 500, 900, 990, 999, 1000]


def test_one_sample_is_every_percentile() -> None:
    """A single sample is its own median and its own worst."""
    found = summary([7.0])
    assert found is not None
    assert (found.count, found.p50, found.p99_9, found.max) == (1, 7.0, 7.0, 7.0)


def test_no_samples_have_no_summary() -> None:
    """Nothing measured is told as nothing, not as zero."""
    assert summary([]) is None


def test_a_curve_ends_where_the_samples_do() -> None:
    """A hundred samples say nothing about what is rarer than one in a hundred."""
    points = curve(float(number) for number in range(100))
    assert points[0] == (0.0, 0.0)
    percent, sample = points[-1]
    assert (round(percent, 6), sample) == (99.0, 98.0)


def test_a_schedule_is_even_and_knows_of_no_answers() -> None:
    """All requests are due before the first is sent."""
    assert schedule(4, 1.5) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_random_schedule_is_the_same_for_all() -> None:
    """As many requests as of an even one, in the same time, of which none knows of another."""
    times = schedule(50, 100, seed=1)
    assert times == schedule(50, 100, seed=1) != schedule(50, 100, seed=2)
    assert times == sorted(times)
    assert len(times) == 5000
    assert times[0] == 0.0
    assert times[-1] < 100
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 50, rel=0.01)
    assert stdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # of an exponential distribution


def test_a_slope_is_that_of_the_line_of_least_squares() -> None:
    """Noise that is the same everywhere does not tilt it."""
    assert slope([0, 1, 2, 3], [1, 5, 3, 7]) == pytest.approx(1.6)


def test_an_order_is_known_by_the_number_in_its_id() -> None:
    """What speaks of an order's id speaks of its number; what has none, of no order."""
    assert number_in(b'{"order_id": "%d"}' % (FIRST_ORDER_ID + 42)) == 42
    assert number_in(b'{"order_id":null}') is None


@pytest.mark.parametrize("size,head", [(5, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_a_frame_tells_its_length(size: int, head: int) -> None:
    """A WebSocket frame's length takes as many bytes as RFC 6455 says."""
    assert len(frame(b"x" * size)) == head + size


def test_the_orders_of_the_load_are_good() -> None:
    """The load offers nothing that the service would refuse."""
    assert list(conflicts(order(1))) == []


@pytest.mark.parametrize("sign,ratios,met", [("≤", [0.7, 0.9, 0.8], True), ("≥", [2, 1, 3], False)])
def test_a_goal_is_judged_by_the_median_of_all_rounds(
    sign: str,
    ratios: list[float],
    met: bool,  # noqa: FBT001  # of a parametrized test
) -> None:
    """Neither the best round nor the worst decides."""
    bound = {"≤": 0.8, "≥": 2.5}[sign]
    assert Goal("any", "ours-sqlite", sign, bound, ratios).met is met  # type: ignore[arg-type]  # one of both


class OneOfEach:
    """A session that measures nothing."""

    def __init__(self, name: Any) -> None:  # noqa: ANN401  # a system's name
        self.name = name

    def warm_up(self, legs: int = 0) -> None:
        """Nothing is cold here."""
        assert legs in {0, LEGS}

    def orders(self, mode: Any, rate: float, seconds: float, seed: int | None) -> Row:  # noqa: ANN401  # a mode
        """A run."""
        assert (seconds, seed) == (4.0, None)
        return self._row("orders", mode, rate)

    def batches(self, seconds: float) -> Row:
        """A run."""
        assert seconds == 12
        return self._row("batch", "answered", 2)

    def climb(self, rate: float, seconds: float) -> Row:
        """A step of the climb; the first is too much."""
        assert seconds == 3
        return self._row("climb", "durable", rate, delivered=rate / 2)

    def _row(self, kind: Any, mode: Any, rate: float, delivered: float = 1e6) -> Row:  # noqa: ANN401  # words
        return Row(
            system=self.name,
            kind=kind,
            mode=mode,
            rate=rate,
            stages={},
            offered=1,
            failed=0,
            refused="",
            delivered=delivered,
            cpu_ms=1,
            busy=0,
            changes_a_commit=None,
        )


def counted(plan: Plan) -> Counter[tuple[str, str, float]]:
    """How many runs of each kind a plan makes."""
    names = ["ours-sqlite", "fastapi", "floor"]
    rows = measure(
        plan,
        lambda name: nullcontext(cast("Session", OneOfEach(name))),
        cast("Any", names),
    )
    assert Found(rows).saturation("fastapi") == dict.fromkeys(range(plan.rounds), 50)
    return Counter((row.system, row.kind, row.rate) for row in rows)


def test_a_goal_of_which_nothing_was_measured_is_missed() -> None:
    """It stands in the table all the same; only saturation may have been left out on purpose."""
    goals = list(Found([]).goals())
    assert len(goals) == 10
    assert not any(goal.met for goal in goals)
    assert all("**missed**" in goal.line() for goal in goals)
    assert len(list(Found([]).goals(saturation=False))) == 8


def test_what_the_goals_compare_is_measured_in_more_rounds() -> None:
    """The rest is measured in the first ones only, and with `--goals` not at all."""
    found = counted(Plan(rates=(1.0, 50.0), rounds=2, goal_rounds=5))
    assert found == {
        ("ours-sqlite", "orders", 1): 4,
        ("fastapi", "orders", 1): 4,
        ("ours-sqlite", "orders", 50): 10,
        ("fastapi", "orders", 50): 10,
        ("floor", "orders", 50): 4,
        ("ours-sqlite", "batch", 2): 5,
        ("fastapi", "batch", 2): 5,
        ("ours-sqlite", "climb", 100): 2,
        ("fastapi", "climb", 100): 2,
    }
    goals = counted(planned(Plan(), rounds=3, goals=True, random=False))
    assert goals == {
        ("ours-sqlite", "orders", 50): 6,
        ("fastapi", "orders", 50): 6,
        ("ours-sqlite", "batch", 2): 3,
        ("fastapi", "batch", 2): 3,
    }


def test_a_commit_is_edited_by_anything_but_results(tmp_path: Path) -> None:
    """What an earlier part left does not make the next one's numbers those of unknown code."""

    def git(*words: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    assert machine.commit(tmp_path) == "unknown"
    code, results = tmp_path / "code.py", tmp_path / "bench" / "results" / "orders.json"
    results.parent.mkdir(parents=True)
    code.write_text("")
    results.write_text("")
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    clean = machine.commit(tmp_path)
    results.write_text("new")
    assert machine.commit(tmp_path) == clean
    code.write_text("new")
    assert machine.commit(tmp_path) == f"{clean}-dirty"
