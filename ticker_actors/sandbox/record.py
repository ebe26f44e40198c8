"""What the book does not keep: every state that an order had, and every fill. Pure.

Both are read off an order's versions, each as it follows the one before. A version that comes from
a file stands for all before it: its fills are one.
"""

from collections.abc import Iterable
from datetime import date

from msgspec.structs import replace

from ticker_actors.exchange.order import PaperOrder, to_rupees
from ticker_actors.model.calendar import iso
from ticker_actors.model.orders import REGISTERED, BrokerOrder
from ticker_actors.model.portfolio import Trade
from ticker_actors.sandbox.order_ids import shown

_STOPS = ("SL", "SL-M")


class _Life:
    """One order's."""

    def __init__(self, version: PaperOrder) -> None:
        self.version = version
        self.states: list[BrokerOrder] = []
        self.trades: list[Trade] = []


class Record:
    """The orders of the day."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def note(self, versions: Iterable[PaperOrder]) -> None:
        """New versions of orders, oldest order first."""
        for version in versions:
            if (life := self._lives.get(version.order_id)) is None:
                life = self._lives[version.order_id] = _Life(version)
                self._extend(life, None)
            else:
                before, life.version = life.version, version
                self._extend(life, before)

    def forget_before(self, day: date) -> None:
        """The book lives for a day, and so does this."""
        kept = {key: life for key, life in self._lives.items() if life.version.day >= day}
        self._lives = kept

    def version(self, order_id: str) -> PaperOrder | None:
        """The newest version of an order, by the book's id."""
        life = self._lives.get(order_id)
        return None if life is None else life.version

    def versions(self) -> tuple[PaperOrder, ...]:
        """Those of all orders, oldest first."""
        return tuple(life.version for life in self._lives.values())

    def history(self, order_id: str) -> tuple[BrokerOrder, ...]:
        """All states of an order, as it had them; none for an order that is not there."""
        life = self._lives.get(order_id)
        return () if life is None else tuple(life.states)

    def trades(self, order_id: str | None = None) -> tuple[Trade, ...]:
        """The fills of the day, or of one order."""
        lives = [life for key, life in self._lives.items() if order_id is None or key == order_id]
        return tuple(trade for life in lives for trade in life.trades)

    def _extend(self, life: _Life, before: PaperOrder | None) -> None:
        after = life.version
        trade = _fill(life, before)
        if trade is not None:
            life.trades.append(trade)
        last = life.states[-1].status if life.states else None
        for status in _on_the_way(before, after):
            life.states.append(_state(after, before, status))
            last = status
        row = on_wire(after)
        if last == row.status:
            life.states[-1] = row  # it filled in part, and is what it was
        else:
            life.states.append(row)


def on_wire(version: PaperOrder) -> BrokerOrder:
    """A version as the wire has it: under its long id."""
    return replace(version.row(), order_id=shown(version.order_id))


def _on_the_way(before: PaperOrder | None, after: PaperOrder) -> tuple[str, ...]:
    """The states that Kite shows between two versions.

    https://kite.trade/docs/connect/v3/orders/#order-statuses
    """
    if before is None:
        registered = (REGISTERED, "AMO REQ RECEIVED") if after.variety == "amo" else (REGISTERED,)
        if after.status == "REJECTED":
            return (*registered, "VALIDATION PENDING")
        waiting = ("TRIGGER PENDING",) if after.order_type in _STOPS else ()
        live = () if after.status == "TRIGGER PENDING" else ("OPEN",)
        return (*registered, "VALIDATION PENDING", "OPEN PENDING", *waiting, *live)
    if after.modifications > before.modifications:
        return ("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED")
    if after.status == "CANCELLED" and before.resting:
        return ("CANCEL PENDING",)
    if before.status == "TRIGGER PENDING" and after.status != "TRIGGER PENDING":
        return ("OPEN",)
    return ()


def _state(after: PaperOrder, before: PaperOrder | None, status: str) -> BrokerOrder:
    """An order on its way to that version: with the fills of the one before."""
    filled = 0 if before is None else before.filled_quantity
    row = replace(
        on_wire(after),
        status=status,
        status_message=None,
        filled_quantity=filled,
        average_price=0.0 if before is None else before.row().average_price,
        pending_quantity=after.quantity - filled,
        cancelled_quantity=0,
    )
    if status in {REGISTERED, "AMO REQ RECEIVED", "VALIDATION PENDING"}:  # not at the exchange yet
        row = replace(
            row, exchange_order_id=None, exchange_timestamp=None, exchange_update_timestamp=None
        )
    return row


def _fill(life: _Life, before: PaperOrder | None) -> Trade | None:
    after = life.version
    known, worth = (0, 0) if before is None else (before.filled_quantity, before.filled_value)
    units = after.filled_quantity - known
    if units <= 0:
        return None
    at = iso(after.changed_at)
    return Trade(
        trade_id=f"{after.order_id[6:]}{len(life.trades) + 1:04d}",
        order_id=shown(after.order_id),
        exchange=after.exchange,
        tradingsymbol=after.tradingsymbol,
        transaction_type=after.transaction_type,
        product=after.product,
        quantity=units,
        average_price=round(to_rupees(after.filled_value - worth) / units, 4),
        exchange_order_id=after.row().exchange_order_id,
        fill_timestamp=at,
        exchange_timestamp=at,
    )
