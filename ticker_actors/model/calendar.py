"""Time as the exchange counts it. All instants are aware datetimes in UTC; days are IST dates."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

IST = timezone(timedelta(hours=5, minutes=30), "IST")
"""India has one zone and no summer time, so a fixed offset is exact."""


class Moment(NamedTuple):
    """Now, on both clocks. `at` never goes back within a process, as its lane sees to."""

    at: datetime
    mono: float
    """Seconds."""


def trading_day(now: datetime) -> date:
    """The IST date of an instant: Kite's order book lives for one such day."""
    return now.astimezone(IST).date()


def day_end(now: datetime) -> datetime:
    """Midnight IST after an instant, in UTC: no change of an order outlives the order's day."""
    return end_of(trading_day(now))


@lru_cache(maxsize=8)
def end_of(day: date) -> datetime:
    """When a trading day is over, in UTC."""
    return datetime.combine(day + timedelta(days=1), time(), IST).astimezone(UTC)


def iso(instant: datetime) -> str:
    """UTC, ISO 8601, milliseconds and `Z`: the one form of time on every wire and in every row.

    Strings of this form sort as the instants do.
    """
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    """The instant that `iso` wrote."""
    return datetime.fromisoformat(text)
