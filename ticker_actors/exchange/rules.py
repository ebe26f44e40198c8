"""What the paper exchange takes, and what it refuses in Kite's words.

Sources: https://kite.trade/docs/connect/v3/orders/, /exceptions/, and Kite's forum (discussions
7489, 8106, 9899). Where no wording of Kite's is known, the sentence is ours.
"""

from datetime import date, datetime, timedelta
from typing import TypeVar

from msgspec.structs import replace

from ticker_actors.exchange.order import PaperOrder, to_rupees, to_ticks
from ticker_actors.model.orders import OrderChanges, OrderType, PlaceOrder
from ticker_actors.model.outcomes import Refused

MAX_MODIFICATIONS = 25
"""Kite's limit for one order."""

OFF_TICK = Refused(
    "InputException",
    "Tick size for this script is 0.05. Kindly enter price in the multiple of tick size for this "
    "script.",
)
NOT_FOUND = Refused("OrderException", "Couldn't find that `order_id`.")
NOT_MODIFIABLE = Refused(
    "InputException", "Order cannot be modified as it is being processed. Try later."
)
NOT_CANCELLABLE = Refused(
    "InputException", "Order cannot be cancelled as it is being processed. Try later."
)
TOO_MANY_MODIFICATIONS = Refused("InputException", "Maximum allowed order modifications exceeded.")
BELOW_FILLED = Refused(
    "InputException", "Quantity must be more than the quantity that is already filled."
)

_T = TypeVar("_T")
_NOT_SIMULATED = ("co", "auction")
_LIMITED = ("LIMIT", "SL")
_STOPS = ("SL", "SL-M")


def placed(
    request: PlaceOrder, *, order_id: str, tag: str, day: date, now: datetime
) -> PaperOrder | Refused:
    """The first version of an order. `amo` trades at once and `iceberg` in one piece."""
    if request.variety in _NOT_SIMULATED:
        text = f"The paper exchange does not simulate orders of variety {request.variety}."
        return Refused("InputException", text)
    prices = _prices(request.order_type, request.price, request.trigger_price)
    if isinstance(prices, Refused):
        return prices
    minutes = request.validity_ttl if request.validity == "TTL" else None
    return PaperOrder(
        order_id=order_id,
        day=day,
        tag=tag,
        status="TRIGGER PENDING" if request.order_type in _STOPS else "OPEN",
        exchange=request.exchange,
        tradingsymbol=request.tradingsymbol,
        transaction_type=request.transaction_type,
        quantity=request.quantity,
        product=request.product,
        order_type=request.order_type,
        variety=request.variety,
        validity=request.validity,
        placed_at=now,
        changed_at=now,
        expires_at=now + timedelta(minutes=minutes) if minutes else None,
        price=prices[0],
        trigger_price=prices[1],
        disclosed_quantity=request.disclosed_quantity or 0,
    )


def modified(order: PaperOrder, changes: OrderChanges, now: datetime) -> PaperOrder | Refused:
    """The order with its new values. A stop that is live stays live while it is a stop."""
    if not order.resting:
        return NOT_MODIFIABLE
    if order.modifications >= MAX_MODIFICATIONS:
        return TOO_MANY_MODIFICATIONS
    quantity = _or(changes.quantity, order.quantity)
    if quantity <= order.filled_quantity:
        return BELOW_FILLED
    kind = _or(changes.order_type, order.order_type)
    validity = _or(changes.validity, order.validity)
    if validity == "TTL" and order.expires_at is None:
        return _missing("validity_ttl")
    prices = _prices(
        kind,
        _or(changes.price, to_rupees(order.price) or None),
        _or(changes.trigger_price, to_rupees(order.trigger_price) or None),
    )
    if isinstance(prices, Refused):
        return prices
    waiting = order.status if order.order_type in _STOPS else "TRIGGER PENDING"
    return replace(
        order,
        status=waiting if kind in _STOPS else "OPEN",
        quantity=quantity,
        order_type=kind,
        validity=validity,
        expires_at=order.expires_at if validity == "TTL" else None,
        price=prices[0],
        trigger_price=prices[1],
        modifications=order.modifications + 1,
        changed_at=now,
    )


def _prices(
    kind: OrderType, price: float | None, trigger_price: float | None
) -> tuple[int, int] | Refused:
    """Limit and trigger in ticks, 0 where the order type has none (whatever was said)."""
    ticks = []
    stated = (("price", price, _LIMITED), ("trigger_price", trigger_price, _STOPS))
    for field, rupees, kinds in stated:
        if kind not in kinds:
            ticks.append(0)
        elif rupees is None:
            return _missing(field)
        elif (exact := to_ticks(rupees)) is None:
            return OFF_TICK
        else:
            ticks.append(exact)
    return ticks[0], ticks[1]


def _missing(field: str) -> Refused:
    return Refused("InputException", f"Missing or empty field `{field}`")


def _or(new: _T | None, old: _T) -> _T:
    return old if new is None else new
