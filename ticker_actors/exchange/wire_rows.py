"""The content of Kite's envelopes as our structs, without I/O and without ever raising.

A struct's own annotations say how its fields are read, so the same few rules hold for orders,
trades, positions and quotes:

- fields that no struct has are ignored, numbers may be strings, `null` and `""` count as missing;
- naive times are IST, and become UTC; a time that cannot be read is unknown, for nothing rests on
  it alone;
- all text is cleaned; ids are text even where they come as numbers;
- any other surprise makes the row a `BadRow`, which names the field.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from types import NoneType
from typing import Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from ticker_actors.exchange.wire import clean, order_id
from ticker_actors.model.calendar import IST, iso
from ticker_actors.model.outcomes import BadRow
from ticker_actors.model.portfolio import Position, Positions, Quote

LONGEST_RAW = 2_000
"""Characters of a bad row that are kept: more than any row of Kite's is long."""
LARGEST = 2**53
"""Numbers beyond it are no quantity or price, and some stores and clients would round them."""
TIMES: Final = frozenset(
    {
        "order_timestamp",
        "exchange_timestamp",
        "exchange_update_timestamp",
        "fill_timestamp",
        "authorised_date",
        "timestamp",
        "last_trade_time",
    }
)

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What could be read of an answer, and what could not."""

    value: T | None
    """None only when there is nothing but `bad`."""
    bad: tuple[BadRow, ...] = ()


def rows(data: object, kind: type[S]) -> Read[tuple[S, ...]]:
    """A list of rows, such as the order book."""
    if not isinstance(data, list):
        return Read(None, (_bad(0, data, "the answer is not a list"),))
    good, bad = [], []
    for place, row in enumerate(data):
        try:
            good.append(_struct(row, kind))
        except _WrongError as error:
            bad.append(_bad(place, row, str(error)))
    return Read(tuple(good), tuple(bad))


def row(data: object, kind: type[S]) -> Read[S]:
    """A single object, such as the profile."""
    try:
        return Read(_struct(data, kind))
    except _WrongError as error:
        return Read(None, (_bad(0, data, str(error)),))


def positions(data: object) -> Read[Positions]:
    """Both lists of positions."""
    if not isinstance(data, dict):
        return Read(None, (_bad(0, data, "the answer is not an object"),))
    net, day = rows(data.get("net"), Position), rows(data.get("day"), Position)
    bad = net.bad + day.bad
    return Read(None, bad) if bad else Read(Positions(net=net.value or (), day=day.value or ()))


def quotes(data: object) -> Read[dict[str, Quote]]:
    """Quotes by `EXCHANGE:TRADINGSYMBOL`. Kite leaves out instruments of which it knows nothing."""
    if not isinstance(data, dict):
        return Read(None, (_bad(0, data, "the answer is not an object"),))
    read = {clean(name): row(quote, Quote) for name, quote in data.items()}
    bad = tuple(problem for one in read.values() for problem in one.bad)
    found = {name: one.value for name, one in read.items() if one.value is not None}
    return Read(found, bad)


class _WrongError(Exception):
    """A value is not what its field says. Never leaves this file."""


def _struct(value: object, kind: type[S]) -> S:
    if not isinstance(value, dict):
        raise _WrongError("it is not an object")
    fields = {}
    for name, read, required in _plan(kind):
        given = value.get(name)
        try:
            found = None if given is None or given == "" else read(given)
        except _WrongError as error:
            raise _WrongError(f"{name}: {error}") from None
        if found is not None and found != "":
            fields[name] = found
        elif required:
            raise _WrongError(f"{name} is missing")
    return kind(**fields)


_Reader = Callable[[Any], Any]


@cache
def _plan(kind: type[msgspec.Struct]) -> tuple[tuple[str, _Reader, bool], ...]:
    """How to read each field: its name, its reader, and whether it must be there."""
    hints = get_type_hints(kind)
    return tuple(
        (field.name, _field_reader(field.name, hints[field.name]), field.required)
        for field in msgspec.structs.fields(kind)
    )


def _field_reader(name: str, hint: Any) -> _Reader:  # noqa: ANN401  # any annotation
    if name == "order_id":
        return _order_id
    return _time if name in TIMES else _reader(hint)


def _reader(hint: Any) -> _Reader:  # noqa: ANN401  # any annotation
    """The reader of a type, of the few that the structs use."""
    simple: dict[Any, _Reader] = {str: _text, int: _whole, float: _number, bool: _truth}
    if hint in simple:
        return simple[hint]
    arguments = [part for part in get_args(hint) if part is not NoneType and part is not ...]
    match get_origin(hint):
        case origin if origin is tuple:
            return _each(_reader(arguments[0]))
        case origin if origin is dict:
            return _by_name(_reader(arguments[1]))
        case None:
            return lambda value: _struct(value, hint)
    return _reader(arguments[0])  # `X | None`


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _WrongError("it is not text")
    return clean(value)


def _order_id(value: object) -> str:
    found = order_id(value)
    if found is None:
        raise _WrongError("it is not an order id")
    return found


def _whole(value: object) -> int:
    number = _number(value)
    if not number.is_integer():
        raise _WrongError("it is not a whole number")
    return int(number)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _WrongError("it is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _WrongError("it is not a number") from None
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise _WrongError("it is out of range")
    return number


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongError("it is neither true nor false")
    return value


def _time(value: object) -> str | None:
    return _instant(value) if isinstance(value, str) else None


@lru_cache(maxsize=1_000)  # a row has several, and many rows the same
def _instant(text: str) -> str | None:
    try:
        instant = datetime.fromisoformat(text)
        return iso(instant if instant.tzinfo else instant.replace(tzinfo=IST))
    except (ValueError, OverflowError):  # the year 1 has no instant in UTC
        return None


def _each(read: _Reader) -> _Reader:
    def reader(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _WrongError("it is not a list")
        return tuple(read(entry) for entry in value if entry is not None)

    return reader


def _by_name(read: _Reader) -> _Reader:
    def reader(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _WrongError("it is not an object")
        return {clean(name): read(entry) for name, entry in value.items() if entry is not None}

    return reader


def _bad(place: int, row: object, problem: str) -> BadRow:
    try:
        raw = json.dumps(row)[:LONGEST_RAW]
    except (ValueError, RecursionError):
        raw = "(nested too deep to be shown)"
    identity = row.get("order_id") if isinstance(row, dict) else None
    return BadRow(place, order_id(identity), problem, raw)
