"""An account's budget: no stretch of time holds more requests than the broker allows."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.calendar import Moment
from ticker_actors.model.limits import BROKER, RESERVE, Budget, Limits

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 IST; the day has 43 200 s left."""


def at(seconds: float) -> Moment:
    """So many seconds after noon, on both clocks."""
    return Moment(NOON + timedelta(seconds=seconds), seconds)


def send_all(
    budget: Budget, count: int, now: float, *, placing: bool = True, urgent: bool = False
) -> list[float]:
    """Send as soon as the budget allows, and tell when that was."""
    moments = []
    for _ in range(count):
        now += budget.wait(at(now), placing=placing, urgent=urgent)
        assert budget.wait(at(now), placing=placing, urgent=urgent) == 0.0, "who has waited may go"
        budget.take(at(now), placing=placing)
        moments.append(now)
    return moments


@given(
    st.integers(0, 4),
    st.integers(0, 9),
    st.floats(0, 1e6, width=32),
    st.booleans(),
)
def test_no_window_ever_holds_more(second: int, minute: int, start: float, placing: bool) -> None:  # noqa: FBT001  # drawn
    """Any second, any minute: sliding, not by the clock; 0 is no limit."""
    moments = send_all(Budget(Limits(second, minute, 0)), 25, start, placing=placing)
    for limit, span in ((second, 1.0), (minute, 60.0)):
        if limit:
            for first, after in zip(moments, moments[limit:], strict=False):
                assert after - first >= span - 1e-5


def test_a_burst_waits_for_the_second_to_slide() -> None:
    """The wait is just as long as it must be."""
    budget = Budget(Limits(2, 0, 0))
    assert send_all(budget, 3, 100.0) == [100.0, 100.0, 101.0]
    budget.take(at(101.5), placing=True)
    assert budget.wait(at(101.6), placing=True) == pytest.approx(0.4)


def test_no_limit_is_no_wait() -> None:
    """As for the paper broker."""
    budget = Budget(Limits(0, 0, 0))
    assert set(send_all(budget, 1000, 5.0)) == {5.0}
    assert budget.left_today(at(5.0)) is None


def test_a_day_holds_so_many_orders_and_any_number_of_changes() -> None:
    """The day is the exchange's: at midnight in India the count begins anew."""
    budget = Budget(Limits(0, 0, 3))
    assert send_all(budget, 50, 0.0, placing=False) == [0.0] * 50
    assert budget.left_today(at(0.0)) == 3
    assert send_all(budget, 4, 1.0) == [1.0, 1.0, 1.0, pytest.approx(43_200)]
    assert budget.left_today(at(43_201)) == 2


def test_what_reduces_risk_has_a_reserve() -> None:
    """On top of the limit as far as the broker takes it, else within it."""
    second = Budget(Limits(8, 0, 0))
    assert send_all(second, 9, 0.0)[-1] == 1.0
    second = Budget(Limits(8, 0, 0))
    send_all(second, 8, 0.0)
    assert send_all(second, 3, 0.0, placing=False, urgent=True) == [0.0, 0.0, 1.0]
    minute = Budget(Limits(0, BROKER.per_minute, 0))
    ordinary = BROKER.per_minute - RESERVE.per_minute
    assert send_all(minute, ordinary + 1, 0.0)[-2:] == [0.0, 60.0]
    minute = Budget(Limits(0, BROKER.per_minute, 0))
    send_all(minute, ordinary, 0.0)
    urgent = send_all(minute, RESERVE.per_minute + 1, 0.0, placing=False, urgent=True)
    assert urgent[-2:] == [0.0, 60.0]
    day = Budget(Limits(0, 0, BROKER.per_day))
    assert day.left_today(at(0)) == BROKER.per_day - RESERVE.per_day
    assert day.left_today(at(0), urgent=True) == BROKER.per_day


def test_past_requests_count_after_a_restart() -> None:
    """They are counted with the moments at which they went, negative ones too."""
    budget = Budget(Limits(8, 400, 5))
    for age in (90_000.0, 80_000.0, 3.0, 2.0, 1.0, 0.5):
        budget.take(at(10.0 - age), placing=True)
    assert budget.left_today(at(10.0)) == 1  # those of yesterday do not count
    budget.take(at(10.0 - 80_000.0), placing=True)
    assert budget.left_today(at(10.0)) == 1


def test_more_than_allowed_makes_the_next_wait_longer() -> None:
    """Told once, the wait is the whole wait."""
    budget = Budget(Limits(2, 0, 0))
    for moment in (0.0, 0.2, 0.4, 0.6):
        budget.take(at(moment), placing=True)
    assert budget.wait(at(0.8), placing=True) == pytest.approx(0.6)


def test_who_has_waited_is_not_sent_back_for_a_rounding_error() -> None:
    """On a mocked clock a wait of 1e-15 s would never end."""
    rng = Random(1)
    for _ in range(2000):
        taken = rng.random() * 10
        now = taken + rng.random() * 50
        budget = Budget(Limits(0, 1, 0))
        budget.take(at(taken), placing=False)
        now += budget.wait(at(now), placing=False)
        assert budget.wait(at(now), placing=False) == 0.0


def test_a_request_that_was_not_made_is_given_back() -> None:
    """Only that one; giving back what nobody took is no error."""
    budget = Budget(Limits(2, 0, 9))
    budget.take(at(1.0), placing=True)
    budget.take(at(1.1), placing=True)
    budget.give_back(at(1.1), placing=True)
    assert budget.wait(at(1.1), placing=True) == 0.0
    assert budget.left_today(at(1.1)) == 8
    budget.give_back(at(5.0), placing=False)
    budget.take(at(1.2), placing=True)
    assert budget.wait(at(1.2), placing=True) == pytest.approx(0.8)
