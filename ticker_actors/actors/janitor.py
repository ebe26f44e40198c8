"""The janitor: deletes what is beyond the retention, at the times of a cron line.

It is a plain task, for nobody asks it anything. What it deletes is decided by the rows
(`store/retention.py`); it only says when, and sees to it that orders come in between.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import structlog
import trio

from ticker_actors.actors.ports import Clock
from ticker_actors.metrics import Metrics
from ticker_actors.model.retention import (
    TABLES,
    CannotPrune,
    Cutoffs,
    Retention,
    Table,
    cutoffs,
)
from ticker_actors.model.schedule import Schedule

START_PAUSE_SECONDS = 60.0
"""After a start there is better to do: recovering, reading order books, sending what waits."""
LONGEST_SLEEP_SECONDS = 60.0
"""The wall clock may be put right, or the machine sleep: it is asked again this often."""
PAUSE_SECONDS = 0.05
"""Between two transactions: room for the orders' own."""

_log = structlog.get_logger(__name__)


class Prunable(Protocol):
    """Tables that can be rid of what is old."""

    async def prune(self, table: Table, old: Cutoffs) -> Mapping[str, int]:
        """Delete some, in one short transaction: how many rows of which table; none at the end."""
        ...


async def sweep(
    tables: Prunable, old: Cutoffs, told: Callable[[Mapping[str, int]], object]
) -> None:
    """Delete all that is old. `told` hears of each transaction."""
    for table in TABLES:
        while deleted := await tables.prune(table, old):
            told(deleted)
            await trio.sleep(PAUSE_SECONDS)


async def keep_tidy(
    tables: Prunable, clock: Clock, schedule: Schedule, kept: Retention, metrics: Metrics
) -> None:
    """Sweep whenever the schedule says so, without end.

    Each time goes by the instant when it was due, not by the clock, which may be wrong for a
    moment. So the first one, soon after the start, deletes what the last due one would have
    deleted: nothing, unless the service was down then.
    """
    await trio.sleep(START_PAUSE_SECONDS)
    due = schedule.latest(clock.now())
    while True:
        deleted, began = Counter[str](), trio.current_time()

        def tell(some: Mapping[str, int], deleted: Counter[str] = deleted) -> None:
            deleted.update(some)
            for table, count in some.items():
                metrics.pruned(table).inc(count)

        try:
            await sweep(tables, cutoffs(due, kept), tell)
        except CannotPrune as error:  # orders go on; somebody has to look
            _log.error("old rows not deleted", error=str(error))  # no trace
        _log.info(
            "old rows deleted",
            days=kept.days,
            events=kept.events,
            rows=deleted.total(),
            seconds=round(trio.current_time() - began, 3),
            **deleted,
        )
        due = await _next(schedule, clock)


async def _next(schedule: Schedule, clock: Clock) -> datetime:
    """Wait for the next due time."""
    now = clock.now()
    due = schedule.after(now)
    while now < due:
        await trio.sleep(min((due - now).total_seconds(), LONGEST_SLEEP_SECONDS))
        now = clock.now()
        due = min(due, schedule.after(now))  # earlier, if the clock was put back
    return due
