"""Retention, on both stores: what is too old goes, and nothing that anybody still needs."""

import re
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests import postgres
from tests.stores import (
    AT,
    SECOND,
    TODAY,
    Place,
    PostgresPlace,
    SqlitePlace,
    change,
    commit,
    event,
    order,
    take_over,
    task,
    webhook,
)
from ticker_actors.actors.janitor import sweep
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import iso
from ticker_actors.model.changes import (
    Attempt,
    Change,
    Committed,
    DeliveryResult,
    DeliveryState,
    Key,
    KeyTaken,
)
from ticker_actors.model.database import postgres as postgres_address
from ticker_actors.model.retention import TABLES, Retention, Table, cutoffs
from ticker_actors.model.tasks import OrderTask, Phase, Reason, TaskStatus
from ticker_actors.store import retention
from ticker_actors.store.postgres_prune import PostgresPruner
from ticker_actors.store.sqlite_prune import SqlitePruner
from ticker_actors.store.tables import Store, StoreError

DAY = timedelta(days=1)
DAYS = 7
LONG_AGO = AT - 30 * DAY
LATELY = AT - DAYS * DAY + SECOND
"""Just young enough."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store of each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "ticker.db")
    return PostgresPlace(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(place: Place) -> AsyncGenerator[Store]:
    """A store that owns account `primary`."""
    async with place.open() as opened:
        await opened.claim("primary", "me")
        yield opened


def ended(number: int = 1, at: datetime = LONG_AGO, **fields: Any) -> OrderTask:  # noqa: ANN401  # fields
    """A task that was completed."""
    known = {"status": TaskStatus.COMPLETED, "phase": Phase.DONE, "created_at": at}
    return task(number, **{**known, "updated_at": at, **fields})


def dead(number: int, reason: Reason, at: datetime = LONG_AGO) -> OrderTask:
    """A dead letter."""
    return ended(number, at, status=TaskStatus.DEAD_LETTER, phase=Phase.DEAD, reason=reason)


def batch(completed_at: datetime | None = LONG_AGO, key: str = "~batch", legs: int = 1) -> Batch:
    """A batch."""
    return Batch(
        batch_id="batch",
        account_id="primary",
        idempotency_key=key,
        rollback_on_failure=True,
        task_ids=tuple(f"task_{number}" for number in range(1, legs + 1)),
        created_at=LONG_AGO,
        progress_at=LONG_AGO,
        completed_at=completed_at,
        answer=None if completed_at is None else {"batch_id": "batch"},
    )


def attempt(number: int, at: datetime = LONG_AGO) -> Attempt:
    """A send of a task."""
    return Attempt(
        task_id=f"task_{number}",
        send=1,
        account_id="primary",
        operation="place_order",
        broker_tag="tag",
        epoch=1,
        sent_at=at,
    )


async def tidy(
    store: Store, days: int = DAYS, now: datetime = AT, newest: int = 0
) -> dict[str, int]:
    """Delete all that is too old: how many rows of each table."""
    deleted = Counter[str]()
    await sweep(store, cutoffs(now, Retention(days, newest)), deleted.update)
    return dict(deleted)


def left(place: Place, table: str, column: str) -> list[Any]:
    """What is still in a table, in order."""
    sql = f"SELECT {column} FROM {table} ORDER BY {column}"  # noqa: S608  # our own names
    return [value for (value,) in place.execute(sql)]


# Tasks.


async def test_what_ended_long_ago_goes_and_what_is_younger_stays(
    store: Store, place: Place
) -> None:
    """Completed tasks and settled dead letters alike."""
    settled = [reason for reason in Reason if reason is not Reason.UNRESOLVED]
    old = [dead(10 + number, reason) for number, reason in enumerate(settled)]
    young = [dead(30, Reason.EXPIRED, LATELY), ended(31, LATELY), ended(32, created_at=LONG_AGO)]
    young[2] = replace(young[2], updated_at=LATELY)
    await commit(store, change(ended(), *old, *young))
    assert await tidy(store) == {"order_tasks": 1 + len(old)}
    assert left(place, "order_tasks", "task_id") == ["task_30", "task_31", "task_32"]
    assert await tidy(store) == {}


async def test_what_has_not_ended_stays_however_old(store: Store) -> None:
    """Every phase but the last two, and a dead letter that nobody could resolve."""
    phases = [phase for phase in Phase if phase not in {Phase.DONE, Phase.DEAD}]
    open_ones = [
        task(number, phase=phase, updated_at=LONG_AGO, created_at=LONG_AGO)
        for number, phase in enumerate(phases, 1)
    ]
    await commit(store, change(*open_ones, dead(9, Reason.UNRESOLVED)))
    assert await tidy(store, days=1) == {}


@pytest.mark.parametrize("completed_at", [None, LATELY])
async def test_a_leg_stays_until_its_batch_is_old(
    store: Store, place: Place, completed_at: datetime | None
) -> None:
    """A new process needs every leg of an unfinished batch."""
    leg = ended(1, batch_id="batch", leg=0)
    await commit(store, change(leg, batches=(batch(completed_at),)))
    assert await tidy(store) == {}
    await commit(store, change(batches=(batch(),)))
    assert await tidy(store) == {"order_tasks": 1, "batches": 1}
    assert left(place, "batches", "batch_id") == []


async def test_a_batch_stays_as_long_as_a_leg_of_it(store: Store, place: Place) -> None:
    """One leg was never resolved: what its batch wanted must still be known."""
    legs = (
        replace(dead(1, Reason.UNRESOLVED), batch_id="batch", leg=0),
        ended(2, batch_id="batch", leg=1),
    )
    await commit(store, change(*legs, batches=(batch(legs=2),)))
    assert await tidy(store) == {"order_tasks": 1}
    assert left(place, "batches", "batch_id") == ["batch"]


# Keys.


def under(key: str, made: OrderTask | Batch) -> Change:
    """What was made under a client's key."""
    if isinstance(made, Batch):
        return change(key=Key(key, "hash", "batch", made.batch_id, "primary"), batches=(made,))
    return change(made, key=Key(key, "hash", "task", made.task_id, "primary"))


async def test_a_key_goes_with_what_was_made_under_it(store: Store, place: Place) -> None:
    """In the same transaction, so it never names what is not there."""
    await commit(
        store,
        under("a", ended(1, idempotency_key="a")),
        under("b", batch(key="b")),
        under("c", ended(3, LATELY, idempotency_key="c")),
        under("d", task(4, updated_at=LONG_AGO, idempotency_key="d")),
    )
    assert await tidy(store) == {"order_tasks": 1, "batches": 1, "idempotency_keys": 2}
    assert left(place, "idempotency_keys", "key") == ["c", "d"]
    again = under("a", task(9, idempotency_key="a"))
    assert await commit(store, again) == [Committed]


async def test_a_key_lives_a_week_and_gives_its_result(store: Store) -> None:
    """Though the retention is a day: its task, or batch with its answer, stays as long."""
    at = AT - 7 * DAY + SECOND
    keyed = replace(ended(1, at), idempotency_key="a")
    await commit(store, under("a", keyed), under("b", batch(at, key="b")), change(ended(2, at)))
    assert await tidy(store, days=1) == {"order_tasks": 1}
    (answer,) = await store.commit([under("a", task(3, idempotency_key="a"))], AT)
    assert answer == KeyTaken(Key("a", "hash", "task", "task_1", "primary"))
    assert await store.task("task_1") == keyed
    assert await store.batch("batch") == batch(at, key="b")
    assert await tidy(store, days=1, now=AT + SECOND * 2) == {
        "order_tasks": 1,
        "batches": 1,
        "idempotency_keys": 2,
    }


async def test_a_key_that_another_thing_uses_stays(store: Store, place: Place) -> None:
    """A task that a library stored may have the name that a client gave to its batch."""
    await commit(
        store, under("a", batch(None, key="a")), change(replace(ended(1), idempotency_key="a"))
    )
    assert await tidy(store) == {"order_tasks": 1}
    assert left(place, "idempotency_keys", "key") == ["a"]


# What belongs to a task.


async def test_sends_and_orders_go_after_their_task(store: Store, place: Place) -> None:
    """And stay as long as it stays, or as they are young themselves."""
    day = TODAY - 30 * DAY
    views = [order(number, "COMPLETE", trading_day=day) for number in (1, 2, 3, 4)]
    views[3] = order(4, "COMPLETE")
    await commit(
        store,
        change(
            ended(1, order_id="o1"),
            dead(2, Reason.UNRESOLVED),
            attempts=(attempt(1), attempt(2), attempt(3), attempt(4, LATELY)),
            orders=tuple(views),
        ),
    )
    assert await tidy(store) == {"order_tasks": 1, "task_attempts": 2, "broker_orders": 2}
    assert left(place, "task_attempts", "task_id") == ["task_2", "task_4"]
    assert left(place, "broker_orders", "order_id") == ["o2", "o4"]


async def test_what_a_new_owner_needs_is_there(store: Store, place: Place) -> None:
    """With the least retention: the day's sends for the budget, the day's orders for the book."""
    sends = tuple(attempt(number, AT - DAY + number * SECOND) for number in (0, 1, 2))
    await commit(
        store,
        change(attempts=sends, orders=(order(1), order(2, trading_day=TODAY - DAY))),
    )
    before = await take_over(store, "primary", "me")
    assert [len(before.attempts), len(before.orders)] == [2, 1]
    await tidy(store, days=1)
    after = await take_over(store, "primary", "me")
    assert (after.attempts, after.orders) == (before.attempts, before.orders)
    assert left(place, "task_attempts", "task_id") == ["task_0", "task_1", "task_2"]
    assert left(place, "broker_orders", "order_id") == ["o1", "o2"]


@pytest.mark.parametrize("status, stays", [("AMO REQ RECEIVED", True), ("COMPLETE", False)])
async def test_the_task_of_an_order_that_has_not_ended_stays_a_week(
    store: Store, status: str, *, stays: bool
) -> None:
    """An after-market order of Friday is in Monday's book, and must find its task."""
    at = AT - 3 * DAY
    view = order(1, status, trading_day=TODAY - 3 * DAY)
    await commit(store, change(ended(1, at, order_id="o1"), orders=(view,)))
    gone = await tidy(store, days=1)
    assert gone == ({} if stays else {"order_tasks": 1, "broker_orders": 1})
    assert await tidy(store, days=1, now=at + 8 * DAY) == (
        {"order_tasks": 1, "broker_orders": 1} if stays else {}
    )


# Webhooks.


def delivered(number: int, state: DeliveryState) -> DeliveryResult:
    """What became of the delivery of event number so to `hook-1`."""
    return DeliveryResult(
        delivery_id=f"dlv_{number}_hook-1",
        attempt=1,
        state=state,
        next_at=LONG_AGO if state == "pending" else None,
        started_at=LONG_AGO,
        seconds=0.1,
        status_code=500,
        error=None,
    )


async def events(store: Store, *at: datetime) -> None:
    """Store events made at these times, numbered from 1."""
    for number, made in enumerate(at, 1):
        await store.commit([change(events=(event(str(number), created_at=made),))], made)


async def test_deliveries_go_with_their_attempts_once_they_have_ended(
    store: Store, place: Place
) -> None:
    """Delivered or given up, long ago; not one that is waiting, or ended lately."""
    await store.commit([change(webhooks=(webhook(),))], LONG_AGO)
    await events(store, *[LONG_AGO] * 4)
    states: list[DeliveryState] = ["succeeded", "failed", "pending"]
    results = tuple(delivered(number, state) for number, state in enumerate(states, 1))
    await store.commit([change(deliveries=results)], LONG_AGO)
    await store.commit([change(deliveries=(delivered(4, "succeeded"),))], LATELY)
    gone = await tidy(store)
    assert (gone["webhook_deliveries"], gone["webhook_attempts"]) == (2, 2)
    rest = ["dlv_3_hook-1", "dlv_4_hook-1"]
    assert left(place, "webhook_deliveries", "delivery_id") == rest
    assert left(place, "webhook_attempts", "delivery_id") == rest


async def test_a_deleted_webhook_goes_when_nothing_of_it_is_left(
    store: Store, place: Place
) -> None:
    """One that is not deleted stays, however old."""
    hooks = [webhook(f"hook-{number}", created_at=LONG_AGO) for number in (1, 2, 3)]
    await store.commit([change(webhooks=tuple(hooks))], LONG_AGO)
    await events(store, LATELY)
    gone = (replace(hooks[0], deleted=True), replace(hooks[1], deleted=True))
    await store.commit([change(webhooks=gone)], LATELY)
    place.execute("DELETE FROM webhook_deliveries WHERE webhook_id = 'hook-2'")
    assert await tidy(store) == {"webhooks": 1}
    assert left(place, "webhooks", "webhook_id") == ["hook-1", "hook-3"]
    # PostgreSQL writes down its own clock's time of the deletion.
    place.execute(f"UPDATE webhook_deliveries SET updated_at = '{iso(LATELY)}'")  # noqa: S608
    later = await tidy(store, now=AT + 2 * SECOND)
    assert (later["webhooks"], later["webhook_deliveries"]) == (1, 1)
    assert left(place, "webhooks", "webhook_id") == ["hook-3"]


# The log.


async def test_the_log_goes_from_the_oldest_on_without_a_hole(store: Store, place: Place) -> None:
    """An event younger than the retention keeps what is after it, also after a clock's slip."""
    await events(store, LONG_AGO, LONG_AGO, LATELY, LONG_AGO, AT)
    assert await tidy(store) == {"order_events": 2}
    assert left(place, "order_events", "sequence") == [3, 4, 5]


async def test_an_event_that_a_webhook_waits_for_keeps_what_is_after_it(
    store: Store, place: Place
) -> None:
    """Until it is delivered; and nobody waits for it whose webhook is deleted."""
    await store.commit([change(webhooks=(webhook(),))], LONG_AGO)
    await events(store, *[LONG_AGO] * 4)
    results = tuple(delivered(number, "succeeded") for number in (1, 2, 4))
    await store.commit([change(deliveries=results)], LONG_AGO)
    assert (await tidy(store))["order_events"] == 2
    assert left(place, "order_events", "sequence") == [3, 4]
    place.execute("UPDATE webhooks SET deleted = NOT deleted")
    assert (await tidy(store))["order_events"] == 2
    assert left(place, "webhook_deliveries", "delivery_id") == []


async def test_the_log_goes_on_counting_when_it_is_empty(store: Store, place: Place) -> None:
    """Its head is not in it; nor does one account's log know of another's."""
    await store.claim("second", "me")
    await events(store, LONG_AGO, LONG_AGO)
    other = Change(account_id="second", events=(event("x", account_id="second"),))
    await commit(store, other)
    assert await tidy(store) == {"order_events": 2}
    (answer,) = await store.commit([change(events=(event("next"),))], AT)
    assert isinstance(answer, Committed)
    assert [one.sequence for one in answer.events] == [3]
    assert left(place, "order_events", "sequence") == [1, 3]


async def test_of_a_log_only_the_newest_are_kept(store: Store, place: Place) -> None:
    """So many of each account, however young the others are; with 0 there is no such limit."""
    await store.claim("second", "me")
    await events(store, *[AT] * 5)
    other = (event("x", account_id="second"), event("y", account_id="second"))
    await commit(store, Change(account_id="second", events=other))
    assert await tidy(store, newest=0) == await tidy(store, newest=5) == {}
    assert await tidy(store, newest=3) == {"order_events": 2}
    assert await tidy(store, newest=3) == {}
    await commit(store, change(events=(event("next"),)))
    assert await tidy(store, newest=1) == {"order_events": 4}
    found = place.execute("SELECT account_id, sequence FROM order_events ORDER BY 1")
    assert found == [("primary", 6), ("second", 2)]


async def test_the_newest_are_kept_only_as_long_as_they_are_young(
    store: Store, place: Place
) -> None:
    """Whichever limit is reached first counts."""
    await events(store, LONG_AGO, LONG_AGO, LONG_AGO, LATELY, AT)
    assert await tidy(store, newest=3) == {"order_events": 3}
    assert left(place, "order_events", "sequence") == [4, 5]


async def test_an_event_beyond_the_number_that_a_webhook_waits_for_stays(
    store: Store, place: Place
) -> None:
    """And what is after it, so that the log has no hole."""
    await store.commit([change(webhooks=(webhook(),))], AT)
    await events(store, *[AT] * 4)
    results = tuple(delivered(number, "succeeded") for number in (1, 3, 4))
    await store.commit([change(deliveries=results)], AT)
    assert await tidy(store, newest=1) == {"order_events": 1}
    assert left(place, "order_events", "sequence") == [2, 3, 4]
    await store.commit([change(deliveries=(delivered(2, "failed"),))], AT)
    assert await tidy(store, newest=1) == {"order_events": 2}
    assert left(place, "order_events", "sequence") == [4]


# How it is done.


async def test_a_transaction_deletes_no_more_than_a_thousand_rows(store: Store) -> None:
    """Keys count too; and one with many rows to go goes on until none is left."""
    many = 2500
    made = [
        Change(
            account_id="primary",
            key=Key(f"k{number}", "hash", "task", f"task_{number}", "primary"),
            tasks=(replace(ended(number), idempotency_key=f"k{number}"),),
            attempts=(attempt(number),),
            events=(event(str(number), created_at=LONG_AGO),),
        )
        for number in range(many)
    ]
    await store.commit(made, LONG_AGO)
    steps: list[dict[str, int]] = []
    old = cutoffs(AT, Retention(DAYS))
    for table in TABLES:
        while gone := await store.prune(table, old):
            steps.append(dict(gone))
    assert max(sum(step.values()) for step in steps) == retention.MOST_ROWS
    total = Counter[str]()
    for step in steps:
        total.update(step)
    names = ("order_tasks", "idempotency_keys", "task_attempts", "order_events")
    assert total == dict.fromkeys(names, many)


async def test_too_many_events_go_a_thousand_at_a_time(store: Store) -> None:
    """Orders are stored in between."""
    many = tuple(event(str(number)) for number in range(2500))
    await commit(store, change(events=many))
    old, steps = cutoffs(AT, Retention(DAYS, 1)), list[int]()
    while gone := await store.prune("order_events", old):
        steps.append(gone["order_events"])
    assert steps == [retention.MOST_ROWS, retention.MOST_ROWS, 499]


async def test_a_task_that_is_written_while_it_is_deleted_is_whole(store: Store) -> None:
    """Its order appeared late: what was read of it before is written after, as if nothing was."""
    stored = replace(ended(1), idempotency_key="a")
    await commit(store, under("a", stored))
    known = await store.task("task_1")
    assert known == stored
    await tidy(store)
    assert await store.task("task_1") is None
    late = replace(stored, updated_at=AT, order_id="o1")
    assert await commit(store, change(late, orders=(order(1),))) == [Committed]
    assert await store.task("task_1") == late
    assert await tidy(store) == {}


async def test_postgres_passes_over_what_a_commit_holds(postgres_url: str) -> None:
    """It neither waits for it nor deletes it; by then the row may say something else."""
    place = PostgresPlace(postgres_url)
    async with place.open() as store:
        await store.claim("primary", "me")
        await commit(store, change(ended(1), ended(2)))
        held = "UPDATE order_tasks SET attempts = 9 WHERE task_id = 'task_1'"
        with postgres.holding(postgres_url, held):
            assert await tidy(store) == {"order_tasks": 1}
        assert left(place, "order_tasks", "task_id") == ["task_1"]
        assert await tidy(store) == {"order_tasks": 1}


@pytest.mark.parametrize("table", TABLES)
async def test_no_table_is_read_whole(tmp_path: Path, table: Table) -> None:
    """What is young costs nothing: SQLite's plan finds every row by an index."""
    place = SqlitePlace(tmp_path / "ticker.db")
    async with place.open():
        pass
    sql, values = retention.deletion(table, cutoffs(AT, Retention(DAYS)))
    sql = re.sub(r"\$\d+", "'2025'", sql)
    assert values
    steps = [row[-1] for row in place.execute(f"EXPLAIN QUERY PLAN {sql}")]
    read_whole = {step.split()[1] for step in steps if step.startswith("SCAN ")}
    few = {"gone", "a", "o", "w"}  # what was found; accounts and webhooks are few
    if table in {"webhooks", "order_events"}:
        few.add("t")  # webhooks; what a subquery found
    assert {name for name in read_whole if name[0] != "("} <= few, steps


async def test_a_file_is_tidied_beside_the_service_that_has_it_open(tmp_path: Path) -> None:
    """Without its lock, and without a word to it; only of just this version."""
    place = SqlitePlace(tmp_path / "ticker.db")
    with pytest.raises(StoreError, match="no database file"), SqlitePruner.open(place.path):
        pass
    async with place.open() as store:
        await store.claim("primary", "me")
        await commit(store, change(ended(1)))
        with SqlitePruner.open(place.path) as pruner:
            assert await pruner.prune("order_tasks", cutoffs(AT, Retention(DAYS))) == {
                "order_tasks": 1
            }
        assert await commit(store, change(ended(2))) == [Committed]
    place.execute("PRAGMA user_version = 1")
    with (
        pytest.raises(StoreError, match="another program or version"),
        SqlitePruner.open(place.path),
    ):
        pass
    place.path.write_text("no database at all, but a diary")
    with pytest.raises(StoreError, match="cannot be used"), SqlitePruner.open(place.path):
        pass


async def test_a_database_is_tidied_beside_its_service(postgres_url: str) -> None:
    """As for a file."""
    place, address = PostgresPlace(postgres_url), postgres_address(postgres_url)
    with pytest.raises(StoreError, match="another program or version"):
        async with PostgresPruner.open(address):
            pass
    async with place.open() as store:
        await store.claim("primary", "me")
        await commit(store, change(ended(1)))
        async with PostgresPruner.open(address) as pruner:
            assert await pruner.prune("order_tasks", cutoffs(AT, Retention(DAYS))) == {
                "order_tasks": 1
            }
        assert await commit(store, change(ended(2))) == [Committed]
        place.execute("DELETE FROM schema_migrations WHERE number = 2")
        with pytest.raises(StoreError, match="another program or version"):
            async with PostgresPruner.open(address):
                pass
