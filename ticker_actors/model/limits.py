"""An account's budget at its broker: so many requests in any second and minute, so many a day.

Kite allows 10 a second, 400 a minute and 5 000 placed orders a day for each trading account
(https://kite.trade/docs/connect/v3/exceptions/#api-rate-limit); refused ones count too. A part is
kept for what reduces risk: a cancel must never queue behind orders.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from ticker_actors.model.calendar import IST, Moment, trading_day


@dataclass(frozen=True, slots=True)
class Limits:
    """Most requests in any such stretch of time; 0 means no limit."""

    per_second: int
    per_minute: int
    per_day: int
    """Placed orders of one trading day; changes of orders count in the first two only."""


BROKER = Limits(10, 400, 5000)
"""What Kite takes of one account."""
RESERVE = Limits(2, 40, 100)
"""Kept out of that for cancels and whatever else reduces risk."""

MOST_MODIFICATIONS = 25
"""Of one order (https://kite.trade/docs/connect/v3/exceptions/#api-rate-limit)."""

_ROUNDING = 1e-6
"""Seconds: who has waited just as long as told must not be told to wait a rounding error more."""


class Budget:
    """What has been sent lately, and so how soon one more may go."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._windows = [
            (Window(span), _Share.of(limit, most, kept))
            for limit, most, kept, span in (
                (limits.per_second, BROKER.per_second, RESERVE.per_second, 1.0),
                (limits.per_minute, BROKER.per_minute, RESERVE.per_minute, 60.0),
            )
            if limit
        ]
        self._day = date.min
        self._placed = 0

    def wait(self, now: Moment, *, placing: bool, urgent: bool = False) -> float:
        """Seconds until one more request is allowed; 0.0 when it is now.

        `urgent`: it reduces risk, and may use what is kept for that.
        """
        waits = [
            window.wait(now.mono, share.total if urgent else share.ordinary)
            for window, share in self._windows
        ]
        if placing and self.left_today(now, urgent=urgent) == 0:
            waits.append(_seconds_left(now))
        return max(waits, default=0.0)

    def left_today(self, now: Moment, *, urgent: bool = False) -> int | None:
        """How many orders may still be placed on this trading day; None without a limit."""
        if not self._limits.per_day:
            return None
        share = _Share.of(self._limits.per_day, BROKER.per_day, RESERVE.per_day)
        placed = self._placed if self._day == trading_day(now.at) else 0
        return max(0, (share.total if urgent else share.ordinary) - placed)

    def take(self, then: Moment, *, placing: bool) -> None:
        """Count one request, made now or earlier."""
        for window, _ in self._windows:
            window.take(then.mono)
        day = trading_day(then.at)
        if placing and day > self._day:
            self._day, self._placed = day, 0
        if placing and day == self._day:
            self._placed += 1

    def give_back(self, then: Moment, *, placing: bool) -> None:
        """Count a request, taken at that moment, no more: it was not made."""
        for window, _ in self._windows:
            window.give_back(then.mono)
        if placing and self._day == trading_day(then.at):
            self._placed = max(0, self._placed - 1)


@dataclass(frozen=True, slots=True)
class _Share:
    """How a limit is shared between all requests and those that reduce risk."""

    ordinary: int
    total: int

    @classmethod
    def of(cls, limit: int, most: int, kept: int) -> "_Share":
        """The reserve lies on top of the limit as far as the broker takes it, else within it."""
        most = max(limit, most)
        return cls(min(limit, most - kept), min(limit + kept, most))


class Window:
    """The moments of past requests in a sliding stretch of time, in seconds of any one clock."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._taken = deque[float]()

    def wait(self, now: float, limit: int) -> float:
        """Seconds until the stretch holds less than so many; 0.0 when it does now."""
        while self._taken and self._taken[0] + self._span <= now + _ROUNDING:
            self._taken.popleft()
        return self._taken[-limit] + self._span - now if len(self._taken) >= limit else 0.0

    def take(self, then: float) -> None:
        """Count one request."""
        self._taken.append(then)

    def give_back(self, then: float) -> None:
        """Count one that was taken then no more."""
        with suppress(ValueError):
            self._taken.remove(then)


def _seconds_left(now: Moment) -> float:
    """Until the trading day ends."""
    tomorrow = datetime.combine(trading_day(now.at) + timedelta(days=1), time(), IST)
    return (tomorrow - now.at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How many streams there may be; 0 is no limit."""

    per_account: int = 0
    per_address: int = 0
    handshakes_per_second: int = 0
    """Each costs the CPU of 300 messages; twice as many may come at once."""
