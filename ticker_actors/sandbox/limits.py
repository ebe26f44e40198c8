"""How many requests the sandbox takes: Kite's numbers.

Source: https://kite.trade/docs/connect/v3/exceptions/#api-rate-limit. A modification and a cancel
count by the second and minute, only a placed order by the day. What is refused for a limit is not
counted, so a client that keeps on trying is let in as soon as there is room.
"""

from collections.abc import Collection

import trio

from ticker_actors.model.limits import BROKER, Window
from ticker_actors.sandbox.answers import too_many

SECOND, MINUTE, DAY = 1.0, 60.0, 86_400.0
QUOTES_PER_SECOND = 1
OTHERS_PER_SECOND = 10

_Windows = Collection[tuple[Window, int]]


class RateLimits:
    """The budgets of the one account."""

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._orders = ((Window(SECOND), BROKER.per_second), (Window(MINUTE), BROKER.per_minute))
        self._placed = ((Window(DAY), BROKER.per_day),)
        self._quotes = ((Window(SECOND), QUOTES_PER_SECOND),)
        self._others = ((Window(SECOND), OTHERS_PER_SECOND),)

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

    def _check(self, windows: _Windows, message: str = "Too many requests") -> None:
        now = trio.current_time()
        if self._enforced and any(window.wait(now, limit) > 0 for window, limit in windows):
            raise too_many(message)

    def _count(self, windows: _Windows) -> None:
        for window, _ in windows if self._enforced else ():
            window.take(trio.current_time())
