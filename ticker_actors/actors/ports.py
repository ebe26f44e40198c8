"""What the actors need from outside, as they see it. `service.py` passes the real things in."""

from collections.abc import AsyncIterable
from datetime import datetime
from typing import Protocol

from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedItem,
    OrderBook,
    PlaceOutcome,
    Unreadable,
)


class Clock(Protocol):
    """The wall clock. Waiting is Trio's business; this only tells the time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class Broker(Protocol):
    """One account at one broker. Every call has a total deadline of its own and returns a value.

    What a call proves is its return value; an exception from it is a bug and stops the process.
    """

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        """Place an order under our tag (20 of `[0-9A-Z]`), at most one request on the wire."""
        ...

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        """Ask for absolute new values of an order."""
        ...

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        """Ask for an order to be cancelled."""
        ...

    async def orders(self) -> OrderBook | Unreadable:
        """The whole order book of the day."""
        ...

    def updates(self) -> AsyncIterable[FeedItem]:
        """Pushed order updates, and word of the channel's own state. One reader."""
        ...
