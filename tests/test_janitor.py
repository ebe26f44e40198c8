"""The janitor: when it tidies up, on a mocked clock; what a clock does to it that jumps."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ticker_actors.actors.janitor import (
    LONGEST_SLEEP_SECONDS,
    START_PAUSE_SECONDS,
    keep_tidy,
    sweep,
)
from ticker_actors.metrics import Metrics
from ticker_actors.model.retention import TABLES, CannotPrune, Cutoffs, Retention, Table, cutoffs
from ticker_actors.model.schedule import Schedule

NIGHTLY = Schedule("0 2 * * *", ZoneInfo("Asia/Kolkata"))
NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
TWO = datetime(2025, 11, 20, 20, 30, tzinfo=UTC)
"""At night, in India."""
DAY = timedelta(days=1)
WEEK = Retention(7, events=1000)


class WallClock:
    """Goes on with Trio's clock, from any time, and can be set."""

    def __init__(self, at: datetime) -> None:
        self.set(at)

    def set(self, at: datetime) -> None:
        self._from, self._at = trio.current_time(), at

    def now(self) -> datetime:
        return self._at + timedelta(seconds=trio.current_time() - self._from)


class Dusty:
    """Tables that say when they were tidied, and had so many rows each time."""

    def __init__(self, clock: WallClock, rows: int = 0) -> None:
        self._clock = clock
        self._rows = rows
        self._dust: dict[tuple[Table, Cutoffs], int] = {}
        self.swept: list[tuple[datetime, Cutoffs]] = []

    async def prune(self, table: Table, old: Cutoffs) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        if table == TABLES[0] and (table, old) not in self._dust:
            self.swept.append((self._clock.now().replace(microsecond=0), old))
        left = self._dust.setdefault((table, old), self._rows)
        gone = min(left, 1000)
        self._dust[table, old] = left - gone
        return {table: gone} if gone else {}


class Forbidding(Dusty):
    """Tables that somebody else's rule keeps from being tidied."""

    async def prune(self, table: Table, old: Cutoffs) -> Mapping[str, int]:
        await super().prune(table, old)
        raise CannotPrune(f"{table}: permission denied")


async def started(nursery: trio.Nursery, clock: WallClock, tables: Dusty) -> Metrics:
    """A janitor that has made up for what it may have missed."""
    metrics = Metrics()
    nursery.start_soon(keep_tidy, tables, clock, NIGHTLY, WEEK, metrics)
    await trio.sleep(START_PAUSE_SECONDS + 10)
    return metrics


async def test_what_cannot_be_deleted_stops_nobody(autojump_clock: MockClock) -> None:
    """It is told, and tried again when it is due; the service goes on."""
    clock = WallClock(NOON)
    tables = Forbidding(clock)
    with structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            await started(nursery, clock, tables)
            await trio.sleep((TWO - NOON).total_seconds())
            nursery.cancel_scope.cancel()
    told = [line["error"] for line in lines if line["event"] == "old rows not deleted"]
    assert told == [f"{TABLES[0]}: permission denied"] * 2


async def test_it_tidies_up_at_the_scheduled_times(autojump_clock: MockClock) -> None:
    """And soon after a start once, as of the time that was due last."""
    clock = WallClock(NOON)
    tables = Dusty(clock)
    async with trio.open_nursery() as nursery:
        await started(nursery, clock, tables)
        await trio.sleep(2 * DAY.total_seconds())
        nursery.cancel_scope.cancel()
    assert tables.swept == [
        (NOON + timedelta(seconds=START_PAUSE_SECONDS), cutoffs(TWO - DAY, WEEK)),
        (TWO, cutoffs(TWO, WEEK)),
        (TWO + DAY, cutoffs(TWO + DAY, WEEK)),
    ]


async def test_it_goes_on_until_nothing_is_left_and_counts(autojump_clock: MockClock) -> None:
    """A transaction at a time, in every table."""
    clock = WallClock(NOON)
    tables = Dusty(clock, rows=2500)
    async with trio.open_nursery() as nursery:
        metrics = await started(nursery, clock, tables)
        nursery.cancel_scope.cancel()
    text = metrics.render().decode()
    for table in TABLES:
        assert f'ticker_pruned_rows_total{{table="{table}"}} 2500.0' in text


async def test_others_get_their_turn_in_between(autojump_clock: MockClock) -> None:
    """After each transaction it sleeps."""
    steps: list[float] = []
    tables = Dusty(WallClock(NOON), rows=2500)
    await sweep(tables, cutoffs(NOON, WEEK), lambda _: steps.append(trio.current_time()))
    assert len(steps) == len(set(steps)) == 3 * len(TABLES)


@pytest.mark.parametrize("jump", [timedelta(hours=9), timedelta(days=3650)])
async def test_a_clock_put_forward_is_noticed(autojump_clock: MockClock, jump: timedelta) -> None:
    """Within a minute; and it deletes no more than the time that was due next would have."""
    clock = WallClock(NOON)
    tables = Dusty(clock)
    async with trio.open_nursery() as nursery:
        await started(nursery, clock, tables)
        clock.set(NOON + jump)
        await trio.sleep(LONGEST_SLEEP_SECONDS + 1)
        nursery.cancel_scope.cancel()
    assert [old for _, old in tables.swept] == [cutoffs(TWO - DAY, WEEK), cutoffs(TWO, WEEK)]


async def test_a_clock_put_back_is_noticed(autojump_clock: MockClock) -> None:
    """A machine that started in the wrong year does not sleep until then."""
    clock = WallClock(NOON + 3650 * DAY)
    tables = Dusty(clock)
    async with trio.open_nursery() as nursery:
        await started(nursery, clock, tables)
        clock.set(NOON)
        await trio.sleep(DAY.total_seconds())
        nursery.cancel_scope.cancel()
    assert tables.swept[1:] == [(TWO, cutoffs(TWO, WEEK))]


async def test_a_start_is_left_alone(mock_clock: MockClock) -> None:
    """Nothing is deleted while orders of the process before are being looked up."""
    clock = WallClock(NOON)
    tables = Dusty(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_tidy, tables, clock, NIGHTLY, WEEK, Metrics())
        await wait_all_tasks_blocked()
        mock_clock.jump(START_PAUSE_SECONDS - 1)
        await wait_all_tasks_blocked()
        assert tables.swept == []
        nursery.cancel_scope.cancel()


def test_the_least_retention_is_a_day_and_a_key_lives_a_week() -> None:
    """Whatever is asked for: the limits at the broker count the last day."""
    for days in (0, 1):
        old = cutoffs(NOON, Retention(days))
        assert (old.old, old.week) == (NOON - DAY, NOON - 7 * DAY)
    assert cutoffs(NOON, Retention(30)).week == cutoffs(NOON, Retention(30)).old == NOON - 30 * DAY
    assert (cutoffs(NOON, Retention(30)).events, cutoffs(NOON, WEEK).events) == (None, 1000)
    assert str(cutoffs(datetime(2025, 11, 20, 19, tzinfo=UTC), Retention(1)).day) == "2025-11-20"
