"""The forms of Kite's order calls, read strictly and without I/O: what `wire` builds.

Sources: https://kite.trade/docs/connect/v3/orders/ and Kite's forum (discussion 15912 for market
protection). Fields that an order does not have are ignored, as Kite does. Where no wording of
Kite's is known, the sentence is ours.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

from ticker_actors.exchange.wire import PROTECTED
from ticker_actors.model.orders import (
    Exchange,
    OrderChanges,
    OrderType,
    PlaceOrder,
    Product,
    TransactionType,
    Validity,
    Variety,
)
from ticker_actors.model.outcomes import Refused

Form = Mapping[str, str]

FREEZE_QUANTITY = 1_000_000
"""Units of one order: exchanges refuse more in one piece."""
HIGHEST_PRICE = 1_000_000.0
"""Rupees; more than any share costs, and less than a binary tick can hold."""
MAX_TTL_MINUTES = 1_440
LEAST_LEGS, MOST_LEGS = 2, 10
NO_PROTECTION = Refused(
    "InputException",
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order.",
)

_SYMBOL = re.compile(r"[A-Za-z0-9&_ .:/*-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9]{1,20}")
_NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,9})?")
_WHOLE = re.compile(r"\d{1,9}")


def place(variety: str, form: Form) -> tuple[PlaceOrder, str] | Refused:
    """The order and its tag, which is empty for none."""
    try:
        return _placed(variety, form), _tag(form)
    except _WrongError as error:
        return error.refused


def changes(order_type: str, form: Form) -> OrderChanges | Refused:
    """What a modification of an order of that type sets."""
    try:
        wanted = OrderChanges(
            quantity=_units("quantity", form),
            price=_price("price", form) or None,
            trigger_price=_price("trigger_price", form) or None,
            order_type=_optional("order_type", form, OrderType),
            validity=_optional("validity", form, Validity),
        )
        _protection(wanted.order_type or order_type, form)
    except _WrongError as error:
        return error.refused
    return wanted


class _WrongError(Exception):
    """A field is not what it must be. Never leaves this file."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused


def _placed(variety: str, form: Form) -> PlaceOrder:
    kind = _one_of("order_type", form, OrderType)
    validity: Validity = _optional("validity", form, Validity) or "DAY"
    quantity = _units("quantity", form)
    disclosed = _units("disclosed_quantity", form)
    legs, leg_quantity = _units("iceberg_legs", form), _units("iceberg_quantity", form)
    ttl = _units("validity_ttl", form)
    order = PlaceOrder(
        variety=_one_of("variety", {"variety": variety}, Variety),
        exchange=_one_of("exchange", form, Exchange),
        tradingsymbol=_symbol(form),
        transaction_type=_one_of("transaction_type", form, TransactionType),
        quantity=_needed("quantity", quantity),
        product=_one_of("product", form, Product),
        order_type=kind,
        price=_price("price", form) or None,
        trigger_price=_price("trigger_price", form) or None,
        validity=validity,
        validity_ttl=_needed("validity_ttl", ttl) if validity == "TTL" else None,
        disclosed_quantity=disclosed,
        iceberg_legs=_needed("iceberg_legs", legs) if variety == "iceberg" else None,
        iceberg_quantity=_needed("iceberg_quantity", leg_quantity)
        if variety == "iceberg"
        else None,
        market_protection=_protection(kind, form),
    )
    if order.quantity > FREEZE_QUANTITY:
        raise _invalid("quantity")
    if (order.disclosed_quantity or 0) > order.quantity:
        raise _invalid("disclosed_quantity")
    if (order.validity_ttl or 1) > MAX_TTL_MINUTES:
        raise _invalid("validity_ttl")
    if order.iceberg_legs is not None and not LEAST_LEGS <= order.iceberg_legs <= MOST_LEGS:
        raise _invalid("iceberg_legs")
    return order


def _tag(form: Form) -> str:
    tag = form.get("tag", "")
    if tag and not _TAG.fullmatch(tag):
        raise _WrongError(
            Refused("InputException", "Invalid `tag`. It may have 20 letters and digits at most.")
        )
    return tag


def _symbol(form: Form) -> str:
    symbol = _given("tradingsymbol", form)
    if not _SYMBOL.fullmatch(symbol):
        raise _invalid("tradingsymbol")
    return symbol


def _protection(order_type: str, form: Form) -> float | None:
    """Percent, -1 for automatic. MARKET and SL-M need one since 2026-04-01."""
    percent = _number("market_protection", form)
    if percent is not None and percent != -1 and not 0 <= percent <= 100:  # noqa: PLR2004  # percent
        raise _invalid("market_protection")
    if order_type not in PROTECTED:
        return None
    if not percent:
        raise _WrongError(NO_PROTECTION)
    return percent


def _price(field: str, form: Form) -> float | None:
    """Rupees. Clients send 0 for none; whether one is needed is the book's to say."""
    price = _number(field, form)
    if price is not None and not 0 <= price <= HIGHEST_PRICE:
        raise _invalid(field)
    return price


def _number(field: str, form: Form) -> float | None:
    text = form.get(field, "")
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise _invalid(field)
    return float(text)


def _units(field: str, form: Form) -> int | None:
    """A whole number; None for none and for 0."""
    text = form.get(field, "")
    if not text:
        return None
    if not _WHOLE.fullmatch(text):
        raise _invalid(field)
    return int(text) or None


def _one_of(field: str, form: Form, choices: object) -> Any:  # noqa: ANN401  # of that Literal
    value = _given(field, form)
    if value not in get_args(choices):
        raise _invalid(field)
    return value


def _optional(field: str, form: Form, choices: object) -> Any:  # noqa: ANN401  # as above
    return _one_of(field, form, choices) if form.get(field) else None


def _given(field: str, form: Form) -> str:
    value: str = _needed(field, form.get(field) or None)
    return value


def _needed(field: str, value: Any) -> Any:  # noqa: ANN401  # the same but for None
    if value is None:
        raise _WrongError(Refused("InputException", f"Missing or empty field `{field}`"))
    return value


def _invalid(field: str) -> _WrongError:
    return _WrongError(Refused("InputException", f"Invalid `{field}`."))
