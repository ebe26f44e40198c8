"""Iceberg orders: one leg after another, each an order of its own under the same tag.

Source: https://kite.trade/docs/connect/v3/orders/#iceberg-orders. The next leg is placed when the
one before has filled; a leg that is cancelled or rejected is the last. Legs that are still to come
live in memory only: after a restart none of them comes.
"""

from datetime import date, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from ticker_actors.exchange.book import Book
from ticker_actors.model.orders import PlaceOrder
from ticker_actors.model.outcomes import Placed, Refused

BAD_QUANTITY = Refused("InputException", "Invalid `iceberg_quantity`.")


class _Leg(msgspec.Struct, frozen=True):
    """Which part of which order one of the book's orders is."""

    whole: PlaceOrder
    tag: str
    number: int
    """From 1."""
    legs: int
    size: int
    """Units of each leg but the last, which has the rest."""

    @property
    def after(self) -> int:
        """Units that come after this leg."""
        return max(0, self.whole.quantity - self.number * self.size)

    def order(self) -> PlaceOrder:
        """The leg as the book takes it."""
        before = (self.number - 1) * self.size
        return replace(self.whole, quantity=min(self.size, self.whole.quantity - before))

    def meta(self) -> dict[str, Any]:
        """What the order's row says of it."""
        return {
            "iceberg": {
                "leg": self.number,
                "legs": self.legs,
                "leg_quantity": self.size,
                "total_quantity": self.whole.quantity,
                "remaining_quantity": self.after,
            }
        }


class Icebergs:
    """The legs of the day, over the book."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._legs: dict[str, _Leg] = {}
        self._waiting: dict[str, _Leg] = {}

    def place(self, order: PlaceOrder, tag: str, now: datetime) -> Placed | Refused:
        """Place an order of any variety; of an iceberg, the first leg."""
        legs, size = order.iceberg_legs, order.iceberg_quantity
        if legs is None or size is None:
            return self._book.place(order, tag, now)
        if not (legs - 1) * size < order.quantity <= legs * size:
            return BAD_QUANTITY
        return self._place(_Leg(order, tag, 1, legs, size), now)

    def follow(self, now: datetime) -> None:
        """Place the next leg of every one that has filled; it may fill at once."""
        while filled := self._filled():
            for leg in filled:
                self._place(replace(leg, number=leg.number + 1), now)

    def meta(self, order_id: str) -> dict[str, Any]:
        """The `meta` of an order's row; empty for one that is no leg."""
        leg = self._legs.get(order_id)
        return {} if leg is None else leg.meta()

    def forget_before(self, day: date) -> None:
        """The book lives for a day, and so do the legs."""
        first = f"{day:%y%m%d}"
        self._legs = {key: leg for key, leg in self._legs.items() if key >= first}

    def _place(self, leg: _Leg, now: datetime) -> Placed | Refused:
        outcome = self._book.place(leg.order(), leg.tag, now)
        if isinstance(outcome, Placed):
            self._legs[outcome.order_id] = leg
            if leg.after:
                self._waiting[outcome.order_id] = leg
        return outcome

    def _filled(self) -> list[_Leg]:
        """Those that have just filled. None of the ended ones is waited for any more."""
        ended = [
            order
            for order in self._book.unsaved().orders
            if order.order_id in self._waiting and not order.resting
        ]
        legs = [(order.status, self._waiting.pop(order.order_id)) for order in ended]
        return [leg for status, leg in legs if status == "COMPLETE"]
