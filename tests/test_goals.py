"""Cancel and modify tasks: their order alone decides."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from ticker_actors.model.goals import verdict
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.tasks import GoalMissed, GoalReached, OrderTask, Sent, advance, create

AT = datetime(2025, 11, 20, 4, 0, tzinfo=UTC)


def order(status: str = "OPEN", **fields: Any) -> BrokerOrder:  # noqa: ANN401  # fields
    """An order of 10 at 100.05."""
    known: dict[str, Any] = {
        "order_id": "o1",
        "status": status,
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": 10,
        "product": "CNC",
        "order_type": "LIMIT",
        "price": 100.05,
    }
    return BrokerOrder(**{**known, **fields})


def wish(*, sent: bool = True, **changes: object) -> OrderTask:
    """A modify task, or without changes a cancel task."""
    task = create(
        task_id="task_1",
        intent="0123456789AB",
        key=None,
        operation="modify_order" if changes else "cancel_order",
        params={"order_id": "o1", "variety": "regular", "changes": changes},
        account_id="primary",
        at=AT,
        expires_at=None,
        max_attempts=3,
        order_id="o1",
    )
    return advance(task, Sent(AT, "t", date(2025, 11, 20), 1)) if sent else task


def result(status: str, filled: int = 0) -> dict[str, object]:
    """What the task tells of its order."""
    return {"order_id": "o1", "status": status, "filled_quantity": filled}


def test_a_cancelled_order_is_what_a_cancel_wants() -> None:
    """With what had filled before."""
    shown = order("CANCELLED", filled_quantity=4)
    assert verdict(wish(), shown, AT) == GoalReached(AT, result("CANCELLED", 4))


@pytest.mark.parametrize("status", ["COMPLETE", "REJECTED"])
def test_an_order_that_ended_otherwise_misses_the_goal(status: str) -> None:
    """Too late, in the order's own word."""
    missed = GoalMissed(AT, result(status), f"Too late: the order is {status}.")
    assert verdict(wish(), order(status), AT) == missed
    assert verdict(wish(price=101.0), order(status), AT) == missed


@pytest.mark.parametrize("status", ["OPEN", "CANCEL PENDING", "MODIFY PENDING", "SOMETHING NEW"])
def test_an_order_that_goes_on_decides_nothing_yet(status: str) -> None:
    """Neither done nor too late."""
    assert verdict(wish(), order(status), AT) is None
    assert verdict(wish(price=101.0), order(status), AT) is None


def test_a_modification_is_done_when_all_of_it_shows() -> None:
    """One of two new values is not enough."""
    task = wish(price=101.05, quantity=20)
    assert verdict(task, order(price=101.05), AT) is None
    assert verdict(task, order(quantity=20), AT) is None
    shown = order(price=101.05, quantity=20)
    assert verdict(task, shown, AT) == GoalReached(AT, result("OPEN"))


@pytest.mark.parametrize("status", ["COMPLETE", "CANCELLED"])
def test_a_modification_that_shows_in_the_end_was_done(status: str) -> None:
    """A price that fills the order at once is the very reason for many of them."""
    shown = order(status, price=101.0)
    assert verdict(wish(price=101.0), shown, AT) == GoalReached(AT, result(status))


def test_a_modification_that_was_never_sent_is_not_done_by_chance() -> None:
    """The values that it wanted were those that the order had always had."""
    shown = order("COMPLETE", price=101.0)
    assert isinstance(verdict(wish(sent=False, price=101.0), shown, AT), GoalMissed)


@pytest.mark.parametrize(
    "change",
    [{"trigger_price": 99.0}, {"order_type": "MARKET"}, {"validity": "IOC"}, {"quantity": 5}],
    ids=repr,
)
def test_every_field_that_can_change_is_looked_at(change: dict[str, Any]) -> None:
    """By the names they have in the order."""
    assert verdict(wish(**change), order(), AT) is None
    assert isinstance(verdict(wish(**change), order(**change), AT), GoalReached)
