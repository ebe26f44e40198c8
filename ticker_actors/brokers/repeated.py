"""The rows of a book that repeat: for brokers that keep their rows as structs in any case."""

from collections.abc import Iterable

from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import OrderBook


class RepeatedRows:
    """Gives each terminal row once, and counts it while it is the very same struct."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[BrokerOrder, int]] = {}
        """The terminal rows of the last book, and their keys."""

    def book(self, rows: Iterable[BrokerOrder]) -> OrderBook:
        """A read that shows these rows."""
        before, self._given = self._given, {}
        orders, repeated = [], []
        for row in rows:
            given, key = before.get(row.order_id, (None, 0))
            if given is row:
                repeated.append(key)
            else:
                key = order_key(row.order_id)
                orders.append(row)
            if row.terminal:
                self._given[row.order_id] = row, key
        return OrderBook(tuple(orders), Keys(repeated))

    def forget(self) -> None:
        """Give every row anew."""
        self._given = {}
