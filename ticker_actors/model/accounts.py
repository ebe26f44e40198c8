"""An account's standing: what it may do, by its own state and by what is known of its broker.

`ACTIVE` does everything. `REDUCING` cancels, and places only what shrinks a position. `HALTED` only
cancels. An operator sets the state; what the broker says (no permission) or shows (a book that
misses known orders) halts the account by itself, and only an operator ends that.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from ticker_actors.model.orders import PlaceOrder
from ticker_actors.model.portfolio import Position


class AccountState(StrEnum):
    """What an account may do."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


class Standing(msgspec.Struct, frozen=True):
    """The state of an account, and why. Outlives a restart."""

    state: AccountState = AccountState.ACTIVE
    reason: str | None = None
    """Of our own: `book_mismatch`, `not_permitted`; or an operator's words."""
    accepted: tuple[str, ...] = ()
    """Orders that the broker's book no longer shows, and an operator says that this is right."""


def reduces(order: PlaceOrder, positions: Iterable[Position], pending: int = 0) -> bool:
    """Whether an order shrinks a position, and does not turn it round.

    `pending`: units of open orders that will shrink it before this one.
    """
    held = sum(
        position.quantity
        for position in positions
        if (position.exchange, position.tradingsymbol, position.product)
        == (order.exchange, order.tradingsymbol, order.product)
    )
    opposite = held < 0 if order.transaction_type == "BUY" else held > 0
    return opposite and order.quantity + pending <= abs(held)
