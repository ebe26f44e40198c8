"""What the actors need from outside, as they see it. `service.py` passes the real things in."""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from ticker_actors.model.batches import Batch
from ticker_actors.model.changes import Key, Recovered
from ticker_actors.model.limits import Limits
from ticker_actors.model.orders import OrderChanges, OrderView, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedItem,
    LoginRefused,
    LoginToken,
    OrderBook,
    PlaceOutcome,
    Unreadable,
)
from ticker_actors.model.portfolio import Holding, Margins, Positions
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.tasks import OrderTask


class Clock(Protocol):
    """The wall clock. Waiting is Trio's business; this only tells the time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class Broker(Protocol):
    """One account at one broker. A call returns a value, within `outcomes.CALL_SECONDS` in all.

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
        """The whole order book of the day. One reader, who looks at every row that is given."""
        ...

    def forget_book(self) -> None:
        """Let the next read of the book give every row, and count none as repeated."""
        ...

    async def positions(self) -> Positions | Unreadable:
        """What is held short term."""
        ...

    async def holdings(self) -> tuple[Holding, ...] | Unreadable:
        """What is kept in the demat account."""
        ...

    async def margins(self) -> Margins | Unreadable:
        """Money, by segment."""
        ...

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        """What an instrument last traded at, in rupees; None when that is not known."""
        ...

    async def log_in(self, token: LoginToken) -> LoginRefused | None:
        """Take a new access token. None when the broker answers to it."""
        ...

    def updates(self) -> AsyncIterable[FeedItem]:
        """Pushed order updates, and word of the channel's own state. One reader, who closes it.

        Each item is awaited in a cancel scope of the reader's, so a generator must not hold one of
        its own (or a nursery) across a `yield`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trading:
    """An account as the executor gets it: its broker, and what it is held to."""

    name: str
    """Of its broker, for people."""
    broker: Broker
    limits: Limits
    """At the broker."""
    risk: RiskLimits
    """Our own."""


class Reads(Protocol):
    """What the actors ask of the tables, on connections that never wait for a commit."""

    def lease_seconds(self, account_id: str) -> float:
        """For how long nobody else can become the account's writer."""
        ...

    async def recover(self, account_id: str, now: datetime) -> Recovered:
        """What is not finished of an account that this process writes."""
        ...

    async def task(self, task_id: str) -> OrderTask | None:
        """One task, or None."""
        ...

    async def task_by_intent(self, intent: str) -> OrderTask | None:
        """The task whose orders carry this intent in their tag, or None."""
        ...

    async def key(self, key: str) -> Key | None:
        """An idempotency key, and what was made under it, or None."""
        ...

    async def order(self, account_id: str, order_id: str) -> OrderView | None:
        """One order of any day, or None."""
        ...

    async def orders(self, account_id: str, day: date) -> list[OrderView]:
        """The account's orders first seen on an IST day."""
        ...

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        ...
