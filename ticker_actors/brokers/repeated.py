"""The rows of a book that repeat: for brokers that keep their rows as structs in any case."""

from collections.abc import Iterable

from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import OrderBook


class RepeatedRows:
    """Gives each terminal row once, and counts it while it is the very same struct."""

    def __init__(self) -> None:
        self._given: dict[str, BrokerOrder] = {}
        """The terminal rows of the last book."""

    def book(self, rows: Iterable[BrokerOrder]) -> OrderBook:
        """A read that shows these rows."""
        before, self._given = self._given, {}
        orders, repeated = [], []
        for row in rows:
            if row.terminal:
                self._given[row.order_id] = row
            if before.get(row.order_id) is row:
                repeated.append(order_key(row.order_id))
            else:
                orders.append(row)
        return OrderBook(tuple(orders), Keys(repeated))

    def forget(self) -> None:
        """Give every row anew."""
        self._given = {}
