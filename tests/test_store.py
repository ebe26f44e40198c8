"""Both stores, by the same tests: whole or not at all, in sequence, by one writer."""

import json
import re
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace

from tests.stores import (
    AT,
    SECOND,
    TODAY,
    UNICODE,
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
from ticker_actors.model import ids
from ticker_actors.model.accounts import AccountState, Standing
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import day_end
from ticker_actors.model.changes import (
    Attempt,
    Change,
    Committed,
    DeliveryResult,
    Key,
    KeyTaken,
    Unstorable,
)
from ticker_actors.model.tasks import OrderTask, Phase, Reason, TaskStatus
from ticker_actors.store.commit import TARGETS, Target
from ticker_actors.store.tables import StaleEpochError, Store


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store of each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "ticker.db")
    return PostgresPlace(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(place: Place) -> AsyncGenerator[Store]:
    """A store that owns accounts `primary` and `second`."""
    async with place.open() as opened:
        await opened.claim("primary", "me")
        await opened.claim("second", "me")
        yield opened


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
async def test_a_task_comes_back_as_it_was(store: Store, stored: OrderTask) -> None:
    """Every field, also text that looks like something else."""
    assert {getattr(FULL, name) for name in ("reason", "leg", "cancel_requested")} & {None} == set()
    await commit(store, change(stored))
    assert await store.task("task_1") == stored
    assert await store.task_by_intent(stored.intent) == stored
    assert await store.task("task_2") is None


def row_of_each(name: str, time: int) -> Change:
    """A row in every table that is named so; its key and its event are new each time."""
    placed = replace(
        FULL, task_id=name, idempotency_key=name, order_id=name, batch_id=name, intent=name
    )
    batch = Batch(
        batch_id=name,
        account_id="primary",
        idempotency_key=name,
        rollback_on_failure=True,
        task_ids=(name, UNICODE),
        created_at=AT,
        progress_at=AT + SECOND,
        state="partly_succeeded",
        cause=UNICODE,
        completed_at=AT + SECOND,
        answer={"success": False, "average_price": 0.1, "error": None},
    )
    sent = Attempt(
        task_id=name,
        send=2,
        account_id="primary",
        operation="place_order",
        broker_tag="t",
        epoch=2**62,
        sent_at=AT,
        answered_at=AT + SECOND,
        outcome="unknown",
        detail=UNICODE,
    )
    row = replace(order().order, order_id=name, price=1 / 3, tags=("a", UNICODE))
    return change(
        placed,
        key=Key(f"{name}{time}", "hash", "task", name, "primary"),
        attempts=(sent,),
        batches=(batch,),
        orders=(replace(order(tag=UNICODE, task_id=name), order=row),),
        webhooks=(webhook(name, ("order_failed",), secret=UNICODE, active=False),),
        events=(event(f"{name}{time}", order_id=name, data=msgspec.Raw(b'{"a": 1e-5,"b" :null}')),),
        deliveries=(
            DeliveryResult(
                delivery_id=name,
                attempt=3,
                state="pending",
                next_at=AT,
                started_at=AT + SECOND,
                seconds=0.1,
                status_code=500,
                error=UNICODE,
            ),
        ),
    )


def bare_row_of_each(name: str, time: int) -> Change:
    """The same, with nothing in each column that may be empty."""
    full = row_of_each(name, time)
    return replace(
        full,
        tasks=(task(task_id=name, idempotency_key=name, intent=name),),
        attempts=tuple(replace(row, answered_at=None, detail=None) for row in full.attempts),
        batches=tuple(replace(row, completed_at=None, answer=None) for row in full.batches),
        orders=tuple(replace(row, tag=None) for row in full.orders),
        webhooks=tuple(replace(row, secret=None) for row in full.webhooks),
        events=tuple(replace(row, order_id=None, order_version=None) for row in full.events),
        deliveries=tuple(replace(row, status_code=None, error=None) for row in full.deliveries),
    )


@pytest.mark.parametrize("rows_of", [row_of_each, bare_row_of_each], ids=["full", "bare"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.table)
async def test_a_row_is_the_same_alone_and_beside_others(
    store: Store, place: Place, target: Target, rows_of: Callable[[str, int], Change]
) -> None:
    """However many rows of its table one transaction writes; also when they replace others."""
    await commit(store, change(webhooks=(webhook("all"),)))
    for time in range(2):  # the second time, all that can be are replaced
        for names in ("ж", "щю", "дыэя"):
            rows = [rows_of(name, time) for name in names]
            assert await commit(store, *rows) == [Committed] * len(names)
    columns = ", ".join(name for name in target.columns if name != "sequence")
    found = [
        re.sub(
            r'"sequence":\d+', "", " ".join(v.decode() if type(v) is bytes else str(v) for v in row)
        )
        for row in place.execute(f"SELECT {columns} FROM {target.table}")  # noqa: S608  # ours
    ]
    first, *others = (
        {row.replace(name, "?") for row in found if name in row} for name in "жщюдыэя"
    )
    assert first
    assert others == [first] * 6


async def test_the_full_task_here_is_full() -> None:
    """No field of it has its default, so that a forgotten column shows."""
    fields = msgspec.structs.fields(OrderTask)
    assert [f.name for f in fields if getattr(FULL, f.name) == f.default] == []


async def test_a_task_keeps_what_never_changes(store: Store) -> None:
    """Rows replace, but a task's identity and its request are written once."""
    await commit(store, change(task()))
    moved = task(phase=Phase.SENT, params={"quantity": 99}, idempotency_key="x", intent="y" * 12)
    await commit(store, change(moved))
    assert await store.task("task_1") == task(phase=Phase.SENT)


async def test_a_batch_comes_back_as_it_was(store: Store) -> None:
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


async def test_attempts_come_back_as_they_were(store: Store) -> None:
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


async def test_an_order_comes_back_as_it_was(store: Store) -> None:
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


async def test_orders_are_listed_as_they_were_first_seen(store: Store) -> None:
    """Of one day and account; an update does not move them."""
    await commit(store, change(orders=(order(9), order(1))))
    await commit(store, change(orders=(order(5, trading_day=TODAY - timedelta(days=1)), order(3))))
    await commit(store, change(orders=(order(9, "COMPLETE"),)))
    found = await store.orders("primary", TODAY)
    assert [view.order.order_id for view in found] == ["o9", "o1", "o3"]


async def test_webhooks_come_back_until_they_are_deleted(store: Store) -> None:
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


async def test_tasks_are_paged_newest_first(store: Store) -> None:
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


async def test_statistics_count_each_status(store: Store) -> None:
    """With the average attempts, as the document's query does."""
    await commit(store, change(task(1, attempts=1), task(2, attempts=2), FULL_OTHER))
    found = {status: (count, average) for status, count, average in await store.task_statistics()}
    assert found == {"pending": (2, 1.5), "dead_letter": (1, 3.0)}


FULL_OTHER = replace(FULL, task_id="task_9", intent="9" * 12, idempotency_key="key-9")


# Changes and their events.


async def test_a_taken_key_writes_nothing_of_its_change(store: Store) -> None:
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


async def test_a_key_is_taken_by_the_first_of_one_transaction(store: Store) -> None:
    """Two requests at the same instant make one task."""
    keys = [Key("k", "hash", "task", f"task_{number}", "primary") for number in (1, 2)]
    changes = [change(task(n), key=key) for n, key in zip((1, 2), keys, strict=True)]
    assert await commit(store, *changes) == [Committed, KeyTaken]
    assert await store.task("task_2") is None


async def test_sequences_have_no_gap_and_no_repeat(store: Store, place: Place) -> None:
    """Each account has its own; order is that of the changes, whatever else they hold."""
    mine = [change(events=tuple(event(f"a{n}{i}") for i in range(n % 3))) for n in range(9)]
    other = Change(account_id="second", events=(event("b", account_id="second"),))
    bad = change(task(8, attempts=2**70), events=(event("bad"),))
    for group in ([*mine[:4], other, *mine[4:6]], [mine[6], bad, *mine[7:]]):
        await store.commit(group, AT)
    told = place.execute("SELECT sequence, event_id FROM order_events WHERE account_id = 'primary'")
    assert [sequence for sequence, _ in told] == list(range(1, 10))
    assert [name for _, name in told] == [made.event_id for part in mine for made in part.events]
    assert place.execute("SELECT sequence FROM order_events WHERE account_id = 'second'") == [(1,)]
    head = "SELECT head_sequence FROM accounts WHERE account_id = 'primary'"
    assert place.execute(head) == [(9,)]


async def test_the_log_of_an_order_comes_back_in_sequence(store: Store) -> None:
    """With the bytes that every channel sends."""
    told = {
        "text": UNICODE + '"\\\x7f/',
        "numbers": [1.0, -0.0, 1e300, 0.1, 2**63 - 1],
        "": {"x": []},
    }
    data = msgspec.Raw(msgspec.json.encode({**told, "flags": [True, False, None]}))
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


async def test_the_log_is_read_from_a_sequence_on(store: Store, place: Place) -> None:
    """A page at a time, of one account alone, and never before what retention has left."""
    other = Change(account_id="second", events=(event("b", account_id="second"),))
    mine = change(events=tuple(event(str(number)) for number in range(1, 6)))
    assert await store.oldest_event("primary") is None
    (answer, _) = await store.commit([mine, other], AT)
    assert isinstance(answer, Committed)
    assert await store.events("primary", 0, 3) == list(answer.events[:3])
    assert await store.events("primary", 3, 3) == list(answer.events[3:])
    assert await store.events("primary", 5, 3) == []
    assert await store.events("primary", 2**63 - 1, 3) == []
    place.execute("DELETE FROM order_events WHERE account_id = 'primary' AND sequence <= 2")
    assert (await store.events("primary", 0, 1))[0].sequence == 3
    assert await store.oldest_event("primary") == 3
    assert await store.oldest_event("second") == 1


BAD: list[Change] = [
    change(task(2, intent="0" * 11 + "1"), events=(event("bad"),)),
    change(task(2, idempotency_key="key-1")),
    change(task(2, last_error="\ud800")),
    change(task(2, last_error="a \\\0")),
    change(task(2, params={"tag": "\ud800"})),
    change(task(2, attempts=2**63)),
    change(task(2), task(3, sends="many")),
    change(task(2), key=Key("\udfff", "h", "task", "t", "primary")),
    change(task(2), events=(event("first"),)),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
async def test_a_bad_row_fails_alone(store: Store, bad: Change) -> None:
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


async def test_a_bad_webhook_is_not_subscribed(store: Store) -> None:
    """What was not written does not get deliveries."""
    assert await commit(store, change(webhooks=(webhook(secret="\ud800"),))) == [Unstorable]
    answer = (await store.commit([change(events=(event("1"),))], AT))[0]
    assert isinstance(answer, Committed)
    assert answer.deliveries == 0


# Deliveries.


async def due(store: Store, at: datetime = AT) -> list[str]:
    """The events whose deliveries are due."""
    return [delivery.event_id[4:] for delivery in await store.due_deliveries(at, 10)]


async def test_an_event_puts_a_delivery_in_the_outbox_of_each_that_wants_it(
    store: Store,
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


async def test_deliveries_of_one_order_go_in_sequence(store: Store) -> None:
    """The next waits for the one before it, until that has failed too often; others do not."""
    await commit(store, change(webhooks=(webhook(),)))
    others = event("x1", order_key="intent-2"), event("n1", order_key=None, order_id=None)
    events = (event("a1"), event("a2"), *others, event("a3"))
    await commit(store, change(events=events))
    assert sorted(await due(store)) == ["a1", "n1", "x1"]
    found = await store.due_deliveries(AT, 10)
    assert {row.event_id: row.followed for row in found} == {
        "evt_a1": True,
        "evt_x1": False,
        "evt_n1": False,
    }
    first = found[0]

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


async def test_deleting_a_webhook_ends_its_deliveries(store: Store, place: Place) -> None:
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
    assert place.execute("SELECT * FROM webhook_deliveries WHERE updated_at > created_at") == []
    await store.commit([change(deliveries=(late,))], AT + SECOND)
    later = "SELECT webhook_id FROM webhook_deliveries WHERE updated_at > created_at"
    assert place.execute(later) == [(delivery.webhook_id,)]  # retention counts from then
    rows = place.execute("SELECT webhook_id, state, next_at FROM webhook_deliveries")
    states = {name: (state, at) for name, state, at in rows}
    assert states.pop(delivery.webhook_id) == ("failed", None)
    assert [state for state, _ in states.values()] == ["pending"]


# One writer.


async def test_a_new_owner_finds_what_is_not_finished(place: Place) -> None:
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
    async with place.open() as store:
        first = await take_over(store, "primary", "one")
        assert (first.epoch, first.head_sequence, first.tasks) == (1, 0, ())
        rows: dict[str, Any] = {"batches": (open_batch, closed), "orders": orders}
        await commit(store, change(*tasks, attempts=attempts, events=(event("1"),), **rows))
    async with place.open() as store:
        found = await take_over(store, "primary", "two")
    assert (found.epoch, found.head_sequence) == (2, 1)
    assert [made.task_id[5:] for made in found.tasks] == ["9", "2", "5", "1"]
    assert [batch.batch_id for batch in found.batches] == ["open"]
    # Yesterday's open order is in no book any more; a leg's must be known, or its batch would wait
    # for it for ever.
    assert [view.order.order_id for view in found.orders] == ["o3", "o5"]
    assert [attempt.send for attempt in found.attempts] == [2, 1]


async def test_the_names_of_an_installation_last(place: Place) -> None:
    """Tags and sequences of one database mean the same after a restart."""
    async with place.open() as store:
        first = store.installation
        await store.claim("primary", "me")
        await commit(store, change(webhooks=(webhook(),)))
    async with place.open(seed=2) as store:
        assert store.installation == first
        await store.claim("primary", "me")
        answer = (await store.commit([change(events=(event("1"),))], AT))[0]
        assert isinstance(answer, Committed)
        assert answer.deliveries == 1


async def test_a_writer_of_an_old_epoch_writes_not_a_word(store: Store, place: Place) -> None:
    """Neither a row nor an event, and not its neighbour's either."""
    place.execute("UPDATE accounts SET epoch = epoch + 1 WHERE account_id = 'primary'")
    neighbour = Change(account_id="second", tasks=(task(2, account_id="second"),))
    with pytest.raises(StaleEpochError, match="primary"):
        await store.commit([neighbour, change(task(1))], AT)
    assert place.execute("SELECT COUNT(*) FROM order_tasks") == [(0,)]
    assert await commit(store, neighbour) == [Committed]


async def test_a_writer_of_an_old_epoch_is_told_so_first(store: Store, place: Place) -> None:
    """Its rows may collide with those of the new owner: that is no bad row, and no used key."""
    key = Key("k", "hash", "task", "task_1", "primary")
    mine = change(task(1), key=key, events=(event("1"),))
    assert await commit(store, mine) == [Committed]
    place.execute("UPDATE accounts SET epoch = epoch + 1 WHERE account_id = 'primary'")
    with pytest.raises(StaleEpochError, match="primary"):
        await store.commit([change(task(2, idempotency_key="key-1"), key=key)], AT)


async def test_an_account_whose_row_is_gone_is_not_written(store: Store, place: Place) -> None:
    """Somebody deleted it: nothing can be sure of its sequences any more."""
    place.execute("DELETE FROM accounts WHERE account_id = 'primary'")
    with pytest.raises(StaleEpochError):
        await commit(store, change(task(1)))


async def test_an_account_that_was_not_taken_over_is_not_written(place: Place) -> None:
    """A start that forgot it would show at once."""
    async with place.open() as store:
        with pytest.raises(StaleEpochError):
            await commit(store, change(task(1)))


async def test_accounts_are_taken_over_while_others_are_written(store: Store) -> None:
    """One connection writes, so one at a time: no transaction is torn in two."""
    epochs: list[int] = []

    async def follow(number: int) -> None:
        found = await take_over(store, f"account-{number}", "me")
        epochs.append(found.epoch)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(commit, store, change(task(number)))
            nursery.start_soon(follow, number)
    assert epochs == [1] * 20
    assert (
        len(await store.tasks(account_id=None, status=None, batch_id=None, before=None, limit=99))
        == 20
    )


async def test_many_read_at_once(store: Store) -> None:
    """More than there are connections, while commits go on."""
    await commit(store, change(task(1)))

    async def read() -> None:
        for _ in range(20):
            assert await store.task("task_1") is not None

    async with trio.open_nursery() as nursery:
        for number in range(2, 30):
            nursery.start_soon(read)
            nursery.start_soon(commit, store, change(task(number)))


async def test_an_account_keeps_its_state(store: Store, place: Place) -> None:
    """Its reason and what its operator accepted too; other changes leave them alone."""
    standing = Standing(AccountState.HALTED, UNICODE, ("o1", "o2"))
    await store.commit([change(standing=standing)], AT)
    await commit(store, change(task()))
    assert (await store.recover("primary", AT)).standing == standing
    assert (await store.recover("second", AT)).standing == Standing()
    await store.commit([change(standing=Standing()), change(task(2))], AT)
    assert (await store.recover("primary", AT)).standing == Standing()
    assert place.execute("SELECT state FROM accounts WHERE account_id = 'primary'") == [("ACTIVE",)]


async def test_what_counts_today_is_counted(store: Store) -> None:
    """Place tasks of the trading day, and how often each order was modified on it."""
    midnight = day_end(AT) - timedelta(days=1)

    def made(number: int, at: datetime, **fields: Any) -> OrderTask:  # noqa: ANN401  # fields
        return task(number, task_id=ids.task_id(at, Random(number).getrandbits), **fields)

    modify = {"operation": "modify_order", "order_id": "o1", "params": {"order_id": "o1"}}
    await commit(
        store,
        change(
            made(1, AT),
            made(2, midnight - SECOND),
            made(3, midnight),
            made(4, AT, attempts=2, **modify),
            made(5, AT, attempts=1, **modify),
            made(6, midnight - SECOND, attempts=7, **modify),
            made(7, AT, account_id="second"),
        ),
    )
    found = await store.recover("primary", AT)
    assert (found.taken_today, dict(found.modifications)) == (2, {"o1": 3})
