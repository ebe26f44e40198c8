"""GTT triggers without a socket: when they go off, what they hold then, and what is refused."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ticker_actors.model.orders import PlaceOrder
from ticker_actors.model.outcomes import Placed, Refused
from ticker_actors.sandbox import gtt
from ticker_actors.sandbox.gtt import Trigger, Triggers

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
LEG = {
    "transaction_type": "SELL",
    "quantity": 1,
    "order_type": "LIMIT",
    "product": "CNC",
    "price": 90,
}


def form(values: list[float], last: float = 100.0, **changes: Any) -> dict[str, str]:  # noqa: ANN401
    """A trigger's form."""
    condition = {
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "trigger_values": values,
        "last_price": last,
    }
    legs = [{**LEG, "price": 90 + number} for number in range(len(values))]
    fields = {"type": "single" if len(values) == 1 else "two-leg", "condition": condition}
    wanted = {**fields, "orders": legs, **changes}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in wanted.items()
    }


def made(triggers: Triggers, values: list[float], last: float = 100.0) -> int:
    """The number of a new trigger."""
    trigger = triggers.place(form(values, last), NOON)
    assert isinstance(trigger, Trigger)
    return trigger.trigger_id


@pytest.mark.parametrize(
    "values,price,leg",
    [
        ([95.0], 95.05, None),
        ([95.0], 95.0, 0),
        ([95.0], 80.0, 0),
        ([105.0], 104.95, None),
        ([105.0], 105.0, 0),
        ([95.0, 105.0], 100.0, None),
        ([95.0, 105.0], 94.0, 0),
        ([95.0, 105.0], 106.0, 1),
    ],
)
def test_trigger_goes_off_at_its_price(values: list[float], price: float, leg: int | None) -> None:
    """When the price has come to it from its own side; of two, each with an order of its own."""
    triggers, placed = Triggers(), list[PlaceOrder]()

    def place(order: PlaceOrder) -> Placed:
        placed.append(order)
        return Placed("7")

    number = made(triggers, values)
    for _ in range(2):  # a second look finds nothing more to do
        triggers.follow(lambda _: price, place, NOON)
    found = triggers.find(number)
    assert found is not None
    assert found.status == ("active" if leg is None else "triggered")
    assert [order.price for order in placed] == ([] if leg is None else [90 + leg])
    if leg is not None:
        result = found.row("SB0001", 1)["orders"][leg]["result"]
        assert result["order_result"]["order_id"] == "7"


def test_triggered_may_hold_a_failed_order() -> None:
    """As at Kite: the trigger went off, and its order was refused."""
    triggers = Triggers()
    number = made(triggers, [95.0])
    triggers.follow(lambda _: 90.0, lambda _: Refused("InputException", "No."), NOON)
    found = triggers.find(number)
    assert found is not None
    (order,) = found.row("SB0001", 1)["orders"]
    assert order["result"]["order_result"] == {
        "status": "failed",
        "order_id": "",
        "rejection_reason": "No.",
    }


@pytest.mark.parametrize(
    "fields,message",
    [
        (form([95.0], type="three-leg"), "Invalid `type`."),
        (form([95.0], condition="{"), "Invalid `condition`."),
        (form([95.0], condition="[" * 5_000), "Invalid `condition`."),
        (form([95.0], orders="{}"), "Invalid `orders`."),
        (form([-1.0]), "Invalid `condition`."),
        (form([95.0], orders=[LEG, LEG]), "Invalid `trigger_values`."),
        (form([95.0, 105.0], type="single"), "Invalid `trigger_values`."),
        (form([101.0, 105.0]), "Trigger values must lie around the last price."),
        (form([100.0]), "Trigger value is the last price."),
        ({}, "Invalid `type`."),
    ],
)
def test_bad_triggers_are_refused(fields: dict[str, str], message: str) -> None:
    """Nothing is kept of them, and a good one keeps its values when its change is bad."""
    triggers = Triggers()
    outcome = triggers.place(fields, NOON)
    assert isinstance(outcome, Refused)
    assert outcome.message.startswith(message)
    assert triggers.every() == ()
    number = made(triggers, [95.0])
    assert isinstance(triggers.modify(number, fields, NOON), Refused)
    found = triggers.find(number)
    assert found is not None
    assert found.condition.trigger_values == (95.0,)


def test_triggers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many wait at most, and ended ones make room for new ones."""
    monkeypatch.setattr(gtt, "MOST_ACTIVE", 2)
    monkeypatch.setattr(gtt, "MOST_KEPT", 3)
    triggers = Triggers()
    kept = [made(triggers, [95.0]) for _ in range(2)]
    assert triggers.place(form([95.0]), NOON) == gtt.TOO_MANY
    for _ in range(5):
        number = kept.pop(0)
        assert isinstance(triggers.delete(number, NOON), Trigger)
        assert triggers.delete(number, NOON) == gtt.NOT_ACTIVE
        kept.append(made(triggers, [95.0]))
    assert len(triggers.every()) == 3
