"""An account's budget at its broker: so many requests in any second, minute and day.

Kite allows 10 a second, 400 a minute and 5 000 placed orders a day for each trading account
(https://kite.trade/docs/connect/v3/exceptions/#api-rate-limit); refused ones count too.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Most requests in any such stretch of time; 0 means no limit."""

    per_second: int
    per_minute: int
    per_day: int


_ROUNDING = 1e-6
"""Seconds: who has waited just as long as told must not be told to wait a rounding error more."""


class Budget:
    """Sliding windows over the moments of past requests. Times are seconds of any one clock."""

    def __init__(self, limits: Limits) -> None:
        spans = ((limits.per_second, 1.0), (limits.per_minute, 60.0), (limits.per_day, 86_400.0))
        self._windows = [(limit, span, deque[float]()) for limit, span in spans if limit > 0]

    def wait(self, now: float) -> float:
        """Seconds until one more request is allowed; 0.0 when it is now."""
        longest = 0.0
        for limit, span, taken in self._windows:
            while taken and taken[0] + span <= now + _ROUNDING:
                taken.popleft()
            if len(taken) >= limit:
                longest = max(longest, taken[-limit] + span - now)
        return longest

    def take(self, now: float) -> None:
        """Count one request."""
        for _, _, taken in self._windows:
            taken.append(now)

    def give_back(self, then: float) -> None:
        """Count a request, taken at that moment, no more: it was not made."""
        for _, _, taken in self._windows:
            with suppress(ValueError):
                taken.remove(then)
