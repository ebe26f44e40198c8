"""Our own checks of an order, before anything is stored.

Only those that are switched on ask the broker for anything: a last price, or positions.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import structlog
import trio

from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.ports import Broker
from ticker_actors.model import risk
from ticker_actors.model.accounts import AccountState, reduces
from ticker_actors.model.calendar import Moment
from ticker_actors.model.orders import KIND, BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import Unreadable
from ticker_actors.model.portfolio import Positions
from ticker_actors.model.risk import Denial, RiskLimits

CHECK_SECONDS = 4.0
"""For prices and positions: a market order is stale after 10 s, and it has not been stored yet."""

_log = structlog.get_logger(__name__)


class Checks:
    """Judges what an account is asked to do."""

    def __init__(self, limits: RiskLimits, ledger: Ledger, broker: Broker) -> None:
        self._limits = limits
        self._ledger = ledger
        self._broker = broker
        self.under_way = 0
        """Orders that wait for what the broker says."""

    async def denial(self, orders: Sequence[PlaceOrder], now: Moment) -> tuple[int, Denial] | None:
        """The first of some orders, sent one after the other, that is not taken; and why.

        What the broker says is asked first. From then on nothing is awaited until the orders count
        as taken, so that many at once are judged one by one. Raises `trio.TooSlowError` when the
        broker does not say it within `CHECK_SECONDS`.
        """
        asks = self._limits.needs_price or self._reducing
        self.under_way += len(orders)
        try:
            # Where nobody is asked a deadline would take longer than the checks.
            with trio.fail_after(CHECK_SECONDS) if asks else nullcontext():
                return await self._judged(orders, now)
        finally:
            self.under_way -= len(orders)

    async def _judged(self, orders: Sequence[PlaceOrder], now: Moment) -> tuple[int, Denial] | None:
        prices = await self._last_prices(orders)
        before, positions = await self._positions(orders)
        for number, (order, price) in enumerate(zip(orders, prices, strict=True)):
            found = risk.denial(
                order,
                self._limits,
                last_price=price,
                placed_today=self._ledger.taken_today(now) + number,
            )
            if found is not None:
                return number, found
        return self._state_denial(orders, positions, before)

    async def change_denial(self, changes: OrderChanges, order: BrokerOrder) -> Denial | None:
        """Why a modification of this order is not taken, or None."""
        state = self._ledger.admission.standing.state
        if state is not AccountState.ACTIVE:
            return _closed(state, "takes no modifications")
        return risk.change_denial(
            changes,
            order,
            self._limits,
            last_price=await self._last_price(order),
            modifications=self._ledger.modifications(order.order_id),
        )

    async def _last_prices(self, orders: Sequence[PlaceOrder]) -> list[float | None]:
        """All at once: a broker that takes few questions can be asked for them together."""
        prices: list[float | None] = [None] * len(orders)
        if not self._limits.needs_price:
            return prices

        async def ask(number: int, order: PlaceOrder) -> None:
            prices[number] = await self._last_price(order)

        async with trio.open_nursery() as nursery:
            for number, order in enumerate(orders):
                nursery.start_soon(ask, number, order)
        return prices

    async def _last_price(self, order: PlaceOrder | BrokerOrder) -> float | None:
        if not self._limits.needs_price:
            return None
        price = await self._broker.last_price(order.exchange, order.tradingsymbol)
        if price is None:
            _log.warning(
                "risk checks without a price",
                account_id=self._ledger.account_id,
                exchange=order.exchange,
                tradingsymbol=order.tradingsymbol,
            )
        return price

    async def _positions(
        self, orders: Sequence[PlaceOrder]
    ) -> tuple[list[int], Positions | Unreadable]:
        """Where they matter: what was on its way of each when they were asked for, and they."""
        if not self._reducing:
            return [], Unreadable("The account has only just become REDUCING.")
        # It looks at all tasks and open orders: not a thing to do for every order there is.
        before = [self._ledger.pending(order) for order in orders]
        return before, await self._broker.positions()

    @property
    def _reducing(self) -> bool:
        return self._ledger.admission.standing.state is AccountState.REDUCING

    def _state_denial(
        self,
        orders: Sequence[PlaceOrder],
        positions: Positions | Unreadable,
        before: Sequence[int],
    ) -> tuple[int, Denial] | None:
        """While the account is `REDUCING`: the first order that does not shrink a position.

        `before`: what was on its way when the positions were asked for. It may have filled since,
        and not be in them.
        """
        state = self._ledger.admission.standing.state
        if state is AccountState.ACTIVE:
            return None
        if state is AccountState.HALTED:
            return 0, _closed(state, "takes cancels only")
        if isinstance(positions, Unreadable):
            return 0, _closed(state, f"cannot see its positions ({positions.message})")
        for number, order in enumerate(orders):
            alike = sum(other.quantity for other in orders[:number] if _alike(order, other))
            most = alike + max(before[number], self._ledger.pending(order))
            if not reduces(order, positions.net, most):
                return number, _closed(state, "takes only orders that shrink a position")
        return None


def _closed(state: AccountState, message: str) -> Denial:
    return Denial(f"account_{state.lower()}", "account_id", f"is {state} and {message}")


def _alike(one: PlaceOrder, other: PlaceOrder) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in KIND)
