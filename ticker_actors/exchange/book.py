"""The paper exchange's matching book, as a pure state machine.

No clock, no chance and no I/O: the time comes with every call and the price from a function, so
one history always makes one book. Each call changes the book at once; `unsaved` tells what has to
be kept and pushed for it, and `saved` says that this was done.

Matching. The market of a symbol is one price a second at which `LIQUIDITY` units change hands. Our
own orders trade against that market only, never with one another, oldest first (a modification
keeps an order's place):
- MARKET takes the price at once, what finds no units goes on with the next seconds;
- LIMIT trades at the market's price when that is its own or better, so never worse than its limit;
- SL and SL-M wait in TRIGGER PENDING until the price is at or beyond their trigger (at once, where
  it already is), then they are LIMIT and MARKET;
- IOC is cancelled with what it could not fill when it was first live; TTL after its minutes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime

from msgspec.structs import replace

from ticker_actors.exchange.account import Account, Position, PositionKey
from ticker_actors.exchange.order import TICKS_PER_RUPEE, PaperOrder, to_rupees
from ticker_actors.exchange.rules import (
    NOT_CANCELLABLE,
    NOT_FOUND,
    modified,
    placed,
)
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import Accepted, Placed, Refused

PriceAt = Callable[[str, int], int]
"""The price of a symbol, in ticks, at a step: the Unix time in whole seconds."""

LIQUIDITY = 10_000
"""Units of a symbol that trade in one second: small enough that large orders fill in parts."""
DAY_OVER = "Order cancelled at the end of its day."


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What changed since the last `saved`: the newest versions, and what the feed says of them."""

    orders: tuple[PaperOrder, ...]
    positions: tuple[Position, ...]
    updates: tuple[BrokerOrder, ...]

    def __bool__(self) -> bool:
        return bool(self.orders)


@dataclass(slots=True)
class _Market:
    step: int
    price: int
    units: int = LIQUIDITY


class Book:
    """One account's orders of the day, its positions and its money."""

    def __init__(
        self,
        *,
        funds: float,
        price: PriceAt,
        day: date,
        orders: Iterable[PaperOrder] = (),
        positions: Iterable[Position] = (),
    ) -> None:
        """`funds` are rupees; orders (of `day`) and positions are those of an earlier run."""
        self._price = price
        self._day = day
        self._account = Account(round(funds * TICKS_PER_RUPEE), positions)
        self._orders: dict[str, PaperOrder] = {}
        self._rows: dict[str, BrokerOrder] = {}
        self._resting: dict[str, dict[str, PaperOrder]] = {}
        self._markets: dict[str, _Market] = {}
        self.saved()
        for order in sorted(orders, key=lambda order: order.order_id):
            self._enter(order)
        self._count = max((int(order_id[6:]) for order_id in self._orders), default=0)
        self.saved()

    @property
    def available(self) -> float:
        """Rupees that the next order may bind. Below 0 after losses."""
        return to_rupees(self._account.available)

    @property
    def positions(self) -> tuple[Position, ...]:
        """All positions ever held, closed ones included."""
        return tuple(self._account.positions.values())

    def rows(self, now: datetime) -> tuple[BrokerOrder, ...]:
        """The whole order book of the day, oldest first."""
        self.roll(now)
        return tuple(self._rows.values())

    def last_price(self, symbol: str, now: datetime) -> float:
        """What a symbol trades at in this second, in rupees."""
        self.roll(now)
        return to_rupees(self._market(symbol, now).price)

    def unsaved(self) -> Unsaved:
        """What must be kept before anyone is told."""
        return Unsaved(
            tuple(self._new_orders.values()),
            tuple(self._new_positions.values()),
            tuple(self._updates),
        )

    def saved(self) -> None:
        """The `unsaved` is safe."""
        self._new_orders: dict[str, PaperOrder] = {}
        self._new_positions: dict[PositionKey, Position] = {}
        self._updates: list[BrokerOrder] = []

    def place(self, order: PlaceOrder, tag: str, now: datetime) -> Placed | Refused:
        """Take an order, and trade it as far as the market goes this second.

        An order that the money does not cover is placed and stands REJECTED in the book. A tag is
        no key: the same one makes another order.
        """
        self.roll(now)
        order_id = f"{self._day:%y%m%d}{self._count + 1:09d}"
        new = placed(order, order_id=order_id, tag=tag, day=self._day, now=now)
        if isinstance(new, Refused):
            return new
        self._count += 1
        market = self._market(new.tradingsymbol, now)
        new = self._account.margined(None, new, market.price)
        if shortage := self._account.shortage(None, new):
            new = replace(new, status="REJECTED", status_message=shortage)
        self._enter(self._worked(new, market, now))
        return Placed(new.order_id)

    def modify(self, order_id: str, changes: OrderChanges, now: datetime) -> Accepted | Refused:
        """Set new values, then trade on. A stop that is live stays so while it is a stop."""
        self.roll(now)
        if (found := self._orders.get(order_id)) is None:
            return NOT_FOUND
        market = self._market(found.tradingsymbol, now)
        order = self._orders[order_id]  # it may have traded just now
        new = modified(order, changes, now)
        if isinstance(new, Refused):
            return new
        new = self._account.margined(order, new, market.price)
        if shortage := self._account.shortage(order, new):
            return Refused("MarginException", shortage)
        self._enter(self._worked(new, market, now))
        return Accepted()

    def cancel(self, order_id: str, now: datetime) -> Accepted | Refused:
        """End an order that still rests."""
        self.roll(now)
        if (order := self._orders.get(order_id)) is None:
            return NOT_FOUND
        if not order.resting:
            return NOT_CANCELLABLE
        self._enter(order.cancelled(now))
        return Accepted()

    def step(self, now: datetime) -> None:
        """Trade what rests at this second's prices."""
        self.roll(now)
        for symbol in tuple(self._resting):
            self._market(symbol, now)

    def roll(self, now: datetime) -> None:
        """At 00:00 IST open orders are cancelled and the book begins anew; positions stay.

        A clock that steps back does not bring the old day back, so no order id is used twice.
        """
        day = trading_day(now)
        if day <= self._day:
            return
        for resting in tuple(self._resting.values()):
            for order in tuple(resting.values()):
                self._enter(order.cancelled(now, DAY_OVER))
        self._day, self._count = day, 0
        self._orders.clear()
        self._rows.clear()
        self._markets.clear()

    def _market(self, symbol: str, now: datetime) -> _Market:
        """The symbol's market of this second, in which what rests has traded already."""
        step = int(now.timestamp())
        market = self._markets.get(symbol)
        if market is None or market.step != step:
            market = self._markets[symbol] = _Market(step, self._price(symbol, step))
            for order in tuple(self._resting.get(symbol, {}).values()):
                worked = self._worked(order, market, now)
                if worked is not order:
                    self._enter(worked)
        return market

    def _worked(self, order: PaperOrder, market: _Market, now: datetime) -> PaperOrder:
        """The order after it met the market; its fill is booked."""
        if order.expires_at is not None and now >= order.expires_at and order.resting:
            return order.cancelled(now)
        if order.status == "TRIGGER PENDING" and order.triggered_by(market.price):
            order = replace(order, status="OPEN", changed_at=now)
        if order.status != "OPEN":
            return order
        units = min(order.pending_quantity, market.units) if order.accepts(market.price) else 0
        if units:
            market.units -= units
            position = self._account.traded(order, units, market.price)
            self._new_positions[position.key] = position
            order = order.filled(units, market.price, now)
        if order.validity == "IOC" and order.resting:
            return order.cancelled(now)
        return order

    def _enter(self, order: PaperOrder) -> None:
        """Every new version of an order comes in here."""
        before = self._orders.get(order.order_id)
        self._account.replaced(before, order)
        self._orders[order.order_id] = order
        self._rows[order.order_id] = order.row()
        resting = self._resting.setdefault(order.tradingsymbol, {})
        if order.resting:
            resting[order.order_id] = order
        else:
            resting.pop(order.order_id, None)
        if not resting:
            del self._resting[order.tradingsymbol]
        self._new_orders[order.order_id] = order
        if (update := order.update_since(before)) is not None:
            self._updates.append(update)
