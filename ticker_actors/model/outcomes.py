"""What a broker call proves. Expected failures are values; an exception from a broker is a bug.

The classes are those of the order protocol: everything that is not proved is `Unknown`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ticker_actors.model.order_keys import NONE, Keys, order_key
from ticker_actors.model.orders import BrokerOrder

CALL_SECONDS = 7.0
"""The most that one broker call may take, in all: the official clients wait as long for a read."""

Trouble = Literal["login_required", "not_permitted"]
"""What an answer shows to be wrong with the whole account, not with one order.

`login_required`: the access token is dead; a new login mends it. `not_permitted`: this app or this
machine's address may not place orders; only the operator can mend it, and repeating burns quota.
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """The broker answered with an order id. The order exists; its fate is read from the book."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker took a modify or cancel request. That is no evidence that it was carried out."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte of the request was handed to the socket, so no order can come of it."""

    message: str
    spent: bool = True
    """Whether it counts as an attempt. A check of our own that stopped the call does not."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker answered that it did not take the request; no order can come of it."""

    error_type: str
    """Kite's name of it, such as `MarginException`."""
    message: str
    retryable: bool = False
    """Only for 429 and a dead token."""
    retry_after: float | None = None
    """Seconds, where the broker said so or its rule says so."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Anything else: the order may exist, now or later. Only the order book can tell."""

    message: str
    trouble: Trouble | None = None


PlaceOutcome = Placed | NotSent | Refused | Unknown
ChangeOutcome = Accepted | NotSent | Refused | Unknown


@dataclass(frozen=True)
class OrderBook:
    """One whole read of the day's order book of one account."""

    orders: tuple[BrokerOrder, ...]
    """Its rows, but for those that are only counted."""
    repeated: Keys = NONE
    """The `order_key` of each row that is only counted: it is terminal, and the very one that the
    read before has given, whole or counted. A broker need not count: it may give every row."""

    @cached_property
    def present(self) -> Keys:
        """The `order_key` of every order that it shows."""
        return Keys((*self.repeated, *(order_key(row.order_id) for row in self.orders)))


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row of an answer that could not be understood, kept for whoever must look into it."""

    place: int
    """Its place in the answer, from 0."""
    order_id: str | None
    """The order it is of, as far as that could be read."""
    problem: str
    """Which field is wrong, and how."""
    raw: str
    """The row as ASCII JSON text, cut when it is long."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The book could not be read or understood. It proves no absence."""

    message: str
    trouble: Trouble | None = None
    bad: tuple[BadRow, ...] = ()
    """The rows for which the whole read is not valid."""
    orders: tuple[BrokerOrder, ...] = ()
    """Its other rows: these orders are there, whatever the bad rows hide."""
    repeated: Keys = NONE
    """Those of them that are only counted, as in an `OrderBook`."""


@dataclass(frozen=True, slots=True)
class FeedLost:
    """The push channel is down: updates may be missing from here on, so the book is read."""

    message: str


@dataclass(frozen=True, slots=True)
class FeedBack:
    """The push channel is up (again); what was missed must be read from the book."""


FeedItem = BrokerOrder | FeedLost | FeedBack


@dataclass(frozen=True, slots=True)
class LoginToken:
    """What a login gave: one of the two. Never logged, never returned."""

    access_token: str | None = field(default=None, repr=False)
    """Valid until the next morning."""
    request_token: str | None = field(default=None, repr=False)
    """Valid for minutes, to be exchanged once for an access token."""


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The broker does not take the token, or there is nothing to log in to."""

    message: str
