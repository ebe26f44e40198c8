"""The open orders of an account, folded from the events that were published.

So a snapshot is of one moment of the log, and costs the store nothing.
"""

from collections.abc import Iterable
from datetime import date

import msgspec

from ticker_actors.model.calendar import trading_day
from ticker_actors.model.events import ENDINGS, ORDER_EVENTS, Event
from ticker_actors.model.orders import TERMINAL, OrderView


class _Order(msgspec.Struct):
    status: str = ""


_decode = msgspec.json.Decoder(_Order).decode


def _status(data: msgspec.Raw) -> str:
    return _decode(data).status


def _data(order: OrderView | msgspec.Raw) -> msgspec.Raw:
    """As the event tells it. A view is encoded when it is first asked for: most never are."""
    if isinstance(order, OrderView):
        return msgspec.Raw(msgspec.json.encode(order.data()))
    return order


class OpenOrders:
    """By order id, oldest first: the order as its last event told it."""

    def __init__(self, views: Iterable[OrderView] = ()) -> None:
        """`views`: what the store knew when the log stood at its head."""
        self._orders: dict[str, tuple[date, OrderView | msgspec.Raw]] = {
            view.order.order_id: (view.trading_day, view)
            for view in views
            if not view.order.terminal
        }

    def fold(self, event: Event) -> None:
        """Take up an event that is being published."""
        if event.order_id is None or event.event not in ORDER_EVENTS:
            return
        # An order that has ended may still be corrected, which is an update and no ending.
        if event.event in ENDINGS or _status(event.data) in TERMINAL:
            self._orders.pop(event.order_id, None)
            return
        known = self._orders.get(event.order_id)
        day = trading_day(event.created_at) if known is None else known[0]
        self._orders[event.order_id] = (day, event.data)

    def of(self, today: date) -> tuple[msgspec.Raw, ...]:
        """Those first seen today: no order outlives its day, though some end untold."""
        found = {
            order_id: (day, _data(order))
            for order_id, (day, order) in self._orders.items()
            if day >= today
        }
        self._orders = {**found}
        return tuple(data for _, data in found.values())
