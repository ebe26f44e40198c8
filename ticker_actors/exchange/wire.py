"""Kite Connect v3 on the wire, without I/O: paths, forms and envelopes.

Adapter and sandbox share it. Sources: https://kite.trade/docs/connect/v3/orders/, /exceptions/ and
/response-structure/; where these are silent, what the official Python client sends (5.2.2).
`wire_rows` reads what is inside of an envelope.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote, quote_plus

from ticker_actors.model.orders import OrderChanges, PlaceOrder

VERSION_HEADERS = {"X-Kite-Version": "3"}
FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}

ORDERS = "/orders"
TRADES = "/trades"
POSITIONS = "/portfolio/positions"
HOLDINGS = "/portfolio/holdings"
MARGINS = "/user/margins"
PROFILE = "/user/profile"
QUOTE = "/quote"
MAX_QUOTES = 500
"""Instruments in one call of `QUOTE`."""

AUTOMATIC_PROTECTION = -1
"""`market_protection`: the broker chooses the band. 0 or none is refused since 2026-04-01."""
PROTECTED = frozenset({"MARKET", "SL-M"})
"""Order types that trade at any price, and so must carry a protection."""

ERROR_STATUS = {
    "InputException": 400,
    "OrderException": 400,
    "MarginException": 400,
    "HoldingException": 400,
    "UserException": 400,
    "TokenException": 403,
    "PermissionException": 403,
    "GeneralException": 500,
    "DataException": 502,
    "NetworkException": 503,
}
"""The HTTP status that each error type comes with; 429 is a NetworkException too."""


def placing(variety: str) -> str:
    """POST here to place an order."""
    return f"{ORDERS}/{_part(variety)}"


def placed(variety: str, order_id: str) -> str:
    """PUT here to modify an order, DELETE to cancel it."""
    return f"{ORDERS}/{_part(variety)}/{_part(order_id)}"


def history(order_id: str) -> str:
    """GET here all that happened to an order."""
    return f"{ORDERS}/{_part(order_id)}"


def trades_of(order_id: str) -> str:
    """GET here the fills of an order."""
    return f"{ORDERS}/{_part(order_id)}/trades"


def _part(text: str) -> str:
    return quote(text, safe="")


def place_form(order: PlaceOrder, tag: str) -> dict[str, str]:
    """The fields of a place call. `variety` is in the path and, as the official client does, here.

    `expires_in` and the caller's own tag are ours; `autoslice` is never sent, because it is not
    known whether its children carry the tag.
    """
    protection: float | None = None
    if order.order_type in PROTECTED:
        given = order.market_protection
        protection = AUTOMATIC_PROTECTION if given is None else given
    return _form(
        variety=order.variety,
        exchange=order.exchange,
        tradingsymbol=order.tradingsymbol,
        transaction_type=order.transaction_type,
        quantity=order.quantity,
        product=order.product,
        order_type=order.order_type,
        price=order.price,
        validity=order.validity,
        validity_ttl=order.validity_ttl,
        disclosed_quantity=order.disclosed_quantity,
        trigger_price=order.trigger_price,
        iceberg_legs=order.iceberg_legs,
        iceberg_quantity=order.iceberg_quantity,
        tag=tag,
        market_protection=_percent(protection),
    )


def modify_form(
    order_id: str, variety: str, changes: OrderChanges, order_type: str | None
) -> dict[str, str]:
    """The fields of a modify call, absolute values of what changes.

    `order_type` is the order's own as far as known: an order that is or becomes MARKET or SL-M is
    refused without a protection.
    """
    protected = (changes.order_type or order_type) in PROTECTED
    return _form(
        variety=variety,
        order_id=order_id,
        quantity=changes.quantity,
        price=changes.price,
        order_type=changes.order_type,
        trigger_price=changes.trigger_price,
        validity=changes.validity,
        market_protection=AUTOMATIC_PROTECTION if protected else None,
    )


def _form(**fields: str | float | None) -> dict[str, str]:
    return {name: _value(value) for name, value in fields.items() if value is not None}


def _value(value: str | float) -> str:
    """Numbers as Python writes them, but never with an exponent (`1e-05`)."""
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def encoded(form: Mapping[str, str]) -> bytes:
    """A form as a body carries it: what needs no quoting, most values, is not looked at twice."""
    return "&".join(f"{name}={_quoted(value)}" for name, value in form.items()).encode()


def _quoted(value: str) -> str:
    return value if value.isalnum() and value.isascii() else quote_plus(value)


def _percent(value: float | None) -> float | None:
    """Whole percents without a point, as Kite's own examples have them: `-1`."""
    return int(value) if value is not None and value == int(value) else value


@dataclass(frozen=True, slots=True)
class Success:
    """An envelope that says `success`."""

    data: object


@dataclass(frozen=True, slots=True)
class Failure:
    """An envelope that says `error`."""

    error_type: str
    """Empty where Kite gave none."""
    message: str


def envelope(body: bytes) -> Success | Failure | None:
    """What a body says, or None when it is no envelope of Kite's. Never raises.

    A byte that is not UTF-8 spoils only the text it is in: one odd company name must not hide a
    whole order book.
    """
    try:
        content = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    status, error_type, message = map(content.get, ("status", "error_type", "message"))
    if status == "error" or error_type:
        return Failure(
            clean(error_type) if isinstance(error_type, str) else "",
            clean(message) if isinstance(message, str) else "",
        )
    if status == "success" and "data" in content:
        return Success(content["data"])
    return None


_ORDER_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def order_id(value: object) -> str | None:
    """An order id, always as text; None for what cannot be one.

    Kite sends strings of 15 or 19 digits. A JSON number is taken too while it is whole: as a float
    it would have lost its last digits.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        value = str(value)
    if isinstance(value, str) and _ORDER_ID.fullmatch(value):
        return value
    return None


_SPACES = dict.fromkeys(range(0x09, 0x0E), " ")
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """A broker's text that every store and terminal can hold: no NUL, control, lone surrogate."""
    if _UNSTORABLE.search(text) is None:
        return text
    return _UNSTORABLE.sub("", text.translate(_SPACES))
