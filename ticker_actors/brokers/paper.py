"""The paper exchange as a broker: one account, one book, one file, always open.

A call changes the book, commits what changed to the exchange's own file and only then answers and
pushes: whoever was told of an order finds it again after a `kill -9`. Updates come as Kite's do
(none for an order that merely begins to rest) and may be lost when nobody reads them.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from ticker_actors.brokers.pushed import Pushed
from ticker_actors.brokers.repeated import RepeatedRows
from ticker_actors.exchange.book import Book
from ticker_actors.exchange.file import PaperFile
from ticker_actors.exchange.order import to_rupees
from ticker_actors.exchange.prices import Walk
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    Accepted,
    FeedBack,
    FeedItem,
    LoginRefused,
    LoginToken,
    OrderBook,
    Placed,
    Refused,
)
from ticker_actors.model.portfolio import (
    Holding,
    Margins,
    Position,
    Positions,
    SegmentMargins,
)

STEP_SECONDS = 1.0
"""How often resting orders meet a new price: the walk makes one step a second."""
FEED_SIZE = 1_000
"""Updates that wait for the reader. More are dropped, and it is told to read the book."""

_Answer = TypeVar("_Answer")


class Clock(Protocol):
    """The wall clock."""

    def now(self) -> datetime:
        """The present instant, aware."""
        ...


@asynccontextmanager
async def open_paper(
    path: Path, *, funds: float, clock: Clock, seed: str = "paper"
) -> AsyncIterator["PaperBroker"]:
    """A broker on the book kept in `path`, with `funds` rupees before its first trade.

    Raises `exchange.file.PaperFileUnusable` with a sentence for the operator.
    """
    # Closed in the loop's own thread: nobody is left to wait for these few milliseconds.
    with closing(await trio.to_thread.run_sync(PaperFile, path)) as file:
        broker = await trio.to_thread.run_sync(_restored, file, funds, clock, seed)
        with closing(broker):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.run)
                yield broker
                nursery.cancel_scope.cancel()


def _restored(file: PaperFile, funds: float, clock: Clock, seed: str) -> "PaperBroker":
    today = trading_day(clock.now())
    file.prune(today)
    orders, positions = file.load()
    day = max((order.day for order in orders), default=today)
    price = Walk(seed).price
    book = Book(funds=funds, price=price, day=day, orders=orders, positions=positions)
    return PaperBroker(book, file, clock)


class PaperBroker:
    """The port `actors.ports.Broker` on a paper book. `open_paper` makes it."""

    def __init__(self, book: Book, file: PaperFile, clock: Clock) -> None:
        self._book = book
        self._file = file
        self._clock = clock
        self._turn = trio.Lock()
        self._repeated = RepeatedRows()
        self._writer = trio.CapacityLimiter(1)
        self._feed = Pushed(FEED_SIZE)
        self._feed.push(FeedBack())

    async def place(self, order: PlaceOrder, tag: str) -> Placed | Refused:
        """Place an order. It may have traded, or stand rejected, before the answer is here."""
        return await self._do(lambda now: self._book.place(order, tag, now))

    async def modify(
        self,
        order_id: str,
        variety: str,  # noqa: ARG002 - the paper book finds orders by their id alone
        changes: OrderChanges,
    ) -> Accepted | Refused:
        """Set new values of an order that still rests."""
        return await self._do(lambda now: self._book.modify(order_id, changes, now))

    async def cancel(
        self,
        order_id: str,
        variety: str,  # noqa: ARG002 - as above
    ) -> Accepted | Refused:
        """Cancel an order that still rests."""
        return await self._do(lambda now: self._book.cancel(order_id, now))

    async def orders(self) -> OrderBook:
        """The whole order book of the day."""
        return self._repeated.book(await self._do(self._book.rows))

    def forget_book(self) -> None:
        """Let the next read of the book give every row, and count none as repeated."""
        self._repeated.forget()

    async def positions(self) -> Positions:
        """What is held, at this second's prices. The paper exchange keeps no day's part."""
        return await self._do(self._positions)

    async def holdings(self) -> tuple[Holding, ...]:
        """The paper exchange has no demat account: whatever is held is a position."""
        return ()

    async def margins(self) -> Margins:
        """Its one purse, shown as both segments' as Kite does for a joined account."""
        available = await self._do(lambda _: self._book.available)
        segment = SegmentMargins(net=available, enabled=True, available={"cash": available})
        return Margins(equity=segment, commodity=segment)

    async def last_price(
        self,
        exchange: str,  # noqa: ARG002 - a symbol has one price on the paper exchange
        tradingsymbol: str,
    ) -> float:
        """What a symbol trades at in this second, in rupees."""
        return await self._do(lambda now: self._book.last_price(tradingsymbol, now))

    async def log_in(self, token: LoginToken) -> LoginRefused:  # noqa: ARG002 - whatever it is
        """There is nothing to log in to."""
        return LoginRefused("The paper exchange needs no login.")

    def _positions(self, now: datetime) -> Positions:
        return Positions(
            net=tuple(
                Position(
                    exchange=held.exchange,
                    tradingsymbol=held.tradingsymbol,
                    product=held.product,
                    quantity=held.net,
                    average_price=to_rupees(held.cost) / abs(held.net) if held.net else 0.0,
                    last_price=self._book.last_price(held.tradingsymbol, now),
                    realised=to_rupees(held.realised),
                )
                for held in self._book.positions
            )
        )

    def updates(self) -> AsyncIterable[FeedItem]:
        """Pushed updates, for one reader. Ends when the broker is closed."""
        return self._feed

    async def run(self) -> None:
        """Bring resting orders to the market, once a second, without end."""
        while True:
            await trio.sleep(STEP_SECONDS)
            await self._do(self._book.step)

    def close(self) -> None:
        """No update follows: the reader ends when it has read what is there."""
        self._feed.close()

    async def _do(self, verb: Callable[[datetime], _Answer]) -> _Answer:
        """The only way to the book: change, commit, push, answer, one call at a time.

        Nothing is shown to anyone while a change is not safe. A failed commit raises, here and in
        every later call, because what could not be kept stays unsaved and the file is closed.
        """
        async with self._turn:
            # Shielded, for milliseconds: once the book has changed, the file must follow.
            with trio.CancelScope(shield=True):
                answer = verb(self._clock.now())
                if unsaved := self._book.unsaved():
                    await trio.to_thread.run_sync(self._file.commit, unsaved, limiter=self._writer)
                    self._book.saved()
                    for update in unsaved.updates:
                        self._feed.push(update)
            return answer
