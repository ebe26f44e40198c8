"""The money behind the paper exchange's book: positions, margins and what is left.

`available = funds + realised - sum(|net| x average price) - margin of the open orders`.

An order needs margin for the units by which it makes its position larger, counting what the open
orders of its side will close before it. A BUY with a limit needs its limit for each of these units;
any other order the higher of its limit (or trigger) and the market. What only makes a position
smaller needs none. Selling short is allowed.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from ticker_actors.exchange.order import PaperOrder, to_rupees

PositionKey = tuple[str, str, str]
"""Exchange, tradingsymbol, product: Kite nets positions by these three."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A net position. Money is ticks x units, so nothing is rounded away."""

    exchange: str
    tradingsymbol: str
    product: str
    net: int = 0
    """Units; below 0 is short."""
    cost: int = 0
    """|net| x its average price: the money that the position binds."""
    realised: int = 0
    """Profit (or loss, below 0) of all that was closed."""

    @property
    def key(self) -> PositionKey:
        """What tells it from the others."""
        return (self.exchange, self.tradingsymbol, self.product)

    @property
    def free(self) -> int:
        """What it adds to the money at hand: its profit less what it binds."""
        return self.realised - self.cost

    def traded(self, units: int, price: int) -> "Position":
        """After a trade of signed units: first it closes what is opposite, then opens the rest."""
        held = abs(self.net)
        closing = min(abs(units), held) if units * self.net < 0 else 0
        # The last unit takes all the cost that is left: rounding down before it loses nothing.
        released = self.cost * closing // held if closing else 0
        gain = closing * price - released
        return replace(
            self,
            net=self.net + units,
            cost=self.cost - released + (abs(units) - closing) * price,
            realised=self.realised + (gain if self.net > 0 else -gain),
        )


class Account:
    """Positions and free money, kept up with every new version of an order and every fill."""

    def __init__(self, funds: int, positions: Iterable[Position] = ()) -> None:
        """`funds` in ticks; positions are those of an earlier run."""
        self.available = funds
        """Ticks x units that the next order may bind. Below 0 after losses."""
        self.positions: dict[PositionKey, Position] = {}
        self._pending: defaultdict[tuple[PositionKey, int], int] = defaultdict(int)
        for position in positions:
            self._hold(position)

    def replaced(self, before: PaperOrder | None, after: PaperOrder) -> None:
        """An order came, changed or ended."""
        for order, factor in ((before, -1), (after, 1)):
            if order is not None:
                self.available -= factor * order.margin
                self._pending[_key(order), order.sign] += factor * order.pending_quantity

    def traded(self, order: PaperOrder, units: int, price: int) -> Position:
        """A fill of an order; answers the position it makes."""
        position = self._position(order).traded(order.sign * units, price)
        self._hold(position)
        return position

    def margined(self, before: PaperOrder | None, order: PaperOrder, market: int) -> PaperOrder:
        """The order with the margin that its pending units need, at this market price."""
        queued = self._pending[_key(order), order.sign]
        if before is not None:
            queued -= before.pending_quantity
        closable = max(0, -order.sign * self._position(order).net - queued)
        stated = order.price or order.trigger_price
        capped = order.price and order.sign > 0
        return replace(
            order,
            margin_quantity=max(0, order.pending_quantity - closable),
            margin_price=stated if capped else max(stated, market),
        )

    def shortage(self, before: PaperOrder | None, order: PaperOrder) -> str | None:
        """Kite's words when the free money does not cover the order, else None."""
        available = self.available + (before.margin if before else 0)
        if order.margin == 0 or order.margin <= available:
            return None
        return (
            f"Insufficient funds. Required margin is {to_rupees(order.margin):.2f} but available "
            f"margin is {to_rupees(available):.2f}."
        )

    def _position(self, order: PaperOrder) -> Position:
        exchange, tradingsymbol, product = key = _key(order)
        return self.positions.get(key) or Position(
            exchange=exchange, tradingsymbol=tradingsymbol, product=product
        )

    def _hold(self, position: Position) -> None:
        before = self.positions.get(position.key)
        self.available += position.free - (before.free if before else 0)
        self.positions[position.key] = position


def _key(order: PaperOrder) -> PositionKey:
    return (order.exchange, order.tradingsymbol, order.product)
