"""What an answer of Kite's proves: the table of the order protocol, without I/O and never raising.

Precedence: status 429; then a text that says the request may still be carried out; then a Kite
envelope by its type. Whatever is left is `Unknown`: only the order book can tell.
"""

import math
import re
from collections.abc import Callable
from typing import TypeVar

from ticker_actors.exchange import wire, wire_rows
from ticker_actors.http1 import HttpResult, Lost, Reply, Unsent
from ticker_actors.model.order_keys import NONE, Keys
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import (
    Accepted,
    BadRow,
    ChangeOutcome,
    NotSent,
    OrderBook,
    Placed,
    PlaceOutcome,
    Refused,
    Trouble,
    Unknown,
    Unreadable,
)

T = TypeVar("T")

RATE_PAUSE_SECONDS = 1.0
"""After a 429 that names no time: Kite's limits count by the second, and it names none."""
LONGEST_PAUSE_SECONDS = 86_400.0
"""More than a day is no pause: the order dies before."""
LONGEST_MESSAGE = 500
"""Characters of a broker's message that are passed on."""

DEFINITE = frozenset(
    {
        "InputException",
        "MarginException",
        "HoldingException",
        "UserException",
        "OrderException",
        "PermissionException",
    }
)
"""With a 4xx these are said before the order goes anywhere. No other type is."""

_MAY_STILL_HAPPEN = re.compile(
    r"tim(?:e|ed|es|ing)[\s-]*out|check\b.{0,30}\border(?:s\b|\s*book)|\bretry\b"
    r"|\btry(?:ing)?\b.{0,40}\bagain\b|\bbefore placing\b|\bnot received\b",
    re.IGNORECASE | re.DOTALL,
)
"""HTTP 400 "Order request timed out. Please check the order book and confirm before placing again."
was followed by the order 8 s later (Kite's forum, comment 35732)."""
_NOT_PERMITTED = re.compile(
    r"\bno ips? configured|\bips? (?:address )?(?:is )?not allowed|\ballowed ips\b", re.IGNORECASE
)
"""Since 2026-04-01 orders are taken only from registered addresses; users saw these sentences under
more than one error type."""


def place_outcome(result: HttpResult) -> PlaceOutcome:
    """What a place call proves."""
    content = _success(result)
    order_id = content.get("order_id") if isinstance(content, dict) else None
    if (found := wire.order_id(order_id)) is not None:
        return Placed(found)
    return _failed(result)


def change_outcome(result: HttpResult) -> ChangeOutcome:
    """What a modify or cancel call proves."""
    content = _success(result)
    if isinstance(content, dict) and wire.order_id(content.get("order_id")) is not None:
        return Accepted()
    return _failed(result)


def read(result: HttpResult, parse: Callable[[object], wire_rows.Read[T]]) -> T | Unreadable:
    """The content of a read, all of it or nothing. Only status 200 is a valid read."""
    content = _content(result)
    if isinstance(content, Unreadable):
        return content
    found = parse(content.data)
    if found.bad or found.value is None:
        return bad_rows(found.bad)
    return found.value


def order_book(result: HttpResult) -> OrderBook | Unreadable:
    """A read of the order book. One row that cannot be understood makes the read not valid."""
    content = _content(result)
    if isinstance(content, Unreadable):
        return content
    found = wire_rows.rows(content.data, BrokerOrder)
    if found.bad or found.value is None:
        return bad_rows(found.bad, found.value or ())
    return OrderBook(found.value)


def bad_rows(
    bad: tuple[BadRow, ...],
    orders: tuple[BrokerOrder, ...] = (),
    repeated: Keys = NONE,
) -> Unreadable:
    """The verdict on an answer with rows that cannot be understood; the others are there."""
    first = bad[0]
    name = f"row {first.place + 1}" + (f" (order {first.order_id})" if first.order_id else "")
    others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    message = f"Kite's answer cannot be understood: {name}: {first.problem}{others}."
    return Unreadable(message, bad=bad, orders=orders, repeated=repeated)


def _success(result: HttpResult) -> object:
    """The data of a 2xx success, else None."""
    if isinstance(result, Reply) and 200 <= result.status < 300:  # noqa: PLR2004  # the 2xx
        envelope = wire.envelope(result.body)
        return envelope.data if isinstance(envelope, wire.Success) else None
    return None


def _failed(result: HttpResult) -> NotSent | Refused | Unknown:
    """The table, but for its rows of success."""
    match result:
        case Unsent(message=message):
            return NotSent(message)
        case Lost(message=message):
            return Unknown(message)
        case Reply(status=429):
            return _rate_limited(result)
    envelope = wire.envelope(result.body)
    if not isinstance(envelope, wire.Failure):
        return Unknown(_sentence(result, envelope))
    return _error(result.status, envelope)


def _rate_limited(reply: Reply) -> Refused:
    """Whatever its body says: a request over the limit is not looked at."""
    envelope = wire.envelope(reply.body)
    failure = envelope if isinstance(envelope, wire.Failure) else wire.Failure("", "")
    return Refused(
        failure.error_type or "NetworkException",
        failure.message[:LONGEST_MESSAGE] or "Too many requests",
        retryable=True,
        retry_after=_pause(reply),
    )


def _error(status: int, failure: wire.Failure) -> Refused | Unknown:
    message, trouble = _message(failure), _trouble(status, failure)
    if 400 <= status < 500 and not _MAY_STILL_HAPPEN.search(failure.message):  # noqa: PLR2004
        if status == 403 and failure.error_type == "TokenException":  # noqa: PLR2004
            return Refused(failure.error_type, message, retryable=True, trouble=trouble)
        if failure.error_type in DEFINITE:
            return Refused(failure.error_type, message, trouble=trouble)
    return Unknown(message, trouble)


def _content(result: HttpResult) -> wire.Success | Unreadable:
    if not isinstance(result, Reply):
        return Unreadable(result.message)
    envelope = wire.envelope(result.body)
    if isinstance(envelope, wire.Failure):
        return Unreadable(_message(envelope), _trouble(result.status, envelope))
    if result.status != 200 or envelope is None:  # noqa: PLR2004  # OK
        return Unreadable(_sentence(result, envelope))
    return envelope


def _trouble(status: int, failure: wire.Failure) -> Trouble | None:
    if not 400 <= status < 500:  # noqa: PLR2004  # the 4xx
        return None
    if failure.error_type == "PermissionException" or _NOT_PERMITTED.search(failure.message):
        return "not_permitted"
    return "login_required" if failure.error_type == "TokenException" else None


def _message(failure: wire.Failure) -> str:
    return failure.message[:LONGEST_MESSAGE] or failure.error_type or "Kite gave no reason."


def _sentence(reply: Reply, envelope: wire.Success | None) -> str:
    """What to tell of an answer that is no error of Kite's. Not its body, which may be anything."""
    if envelope is not None:
        return f"Kite answered {reply.status} with a success that holds no order id."
    kind = wire.clean(reply.headers.get("content-type", "no content type"))[:100]
    return f"The answer was {reply.status} ({kind}, {len(reply.body)} bytes), not Kite's JSON."


def _pause(reply: Reply) -> float:
    """Seconds of `Retry-After`. Its other form, a date, would need a clock."""
    try:
        seconds = float(reply.headers.get("retry-after", ""))
    except ValueError:
        return RATE_PAUSE_SECONDS
    if math.isnan(seconds):
        return RATE_PAUSE_SECONDS
    return min(max(seconds, RATE_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
