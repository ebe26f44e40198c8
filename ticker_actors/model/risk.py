"""Checks of our own, before anything is stored.

What they refuse is *denied*, never *rejected*: that is the exchange's word.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from ticker_actors.model.limits import MOST_MODIFICATIONS
from ticker_actors.model.orders import BrokerOrder, Exchange, OrderChanges, PlaceOrder, Product


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account's orders are held to. None is no limit."""

    max_quantity: Annotated[int, Meta(ge=1)] = 1_000_000
    """Units of one order: a slip of three zeros should not reach the exchange."""
    max_value: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    """Rupees of one order, at its own price, or at the last one known."""
    exchanges: tuple[Exchange, ...] | None = None
    products: tuple[Product, ...] | None = None
    price_band: Annotated[float, Meta(gt=0, le=100)] | None = None
    """Percent by which a price may be off the last one known."""
    orders_a_day: Annotated[int, Meta(ge=1)] | None = None
    """Place tasks taken on one trading day, whatever became of them."""

    @property
    def needs_price(self) -> bool:
        """Whether the last known price plays a part."""
        return self.max_value is not None or self.price_band is not None


class Denial(msgspec.Struct, frozen=True):
    """Why an order is not taken."""

    code: str
    """For programs."""
    field: str
    message: str
    """Says what is wrong with the field, and which limit it is."""


def denial(
    order: PlaceOrder, limits: RiskLimits, *, last_price: float | None, placed_today: int
) -> Denial | None:
    """What is against this order, or None. A check whose price is not known passes."""
    return (
        quantity_denial(order.quantity, limits)
        or _where(order, limits)
        or _value(order.quantity, order.price or order.trigger_price, last_price, limits)
        or _band(order.price, "price", last_price, limits)
        or _band(order.trigger_price, "trigger_price", last_price, limits)
        or _count(placed_today, limits)
    )


def change_denial(
    changes: OrderChanges,
    order: BrokerOrder,
    limits: RiskLimits,
    *,
    last_price: float | None,
    modifications: int,
) -> Denial | None:
    """What is against a modification of this order, or None."""
    if modifications >= MOST_MODIFICATIONS:
        message = f"was modified {modifications} times, and the broker takes no more"
        return Denial("too_many_modifications", "order_id", message)
    quantity = changes.quantity or order.quantity
    price = changes.price or changes.trigger_price or order.price or order.trigger_price or None
    return (
        quantity_denial(quantity, limits)
        or _value(quantity, price, last_price, limits)
        or _band(changes.price, "price", last_price, limits)
        or _band(changes.trigger_price, "trigger_price", last_price, limits)
    )


def quantity_denial(quantity: int, limits: RiskLimits) -> Denial | None:
    """What is against so many units, or None."""
    if quantity <= limits.max_quantity:
        return None
    message = f"is more than this service allows (MAX_ORDER_QUANTITY={limits.max_quantity})"
    return Denial("max_quantity", "quantity", message)


def _where(order: PlaceOrder, limits: RiskLimits) -> Denial | None:
    if limits.exchanges is not None and order.exchange not in limits.exchanges:
        message = f"is not allowed (ALLOWED_EXCHANGES={','.join(limits.exchanges)})"
        return Denial("exchange_not_allowed", "exchange", message)
    if limits.products is not None and order.product not in limits.products:
        message = f"is not allowed (ALLOWED_PRODUCTS={','.join(limits.products)})"
        return Denial("product_not_allowed", "product", message)
    return None


def _value(
    quantity: int, price: float | None, last_price: float | None, limits: RiskLimits
) -> Denial | None:
    known = price or last_price
    if limits.max_value is None or known is None or quantity * known <= limits.max_value:
        return None
    message = (
        f"makes an order of {quantity * known:.2f} rupees, more than this service allows "
        f"(MAX_ORDER_VALUE={limits.max_value:g})"
    )
    return Denial("max_value", "quantity", message)


def _band(
    price: float | None, field: str, last_price: float | None, limits: RiskLimits
) -> Denial | None:
    if price is None or not last_price or limits.price_band is None:
        return None  # a last price of 0 is Kite's for what has not traded yet
    off = abs(price - last_price) / last_price * 100
    if off <= limits.price_band:
        return None
    message = (
        f"is {off:.1f} % off the last price {last_price:g}, more than this service allows "
        f"(PRICE_BAND_PERCENT={limits.price_band:g})"
    )
    return Denial("price_band", field, message)


def _count(placed_today: int, limits: RiskLimits) -> Denial | None:
    if limits.orders_a_day is None or placed_today < limits.orders_a_day:
        return None
    message = f"{placed_today} orders were taken today (MAX_ORDERS_A_DAY={limits.orders_a_day})"
    return Denial("orders_a_day", "account_id", message)
