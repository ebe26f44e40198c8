"""The SQLite store on a real file: whole or not at all, in sequence, by one writer."""

# ruff: noqa: ASYNC221, ASYNC240  # the store's own threads go on while a test blocks for a moment

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace

from ticker_actors.model.batches import Batch
from ticker_actors.model.changes import (
    Attempt,
    Change,
    Committed,
    DeliveryResult,
    Key,
    KeyTaken,
    Unstorable,
    Webhook,
)
from ticker_actors.model.events import Event, EventName
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask, Phase, Reason, TaskStatus
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.tables import StaleEpochError, StoreError

AT = datetime(2025, 11, 20, 4, 0, 0, 123000, tzinfo=UTC)
TODAY = date(2025, 11, 20)
SECOND = timedelta(seconds=1)
UNICODE = "größer 🚀 \u2028 'quoted\" ; DROP TABLE order_tasks; --"


def open_store(path: Path) -> AbstractAsyncContextManager[SqliteStore]:
    """The store of a service that starts now."""
    return SqliteStore.open(path, now=AT, chance=Random(1).getrandbits)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database file."""
    return tmp_path / "ticker.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SqliteStore]:
    """A store that owns accounts `primary` and `second`."""
    async with open_store(path) as opened:
        await opened.take_over("primary", "me", AT)
        await opened.take_over("second", "me", AT)
        yield opened


def task(number: int = 1, **fields: Any) -> OrderTask:  # noqa: ANN401  # fields
    """A task just submitted."""
    known: dict[str, Any] = {
        "task_id": f"task_{number}",
        "idempotency_key": f"key-{number}",
        "operation": "place_order",
        "params": {"quantity": 1},
        "status": TaskStatus.PENDING,
        "created_at": AT,
        "updated_at": AT,
        "account_id": "primary",
        "phase": Phase.QUEUED,
        "intent": f"{number:012d}",
    }
    return OrderTask(**{**known, **fields})


def event(name: str, **fields: Any) -> Event:  # noqa: ANN401  # fields
    """An event of an order."""
    known: dict[str, Any] = {
        "event_id": f"evt_{name}",
        "account_id": "primary",
        "event": "order_placed",
        "order_id": "o1",
        "order_key": "intent-1",
        "order_version": 1,
        "data": msgspec.Raw(b"{}"),
        "created_at": AT,
    }
    return Event(**{**known, **fields})


def order(number: int = 1, status: str = "OPEN", **fields: Any) -> OrderView:  # noqa: ANN401  # fields
    """An order in the view."""
    known: dict[str, Any] = {
        "account_id": "primary",
        "order": BrokerOrder(
            order_id=f"o{number}",
            status=status,
            exchange="NSE",
            tradingsymbol="INFY",
            transaction_type="BUY",
            quantity=10,
            product="CNC",
            order_type="LIMIT",
        ),
        "task_id": f"task_{number}",
        "tag": None,
        "version": 1,
        "trading_day": TODAY,
    }
    return OrderView(**{**known, **fields})


def webhook(
    webhook_id: str = "hook-1",
    events: tuple[EventName, ...] = ("order_placed",),
    **fields: Any,  # noqa: ANN401  # fields
) -> Webhook:
    """A subscription."""
    known: dict[str, Any] = {
        "webhook_id": webhook_id,
        "url": "https://example.com/hook",
        "account_id": "primary",
        "events": events,
        "secret": None,
        "created_at": AT,
    }
    return Webhook(**{**known, **fields})


def change(*tasks: OrderTask, **rows: Any) -> Change:  # noqa: ANN401  # rows
    """One change of `primary`."""
    return Change(account_id="primary", tasks=tasks, **rows)


async def commit(store: SqliteStore, *changes: Change) -> list[type]:
    """Commit, and say what became of each."""
    return [type(answer) for answer in await store.commit(changes, AT)]


def select(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program reads in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


# Rows and structs.

FULL = task(
    params={"tag": UNICODE, "price": 19500.05, "big": 2**70, "none": None, "deep": {"a": [1, "x"]}},
    status=TaskStatus.DEAD_LETTER,
    attempts=3,
    max_attempts=7,
    updated_at=AT + SECOND,
    last_error=UNICODE,
    result={"order_id": "o1", "none": None},
    phase=Phase.DEAD,
    reason=Reason.EXHAUSTED,
    order_id="o1",
    batch_id="batch",
    leg=2,
    sends=4,
    broker_tag="1ABC0000000000010000",
    queued_at=AT,
    sent_at=AT,
    trading_day=TODAY,
    epoch=2**62,
    next_attempt_at=AT,
    expires_at=AT,
    cancel_requested=True,
)


@pytest.mark.parametrize(
    "stored",
    [
        task(),
        FULL,
        *(replace(FULL, last_error=text) for text in ("", "null", "None", "5", "true", "1e5")),
    ],
    ids=lambda stored: repr(stored.last_error),
)
async def test_a_task_comes_back_as_it_was(store: SqliteStore, stored: OrderTask) -> None:
    """Every field, also text that looks like something else."""
    assert {getattr(FULL, name) for name in ("reason", "leg", "cancel_requested")} & {None} == set()
    await commit(store, change(stored))
    assert await store.task("task_1") == stored
    assert await store.task_by_intent(stored.intent) == stored
    assert await store.task("task_2") is None


async def test_the_full_task_here_is_full() -> None:
    """No field of it has its default, so that a forgotten column shows."""
    fields = msgspec.structs.fields(OrderTask)
    assert [f.name for f in fields if getattr(FULL, f.name) == f.default] == []


async def test_a_task_keeps_what_never_changes(store: SqliteStore) -> None:
    """Rows replace, but a task's identity and its request are written once."""
    await commit(store, change(task()))
    moved = task(phase=Phase.SENT, params={"quantity": 99}, idempotency_key="x", intent="y" * 12)
    await commit(store, change(moved))
    assert await store.task("task_1") == task(phase=Phase.SENT)


async def test_a_batch_comes_back_as_it_was(store: SqliteStore) -> None:
    """Under way and finished."""
    batch = Batch(
        batch_id="b",
        account_id="primary",
        idempotency_key="k",
        rollback_on_failure=False,
        task_ids=("task_1", "task_2"),
        created_at=AT,
        progress_at=AT + SECOND,
    )
    done = replace(
        batch,
        state="partly_succeeded",
        cause=UNICODE,
        completed_at=AT + SECOND,
        answer={"success": False, "average_price": 0.1, "error": None, "orders": [UNICODE]},
    )
    for stored in (batch, done):
        await commit(store, change(batches=(stored,)))
        assert await store.batch("b") == stored
    assert await store.batch("x") is None


async def test_attempts_come_back_as_they_were(store: SqliteStore) -> None:
    """One row a send, completed by its answer."""
    first = Attempt(
        task_id="task_1",
        send=1,
        account_id="primary",
        operation="place_order",
        broker_tag="t",
        epoch=1,
        sent_at=AT,
    )
    answered = replace(first, answered_at=AT + SECOND, outcome="unknown", detail=UNICODE)
    second = replace(first, send=2)
    await commit(store, change(attempts=(first,)))
    await commit(store, change(attempts=(second, answered)))
    assert await store.attempts("task_1") == [answered, second]


async def test_an_order_comes_back_as_it_was(store: SqliteStore) -> None:
    """With every field of the broker's row; its trading day is that of first sight."""
    row = replace(
        order().order,
        price=100.05,
        average_price=1 / 3,
        status_message=UNICODE,
        tags=("a", UNICODE),
        order_timestamp="2025-11-20T04:00:00.000Z",
    )
    view = order(tag=UNICODE, version=2, task_id="task_x")
    view = replace(view, order=row)
    await commit(store, change(orders=(view,)))
    assert await store.order("primary", "o1") == view
    assert await store.order("second", "o1") is None
    later = replace(view, version=3, trading_day=TODAY + timedelta(days=1))
    await commit(store, change(orders=(later,)))
    assert await store.order("primary", "o1") == replace(later, trading_day=TODAY)


async def test_orders_are_listed_as_they_were_first_seen(store: SqliteStore) -> None:
    """Of one day and account; an update does not move them."""
    await commit(store, change(orders=(order(9), order(1))))
    await commit(store, change(orders=(order(5, trading_day=TODAY - timedelta(days=1)), order(3))))
    await commit(store, change(orders=(order(9, "COMPLETE"),)))
    found = await store.orders("primary", TODAY)
    assert [view.order.order_id for view in found] == ["o9", "o1", "o3"]


async def test_webhooks_come_back_until_they_are_deleted(store: SqliteStore) -> None:
    """Oldest first, all or one account's."""
    one = webhook("one", ("order_placed", "order_failed"), secret=UNICODE, active=False)
    two = webhook("two", account_id="second", created_at=AT + SECOND)
    await commit(store, change(webhooks=(two, one)))
    assert await store.webhooks(None) == [one, two]
    assert await store.webhooks("second") == [two]
    assert await store.webhook("one") == one
    await commit(store, change(webhooks=(replace(one, deleted=True),)))
    assert await store.webhooks(None) == [two]
    assert await store.webhook("one") is None


async def test_tasks_are_paged_newest_first(store: SqliteStore) -> None:
    """By id, which sorts by time; each filter counts."""
    await commit(store, change(*(task(number) for number in range(1, 6))))
    await commit(store, change(replace(task(3), status=TaskStatus.RUNNING, batch_id="b")))

    async def ids(**wanted: Any) -> list[str]:  # noqa: ANN401  # filters
        every: dict[str, Any] = {
            "account_id": None,
            "status": None,
            "batch_id": None,
            "before": None,
            "limit": 10,
        }
        return [found.task_id[5:] for found in await store.tasks(**{**every, **wanted})]

    assert await ids() == ["5", "4", "3", "2", "1"]
    assert await ids(limit=2) == ["5", "4"]
    assert await ids(limit=2, before="task_4") == ["3", "2"]
    assert await ids(status="pending") == ["5", "4", "2", "1"]
    assert await ids(batch_id="b", status="running", account_id="primary") == ["3"]
    assert await ids(account_id="second") == []


async def test_statistics_count_each_status(store: SqliteStore) -> None:
    """With the average attempts, as the document's query does."""
    await commit(store, change(task(1, attempts=1), task(2, attempts=2), FULL_OTHER))
    found = {status: (count, average) for status, count, average in await store.task_statistics()}
    assert found == {"pending": (2, 1.5), "dead_letter": (1, 3.0)}


FULL_OTHER = replace(FULL, task_id="task_9", intent="9" * 12, idempotency_key="key-9")


# Changes and their events.


async def test_a_taken_key_writes_nothing_of_its_change(store: SqliteStore) -> None:
    """It answers with what was made under the key; its neighbours are written."""
    key = Key("k", "hash", "task", "task_1", "primary")
    await commit(store, change(task(1), key=key))
    other = Key("k", "other", "batch", "b", "second")
    taken = Change(
        account_id="primary",
        key=other,
        tasks=(task(2),),
        orders=(order(2),),
        events=(event("2"),),
    )
    answers = await store.commit([taken, change(task(3), events=(event("3"),))], AT)
    assert answers[0] == KeyTaken(key)
    assert isinstance(answers[1], Committed)
    assert [made.sequence for made in answers[1].events] == [1]
    assert await store.task("task_2") is None
    assert await store.order("primary", "o2") is None
    assert await store.task("task_3") is not None


async def test_a_key_is_taken_by_the_first_of_one_transaction(store: SqliteStore) -> None:
    """Two requests at the same instant make one task."""
    keys = [Key("k", "hash", "task", f"task_{number}", "primary") for number in (1, 2)]
    changes = [change(task(n), key=key) for n, key in zip((1, 2), keys, strict=True)]
    assert await commit(store, *changes) == [Committed, KeyTaken]
    assert await store.task("task_2") is None


async def test_sequences_have_no_gap_and_no_repeat(store: SqliteStore, path: Path) -> None:
    """Each account has its own; order is that of the changes, whatever else they hold."""
    mine = [change(events=tuple(event(f"a{n}{i}") for i in range(n % 3))) for n in range(9)]
    other = Change(account_id="second", events=(event("b", account_id="second"),))
    bad = change(task(8, attempts=2**70), events=(event("bad"),))
    for group in ([*mine[:4], other, *mine[4:6]], [mine[6], bad, *mine[7:]]):
        await store.commit(group, AT)
    told = select(path, "SELECT sequence, event_id FROM order_events WHERE account_id = 'primary'")
    assert [sequence for sequence, _ in told] == list(range(1, 10))
    assert [name for _, name in told] == [made.event_id for part in mine for made in part.events]
    assert select(path, "SELECT sequence FROM order_events WHERE account_id = 'second'") == [(1,)]
    head = "SELECT head_sequence FROM accounts WHERE account_id = 'primary'"
    assert select(path, head) == [(9,)]


async def test_the_log_of_an_order_comes_back_in_sequence(store: SqliteStore) -> None:
    """With the bytes that every channel sends."""
    data = msgspec.Raw(json.dumps({"text": UNICODE}, ensure_ascii=False).encode())
    events = (
        event("1", data=data, order_version=None, order_key=None),
        event("2", order_id="o2"),
        event("3"),
    )
    answer = (await store.commit([change(events=events)], AT))[0]
    assert isinstance(answer, Committed)
    found = await store.order_events("primary", "o1")
    assert found == [answer.events[0], answer.events[2]]
    assert bytes(found[0].data) == bytes(data)


BAD: list[Change] = [
    change(task(2, intent="0" * 11 + "1"), events=(event("bad"),)),
    change(task(2, idempotency_key="key-1")),
    change(task(2, last_error="\ud800")),
    change(task(2, params={"tag": "\ud800"})),
    change(task(2, attempts=2**63)),
    change(task(2), task(3, sends="many")),
    change(task(2), key=Key("\udfff", "h", "task", "t", "primary")),
    change(task(2), events=(event("first"),)),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
async def test_a_bad_row_fails_alone(store: SqliteStore, bad: Change) -> None:
    """Its whole change is refused, its neighbours in the same transaction are written."""
    await commit(store, change(task(1), events=(event("first"),)))
    before, after = change(task(5), events=(event("5"),)), change(task(6), events=(event("6"),))
    answers = await store.commit([before, bad, after], AT)
    assert [type(answer) for answer in answers] == [Committed, Unstorable, Committed]
    made = [answer.events[0].sequence for answer in answers if isinstance(answer, Committed)]
    assert made == [2, 3]
    assert [await store.task(f"task_{n}") is not None for n in (2, 3, 5, 6)] == [
        False,
        False,
        True,
        True,
    ]
    assert await commit(store, change(task(7))) == [Committed]


async def test_a_bad_webhook_is_not_subscribed(store: SqliteStore) -> None:
    """What was not written does not get deliveries."""
    assert await commit(store, change(webhooks=(webhook(secret="\ud800"),))) == [Unstorable]
    answer = (await store.commit([change(events=(event("1"),))], AT))[0]
    assert isinstance(answer, Committed)
    assert answer.deliveries == 0


# Deliveries.


async def due(store: SqliteStore, at: datetime = AT) -> list[str]:
    """The events whose deliveries are due."""
    return [delivery.event_id[4:] for delivery in await store.due_deliveries(at, 10)]


async def test_an_event_puts_a_delivery_in_the_outbox_of_each_that_wants_it(
    store: SqliteStore,
) -> None:
    """In the same transaction; others get none."""
    hooks = (
        webhook("one", secret=UNICODE),
        webhook("one-too"),
        webhook("other-event", ("order_completed",)),
        webhook("off", active=False),
        webhook("other-account", account_id="second"),
        webhook("gone", deleted=True),
    )
    await commit(store, change(webhooks=hooks))
    answer = (await store.commit([change(events=(event("1"),))], AT))[0]
    assert isinstance(answer, Committed)
    assert answer.deliveries == 2
    found = await store.due_deliveries(AT, 10)
    assert {delivery.webhook_id for delivery in found} == {"one", "one-too"}
    first = next(delivery for delivery in found if delivery.webhook_id == "one")
    assert (first.sequence, first.event, first.attempts) == (1, "order_placed", 0)
    assert (first.url, first.secret) == ("https://example.com/hook", UNICODE)
    assert json.loads(first.body)["id"] == "evt_1"


async def test_deliveries_of_one_order_go_in_sequence(store: SqliteStore) -> None:
    """The next waits for the one before it, until that has failed too often; others do not."""
    await commit(store, change(webhooks=(webhook(),)))
    others = event("x1", order_key="intent-2"), event("n1", order_key=None, order_id=None)
    events = (event("a1"), event("a2"), *others, event("a3"))
    await commit(store, change(events=events))
    assert sorted(await due(store)) == ["a1", "n1", "x1"]
    first = (await store.due_deliveries(AT, 10))[0]

    async def record(delivery_id: str, attempt: int, state: Any) -> None:  # noqa: ANN401  # a word
        result = DeliveryResult(
            delivery_id=delivery_id,
            attempt=attempt,
            state=state,
            next_at=AT + 60 * SECOND if state == "pending" else None,
            started_at=AT,
            seconds=0.5,
            status_code=500,
            error=UNICODE,
        )
        await commit(store, change(deliveries=(result,)))

    for attempt in (1, 2, 3, 4):
        await record(first.delivery_id, attempt, "pending")
        assert "a2" not in await due(store)
    await record(first.delivery_id, 5, "pending")
    assert sorted(await due(store)) == ["a2", "n1", "x1"]
    assert await store.next_delivery_at(AT) == AT + 60 * SECOND
    await record(first.delivery_id, 6, "succeeded")
    assert sorted(await due(store, AT + 60 * SECOND)) == ["a2", "n1", "x1"]
    await commit(store, change(webhooks=(webhook(deleted=True),)))
    assert await due(store) == []
    assert await store.next_delivery_at(AT) is None


async def test_deleting_a_webhook_ends_its_deliveries(store: SqliteStore, path: Path) -> None:
    """In the same transaction; the result of one that was under way does not bring it back."""
    await commit(store, change(webhooks=(webhook("one"), webhook("two"))))
    await commit(store, change(events=(event("1"),)))
    delivery = (await store.due_deliveries(AT, 10))[0]
    gone = replace(webhook(delivery.webhook_id), deleted=True, secret=None)
    await commit(store, change(webhooks=(gone,)))
    late = DeliveryResult(
        delivery_id=delivery.delivery_id,
        attempt=1,
        state="pending",
        next_at=AT,
        started_at=AT,
        seconds=0.5,
        status_code=None,
        error="timed out",
    )
    await commit(store, change(deliveries=(late,)))
    with closing(sqlite3.connect(path)) as shell:
        rows = shell.execute("SELECT webhook_id, state, next_at FROM webhook_deliveries").fetchall()
    states = {name: (state, at) for name, state, at in rows}
    assert states.pop(delivery.webhook_id) == ("failed", None)
    assert [state for state, _ in states.values()] == ["pending"]


# One writer.


async def test_a_new_owner_finds_what_is_not_finished(path: Path) -> None:
    """Unfinished tasks, legs of unfinished batches, orders that matter, sends of a day."""
    yesterday = TODAY - timedelta(days=1)
    tasks = (
        task(9),
        task(2, phase=Phase.SENT),
        task(3, phase=Phase.DONE),
        task(4, phase=Phase.DEAD),
        task(5, phase=Phase.DONE, batch_id="open", leg=0),
        task(6, phase=Phase.DONE, batch_id="closed", leg=0),
        task(7, account_id="second"),
        task(1, phase=Phase.RESOLVING, created_at=AT + SECOND),
    )
    open_batch = Batch(
        batch_id="open",
        account_id="primary",
        idempotency_key="~open",
        rollback_on_failure=True,
        task_ids=("task_5",),
        created_at=AT,
        progress_at=AT,
    )
    closed = replace(open_batch, batch_id="closed", idempotency_key="~c", completed_at=AT)
    orders = (
        order(3, "COMPLETE"),
        order(2, "OPEN", trading_day=yesterday),
        order(4, "COMPLETE", trading_day=yesterday),
        order(5, "COMPLETE", trading_day=yesterday),
        order(7, account_id="second"),
    )
    ages = (timedelta(hours=25), timedelta(hours=2), timedelta(hours=3))
    attempts = tuple(
        Attempt(
            task_id="task_2",
            send=number,
            account_id="primary",
            operation="place_order",
            broker_tag="t",
            epoch=1,
            sent_at=AT - age,
        )
        for number, age in enumerate(ages)
    )
    async with open_store(path) as store:
        first = await store.take_over("primary", "one", AT)
        assert (first.epoch, first.head_sequence, first.tasks) == (1, 0, ())
        rows: dict[str, Any] = {"batches": (open_batch, closed), "orders": orders}
        await commit(store, change(*tasks, attempts=attempts, events=(event("1"),), **rows))
    async with open_store(path) as store:
        found = await store.take_over("primary", "two", AT)
    assert (found.epoch, found.head_sequence) == (2, 1)
    assert [made.task_id[5:] for made in found.tasks] == ["9", "2", "5", "1"]
    assert [batch.batch_id for batch in found.batches] == ["open"]
    # Yesterday's open order is in no book any more; a leg's must be known, or its batch would wait
    # for it for ever.
    assert [view.order.order_id for view in found.orders] == ["o3", "o5"]
    assert [attempt.send for attempt in found.attempts] == [2, 1]


async def test_the_names_of_an_installation_last(path: Path) -> None:
    """Tags and sequences of one database mean the same after a restart."""
    async with open_store(path) as store:
        first = store.installation
        await store.take_over("primary", "me", AT)
        await commit(store, change(webhooks=(webhook(),)))
    async with SqliteStore.open(path, now=AT, chance=Random(2).getrandbits) as store:
        assert store.installation == first
        await store.take_over("primary", "me", AT)
        answer = (await store.commit([change(events=(event("1"),))], AT))[0]
        assert isinstance(answer, Committed)
        assert answer.deliveries == 1


async def test_a_writer_of_an_old_epoch_writes_not_a_word(store: SqliteStore, path: Path) -> None:
    """Neither a row nor an event, and not its neighbour's either."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE accounts SET epoch = epoch + 1 WHERE account_id = 'primary'")
        other.commit()
    neighbour = Change(account_id="second", tasks=(task(2, account_id="second"),))
    with pytest.raises(StaleEpochError, match="primary"):
        await store.commit([neighbour, change(task(1))], AT)
    assert select(path, "SELECT COUNT(*) FROM order_tasks") == [(0,)]
    assert await commit(store, neighbour) == [Committed]


async def test_an_account_that_was_not_taken_over_is_not_written(path: Path) -> None:
    """A start that forgot it would show at once."""
    async with open_store(path) as store:
        with pytest.raises(StaleEpochError):
            await commit(store, change(task(1)))


async def test_accounts_are_taken_over_while_others_are_written(store: SqliteStore) -> None:
    """One connection writes, so one at a time: no transaction is torn in two."""
    epochs: list[int] = []

    async def take_over(number: int) -> None:
        found = await store.take_over(f"account-{number}", "me", AT)
        epochs.append(found.epoch)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(commit, store, change(task(number)))
            nursery.start_soon(take_over, number)
    assert epochs == [1] * 20
    assert (
        len(await store.tasks(account_id=None, status=None, batch_id=None, before=None, limit=99))
        == 20
    )


async def test_many_read_at_once(store: SqliteStore) -> None:
    """More than there are connections, while commits go on."""
    await commit(store, change(task(1)))

    async def read() -> None:
        for _ in range(20):
            assert await store.task("task_1") is not None

    async with trio.open_nursery() as nursery:
        for number in range(2, 30):
            nursery.start_soon(read)
            nursery.start_soon(commit, store, change(task(number)))


HOLDER = """
import sys, trio
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from ticker_actors.store.sqlite import SqliteStore

async def main():
    now = datetime.now(UTC)
    async with SqliteStore.open(Path(sys.argv[1]), now=now, chance=Random(1).getrandbits) as store:
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
async def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    """In one sentence, by whatever name; after a `kill -9` at once."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    with holder(path) as first:
        for name in (path, link):
            with pytest.raises(StoreError) as info:
                async with open_store(name):
                    pytest.fail("opened")
            assert (
                str(info.value) == f"The database file {path} is in use by another running service."
            )
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        async with open_store(path) as store:
            assert (await store.take_over("primary", "me", AT)).epoch == 1


async def test_a_process_cannot_open_it_twice(store: SqliteStore, path: Path) -> None:
    """A lock that only other processes see would not do."""
    with pytest.raises(StoreError, match="in use"):
        async with open_store(path):
            pytest.fail("opened")


# Files that are no database of ours.


async def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(StoreError) as info:
        async with open_store(path):
            pytest.fail("opened")
    message = str(info.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """And left as it was."""
    path.write_bytes(b"Dear diary, " * 1000)
    await refusal(path)
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_another_programs_database_is_refused(path: Path) -> None:
    """Nothing is mixed into it."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (day TEXT)")
    assert "another program" in await refusal(path)
    assert select(path, "SELECT name FROM sqlite_schema") == [("diary",)]


async def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    """It may hold what this version does not understand."""
    async with open_store(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 999")
    assert "newer version" in await refusal(path)


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file in the way, or a file system that is read only."""
    (tmp_path / "file").write_text("x")
    await refusal(tmp_path / "file" / "ticker.db")
    await refusal(Path("/proc/ticker.db"))


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """Its name could be meant as one."""
    await refusal(tmp_path)


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    """The default is `data/ticker.db`."""
    async with open_store(tmp_path / "a" / "b" / "ticker.db"):
        assert (tmp_path / "a" / "b" / "ticker.db").exists()


async def test_a_name_that_means_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in memory would lose what was acknowledged."""
    monkeypatch.chdir(tmp_path)
    async with open_store(Path(":memory:")):
        assert (tmp_path / ":memory:").exists()


# Other programs, and disks that fail.


async def test_reads_do_not_wait_for_another_programs_lock(store: SqliteStore, path: Path) -> None:
    """Neither does a commit give up: it goes on when the lock is free."""
    await commit(store, change(task(1)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, store, change(task(2)))
            assert await store.task("task_1") is not None
            assert await store.task("task_2") is None
            other.execute("ROLLBACK")
    assert await store.task("task_2") is not None


async def test_a_lock_held_too_long_is_waited_out(store: SqliteStore, path: Path) -> None:
    """Not even a backup that outlasts SQLite's own patience fails a commit."""
    store._writer.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, store, change(task(1)))
            await trio.sleep(0.1)  # several times its patience
            other.execute("ROLLBACK")
    assert await store.task("task_1") is not None


BIG = "x" * 1_000_000


async def test_a_full_database_raises(store: SqliteStore) -> None:
    """It is no bad row: nothing of the transaction is there, and the process must stop."""
    pages = store._writer.execute("PRAGMA page_count").fetchone()["page_count"]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await store.commit([change(task(1)), change(task(2, last_error=BIG))], AT)
    assert await store.task("task_1") is None


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def fill(store: SqliteStore, acknowledged: list[str]) -> None:
    """Commit without end."""
    for number in itertools.count():
        made = task(number, last_error=BIG[:50_000])
        assert await commit(store, change(made)) == [Committed]
        acknowledged.append(made.task_id)


async def test_a_full_disk_raises(tmp_path: Path) -> None:
    """A real one; after a restart with room everything acknowledged is there."""
    acknowledged: list[str] = []
    with small_disk(tmp_path / "disk") as disk:
        async with open_store(disk / "ticker.db") as store:
            await store.take_over("primary", "me", AT)
            with pytest.raises(sqlite3.OperationalError):
                await fill(store, acknowledged)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        async with open_store(disk / "ticker.db") as store:
            found = await store.take_over("primary", "me", AT)
            assert acknowledged
            assert [made.task_id for made in found.tasks] == acknowledged


# What the mission document promises of the tables.


async def test_the_documents_queries_run(store: SqliteStore, path: Path) -> None:
    """As written there, by another program, while the service runs."""
    waiting = task(2, status=TaskStatus.RETRYING, attempts=1, created_at=AT + SECOND)
    await commit(store, change(waiting, task(1), FULL_OTHER))
    pending = select(
        path,
        """
        SELECT task_id, operation, status, attempts, created_at, last_error
        FROM order_tasks
        WHERE status IN ('pending', 'retrying')
        ORDER BY created_at;
        """,
    )
    assert pending == [
        ("task_1", "place_order", "pending", 0, "2025-11-20T04:00:00.123Z", None),
        ("task_2", "place_order", "retrying", 1, "2025-11-20T04:00:01.123Z", None),
    ]
    failed = select(
        path,
        """
        SELECT task_id, operation, attempts, last_error, created_at
        FROM order_tasks
        WHERE status = 'dead_letter'
        ORDER BY updated_at DESC
        LIMIT 10;
        """,
    )
    assert failed == [("task_9", "place_order", 3, UNICODE, "2025-11-20T04:00:00.123Z")]
    statistics = select(
        path,
        """
        SELECT
            status,
            COUNT(*) as count,
            AVG(attempts) as avg_attempts
        FROM order_tasks
        GROUP BY status;
        """,
    )
    assert sorted(statistics) == [
        ("dead_letter", 1, 3.0),
        ("pending", 1, 0.0),
        ("retrying", 1, 1.0),
    ]


async def test_the_documents_columns_and_indexes_exist(store: SqliteStore, path: Path) -> None:
    """Its columns come first, in its order; the partial index is partial, and is used."""
    columns = [name for _, name, *_ in select(path, "PRAGMA table_info(order_tasks)")]
    assert columns[:12] == [
        "task_id",
        "idempotency_key",
        "operation",
        "params",
        "status",
        "attempts",
        "max_attempts",
        "created_at",
        "updated_at",
        "last_error",
        "result",
        "account_id",
    ]
    assert columns == list(OrderTask.__struct_fields__)
    indexes = {
        name: bool(part) for _, name, _, _, part in select(path, "PRAGMA index_list(order_tasks)")
    }
    assert indexes["idx_order_tasks_status"]
    assert not indexes["idx_order_tasks_account"]
    query = "SELECT * FROM order_tasks WHERE status IN ('pending', 'retrying')"
    plan = select(path, f"EXPLAIN QUERY PLAN {query}")
    assert "idx_order_tasks_status" in str(plan)


async def test_a_commit_is_on_the_disk_when_it_returns(store: SqliteStore) -> None:
    """WAL, and a sync with every commit."""

    def pragma(name: str) -> object:
        return next(iter(store._writer.execute(f"PRAGMA {name}").fetchone().values()))

    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)
