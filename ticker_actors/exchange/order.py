"""One order of the paper exchange: integer money inside, Kite's row at the edge.

Prices are ticks of 0.05 rupee (NSE's tick for most shares and for index futures), sums of money
are ticks x units. Rupees and floats appear only in `to_ticks`, `to_rupees` and `PaperOrder.row`.
"""

from datetime import date, datetime
from typing import Self

import msgspec
from msgspec.structs import replace

from ticker_actors.model.calendar import iso
from ticker_actors.model.orders import (
    PUSH_ONLY,
    TERMINAL,
    BrokerOrder,
    Exchange,
    OrderType,
    Product,
    TransactionType,
    Validity,
    Variety,
)

TICKS_PER_RUPEE = 20
TICK_SLACK = 1e-6
"""Rupees that a float may lie beside its tick: far below a tick, far above rounding at 1e9."""


def to_ticks(rupees: float) -> int | None:
    """The price in ticks, or None when it is not a positive multiple of the tick."""
    ticks = round(rupees * TICKS_PER_RUPEE)
    on_tick = abs(rupees - ticks / TICKS_PER_RUPEE) <= TICK_SLACK
    return ticks if ticks > 0 and on_tick else None


def to_rupees(ticks: int) -> float:
    """A price or a sum of money on the wire."""
    return ticks / TICKS_PER_RUPEE


class PaperOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an order. Every change makes the next one."""

    order_id: str
    day: date
    """The IST trading day it was placed on."""
    tag: str
    status: str
    exchange: Exchange
    tradingsymbol: str
    transaction_type: TransactionType
    quantity: int
    product: Product
    order_type: OrderType
    variety: Variety
    validity: Validity
    placed_at: datetime
    changed_at: datetime
    expires_at: datetime | None = None
    """When an order of validity TTL is cancelled."""
    price: int = 0
    """Its limit in ticks; 0 is none."""
    trigger_price: int = 0
    disclosed_quantity: int = 0
    filled_quantity: int = 0
    filled_value: int = 0
    """Ticks x units of all its fills: the exact ground of the average price."""
    margin_quantity: int = 0
    """How many of its units were going to make the position larger when it was accepted."""
    margin_price: int = 0
    """Ticks blocked for each such unit while it is pending."""
    modifications: int = 0
    status_message: str | None = None

    @property
    def sign(self) -> int:
        """1 for BUY, -1 for SELL: what one unit of it does to the net position."""
        return 1 if self.transaction_type == "BUY" else -1

    @property
    def resting(self) -> bool:
        """Whether it may still trade."""
        return self.status not in TERMINAL

    @property
    def pending_quantity(self) -> int:
        """Units that may still trade."""
        return self.quantity - self.filled_quantity if self.resting else 0

    @property
    def margin(self) -> int:
        """Money blocked for it, in ticks x units."""
        return self.margin_price * min(self.margin_quantity, self.pending_quantity)

    def triggered_by(self, price: int) -> bool:
        """Whether a waiting stop goes live at this price: BUY at or above its trigger."""
        return self.sign * (price - self.trigger_price) >= 0

    def accepts(self, price: int) -> bool:
        """Whether it would trade at this price: always without a limit, else at it or better."""
        return not self.price or self.sign * (self.price - price) >= 0

    def filled(self, units: int, price: int, now: datetime) -> Self:
        """After one more fill."""
        done = self.filled_quantity + units
        return replace(
            self,
            filled_quantity=done,
            filled_value=self.filled_value + units * price,
            status="COMPLETE" if done == self.quantity else self.status,
            changed_at=now,
        )

    def cancelled(self, now: datetime, message: str | None = None) -> Self:
        """Ended by its owner, its validity or the day. What was filled stays filled."""
        return replace(self, status="CANCELLED", status_message=message, changed_at=now)

    def row(self) -> BrokerOrder:
        """As Kite's order book shows it.

        The three quantities add up to `quantity`, but for a rejected order, where all are 0.
        """
        filled = self.filled_quantity
        at_exchange = self.status != "REJECTED"
        return BrokerOrder(
            order_id=self.order_id,
            status=self.status,
            exchange=self.exchange,
            tradingsymbol=self.tradingsymbol,
            transaction_type=self.transaction_type,
            quantity=self.quantity,
            product=self.product,
            order_type=self.order_type,
            variety=self.variety,
            validity=self.validity,
            price=to_rupees(self.price),
            trigger_price=to_rupees(self.trigger_price),
            average_price=round(to_rupees(self.filled_value) / filled, 4) if filled else 0.0,
            filled_quantity=filled,
            pending_quantity=self.pending_quantity,
            cancelled_quantity=self.quantity - filled if self.status == "CANCELLED" else 0,
            disclosed_quantity=self.disclosed_quantity,
            status_message=self.status_message,
            exchange_order_id=f"1{self.order_id}" if at_exchange else None,
            order_timestamp=iso(self.placed_at),
            exchange_timestamp=iso(self.placed_at) if at_exchange else None,
            exchange_update_timestamp=iso(self.changed_at) if at_exchange else None,
            tag=self.tag,
            tags=(self.tag,),
        )

    def update_since(self, before: "PaperOrder | None") -> BrokerOrder | None:
        """What the feed says of this version: an end, a partial fill or a modification.

        Nothing for the placing itself, nor for a stop that only went live (Kite's postback page,
        https://kite.trade/docs/connect/v3/postbacks/, and its forum, discussion 5230).
        """
        if not self.resting:
            return self.row()
        seen = (0, 0) if before is None else (before.filled_quantity, before.modifications)
        if seen == (self.filled_quantity, self.modifications):
            return None
        return replace(self.row(), status=PUSH_ONLY)
