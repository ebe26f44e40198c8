"""GTT orders: triggers that wait for a price, then place their order. Pure, in memory.

Source: https://kite.trade/docs/connect/v3/gtt/. A single trigger goes off when the price has come
to it from the side on which it was when the trigger was made. A two-leg one has a lower and a
higher value; the first order belongs to the lower, the second to the higher.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from ticker_actors.exchange.wire_out import Json, ist
from ticker_actors.model.orders import Exchange, PlaceOrder, Product, TransactionType
from ticker_actors.model.outcomes import Placed, Refused

MOST_ACTIVE = 250
"""Triggers that may wait: Kite's own number."""
MOST_KEPT = 1_000
"""Triggers that are shown, the ended ones included; the oldest ended ones go first."""
LIFE = timedelta(days=365)
LEGS = {"single": 1, "two-leg": 2}

NOT_FOUND = Refused("InputException", "Trigger not found.")
NOT_ACTIVE = Refused("InputException", "Trigger is not active.")
TOO_MANY = Refused("InputException", "Maximum number of active triggers reached.")

_Price = Annotated[float, Meta(gt=0, le=1_000_000)]
_Symbol = Annotated[str, Meta(min_length=1, max_length=64)]


class Condition(msgspec.Struct, frozen=True):
    """What is waited for."""

    exchange: Exchange
    tradingsymbol: _Symbol
    trigger_values: Annotated[tuple[_Price, ...], Meta(min_length=1, max_length=2)]
    last_price: _Price


class Leg(msgspec.Struct, frozen=True):
    """What is then placed."""

    transaction_type: TransactionType
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    order_type: Literal["LIMIT"]
    product: Product
    price: _Price


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a trigger."""

    trigger_id: int
    kind: str
    condition: Condition
    legs: tuple[Leg, ...]
    created_at: datetime
    updated_at: datetime
    status: str = "active"
    results: tuple[Json | None, ...] = ()
    """Of each leg, once one was placed."""

    def due(self, price: float) -> int | None:
        """The leg that goes off at this price, if any does."""
        values, base = self.condition.trigger_values, self.condition.last_price
        if self.kind == "two-leg":
            low, high = values
            if price <= low:
                return 0
            return 1 if price >= high else None
        (value,) = values
        return 0 if (price - value) * (base - value) <= 0 else None

    def order(self, leg: int) -> PlaceOrder:
        """What that leg places."""
        wanted = self.legs[leg]
        return PlaceOrder(
            exchange=self.condition.exchange,
            tradingsymbol=self.condition.tradingsymbol,
            transaction_type=wanted.transaction_type,
            quantity=wanted.quantity,
            product=wanted.product,
            order_type=wanted.order_type,
            price=wanted.price,
        )

    def row(self, user_id: str, token: int) -> Json:
        """As Kite shows it."""
        named = {
            "exchange": self.condition.exchange,
            "tradingsymbol": self.condition.tradingsymbol,
        }
        results = self.results or (None,) * len(self.legs)
        return {
            "id": self.trigger_id,
            "user_id": user_id,
            "parent_trigger": None,
            "type": self.kind,
            "created_at": ist(self.created_at),
            "updated_at": ist(self.updated_at),
            "expires_at": ist(self.created_at + LIFE),
            "status": self.status,
            "condition": {**msgspec.to_builtins(self.condition), "instrument_token": token},
            "orders": [
                {**named, **msgspec.to_builtins(leg), "result": result}
                for leg, result in zip(self.legs, results, strict=True)
            ],
            "meta": {},
        }


Price = Callable[[str], float]
"""Of a tradingsymbol, in rupees."""
Place = Callable[[PlaceOrder], Placed | Refused]
"""Answers with the order id as it is shown."""
Form = Mapping[str, str]


class Triggers:
    """All of the account's."""

    def __init__(self) -> None:
        self._all: dict[int, Trigger] = {}
        self._count = 100_000

    def every(self) -> tuple[Trigger, ...]:
        """Active and ended ones, oldest first."""
        return tuple(self._all.values())

    def find(self, trigger_id: int) -> Trigger | None:
        """The newest version of one."""
        return self._all.get(trigger_id)

    def place(self, form: Form, now: datetime) -> Trigger | Refused:
        """Make a trigger."""
        if len(self._active()) >= MOST_ACTIVE:
            return TOO_MANY
        read = _read(form)
        if isinstance(read, Refused):
            return read
        kind, condition, legs = read
        self._count += 1
        return self._keep(
            Trigger(
                trigger_id=self._count,
                kind=kind,
                condition=condition,
                legs=legs,
                created_at=now,
                updated_at=now,
            )
        )

    def modify(self, trigger_id: int, form: Form, now: datetime) -> Trigger | Refused:
        """Make another one of it, under the same number."""
        found = self._changeable(trigger_id)
        if isinstance(found, Refused):
            return found
        read = _read(form)
        if isinstance(read, Refused):
            return read
        kind, condition, legs = read
        return self._keep(replace(found, kind=kind, condition=condition, legs=legs, updated_at=now))

    def delete(self, trigger_id: int, now: datetime) -> Trigger | Refused:
        """End one before it goes off."""
        found = self._changeable(trigger_id)
        if isinstance(found, Refused):
            return found
        return self._keep(replace(found, status="deleted", updated_at=now))

    def follow(self, price: Price, place: Place, now: datetime) -> None:
        """Let those go off whose price has come."""
        for trigger in self._active():
            now_at = price(trigger.condition.tradingsymbol)
            leg = trigger.due(now_at)
            if leg is not None:
                order = trigger.order(leg)
                result = _result(order, place(order), now_at, now)
                results = tuple(
                    result if number == leg else None for number in range(len(trigger.legs))
                )
                self._keep(replace(trigger, status="triggered", updated_at=now, results=results))

    def _active(self) -> list[Trigger]:
        return [trigger for trigger in self._all.values() if trigger.status == "active"]

    def _changeable(self, trigger_id: int) -> Trigger | Refused:
        if (found := self._all.get(trigger_id)) is None:
            return NOT_FOUND
        return found if found.status == "active" else NOT_ACTIVE

    def _keep(self, trigger: Trigger) -> Trigger:
        self._all[trigger.trigger_id] = trigger
        if len(self._all) > MOST_KEPT:
            del self._all[next(key for key, old in self._all.items() if old.status != "active")]
        return trigger


def _read(form: Form) -> tuple[str, Condition, tuple[Leg, ...]] | Refused:
    kind = form.get("type", "")
    if kind not in LEGS:
        return Refused("InputException", "Invalid `type`.")
    try:
        condition = msgspec.json.decode(form.get("condition", ""), type=Condition)
    except (ValueError, RecursionError) as error:
        return Refused("InputException", f"Invalid `condition`. {error}")
    try:
        legs = msgspec.json.decode(form.get("orders", ""), type=tuple[Leg, ...])
    except (ValueError, RecursionError) as error:
        return Refused("InputException", f"Invalid `orders`. {error}")
    problem = _problem(kind, condition, legs)
    return (kind, condition, legs) if problem is None else Refused("InputException", problem)


def _problem(kind: str, condition: Condition, legs: tuple[Leg, ...]) -> str | None:
    """What is wrong between the parts of a trigger."""
    if not len(condition.trigger_values) == len(legs) == LEGS[kind]:
        return "Invalid `trigger_values`."
    low, high = condition.trigger_values[0], condition.trigger_values[-1]
    if kind == "two-leg" and not low < condition.last_price < high:
        return "Trigger values must lie around the last price."
    if kind == "single" and low == condition.last_price:
        return "Trigger value is the last price."
    return None


def _result(order: PlaceOrder, outcome: Placed | Refused, price: float, now: datetime) -> Json:
    """What became of the order: a trigger that went off may hold a failed one."""
    return {
        "exchange": order.exchange,
        "tradingsymbol": order.tradingsymbol,
        "validity": order.validity,
        "product": order.product,
        "order_type": order.order_type,
        "transaction_type": order.transaction_type,
        "quantity": order.quantity,
        "price": order.price,
        "meta": "{}",
        "timestamp": ist(now),
        "triggered_at": price,
        "order_result": {
            "status": "failed" if isinstance(outcome, Refused) else "success",
            "order_id": "" if isinstance(outcome, Refused) else outcome.order_id,
            "rejection_reason": outcome.message if isinstance(outcome, Refused) else "",
        },
    }
