"""Orders that are done, of which an account's view keeps a few bytes each.

A day has thousands of them, nearly none is ever asked for again, and the store has them whole. What
stays answers two questions: is the order among those that a whole book must show, and does a row of
it tell anything new?
"""

from ticker_actors.model.columns import Column
from ticker_actors.model.order_keys import KeyList, Keys, order_key
from ticker_actors.model.orders import BrokerOrder


def mark(row: BrokerOrder) -> int:
    """32 bits by which a row that has changed is told from the one before.

    Of this process only. Two rows of one order have the same once in four thousand million: then a
    change goes unnoticed until the next one.
    """
    return hash(row) & 0xFFFF_FFFF


class DoneOrders:
    """A sorted list of keys, and the mark of the row that each order was last shown by.

    Orders of a day are few enough to be moved in memory for each that is put in between: 5 000 are
    20 kB.
    """

    def __init__(self) -> None:
        self._keys = KeyList()
        self._marks = Column("I")

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, order_id: str) -> bool:
        return self.holds(order_key(order_id))

    def holds(self, key: int) -> bool:
        """Whether an order of that key is here."""
        return self._keys.found(key) is not None

    def add(self, order_id: str, shown: int) -> None:
        """Take in an order, and the mark of its row."""
        key = order_key(order_id)
        place = self._keys.sorted_place(key)
        self._keys.insert(place, key)
        self._marks.insert(place, shown)

    def mark(self, order_id: str) -> int | None:
        """The mark of the row that an order was last shown by; None when it is not here."""
        place = self._keys.found(order_key(order_id))
        return None if place is None else self._marks[place]

    def pop(self, order_id: str) -> int | None:
        """Let an order out again, and say its mark; None when it is not here."""
        place = self._keys.found(order_key(order_id))
        if place is None:
            return None
        self._keys.delete(place)
        return self._marks.pop(place)

    def missing(self, present: Keys) -> set[int]:
        """The keys of the orders that are not among those present."""
        return present.missing(self._keys)
