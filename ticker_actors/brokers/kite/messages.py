"""The ticker's text messages, without I/O.

Source: https://kite.trade/docs/connect/v3/websocket/#postbacks-and-non-binary-updates. Kite also
sends types that are not documented (`instruments_meta`, `app_code`): those mean nothing to us.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ticker_actors.model.orders import BrokerOrder

OrderReader = Callable[[object], BrokerOrder | str]
"""Reads the `data` of an order message; a string says what is wrong with it. Never raises."""

LONGEST_RAW = 2_000
"""Characters of a message that are kept: more than any order's update is long."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for people: an error of the connection, or word from the broker."""

    kind: Literal["error", "message"]
    text: str


@dataclass(frozen=True, slots=True)
class Garbled:
    """A message that could not be understood, and may have been an order's update."""

    problem: str
    raw: str
    """ASCII, cut when it is long."""


def read(text: str, read_order: OrderReader) -> BrokerOrder | Notice | Garbled | None:
    """What a text message says; None when it means nothing to us. Never raises."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Garbled("It is not JSON.", shown(text))
    if not isinstance(content, dict):
        return Garbled("It is not an object.", shown(text))
    match content.get("type"):
        case "order":
            order = read_order(content.get("data"))
            return Garbled(order, shown(text)) if isinstance(order, str) else order
        case "error" | "message" as kind:
            data = content.get("data")
            return Notice(kind, shown(data if isinstance(data, str) else text))
        case str():
            return None
    return Garbled("It has no type.", shown(text))


def shown(text: str) -> str:
    """A text from outside as any log can hold it."""
    return ascii(text)[1:-1][:LONGEST_RAW]
