"""How many requests the sandbox takes: Kite's numbers.

Source: https://kite.trade/docs/connect/v3/exceptions/#api-rate-limit. A modification and a cancel
count by the second and minute, only a placed order by the day. What is refused for a limit is not
counted, so a client that keeps on trying is let in as soon as there is room.
"""

import trio

from ticker_actors.model.limits import Budget, Limits
from ticker_actors.sandbox.answers import too_many

ORDERS = Limits(per_second=10, per_minute=400, per_day=0)
PLACED = Limits(per_second=0, per_minute=0, per_day=5_000)
QUOTES = Limits(per_second=1, per_minute=0, per_day=0)
OTHERS = Limits(per_second=10, per_minute=0, per_day=0)


class RateLimits:
    """The budgets of the one account."""

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._orders, self._placed = Budget(ORDERS), Budget(PLACED)
        self._quotes, self._others = Budget(QUOTES), Budget(OTHERS)

    def order_call(self, *, places: bool) -> None:
        """Count an order call. Raises `KiteError` when it is one too many."""
        if places:
            self._check(self._placed, "Maximum allowed order requests exceeded")
        self._check(self._orders)
        self._count(self._orders)
        if places:
            self._count(self._placed)

    def quote(self) -> None:
        """Count a call for quotes. Raises `KiteError`."""
        self._check(self._quotes)
        self._count(self._quotes)

    def other(self) -> None:
        """Count any other call. Raises `KiteError`."""
        self._check(self._others)
        self._count(self._others)

    def _check(self, budget: Budget, message: str = "Too many requests") -> None:
        if self._enforced and budget.wait(trio.current_time()) > 0:
            raise too_many(message)

    def _count(self, budget: Budget) -> None:
        if self._enforced:
            budget.take(trio.current_time())
