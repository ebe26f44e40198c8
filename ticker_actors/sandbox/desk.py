"""The one way to the sandbox's book: change it, keep it, tell of it, answer.

Whoever was told of an order finds it again after a `kill -9`, if there is a file.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import trio
from msgspec.structs import replace

from ticker_actors.exchange import wire_out
from ticker_actors.exchange.account import Position
from ticker_actors.exchange.book import Book
from ticker_actors.exchange.file import PaperFile
from ticker_actors.exchange.order import PaperOrder, to_rupees
from ticker_actors.exchange.prices import Walk
from ticker_actors.exchange.wire_out import Json
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import BrokerOrder, PlaceOrder
from ticker_actors.model.outcomes import Placed, Refused
from ticker_actors.model.portfolio import Trade
from ticker_actors.sandbox.gtt import Triggers
from ticker_actors.sandbox.iceberg import Icebergs
from ticker_actors.sandbox.market import Market
from ticker_actors.sandbox.order_ids import hidden, shown
from ticker_actors.sandbox.record import Record, on_wire

USER_ID = "SB0001"
"""The sandbox's only client."""
APP_ID = 1
STEP_SECONDS = 1.0
"""How often resting orders meet a new price."""
NO_INSTRUMENT = Refused("InputException", "Invalid `tradingsymbol`.")
NO_INDEX = Refused("InputException", "An index cannot be traded.")

Now = Callable[[], datetime]
Tell = Callable[[Json], None]
"""Hears of every update of an order, as a row with what postbacks add. Never waits."""

_Answer = TypeVar("_Answer")


class Desk:
    """One account: its book, its record, its market."""

    def __init__(self, *, funds: int, seed: str, now: Now, file: PaperFile | None) -> None:
        """`funds` in rupees. Without a file the book lives as long as the process."""
        today = trading_day(now())
        orders: tuple[PaperOrder, ...] = ()
        positions: tuple[Position, ...] = ()
        if file is not None:
            file.prune(today)
            orders, positions = file.load()
        self._file = file
        self._now = now
        self._day = max((order.day for order in orders), default=today)
        walk = Walk(seed)
        self.funds = funds
        self.market = Market(walk)
        self.book = Book(
            funds=funds, price=walk.price, day=self._day, orders=orders, positions=positions
        )
        self.icebergs = Icebergs(self.book)
        self.triggers = Triggers()
        self.record = Record()
        self.record.note(sorted(orders, key=lambda order: order.order_id))
        self.listeners: list[Tell] = []
        self._rows: dict[str, tuple[PaperOrder, Json]] = {}
        self._turn = trio.Lock()

    async def do(self, verb: Callable[[datetime], _Answer]) -> _Answer:
        """Change, commit, tell, answer, one call at a time.

        Shielded, for milliseconds: once the book has changed, file and listeners must follow.
        """
        async with self._turn:
            with trio.CancelScope(shield=True):
                now = self._now()
                answer = verb(now)
                self.triggers.follow(
                    lambda symbol: to_rupees(self.market.price(symbol, now)),
                    lambda order: self.place(order, "", now),
                    now,
                )
                self.icebergs.follow(now)
                if unsaved := self.book.unsaved():
                    if self._file is not None:
                        await trio.to_thread.run_sync(self._file.commit, unsaved)
                    self.book.saved()
                    self.record.note(unsaved.orders)
                    for update in unsaved.updates:
                        self._tell(update)
                if (day := trading_day(now)) > self._day:
                    self._day = day
                    self.record.forget_before(day)
                    self.icebergs.forget_before(day)
                    self._rows.clear()
            return answer

    def place(self, order: PlaceOrder, tag: str, now: datetime) -> Placed | Refused:
        """Place an order of any variety, for `do`. Its id is the one on the wire."""
        instrument = self.market.find(order.exchange, order.tradingsymbol)
        if instrument is None:
            return NO_INSTRUMENT
        if instrument.index:
            return NO_INDEX
        outcome = self.icebergs.place(order, tag, now)
        return Placed(shown(outcome.order_id)) if isinstance(outcome, Placed) else outcome

    async def settle(self) -> None:
        """Let the book come to this second, before its state is shown."""
        await self.do(self.book.step)

    async def run(self) -> None:
        """Bring resting orders to the market, once a second, without end."""
        while True:
            await trio.sleep(STEP_SECONDS)
            await self.settle()

    def now(self) -> datetime:
        """The present instant."""
        return self._now()

    def row(self, order: BrokerOrder) -> Json:
        """An order as Kite shows it."""
        version = self.record.version(hidden(order.order_id))
        return wire_out.order_row(
            order,
            user_id=USER_ID,
            token=self.token(order.exchange, order.tradingsymbol),
            modified=version is not None and version.modifications > 0,
            meta=self.icebergs.meta(hidden(order.order_id)),
        )

    def rows(self) -> list[Json]:
        """The order book of the day, oldest first."""
        return [self._shown(version) for version in self.record.versions()]

    def _shown(self, version: PaperOrder) -> Json:
        """The row of a version, made once: the book is read again and again."""
        known = self._rows.get(version.order_id)
        if known is None or known[0] is not version:
            known = self._rows[version.order_id] = version, self.row(on_wire(version))
        return known[1]

    def trades(self, order_id: str | None = None) -> tuple[Trade, ...]:
        """The fills of the day, or of one order by the book's id."""
        return tuple(
            replace(trade, instrument_token=self.token(trade.exchange, trade.tradingsymbol))
            for trade in self.record.trades(order_id)
        )

    def token(self, exchange: str, tradingsymbol: str) -> int:
        """The token of an instrument, 0 for one that has none."""
        instrument = self.market.find(exchange, tradingsymbol)
        return 0 if instrument is None else instrument.instrument_token

    def _tell(self, update: BrokerOrder) -> None:
        row = self.row(replace(update, order_id=shown(update.order_id)))
        for listener in self.listeners:
            listener(wire_out.update(row, user_id=USER_ID, app_id=APP_ID))
