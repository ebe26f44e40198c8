"""An account's budget: no stretch of time holds more requests than the broker allows."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.limits import Budget, Limits


def send_all(budget: Budget, count: int, now: float) -> list[float]:
    """Send as soon as the budget allows, and tell when that was."""
    moments = []
    for _ in range(count):
        wait = budget.wait(now)
        now += wait
        assert budget.wait(now) == 0.0, "who has waited may go"
        budget.take(now)
        moments.append(now)
    return moments


@given(st.integers(0, 4), st.integers(0, 9), st.integers(0, 12), st.floats(0, 1e6, width=32))
def test_no_window_ever_holds_more(second: int, minute: int, day: int, start: float) -> None:
    """Any second, any minute, any day: sliding, not by the clock; 0 is no limit."""
    moments = send_all(Budget(Limits(second, minute, day)), 25, start)
    for limit, span in ((second, 1.0), (minute, 60.0), (day, 86_400.0)):
        if limit:
            for first, after in zip(moments, moments[limit:], strict=False):
                assert after - first >= span - 1e-5


def test_a_burst_waits_for_the_second_to_slide() -> None:
    """The wait is just as long as it must be."""
    budget = Budget(Limits(2, 0, 0))
    assert send_all(budget, 3, 100.0) == [100.0, 100.0, 101.0]
    budget.take(101.5)
    assert budget.wait(101.6) == pytest.approx(0.4)


def test_no_limit_is_no_wait() -> None:
    """As for the paper broker."""
    assert set(send_all(Budget(Limits(0, 0, 0)), 1000, 5.0)) == {5.0}


def test_past_requests_count_after_a_restart() -> None:
    """They are counted with the moments at which they went, negative ones too."""
    budget = Budget(Limits(8, 400, 5))
    for age in (90_000.0, 80_000.0, 3.0, 2.0, 1.0, 0.5):
        budget.take(10.0 - age)
    assert budget.wait(10.0) == pytest.approx(6_400.0)


def test_more_than_allowed_makes_the_next_wait_longer() -> None:
    """Told once, the wait is the whole wait."""
    budget = Budget(Limits(2, 0, 0))
    for moment in (0.0, 0.2, 0.4, 0.6):
        budget.take(moment)
    assert budget.wait(0.8) == pytest.approx(0.6)


def test_who_has_waited_is_not_sent_back_for_a_rounding_error() -> None:
    """On a mocked clock a wait of 1e-15 s would never end."""
    rng = Random(1)
    for _ in range(2000):
        taken = rng.random() * 10
        now = taken + rng.random() * 50
        budget = Budget(Limits(0, 1, 0))
        budget.take(taken)
        assert budget.wait(now + budget.wait(now)) == 0.0


def test_a_request_that_was_not_made_is_given_back() -> None:
    """Only that one; giving back what nobody took is no error."""
    budget = Budget(Limits(2, 0, 0))
    budget.take(1.0)
    budget.take(1.1)
    budget.give_back(1.1)
    assert budget.wait(1.1) == 0.0
    budget.give_back(5.0)
    budget.take(1.2)
    assert budget.wait(1.2) == pytest.approx(0.8)
