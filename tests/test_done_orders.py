"""Orders that are done and let go: nobody outside can tell, and memory hardly can."""

from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.asking import batch_answer, batched, cancelled, finished, modified, submit
from tests.fakes import (
    ACCOUNT,
    MORNING,
    NO_LIMITS,
    OPENED,
    Connection,
    FakeBroker,
    Process,
    RequestLostBroker,
    StaleBook,
    TrioClock,
    World,
    limit_order,
)
from ticker_actors.actors.done_orders import DoneOrders, mark
from ticker_actors.actors.draft import Draft
from ticker_actors.actors.lane import IDLE_READ, MISMATCH_SECONDS
from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.order_view import KNOWN_SECONDS, OrderViews
from ticker_actors.actors.recall import ONE_BY_ONE
from ticker_actors.actors.requests import Accepted, Denied, NotFound
from ticker_actors.model.accounts import AccountState
from ticker_actors.model.calendar import Moment
from ticker_actors.model.changes import Recovered
from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.orders import (
    BrokerOrder,
    OrderChanges,
    OrderView,
    PlaceOrder,
)
from ticker_actors.model.outcomes import (
    OrderBook,
    Placed,
    PlaceOutcome,
    Unreadable,
)
from ticker_actors.model.tasks import Phase, Reason, TaskStatus

pytestmark = pytest.mark.usefixtures("log")

EVENING = MORNING + timedelta(hours=13, minutes=58)
"""23:58 IST."""
SOON = KNOWN_SECONDS + 0.5
LATER = 2 * IDLE_READ + 1
"""Seconds in which the book is read twice, or more often."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the store was asked for orders, and for tasks by their intent."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        method = getattr(Connection, name)

        async def ask(self: Connection, *values: object) -> object:
            counts[name] += 1
            return await method(self, *values)

        monkeypatch.setattr(Connection, name, ask)

    for name in ("order", "orders", "task_by_intent"):
        counted(name)
    return counts


def held(process: Process) -> list[str]:
    """The orders that are in memory whole."""
    return list(process.lane.ledger.views._views)


def done(process: Process) -> int:
    """How many orders of today were let go."""
    return len(process.lane.ledger.views._done)


async def read(process: Process) -> None:
    """Have the book read now."""
    process.lane.read_soon()
    await trio.sleep(1)


async def filled(process: Process, world: "World[Any]", count: int = 1) -> list[str]:
    """So many orders that filled, and were let go."""
    before = done(process)
    order_ids = []
    for _ in range(count):
        task = await finished(process, await submit(process))
        order_ids.append(task.order_id or "")
        world.broker.fill(order_ids[-1])
    await trio.sleep(SOON)
    await read(process)
    assert done(process) == before + count
    assert not set(order_ids) & set(held(process))
    return order_ids


def told(world: "World[Any]", order_id: str) -> list[tuple[str, int | None]]:
    """The order's events, and the version that each shows."""
    return [
        (event.event, event.order_version)
        for event in world.store.events
        if event.order_id == order_id and event.order_version is not None
    ]


PLACED_AND_FILLED = [("order_placed", 1), ("order_updated", 2), ("order_completed", 3)]


# Letting go


async def test_a_done_order_is_let_go(autojump_clock: MockClock, asked: Counter[str]) -> None:
    """Once it is known for a while and a valid book shows its end; an open one stays."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        resting = await finished(process, await submit(process))
        world.broker.fill(task.order_id or "")
        await read(process)
        assert len(held(process)) == 2  # the book may be a stale one for so long
        await trio.sleep(SOON)
        await read(process)
        assert held(process) == [resting.order_id]
        assert done(process) == 1
        await trio.sleep(600)
        (state,) = await process.executor.lanes()
        assert state.missing == ()
        assert state.gate_open
    assert not asked
    assert told(world, task.order_id or "")[-1][0] == "order_completed"


async def test_every_order_of_a_restart_is_let_go(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """A new process begins with all of today's, until its first valid read confirms them."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await filled(process, world, 3)
    events = len(world.store.events)
    async with world.process() as process:
        assert len(held(process)) == 3
        await trio.sleep(OPENED)
        assert not held(process)
        assert done(process) == 3
        await trio.sleep(LATER)
    assert len(world.store.events) == events
    assert not asked


async def test_an_order_is_not_let_go_before_its_last_change_is_durable() -> None:
    """Until then the store would give an older one back."""
    views, order = OrderViews("ABC", day=MORNING.date()), row("1", "OPEN")
    view = OrderView(
        account_id=ACCOUNT,
        order=order,
        task_id="t",
        tag=None,
        version=1,
        trading_day=MORNING.date(),
    )
    views.restore(view)
    seen = views.sight(row("1", "COMPLETE"), "book", None, Moment(MORNING, 100))
    assert seen is not None
    views.release((), (), 200)
    assert views.get("1") is seen.view
    views.written({"1": view})  # an older one
    views.release((), (), 200)
    assert views.get("1") is seen.view
    views.written({"1": seen.view})
    for tasks, orders, began in (("t", (), 200), ((), ("1",), 200)):
        views.release(tasks, orders, began)
        assert views.get("1") is seen.view
    views.release((), (), 200)
    assert views.get("1") is None
    assert "1" in views
    assert views.let_go("1")


async def test_legs_of_a_batch_are_held_until_it_has_finished(autojump_clock: MockClock) -> None:
    """Its answer is made of them, and what it does next."""
    world = World(broker=FakeBroker())
    world.broker.accept = registered(world.broker, "SLOW")  # type: ignore[method-assign]
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch = await batched(process, limit_order("A"), limit_order("SLOW"), rollback=False)
        await trio.sleep(2)
        first, slow = world.broker.book
        world.broker.fill(first)
        await trio.sleep(LATER)
        assert not world.store.batches[batch].finished
        assert set(held(process)) == {first, slow}
        world.broker.show(slow, status="OPEN")
        await trio.sleep(LATER)
        assert world.store.batches[batch].finished
        assert held(process) == [slow]


def registered(broker: FakeBroker, slow: str) -> Any:  # noqa: ANN401  # a method
    """Orders of one symbol stay at their first status."""

    def accept(order: PlaceOrder, tag: str, status: str = "OPEN") -> str:
        status = "PUT ORDER REQ RECEIVED" if order.tradingsymbol == slow else status
        return FakeBroker.accept(broker, order, tag, status)

    return accept


# Something new is told of one


@pytest.mark.parametrize("counts", [True, False], ids=["counting", "giving all"])
async def test_a_trade_that_is_annulled_is_told(
    autojump_clock: MockClock, asked: Counter[str], *, counts: bool
) -> None:
    """An order that the book shows in another end goes on from its stored version, told once."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        process.line.counts = counts
        await trio.sleep(OPENED)
        (order_id, other) = await filled(process, world, 2)
        before = told(world, order_id)
        world.broker.show(order_id, push=False, status="CANCELLED", status_message="Annulled.")
        await trio.sleep(LATER)
        assert told(world, order_id) == [*before, ("order_cancelled", before[-1][1] + 1)]  # type: ignore[operator]
        assert not held(process)
        assert done(process) == 2
        assert asked == {"order": 1}
    stored = world.store.orders[ACCOUNT, order_id]
    assert stored.order.status == "CANCELLED"
    assert stored.order.filled_quantity == 10
    assert told(world, other)[-1][0] == "order_completed"


async def test_many_changed_rows_are_one_question(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """As when a broker corrects all rows of a day at once."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_ids = await filled(process, world, ONE_BY_ONE + 1)
        for order_id in order_ids:
            world.broker.show(order_id, push=False, average_price=101.0)
        await trio.sleep(LATER)
        assert asked == {"orders": 1}
        assert not held(process)
    prices = {view.order.average_price for view in world.store.orders.values()}
    assert prices == {101.0}


@pytest.mark.parametrize("tagged", [True, False], ids=["with its tag", "without"])
@pytest.mark.parametrize("status", ["COMPLETE", "OPEN", "CANCELLED", "UPDATE"])
async def test_a_late_report_of_the_feed_changes_nothing(
    autojump_clock: MockClock, asked: Counter[str], status: str, *, tagged: bool
) -> None:
    """An end yields only to the book, so the store need not even be asked."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        events = len(world.store.events)
        report = msgspec.structs.replace(world.broker.book[order_id], status=status)
        if not tagged:
            report = msgspec.structs.replace(report, tag=None, tags=())
        world.broker.push(report)
        await trio.sleep(LATER)
        assert len(world.store.events) == events
        assert not held(process)
    assert not asked


async def test_a_reply_that_names_a_done_order_is_no_first_sight(
    autojump_clock: MockClock,
) -> None:
    """A broker that gives one order id twice makes no second `order_placed`."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        events = told(world, order_id)

        async def same(order: PlaceOrder, tag: str) -> PlaceOutcome:
            del order, tag
            return Placed(order_id)

        world.broker.place = same  # type: ignore[method-assign]
        task = await finished(process, await submit(process))
        assert task.order_id == order_id
        await trio.sleep(LATER)
    assert told(world, order_id) == events


# Something is wanted of one


async def test_a_cancel_of_a_done_order_is_too_late(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """It is answered as for an order in memory: taken, then a dead letter with what filled."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        cancel = await finished(process, await cancelled(process, order_id))
        assert (cancel.phase, cancel.reason) == (Phase.DEAD, Reason.TOO_LATE)
        assert cancel.result is not None
        assert cancel.result["filled_quantity"] == 10
        assert not world.broker.sent("cancel")
        assert asked == {"order": 1}
        await trio.sleep(LATER)
        assert not held(process)
        assert done(process) == 1
    assert told(world, order_id)[-1][0] == "order_completed"


async def test_a_modify_of_a_done_order_is_too_late(autojump_clock: MockClock) -> None:
    """It is judged by the order's own fields, then a dead letter; the broker hears of none."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        changes = OrderChanges(price=99.0)
        denied = await process.executor.modify_order(ACCOUNT, order_id, changes)
        assert isinstance(denied, Denied)
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None)
        task = await finished(process, await modified(process, order_id, price=99.0))
        assert (task.phase, task.reason) == (Phase.DEAD, Reason.TOO_LATE)
        assert not world.broker.sent("modify")
        unknown = await process.executor.cancel_order(ACCOUNT, "another")
        assert unknown == NotFound()
        await trio.sleep(LATER)
        assert not held(process)


async def test_an_order_let_go_while_its_cancel_is_stored_is_taken_back(
    autojump_clock: MockClock,
) -> None:
    """The cancel finds it all the same, and is not open for ever."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        world.store.commit_seconds = lambda: 4.0
        answers: list[object] = []

        async def cancel() -> None:
            answers.append(await process.executor.cancel_order(ACCOUNT, order_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(1)
            assert held(process) == [order_id]
            await read(process)
            assert not held(process)
        (answer,) = answers
        assert isinstance(answer, Accepted)
        task = await finished(process, answer.task)
        assert task.reason is Reason.TOO_LATE


# The book


@pytest.mark.parametrize("counts", [True, False], ids=["counting", "giving all"])
async def test_a_book_that_misses_a_done_order_is_not_valid(
    autojump_clock: MockClock, asked: Counter[str], *, counts: bool
) -> None:
    """It is named, the account is halted, and an operator may accept that it is gone."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        process.line.counts = counts
        await trio.sleep(OPENED)
        order_ids = await filled(process, world, 3)
        gone = order_ids[1]
        world.broker.hidden = {gone}
        await trio.sleep(IDLE_READ + MISMATCH_SECONDS + 5)
        (state,) = await process.executor.lanes()
        assert state.missing == (gone,)
        assert state.standing.state is AccountState.HALTED
        assert gone in (state.standing.reason or "")
        assert asked == {"orders": 1}
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None, (gone,))
        await trio.sleep(5)
        (state,) = await process.executor.lanes()
        assert state.missing == ()
        task = await finished(process, await submit(process))
        assert task.status is TaskStatus.COMPLETED
        await trio.sleep(LATER)
        assert held(process) == [task.order_id]
        assert asked == {"orders": 1}
    async with world.process() as process:  # and it stays accepted
        await trio.sleep(5)
        (state,) = await process.executor.lanes()
        assert state.gate_open
        assert state.missing == ()


async def test_a_book_that_was_empty_for_a_while_is_whole_again(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """All are missed by name, by one question; and all are let go when it shows them again."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_ids = await filled(process, world, 5)
        events = len(world.store.events)
        world.broker.hidden = set(order_ids)
        await trio.sleep(IDLE_READ + 10)
        (state,) = await process.executor.lanes()
        assert set(state.missing) == set(order_ids)
        world.broker.hidden = set()
        await trio.sleep(5)
        (state,) = await process.executor.lanes()
        assert state.missing == ()
        assert not held(process)
        assert done(process) == 5
    assert asked == {"orders": 1}
    assert len(world.store.events) == events


async def test_an_empty_book_proves_no_absence_while_done_orders_are_known(
    autojump_clock: MockClock,
) -> None:
    """However long it stays empty: a book that shows nothing of the day is a wrong one."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_ids = await filled(process, world, 2)
        world.broker.place = RequestLostBroker.place.__get__(world.broker)  # type: ignore[method-assign]
        task = await submit(process)
        await trio.sleep(10)
        assert not held(process)
        world.broker.hidden = set(order_ids)
        await trio.sleep(900)
        assert world.store.tasks[task.task_id].phase is Phase.RESOLVING


async def test_absence_is_proved_beside_done_orders_only(autojump_clock: MockClock) -> None:
    """They are known orders of the day: one horizon and three reads are enough."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await filled(process, world, 2)
        world.broker.place = RequestLostBroker.place.__get__(world.broker)  # type: ignore[method-assign]
        began = trio.current_time()
        task = await finished(process, await submit(process))
        assert task.reason is Reason.NOT_PLACED_PROVED
        assert 7 + 120 + 10 <= trio.current_time() - began < 7 + 120 + 20


async def test_no_order_is_called_absent_without_a_look_at_each_row(
    autojump_clock: MockClock,
) -> None:
    """One of the reads after the horizon gives every row; the others may count."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        orders, books = process.line.orders, list[tuple[float, OrderBook]]()

        async def noted() -> OrderBook | Unreadable:
            began = trio.current_time()
            book = await orders()
            assert isinstance(book, OrderBook)
            books.append((began, book))
            return book

        process.line.orders = noted  # type: ignore[method-assign]
        await trio.sleep(OPENED)
        await filled(process, world, 2)
        world.broker.place = RequestLostBroker.place.__get__(world.broker)  # type: ignore[method-assign]
        began = trio.current_time()
        await finished(process, await submit(process))
        proof = [book for at, book in books if at > began + 7 + 120]
        assert sum(len(book.orders) == 2 for book in proof) == 1
        assert any(book.repeated for book in proof)


async def test_an_order_whose_row_came_before_its_id_is_seen_at_last(
    autojump_clock: MockClock,
) -> None:
    """Its row had no tag, was at its end, and was given before the reply named the order."""
    world = World(broker=Untagged("INFY", reply_seconds=5))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await trio.sleep(1)
        await read(process)  # gives the row, of which nobody knows whose it is
        order_id = (await finished(process, task)).order_id or ""
        await trio.sleep(2 * LATER)
        assert world.store.orders[ACCOUNT, order_id].order.status == "COMPLETE"
        assert not held(process)


class Untagged(FakeBroker):
    """Its orders of one symbol are filled at once, their replies slow, and their rows untagged."""

    def __init__(self, symbol: str, reply_seconds: float) -> None:
        super().__init__()
        self.symbol = symbol
        self.reply_seconds = reply_seconds

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        self.note("place", tag)
        order_id = self.accept(order, tag)
        if order.tradingsymbol == self.symbol:
            row = {"tag": None, "tags": (), "filled_quantity": order.quantity}
            self.show(order_id, push=False, status="COMPLETE", pending_quantity=0, **row)
            await trio.sleep(self.reply_seconds)
        return Placed(order_id)


@pytest.mark.parametrize("counts", [True, False], ids=["counting", "giving all"])
async def test_a_bad_row_takes_no_done_order_back(
    autojump_clock: MockClock, asked: Counter[str], *, counts: bool
) -> None:
    """A book that cannot be trusted for hours asks the store nothing about what it shows."""
    world = World(broker=Garbled())
    async with world.process() as process:
        process.line.counts = counts
        await trio.sleep(OPENED)
        order_ids = await filled(process, world, 30)
        world.broker.garbled = True
        await trio.sleep(120)
        assert not asked
        assert not held(process)
        world.broker.show(order_ids[0], push=False, status="CANCELLED")
        await trio.sleep(10)
        assert told(world, order_ids[0])[-1][0] == "order_cancelled"
        assert asked == {"order": 1}


class Garbled(FakeBroker):
    """A row of its book may be garbled."""

    garbled = False

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        if self.garbled:
            return Unreadable("Row 7: quantity is no number.", orders=book.orders)
        return book


async def test_a_done_order_that_the_store_has_lost_is_missed_all_the_same(
    autojump_clock: MockClock, log: list[Any]
) -> None:
    """No book is valid without it, though it has no name any more; that may be accepted."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        del world.store.orders[ACCOUNT, order_id]
        assert await process.executor.cancel_order(ACCOUNT, order_id) == NotFound()
        assert any(line["event"] == "order not stored" for line in log)
        world.broker.hidden = {order_id}
        await trio.sleep(IDLE_READ + 5)
        (state,) = await process.executor.lanes()
        (name,) = state.missing
        assert name == f"~{order_key(order_id):016x}"
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None, (name,))
        await trio.sleep(5)
        (state,) = await process.executor.lanes()
        assert state.missing == ()


# The day


async def test_a_new_day_begins_with_nothing(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """A book of the new day need not show yesterday's, and one that does asks nothing."""
    world = World(broker=FakeBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id, other) = await filled(process, world, 2)
        await trio.sleep(240)
        assert done(process) == 0
        assert not held(process)
        assert not asked
        assert await process.executor.cancel_order(ACCOUNT, order_id) == NotFound()
        del world.broker.book[other]  # the new book
        await trio.sleep(LATER)
        (state,) = await process.executor.lanes()
        assert state.missing == ()
        world.broker.show(order_id, push=False, status="CANCELLED")
        await trio.sleep(LATER)
        assert told(world, order_id)[-1][0] == "order_cancelled"
        assert asked == {"order": 1}
        assert not held(process)


def test_the_first_read_of_a_day_gives_every_row() -> None:
    """Midnight may have come between a row and the look at it, and taken the order away."""
    ledger = Ledger(ACCOUNT, "ABC", 120.0, NO_LIMITS, lambda _: 0)
    ledger.recover(
        Recovered(
            account_id=ACCOUNT,
            epoch=1,
            head_sequence=0,
            tasks=(),
            batches=(),
            orders=(),
            attempts=(),
        ),
        Moment(MORNING, 0),
    )
    assert not ledger.recount(Moment(MORNING, 60))
    tomorrow = Moment(MORNING + timedelta(days=1), 86_400)
    ledger.turn(Draft(), tomorrow)
    assert ledger.recount(tomorrow)
    assert not ledger.recount(Moment(tomorrow.at, tomorrow.mono + 60))


async def test_a_start_after_midnight_takes_yesterdays_book_in_once(
    autojump_clock: MockClock, asked: Counter[str]
) -> None:
    """Its rows are looked up when they are first seen, then let go as well."""
    world = World(broker=FakeBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await filled(process, world, 3)
    await trio.sleep(240)
    async with world.process() as process:
        process.line.counts = False
        await trio.sleep(LATER)
        assert not held(process)
        assert done(process) == 0
        before = asked.copy()
        await trio.sleep(LATER)
        assert asked == before


async def test_a_leg_that_was_only_counted_is_found_in_time(autojump_clock: MockClock) -> None:
    """Each of two batches succeeds: the second one's leg does not wait for the first's recount."""
    world = World(broker=Untagged("U", reply_seconds=2))
    async with world.process() as process:
        await trio.sleep(OPENED)
        for _ in range(2):
            batch_id = await batched(process, limit_order("U"), limit_order("B"))
            await trio.sleep(1)
            await read(process)  # before its reply: the row cannot be anybody's
            answer = await batch_answer(process, batch_id)
            assert (answer["state"], answer["error"]) == ("succeeded", None)


async def test_an_excused_order_without_a_name_is_not_known(autojump_clock: MockClock) -> None:
    """One that the store has lost and the operator has accepted proves nothing by its absence."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        (order_id,) = await filled(process, world)
        del world.store.orders[ACCOUNT, order_id]
        world.broker.hidden = {order_id}
        await read(process)
        (state,) = await process.executor.lanes()
        assert state.missing[0].startswith("~")
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, "seen", state.missing)
        views, now = process.lane.ledger.views, process.lane.now()
        assert not views.lost(views.day, Keys())
        assert not views.knows_any(views.day, now.mono)


# The parts


def row(order_id: str, status: str) -> BrokerOrder:
    """A row of ours."""
    return BrokerOrder(
        order_id=order_id,
        status=status,
        exchange="NSE",
        tradingsymbol="INFY",
        transaction_type="BUY",
        quantity=10,
        product="CNC",
        order_type="LIMIT",
        tag="1ABC0123456789AB0001",
    )


IDS = st.sampled_from([str(number) for number in range(30)])


@given(st.lists(st.tuples(st.sampled_from(["add", "pop", "look"]), IDS, st.integers(0, 2**32 - 1))))
def test_done_orders_are_a_table(steps: list[tuple[str, str, int]]) -> None:
    """Whatever comes and goes, each order has its mark, and those not shown are missing."""
    orders, model = DoneOrders(), dict[str, int]()
    for step, order_id, shown in steps:
        if step == "add" and order_id not in model:
            orders.add(order_id, shown)
            model[order_id] = shown
        elif step == "pop":
            assert orders.pop(order_id) == model.pop(order_id, None)
        assert orders.mark(order_id) == model.get(order_id)
        assert (order_id in orders) == (order_id in model)
        assert len(orders) == len(model)
        present = Keys(order_key(str(number)) for number in range(15))
        missing = {order_key(name) for name in model if int(name) >= 15}
        assert orders.missing(present) == missing


def test_a_mark_tells_every_change_of_a_row() -> None:
    """Each field counts."""
    plain = row("1", "COMPLETE")
    assert mark(plain) == mark(msgspec.structs.replace(plain))
    for name in plain.__struct_fields__:
        value = getattr(plain, name)
        other = ("x",) if isinstance(value, tuple) else f"{value}x"
        assert mark(msgspec.structs.replace(plain, **{name: other})) != mark(plain)
