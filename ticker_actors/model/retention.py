"""How long things are kept. What exactly may go is in `store/retention.py`, a rule for each table.

Only what has ended can become too old: a task that is unresolved, a batch under way, an event that
a webhook still waits for are kept however old they are.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, get_args

from ticker_actors.model.calendar import trading_day

Table = Literal[
    "order_tasks",
    "batches",
    "task_attempts",
    "broker_orders",
    "webhook_deliveries",
    "webhook_attempts",
    "webhooks",
    "order_events",
]
TABLES: tuple[Table, ...] = get_args(Table)
"""In the order in which they are tidied up: what belongs to a row goes after it."""

LEAST_KEY_DAYS = 7
"""An idempotency key, and what was made under it, live at least this long."""


class CannotPrune(Exception):
    """The database does not let rows be deleted: a right or a rule of others' is against it.

    Its message names the table, and why.
    """


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept."""

    days: int
    """At least 1, for the limits at the broker count one day."""
    events: int = 0
    """The newest of an account's log; 0 is no limit but the age."""


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """What has ended before these is too old."""

    old: datetime
    """By the operator's setting."""
    week: datetime
    """The same, but never later than `LEAST_KEY_DAYS` ago."""
    day: date
    """The trading day of `old`."""
    events: int | None = None
    """Of an account's log, all but so many of the newest are too old as well; None is no limit."""


def cutoffs(now: datetime, kept: Retention) -> Cutoffs:
    """The cut-offs of a retention."""
    old = now - timedelta(days=max(kept.days, 1))
    week = now - timedelta(days=max(kept.days, LEAST_KEY_DAYS))
    return Cutoffs(old, week, trading_day(old), kept.events or None)
