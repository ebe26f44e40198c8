"""The ExecutorActor on a mocked clock: what is sent, when, and what is told of it."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any, Self

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.asking import (
    batch_answer,
    batched,
    cancelled,
    finished,
    modified,
    submit,
    until,
)
from tests.fakes import (
    ACCOUNT,
    KITE_LIMITS,
    MORNING,
    NOT_SENT,
    OPENED,
    REFUSED,
    TOKEN_DEAD,
    EndedFeed,
    FakeBroker,
    LateOrderBroker,
    LostFeed,
    MemoryStore,
    Process,
    RegisteringBroker,
    RejectingBroker,
    ReplyLostBroker,
    RequestLostBroker,
    ScriptedBroker,
    SilentBroker,
    SilentFeed,
    StaleBook,
    StaleEpochError,
    StubbornBroker,
    TrioClock,
    UnreadableBook,
    World,
    limit_order,
    market_order,
    phases,
    rate_limited,
)
from tests.sockets import OpenSocket, live
from ticker_actors.actors import executor as executor_module
from ticker_actors.actors.lane import IDLE_READ, JITTER, Lane
from ticker_actors.actors.persistence import NEWS_SECONDS
from ticker_actors.actors.requests import (
    Accepted,
    AcceptedBatch,
    ClientKey,
    Denied,
    KeyConflict,
    NotFound,
    Overloaded,
    Unanswered,
)
from ticker_actors.actors.subscription import Subscription
from ticker_actors.mailbox import Stopped, running
from ticker_actors.model.changes import Change, Key
from ticker_actors.model.limits import Limits
from ticker_actors.model.orders import BrokerOrder, PlaceOrder
from ticker_actors.model.outcomes import (
    CALL_SECONDS,
    ChangeOutcome,
    FeedBack,
    FeedItem,
    FeedLost,
    Placed,
    PlaceOutcome,
    Refused,
    Unknown,
)
from ticker_actors.model.tasks import OrderTask, Phase, Reason, TaskStatus

pytestmark = pytest.mark.usefixtures("log")

EVENING = MORNING + timedelta(hours=13, minutes=59)
"""23:59 IST."""
HOUR = timedelta(hours=1)


def data(store: MemoryStore, name: str) -> list[Any]:
    """The data of all events of a name."""
    return [msgspec.json.decode(event.data) for event in store.events if event.event == name]


# Placing


async def test_place_is_durable_before_it_is_sent(autojump_clock: MockClock) -> None:
    """When the broker is called, the store already says so, with tag, attempt and epoch."""
    seen: list[tuple[Phase, bool]] = []
    world = World(broker=FakeBroker())

    class Looking(FakeBroker):
        async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
            (task,) = world.store.tasks.values()
            attempt = world.store.attempts[task.task_id, 1]
            seen.append((task.phase, attempt.broker_tag == task.broker_tag == tag))
            return await super().place(order, tag)

    world.broker = Looking()
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process)
        await trio.sleep(1)
    assert seen == [(Phase.SENT, True)]


async def test_answer_comes_after_the_commit(autojump_clock: MockClock) -> None:
    """A submission is acknowledged only once it is in the store."""
    world = World(broker=FakeBroker(), store=MemoryStore(lambda: 0.5))
    async with world.process() as process:
        await trio.sleep(OPENED)
        began = trio.current_time()
        task = await submit(process)
        assert trio.current_time() - began == pytest.approx(0.5)
        assert task.task_id in world.store.tasks


async def test_fast_path_costs_two_commits(autojump_clock: MockClock) -> None:
    """With a free lane an order is stored and marked sent by one commit, and ended by another."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        assert task.phase is Phase.SENT
        done = await finished(process, task)
        assert len(world.store.history) == 2
    assert done.status is TaskStatus.COMPLETED
    assert done.result == {"order_id": done.order_id, "found_by": "reply"}
    assert world.store.names() == ["order_placed", "task_status"]


async def test_same_key_and_body_is_the_same_task(autojump_clock: MockClock) -> None:
    """A repeated submission gets the first one's task, and the broker sees one order."""
    world = World(broker=FakeBroker())
    key = ClientKey("k", "hash")
    async with world.process() as process:
        await trio.sleep(OPENED)
        first = await submit(process, key=key)
        answer = await process.executor.submit_order(ACCOUNT, limit_order(), key)
        assert isinstance(answer, Accepted)
        assert answer.replayed
        assert answer.task.task_id == first.task_id
        await trio.sleep(1)
    assert len(world.broker.sent()) == 1


async def test_key_of_a_cancel_is_known_on_a_later_day(autojump_clock: MockClock) -> None:
    """A repeated cancel gets its first answer, also when its order is in no view any more."""
    world = World(broker=FakeBroker(), clock=TrioClock(EVENING))
    key = ClientKey("k", "hash")
    async with world.process() as process:
        await trio.sleep(OPENED)
        placed = await finished(process, await submit(process))
        assert placed.order_id is not None
        first = await process.executor.cancel_order(ACCOUNT, placed.order_id, key)
        assert isinstance(first, Accepted)
        await trio.sleep(1)
        world.broker.book.clear()  # a new day's book
        await trio.sleep(120)
        again = await process.executor.cancel_order(ACCOUNT, placed.order_id, key)
        assert isinstance(again, Accepted)
        assert again.replayed
        assert again.task.task_id == first.task.task_id
        assert await process.executor.cancel_order(ACCOUNT, placed.order_id) == NotFound()


async def test_a_key_whose_result_was_just_deleted_is_a_conflict(
    autojump_clock: MockClock,
) -> None:
    """Retention may take a batch between the look at its key and the look at it: nobody waits."""
    world = World(broker=FakeBroker())
    key = ClientKey("k", "hash")
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.store.keys["k"] = Key("k", "hash", "batch", "gone", ACCOUNT)
        batch = await process.executor.submit_batch(
            ACCOUNT, (limit_order(),), rollback_on_failure=True, key=key
        )
        assert batch == KeyConflict()
        world.store.keys["k"] = Key("k", "hash", "task", "gone", ACCOUNT)
        order = await process.executor.submit_order(ACCOUNT, limit_order(), key)
        assert order == KeyConflict()
    assert world.broker.sent() == []


async def test_same_key_and_other_body_is_a_conflict(autojump_clock: MockClock) -> None:
    """A key that was used for something else stores nothing."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process, key=ClientKey("k", "hash"))
        answer = await process.executor.submit_order(
            ACCOUNT, limit_order(), ClientKey("k", "other")
        )
        assert answer == KeyConflict()
        batch = await process.executor.submit_batch(
            ACCOUNT, (limit_order(),), rollback_on_failure=True, key=ClientKey("k", "hash")
        )
        assert batch == KeyConflict()
        await trio.sleep(1)
    assert len(world.store.tasks) == 1
    assert len(world.broker.sent()) == 1


async def test_two_at_the_same_instant_are_one_order(autojump_clock: MockClock) -> None:
    """Twenty clients with one key at one instant make one task and one order."""
    world = World(broker=FakeBroker())
    found: set[str] = set()

    async def client() -> None:
        found.add((await submit(process, key=ClientKey("k", "hash"))).task_id)

    async with world.process() as process:
        await trio.sleep(OPENED)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client)
        await trio.sleep(1)
    assert len(found) == 1
    assert len(world.broker.sent()) == 1


async def test_replays_do_not_spend_the_budget(autojump_clock: MockClock) -> None:
    """A client that repeats itself does not keep others from sending."""
    world = World(broker=FakeBroker(), limits=KITE_LIMITS)
    async with world.process() as process:
        await trio.sleep(OPENED)
        for _ in range(20):
            await submit(process, key=ClientKey("k", "hash"))
        other = await submit(process)
    assert other.phase is Phase.SENT


async def test_denied_order_is_not_stored(autojump_clock: MockClock) -> None:
    """What our own checks refuse leaves no trace."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        answer = await process.executor.submit_order(ACCOUNT, limit_order(quantity=2_000_000))
        assert isinstance(answer, Denied)
    assert not world.store.tasks


# What a call proves


async def test_lost_reply_is_found_in_the_book(autojump_clock: MockClock) -> None:
    """An unknown outcome is resolving until the book shows the order, and is not sent again."""
    world = World(broker=ReplyLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
    assert phases(world.store, task.task_id) == [Phase.SENT, Phase.RESOLVING, Phase.DONE]
    assert task.result == {"order_id": world.broker.only(), "found_by": "book"}
    assert len(world.broker.sent()) == 1


async def test_refused_order_fails_in_the_catalogue_s_order(autojump_clock: MockClock) -> None:
    """A refused order is a dead letter: `order_failed` first, then `task_status`."""
    world = World(broker=ScriptedBroker(REFUSED))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
    assert (task.status, task.reason) == (TaskStatus.DEAD_LETTER, Reason.REFUSED)
    assert task.last_error == REFUSED.message
    assert world.store.names() == ["order_failed", "task_status"]


async def test_not_sent_is_retried_with_growing_pauses(autojump_clock: MockClock) -> None:
    """A request that never left is sent again, each time later, under a new tag suffix."""
    world = World(broker=ScriptedBroker(NOT_SENT, NOT_SENT, NOT_SENT, latency=0.0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
    times = [call.at for call in world.broker.calls]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert task.phase is Phase.DONE
    assert task.attempts == 4
    for pause, expected in zip(pauses, (0.5, 1.0, 2.0), strict=True):
        assert 0.79 * expected <= pause <= 1.23 * expected
    assert [call.about[-2:] for call in world.broker.calls] == ["00", "01", "02", "03"]


async def test_attempts_end(autojump_clock: MockClock) -> None:
    """After `max_attempts` sends that did not leave, the task is exhausted."""
    world = World(broker=ScriptedBroker(*[NOT_SENT] * 9), max_attempts=3)
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
    assert task.reason is Reason.EXHAUSTED
    assert task.attempts == len(world.broker.calls) == 3


async def test_rate_limited_waits_as_told(autojump_clock: MockClock) -> None:
    """`Retry-After` of a 429 is honoured."""
    world = World(broker=ScriptedBroker(rate_limited(20.0), latency=0.0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await finished(process, await submit(process))
    first, second = world.broker.calls
    assert second.at - first.at >= 20


async def test_dead_token_spends_no_attempt(autojump_clock: MockClock) -> None:
    """Waiting for a login does not use up the attempts."""
    world = World(broker=ScriptedBroker(*[TOKEN_DEAD] * 4), max_attempts=1)
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
    assert task.phase is Phase.DONE
    assert (task.attempts, task.sends) == (1, 5)


async def test_expires_while_the_gate_is_closed(autojump_clock: MockClock) -> None:
    """An order that could not be sent in time is never sent."""
    world = World(broker=UnreadableBook())
    async with world.process() as process:
        task = await finished(process, await submit(process, market_order()))
        assert task.reason is Reason.EXPIRED
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        world.broker.broken = False
        await trio.sleep(30)
    assert not world.broker.calls
    assert world.store.names() == ["order_failed", "task_status"]


async def test_expires_while_the_limiter_is_full(autojump_clock: MockClock) -> None:
    """An order behind too many others dies at its expiry, unsent."""
    world = World(broker=FakeBroker(), limits=Limits(0, 1, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process)
        late = await finished(process, await submit(process, market_order()))
    assert late.reason is Reason.EXPIRED
    assert len(world.broker.calls) == 1


async def test_expires_while_it_is_being_stored(autojump_clock: MockClock) -> None:
    """A slow database sends no stale order: the last look is just before the first byte."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.store.commit_seconds = lambda: 30.0
        answer = await process.executor.submit_order(ACCOUNT, market_order())
        assert isinstance(answer, Unanswered)
        await trio.sleep(120)
        task = world.store.tasks[answer.name]
    assert task.reason is Reason.EXPIRED
    assert task.attempts == 0
    assert not world.broker.calls


async def test_nothing_is_sent_on_a_short_lease(autojump_clock: MockClock) -> None:
    """Who stood still may have been replaced: it sends once it has the lease for the whole call."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        process.connection.lease = CALL_SECONDS - 0.1
        task = await submit(process)
        await trio.sleep(2)
        assert not world.broker.calls
        process.connection.lease = CALL_SECONDS
        task = await finished(process, task)
    assert (task.status, task.attempts) == (TaskStatus.COMPLETED, 1)
    assert len(world.broker.calls) == 1


async def test_eight_orders_a_second(autojump_clock: MockClock) -> None:
    """A burst goes out at the limit, in order, and none is lost."""
    world = World(broker=FakeBroker(), limits=KITE_LIMITS)
    async with world.process() as process:
        await trio.sleep(OPENED)
        for number in range(40):
            await submit(process, limit_order(f"S{number}"))
        await trio.sleep(10)
    times = [call.at for call in world.broker.calls]
    assert len(times) == 40
    assert all(late - early > 0.99 for early, late in zip(times, times[8:], strict=False))
    symbols = [row.tradingsymbol for row in world.broker.book.values()]
    assert sorted(symbols) == sorted(f"S{number}" for number in range(40))
    assert times[-1] - times[0] < 5


async def test_limit_holds_across_a_restart(autojump_clock: MockClock) -> None:
    """A new process counts what the old one sent."""
    world = World(broker=FakeBroker(), limits=Limits(0, 5, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        for _ in range(5):
            await submit(process)
        await trio.sleep(1)
    async with world.process() as process:
        await submit(process)
        await trio.sleep(30)
        assert len(world.broker.calls) == 5
        await trio.sleep(40)
        assert len(world.broker.calls) == 6


async def test_too_many_unsent_is_overload(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond `MOST_UNSENT` waiting orders, those being stored counted, no more are taken."""
    world = World(broker=UnreadableBook())
    answers: list[object] = []

    async def client() -> None:
        answers.append(await process.executor.submit_order(ACCOUNT, limit_order()))

    monkeypatch.setattr(executor_module, "MOST_UNSENT", 70)
    async with world.process() as process, trio.open_nursery() as nursery:
        for _ in range(3):
            for _ in range(30):
                nursery.start_soon(client)
            await trio.sleep(0.0001)
        await trio.sleep(5)
    assert sum(isinstance(answer, Accepted) for answer in answers) == 70
    assert answers.count(Overloaded()) == 20


async def test_expired_orders_make_room(autojump_clock: MockClock) -> None:
    """Orders that died while waiting do not count as waiting."""
    world = World(broker=UnreadableBook())
    async with world.process() as process:
        await submit(process, market_order())
        await trio.sleep(11)
        (state,) = await process.executor.lanes()
    assert state.unsent == 0
    assert state.unfinished == 0


async def test_nothing_spins_when_idle(autojump_clock: MockClock) -> None:
    """An idle service wakes up only for its reads of the book."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await finished(process, task)
        await wait_all_tasks_blocked()
        before = len(world.broker.reads)
        await trio.sleep(3600)
    assert 100 < len(world.broker.reads) - before < 150


async def test_idle_reads_of_accounts_fall_out_of_step(autojump_clock: MockClock) -> None:
    """Each is 24 to 30 s after the one before, as chance has it: many books do not come at once."""
    world = World(broker=FakeBroker())
    async with world.process():
        await trio.sleep(3600)
    pauses = [later - earlier for earlier, later in pairwise(world.broker.reads)][2:]
    assert len(pauses) > 100
    assert all((1 - JITTER) * IDLE_READ <= pause <= IDLE_READ for pause in pauses)
    assert max(pauses) - min(pauses) > JITTER * IDLE_READ / 2


# Cancelling


async def test_cancels_pass_waiting_orders(autojump_clock: MockClock) -> None:
    """A cancel goes out at once though orders wait for the limit."""
    world = World(broker=FakeBroker(), limits=KITE_LIMITS)
    async with world.process() as process:
        await trio.sleep(OPENED)
        first = await finished(process, await submit(process))
        for _ in range(50):
            await submit(process)
        began = trio.current_time()
        await finished(process, await cancelled(process, first.order_id or ""))
        assert trio.current_time() - began < 0.2
        (state,) = await process.executor.lanes()
    assert state.unsent > 30


async def test_cancels_keep_a_limit_of_their_own(autojump_clock: MockClock) -> None:
    """Sixty cancels at once go out at no more than the broker's 10 a second, all of them."""
    world = World(broker=FakeBroker(), limits=KITE_LIMITS)
    async with world.process() as process:
        await trio.sleep(OPENED)
        tasks = [await submit(process) for _ in range(60)]
        orders = [(await finished(process, task)).order_id or "" for task in tasks]
        await trio.sleep(60)
        world.broker.calls.clear()
        for order_id in orders:
            await cancelled(process, order_id)
        await trio.sleep(20)
    times = [call.at for call in world.broker.calls]
    assert len(times) == 60
    assert all(late - early > 0.99 for early, late in zip(times, times[10:], strict=False))


async def test_modifies_keep_to_the_limit(autojump_clock: MockClock) -> None:
    """Modifications count as requests, and never use what is reserved for cancels."""
    world = World(broker=FakeBroker(), limits=KITE_LIMITS)
    async with world.process() as process:
        await trio.sleep(OPENED)
        tasks = [await submit(process) for _ in range(30)]
        orders = [(await finished(process, task)).order_id or "" for task in tasks]
        await trio.sleep(5)
        world.broker.calls.clear()
        for order_id in orders:
            await modified(process, order_id, price=99.0)
        await trio.sleep(10)
    times = [call.at for call in world.broker.calls]
    assert len(times) == 30
    assert all(late - early > 0.99 for early, late in zip(times, times[8:], strict=False))


async def test_cancel_before_sent_is_never_sent(autojump_clock: MockClock) -> None:
    """A task cancelled while it waits is dead at once, and stays unsent."""
    world = World(broker=UnreadableBook())
    async with world.process() as process:
        task = await submit(process)
        answer = await process.executor.cancel_task(task.task_id)
        assert isinstance(answer, Accepted)
        assert answer.task.reason is Reason.CANCELLED
        world.broker.broken = False
        await trio.sleep(30)
    assert not world.broker.calls


async def test_cancel_while_it_is_being_stored_is_never_sent(autojump_clock: MockClock) -> None:
    """A cancel request that comes between the decision to send and the first byte stops it."""
    world = World(broker=UnreadableBook(), store=MemoryStore(lambda: 0.5))
    async with world.process() as process:
        task = await submit(process)
        world.broker.broken = False
        await until(lambda: process.lane.ledger.tasks[task.task_id].phase is Phase.SENT)
        await process.executor.cancel_task(task.task_id)
        done = await finished(process, task)
    assert done.reason is Reason.CANCELLED
    assert not world.broker.calls


async def test_cancel_after_sent_follows_the_order(autojump_clock: MockClock) -> None:
    """A cancel request for a task under way cancels its order once the order is known."""
    world = World(broker=ReplyLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        answer = await process.executor.cancel_task(task.task_id)
        assert isinstance(answer, Accepted)
        assert answer.task.phase is Phase.SENT
        await finished(process, task)
        await trio.sleep(5)
    assert world.broker.book[world.broker.only()].status == "CANCELLED"
    assert world.store.names()[-1] == "task_status"
    assert "order_cancelled" in world.store.names()


async def test_cancel_of_a_finished_task_cancels_its_order(autojump_clock: MockClock) -> None:
    """A completed task's owner may still not want it: twice asked is asked once."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(process.executor.cancel_task, task.task_id)
        await trio.sleep(5)
        assert not process.lane.ledger.tasks
    assert len(world.broker.sent("cancel")) == 1
    assert world.broker.book[world.broker.only()].status == "CANCELLED"


async def test_cancel_asked_again_while_the_store_is_slow(autojump_clock: MockClock) -> None:
    """A task read back from the store is never taken for newer than what is being written."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        for pause in range(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.executor.cancel_task, task.task_id)
                await trio.sleep(pause / 10_000)
                nursery.start_soon(process.executor.cancel_task, task.task_id)
        await trio.sleep(5)
    assert len(world.broker.sent("cancel")) == 1


async def test_cancel_leaves_what_another_program_still_changes(
    autojump_clock: MockClock,
) -> None:
    """A row saved since this service started is its program's, until the next start."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        saved = msgspec.structs.replace(
            await submit(process, key=None),
            task_id="theirs",
            phase=Phase.QUEUED,
            sends=0,
            attempts=0,
            epoch=process.lane.ledger.epoch,
        )
        world.store.tasks["theirs"] = saved
        answer = await process.executor.cancel_task("theirs")
    assert isinstance(answer, Denied)
    assert answer.code == "not_taken_up"
    assert world.store.tasks["theirs"] is saved


async def test_cancel_of_a_filled_order_is_too_late(autojump_clock: MockClock) -> None:
    """A cancel of an order that filled is a dead letter that says how much filled."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        world.broker.fill(task.order_id or "", push=False)
        cancel = await finished(process, await cancelled(process, task.order_id or ""))
    assert (cancel.phase, cancel.reason) == (Phase.DEAD, Reason.TOO_LATE)
    assert cancel.result is not None
    assert cancel.result["filled_quantity"] == 10
    assert "order_failed" not in world.store.names()


async def test_cancel_is_asked_again_until_the_order_shows_it(autojump_clock: MockClock) -> None:
    """A cancel that was taken without effect is sent again, each time after a later read."""
    world = World(broker=StubbornBroker(ignored=12), max_attempts=3)
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        cancel = await finished(process, await cancelled(process, task.order_id or ""))
    assert cancel.phase is Phase.DONE
    times = [call.at for call in world.broker.sent("cancel")]
    assert len(times) == 13
    for early, late in pairwise(times):
        assert any(early < read < late for read in world.broker.reads)
        assert late - early < 7


async def test_cancel_is_asked_again_though_the_book_lacks_another_order(
    autojump_clock: MockClock,
) -> None:
    """A book that misses some order still tells that this one is open."""
    world = World(broker=StaleBook())
    ignored = [True]

    async def ignore_once(order_id: str, variety: str) -> ChangeOutcome:
        if ignored:
            ignored.pop()
            return Unknown("No reply within 7 s.")
        return await FakeBroker.cancel(world.broker, order_id, variety)

    world.broker.cancel = ignore_once  # type: ignore[method-assign]
    async with world.process() as process:
        await trio.sleep(OPENED)
        other = await finished(process, await submit(process))
        task = await finished(process, await submit(process))
        world.broker.hidden = {other.order_id or ""}
        await trio.sleep(10)
        cancel = await finished(process, await cancelled(process, task.order_id or ""))
    assert cancel.phase is Phase.DONE


async def test_cancel_sent_by_a_dead_process_is_settled_by_the_next(
    autojump_clock: MockClock,
) -> None:
    """A cancel stored just before a kill finds its order filled, and is not asked for ever."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        order_id = task.order_id or ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ignoring_death, process.executor.cancel_order, ACCOUNT, order_id)
            await trio.sleep(0.0015)  # stored, not yet taken up
            process.kill()
    assert [task.phase for task in world.store.tasks.values()].count(Phase.QUEUED) == 1
    view = world.store.orders[ACCOUNT, order_id]
    filled = msgspec.structs.replace(
        view.order, status="COMPLETE", filled_quantity=10, average_price=100.0
    )
    world.store.orders[ACCOUNT, order_id] = msgspec.structs.replace(view, order=filled)
    world.broker.book[order_id] = filled
    async with world.process():
        await trio.sleep(30)
    (cancel,) = (task for task in world.store.tasks.values() if task.operation == "cancel_order")
    assert cancel.reason is Reason.TOO_LATE
    assert not world.broker.sent("cancel")


async def _ignoring_death(ask: Any, *values: Any) -> None:  # noqa: ANN401  # any question
    with trio.move_on_after(5):
        try:
            await ask(*values)
        except Stopped:
            return


async def test_cancel_of_an_unknown_order_is_not_found(autojump_clock: MockClock) -> None:
    """Only orders of the day's view can be changed, and only known tasks cancelled."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        assert await process.executor.cancel_order(ACCOUNT, "1") == NotFound()
        assert await process.executor.cancel_task("task_1") == NotFound()


async def test_cancelled_modify_leaves_the_order_alone(autojump_clock: MockClock) -> None:
    """Who takes back a modification does not lose the order."""
    world = World(broker=FakeBroker(latency=1.0))
    async with world.process() as process:
        await trio.sleep(3)
        task = await finished(process, await submit(process))
        change = await modified(process, task.order_id or "", price=99.0)
        await process.executor.cancel_task(change.task_id)
        await trio.sleep(30)
    assert world.broker.book[world.broker.only()].status == "OPEN"
    assert not world.broker.sent("cancel")


# Modifying


async def test_modify_is_done_when_the_order_shows_it(autojump_clock: MockClock) -> None:
    """A modification is completed by the order, not by the reply."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        change = await finished(process, await modified(process, task.order_id or "", price=99.0))
    assert change.phase is Phase.DONE
    assert world.broker.book[world.broker.only()].price == 99.0
    assert world.store.names()[-2:] == ["order_updated", "task_status"]


async def test_later_modify_takes_the_place_of_one_not_sent(autojump_clock: MockClock) -> None:
    """Of modifications that wait only the newest is sent; the others end as superseded."""
    world = World(broker=FakeBroker(latency=1.0))
    async with world.process() as process:
        await trio.sleep(3)
        order_id = (await finished(process, await submit(process))).order_id or ""
        first = await modified(process, order_id, price=91.0)
        second = await modified(process, order_id, price=92.0)
        third = await modified(process, order_id, price=93.0)
        assert (await finished(process, third)).phase is Phase.DONE
        assert (await finished(process, second)).reason is Reason.SUPERSEDED
        assert (await finished(process, first)).phase is Phase.DONE
    assert len(world.broker.sent("modify")) == 2
    assert world.broker.book[order_id].price == 93.0


async def test_refused_modify_is_dead(autojump_clock: MockClock) -> None:
    """A modification that the broker refuses changes nothing."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        world.broker.fill(order_id, push=False)
        change = await finished(process, await modified(process, order_id, price=99.0))
    assert change.reason is Reason.REFUSED
    assert "order_failed" not in world.store.names()


async def test_modify_waits_for_the_gate(autojump_clock: MockClock) -> None:
    """Before a valid read nothing goes out but cancels."""
    world = World(broker=UnreadableBook())
    world.broker.broken = False
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        other_id = (await finished(process, await submit(process))).order_id or ""
    world.broker.broken = True
    async with world.process() as process:
        await modified(process, order_id, price=99.0)
        await cancelled(process, other_id)
        await trio.sleep(5)
        assert len(world.broker.sent("cancel")) == 1
        assert not world.broker.sent("modify")
        world.broker.broken = False
        await trio.sleep(5)
    assert world.broker.book[order_id].price == 99.0


# Reports of orders, in any order


class UpdateFirst(FakeBroker):
    """Its feed is faster than its reply."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        self.note("place", tag)
        order_id = self.accept(order, tag)
        self.push(self.book[order_id])
        self.fill(order_id)
        await trio.sleep(1)
        return Placed(order_id)


async def test_update_before_the_reply(autojump_clock: MockClock) -> None:
    """An order is known by its tag before its reply comes; the reply then tells nothing new."""
    world = World(broker=UpdateFirst())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        assert trio.current_time() < 1
        await trio.sleep(5)
        assert not process.lane.ledger.tasks
    assert task.result is not None
    assert task.result["found_by"] == "feed"
    # Both updates came together: the task's own event follows those of its order.
    assert world.store.names() == ["order_placed", "order_completed", "task_status"]


async def test_a_gap_in_the_feed_is_told_in_its_place(autojump_clock: MockClock) -> None:
    """Updates that came together are written together, but not with a gap that they followed."""
    world = World(broker=FakeBroker())
    broker = world.broker
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        broker.push(FeedLost("It broke."))
        broker.push(FeedBack())
        broker.fill(order_id, 3)
        broker.fill(order_id)
        broker.push(FeedLost("It broke again."))
        await trio.sleep(1)
    assert world.store.names()[2:] == [
        "account_status",
        "account_status",
        "order_updated",
        "order_completed",
        "account_status",
    ]
    assert len({at for at, change in world.store.history if change.orders}) == 2


async def test_updates_are_told_once_and_in_order(autojump_clock: MockClock) -> None:
    """Duplicates and late partial fills tell nothing; fills never shrink."""
    world = World(broker=FakeBroker())
    broker = world.broker
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        rows: list[BrokerOrder] = []
        for quantity in (3, 7, 10):
            broker.fill(order_id, quantity, push=False)
            rows.append(broker.book[order_id])
        for row in (rows[1], rows[1], rows[0], rows[2], rows[1], rows[2]):
            broker.push(row)
        await trio.sleep(60)
    assert world.store.names() == [
        "order_placed",
        "task_status",
        "order_updated",
        "order_completed",
    ]
    assert [event.order_version for event in world.store.events] == [1, None, 2, 3]


async def test_first_sight_of_a_filled_order_tells_it_was_placed_first(
    autojump_clock: MockClock,
) -> None:
    """Whatever the first report shows, `order_placed` comes first, `task_status` last."""
    world = World(broker=ReplyLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await trio.sleep(0.1)
        world.broker.fill(world.broker.only(), push=False)
        await finished(process, task)
    resolving, *rest = world.store.names()
    assert resolving == "task_status"
    assert rest == ["order_placed", "order_completed", "task_status"]


async def test_orders_of_others_are_left_alone(autojump_clock: MockClock) -> None:
    """Rows without our tag make no event and no task."""
    world = World(broker=FakeBroker())
    world.broker.accept(limit_order(), "1XYZ" + "0" * 16)
    world.broker.accept(limit_order(), "mine")
    async with world.process():
        await trio.sleep(60)
    assert not world.store.events


async def test_order_with_our_tag_but_no_task_stops_nothing(autojump_clock: MockClock) -> None:
    """A row that carries our installation but no known intent is reported and looked up once."""
    world = World(broker=FakeBroker())
    world.broker.accept(limit_order(), "1ABC" + "0" * 16)
    async with world.process() as process:
        await trio.sleep(60)
        task = await finished(process, await submit(process))
    assert task.phase is Phase.DONE


async def test_another_accounts_task_is_not_written(autojump_clock: MockClock) -> None:
    """Though its order is in our book, as when two accounts are one at the broker."""
    other = World(broker=FakeBroker())
    async with other.process() as process:
        task = await finished(process, await submit(process))
    world = World(broker=other.broker, chance=Random(2).getrandbits)
    theirs = msgspec.structs.replace(
        task, account_id="second", phase=Phase.DEAD, reason=Reason.UNRESOLVED, order_id=None
    )
    world.store.epochs["second"] = 1
    world.store.write(Change(account_id="second", tasks=(theirs,)), 1)
    async with world.process() as process:
        await trio.sleep(60)
        await finished(process, await submit(process))
    assert world.store.tasks[task.task_id] == theirs


# The gate, the book and the feed


async def test_nothing_is_sent_before_a_valid_read(autojump_clock: MockClock) -> None:
    """The gate opens with the first valid read of the book, and then orders go."""
    world = World(broker=UnreadableBook())
    async with world.process() as process:
        await submit(process)
        await trio.sleep(60)
        assert not world.broker.calls
        (state,) = await process.executor.lanes()
        assert not state.gate_open
        assert state.last_read_error == "502 Bad Gateway"
        assert state.unread_seconds == pytest.approx(60, abs=1)
        world.broker.broken = False
        await trio.sleep(3)
        assert len(world.broker.calls) == 1
        (state,) = await process.executor.lanes()
        assert state.gate_open
        assert state.unread_seconds == 0


async def test_gate_opens_for_a_full_limiter(autojump_clock: MockClock) -> None:
    """Orders go out when the limit allows, though the gate opened while it was used up."""
    world = World(broker=FakeBroker(), limits=Limits(0, 1, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process)
        await trio.sleep(1)
        waiting = await submit(process)
    async with world.process() as process:
        await finished(process, waiting)
        assert trio.current_time() < 62


async def test_book_that_misses_a_known_order_opens_no_gate(autojump_clock: MockClock) -> None:
    """A stale book is named as such, and nothing is sent on its word."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
    world.broker.hidden = {order_id}
    async with world.process() as process:
        await submit(process)
        await trio.sleep(30)
        (state,) = await process.executor.lanes()
        assert not state.gate_open
        assert state.missing == (order_id,)
        assert len(world.broker.calls) == 1
        world.broker.hidden = set()
        await trio.sleep(3)
    assert len(world.broker.calls) == 2


async def test_absence_needs_a_horizon_and_three_reads(autojump_clock: MockClock) -> None:
    """With a known order in the book, absence is proved after 120 s and three reads 5 s apart."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await finished(process, await submit(process))
        await trio.sleep(10)
        world.broker.place = RequestLostBroker.place.__get__(world.broker)  # type: ignore[method-assign]
        began = trio.current_time()
        task = await finished(process, await submit(process))
        assert task.reason is Reason.NOT_PLACED_PROVED
        assert 7 + 120 + 10 <= trio.current_time() - began < 7 + 120 + 20
        assert "order_failed" in world.store.names()


async def test_absence_on_an_empty_book_needs_five_horizons(autojump_clock: MockClock) -> None:
    """An empty book may be a wrong one: it is believed only after 600 s and five reads."""
    world = World(broker=RequestLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        assert task.reason is Reason.NOT_PLACED_PROVED
        assert 7 + 600 + 20 <= trio.current_time() < 7 + 600 + 40


async def test_unreadable_book_proves_nothing(autojump_clock: MockClock) -> None:
    """While the book cannot be read, an unknown order stays unknown."""
    world = World(broker=RequestLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        world.broker.orders = UnreadableBook().orders  # type: ignore[method-assign]
        await trio.sleep(900)
        assert world.store.tasks[task.task_id].phase is Phase.RESOLVING


async def test_restart_watches_what_was_resolving(autojump_clock: MockClock) -> None:
    """A second and a third process go on resolving; none sends again."""
    world = World(broker=RequestLostBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await trio.sleep(10)
    for _ in range(2):
        async with world.process():
            await trio.sleep(5)
    rows = len(world.store.history)
    async with world.process() as process:
        await trio.sleep(5)
        assert len(world.store.history) == rows
        done = await finished(process, task)
    assert done.reason is Reason.NOT_PLACED_PROVED
    assert len(world.broker.calls) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_late_order_corrects_the_dead(autojump_clock: MockClock, restart: bool) -> None:  # noqa: FBT001
    """An order that appears after its absence was proved completes its task, with an incident."""
    world = World(broker=LateOrderBroker(seconds=800))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        assert task.reason is Reason.NOT_PLACED_PROVED
        if not restart:
            await trio.sleep(300)
    if restart:
        async with world.process():
            await trio.sleep(300)
    corrected = world.store.tasks[task.task_id]
    assert corrected.phase is Phase.DONE
    assert corrected.order_id == world.broker.only()
    assert corrected.reason is None
    assert [name for name in world.store.names() if name != "task_status"] == [
        "order_failed",
        "order_placed",
        "order_incident",
    ]
    assert world.broker.book[world.broker.only()].status == "OPEN"


async def test_late_order_of_a_cancelled_task_is_cancelled(autojump_clock: MockClock) -> None:
    """A late order obeys the last wish of its owner, even one made after the task had died."""
    world = World(broker=LateOrderBroker(seconds=800))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        await process.executor.cancel_task(task.task_id)
    async with world.process():
        await trio.sleep(300)
    assert world.broker.book[world.broker.only()].status == "CANCELLED"


async def test_second_order_of_one_intent_is_an_incident(autojump_clock: MockClock) -> None:
    """Should an intent ever show two orders, an incident tells of it and the first one stays."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        again = (task.broker_tag or "")[:-1] + "7"
        world.broker.accept(limit_order(), again)
        await trio.sleep(60)
        assert not process.lane.ledger.tasks
    (incident,) = data(world.store, "order_incident")
    assert incident["task_id"] == task.task_id
    assert world.store.tasks[task.task_id].order_id == task.order_id
    assert len(world.store.orders) == 2


async def test_day_roll_ends_in_unresolved(autojump_clock: MockClock) -> None:
    """An unknown order whose day ends without proof is told as unresolved, not as failed."""
    world = World(broker=RequestLostBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        assert trio.current_time() == pytest.approx(60, abs=1)
    assert task.reason is Reason.UNRESOLVED
    assert task.may_be_at_broker
    assert "order_unresolved" in world.store.names()
    assert "order_failed" not in world.store.names()


async def test_reply_lost_over_midnight_is_unresolved_at_once(autojump_clock: MockClock) -> None:
    """What was sent before midnight and is unknown after it does not wait a day to be told."""
    world = World(broker=RequestLostBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(57)
        task = await finished(process, await submit(process))
        assert trio.current_time() < 70
    assert task.reason is Reason.UNRESOLVED


async def test_restart_on_the_next_day_ends_yesterday_s_unknowns(autojump_clock: MockClock) -> None:
    """A process that starts on a later day does not look for an order in the wrong book."""
    world = World(broker=SilentBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await trio.sleep(1)
    await trio.sleep(7200)
    async with world.process():
        await trio.sleep(5)
    assert world.store.tasks[task.task_id].reason is Reason.UNRESOLVED
    assert len(world.broker.calls) == 1


async def test_after_market_order_outlives_midnight(autojump_clock: MockClock) -> None:
    """An unknown AMO is looked for in the next session's book as well."""
    world = World(broker=LateOrderBroker(seconds=3600), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process, limit_order(variety="amo")))
    assert task.phase is Phase.DONE
    assert "order_unresolved" not in world.store.names()


@pytest.mark.parametrize("broker", [LostFeed, EndedFeed])
async def test_without_a_feed_the_book_shows_fills(
    autojump_clock: MockClock, broker: type[FakeBroker]
) -> None:
    """While the feed is lost, fills are seen within about two seconds, by reading."""
    world = World(broker=broker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(60)
        world.broker.fill(order_id)
        filled_at = trio.current_time()
        await until(lambda: "order_completed" in world.store.names())
        assert trio.current_time() - filled_at < 3
        (state,) = await process.executor.lanes()
        assert not state.feed_up
    (status,) = data(world.store, "account_status")
    assert status["state"] == "feed_lost"


async def test_feed_is_closed_by_its_reader(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stops listening closes what it listened to, so that its connection goes down too."""
    closed: list[bool] = []

    class Connected:
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> FeedItem:
            await trio.sleep_forever()

        async def aclose(self) -> None:
            closed.append(True)

    process = Process(World(broker=SilentFeed()))
    monkeypatch.setattr(process.line, "updates", Connected)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run)
        await trio.sleep(OPENED)
        assert closed == []
        process.lane.stop()
        await wait_all_tasks_blocked()
        assert closed == [True]
        process.kill()


async def test_feed_is_closed_when_a_decision_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that is between two items is closed too when its reader breaks."""
    closed: list[bool] = []

    async def generated() -> AsyncGenerator[FeedItem]:
        try:
            yield FeedLost("Connection reset.")
        finally:
            closed.append(True)

    class BugError(Exception):
        pass

    def broken(*args: object, **kwargs: object) -> None:
        assert not closed
        raise BugError

    world = World(broker=SilentFeed())
    process = Process(world)
    monkeypatch.setattr(process.line, "updates", generated)
    monkeypatch.setattr(Lane, "_turn_feed", broken)
    with pytest.RaisesGroup(BugError, flatten_subgroups=True, allow_unwrapped=True):
        await process.run()
    assert closed == [True]


async def test_silent_feed_is_made_good_by_the_book(autojump_clock: MockClock) -> None:
    """A fill that the feed never told is read from the book within half a minute."""
    world = World(broker=SilentFeed())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(60)
        world.broker.fill(order_id)
        await trio.sleep(32)
    assert world.store.names()[-1] == "order_completed"


async def test_feed_that_comes_back_is_caught_up(autojump_clock: MockClock) -> None:
    """What was missed while the feed was down is read at once when it is back."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(60)
        world.broker.push(FeedLost("Connection reset."))
        world.broker.push(FeedLost("Connection reset."))
        await trio.sleep(0.1)
        world.broker.fill(order_id, push=False)
        world.broker.push(FeedBack())
        await trio.sleep(2)
    states = [status["state"] for status in data(world.store, "account_status")]
    assert states == ["feed_lost", "feed_back"]
    assert "order_completed" in world.store.names()


async def test_stream_goes_on_without_a_gap_after_recovery(autojump_clock: MockClock) -> None:
    """What the recovery itself tells is before the head that a new stream client is given."""
    world = World(broker=SilentBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process)
        await trio.sleep(1)
    async with world.process() as process:
        await trio.sleep(1)
        head = await live(process.hub, Subscription(ACCOUNT, OpenSocket()))
        assert head == len(world.store.events) == 1


# Batches


async def test_batch_succeeds_leg_by_leg(autojump_clock: MockClock) -> None:
    """Each leg is sent when the one before stands in the book; then the batch has succeeded."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch_id = await batched(process, limit_order("A"), limit_order("B"), limit_order("C"))
        answer = await batch_answer(process, batch_id)
    assert [row.tradingsymbol for row in world.broker.book.values()] == ["A", "B", "C"]
    assert (answer["state"], answer["success"]) == ("succeeded", True)
    assert (answer["succeeded"], answer["failed"], answer["unknown"]) == (3, 0, 0)
    assert answer["error"] is None
    (status,) = data(world.store, "batch_status")
    assert status["batch_id"] == batch_id
    assert world.store.names()[-1] == "batch_status"


async def test_first_leg_is_sent_by_the_transaction_of_its_batch(autojump_clock: MockClock) -> None:
    """One commit stores the batch, its legs and the first one's send: nothing waits for another."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await batch_answer(process, await batched(process, limit_order("A"), limit_order("B")))
    first, *_ = [change for _, change in world.store.history if change.batches]
    assert [task.phase for task in first.tasks] == [Phase.SENT, Phase.PLANNED]
    assert [attempt.task_id for attempt in first.attempts] == [first.tasks[0].task_id]
    assert len(world.broker.sent()) == 2


async def fill_soon(broker: FakeBroker) -> None:
    """Fill every order 2 ms after it stands in the book."""
    while True:
        for order_id in [row.order_id for row in broker.book.values() if row.status == "OPEN"]:
            await trio.sleep(0.002)
            broker.fill(order_id)
        await trio.sleep(0.0005)


def commits_of(store: MemoryStore, task_id: str) -> list[float]:
    """When something was written of a task."""
    return [
        at for at, change in store.history if task_id in [task.task_id for task in change.tasks]
    ]


async def test_a_leg_that_went_well_is_written_with_the_next_step(
    autojump_clock: MockClock,
) -> None:
    """Only its fill sends the next leg, so its reply waits for that: one transaction a leg."""
    world = World(broker=FakeBroker())
    async with world.process() as process, trio.open_nursery() as nursery:
        await trio.sleep(OPENED)
        nursery.start_soon(fill_soon, world.broker)
        orders = limit_order("A"), limit_order("B"), limit_order("C")
        batch_id = await batched(process, *orders)
        answer = await batch_answer(process, batch_id)
        nursery.cancel_scope.cancel()
    assert answer["state"] == "succeeded"
    legs = world.store.batches[batch_id].task_ids
    first, second, third = (commits_of(world.store, leg) for leg in legs)
    assert first[-1] == second[-2]  # the end of one, and the intent of the next
    assert second[-1] == third[-2]


async def test_a_leg_whose_end_somebody_waits_for_is_written_at_once(
    autojump_clock: MockClock,
) -> None:
    """News wait for others only as long as nobody waits for them."""
    ended: list[float] = []
    for waited_for in (False, True):
        world = World(broker=FakeBroker(latency=0.5))
        async with world.process() as process, trio.open_nursery() as nursery:
            await trio.sleep(OPENED)
            batch_id = await batched(process, limit_order("A"), limit_order("B"))
            leg = world.store.batches[batch_id].task_ids[0]
            if waited_for:
                nursery.start_soon(process.executor.finished_task, leg)
            await batch_answer(process, batch_id)
        ended.append(commits_of(world.store, leg)[-1] - world.broker.sent()[0].at)
    assert ended[0] - ended[1] == pytest.approx(NEWS_SECONDS)


async def test_no_leg_is_sent_before_the_gate_opens(autojump_clock: MockClock) -> None:
    """A batch that comes before the first read of the book is only planned; then it goes out."""
    world = World(broker=FakeBroker(latency=0.5))
    async with world.process() as process:
        batch_id = await batched(process, limit_order("A"), limit_order("B"))
        assert not world.broker.sent()
        answer = await batch_answer(process, batch_id)
    first, *_ = [change for _, change in world.store.history if change.batches]
    assert [task.phase for task in first.tasks] == [Phase.PLANNED, Phase.PLANNED]
    assert answer["state"] == "succeeded"


async def test_batch_of_a_used_key_uses_up_nothing(autojump_clock: MockClock) -> None:
    """Of batches that turn out to be one, only that one's legs count against the limits."""
    world = World(broker=FakeBroker(), limits=Limits(10, 0, 1000))
    key = ClientKey("k", "hash")
    async with world.process() as process:
        await trio.sleep(OPENED)
        before = process.lane.state().left_today
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(
                    lambda: batched(process, limit_order("A"), limit_order("B"), key=key)
                )
        await trio.sleep(5)
        assert before is not None
        assert process.lane.state().left_today == before - 2
        assert process.lane.ledger.taken_today(process.lane.now()) == 2
        assert not process.lane.ledger.tasks
    assert len(world.broker.sent()) == 2


async def test_place_that_a_replay_gives_back_is_used(autojump_clock: MockClock) -> None:
    """An order that waited for a place in the limits goes as soon as a replayed batch frees one."""
    world = World(broker=FakeBroker(), limits=Limits(0, 3, 0))
    key = ClientKey("k", "hash")
    async with world.process() as process:
        await trio.sleep(OPENED)
        await batch_answer(process, await batched(process, limit_order("A"), key=key))
        world.store.commit_seconds = lambda: 0.5
        tasks: list[OrderTask] = []

        async def order() -> None:
            tasks.append(await submit(process, market_order("B")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.executor.cancel_order, ACCOUNT, world.broker.only())
            await trio.sleep(0.1)  # its commit is under way: the next two share one
            nursery.start_soon(lambda: batched(process, limit_order("A"), key=key))
            await trio.sleep(0.1)
            nursery.start_soon(order)
        done = await finished(process, tasks[0])
        assert (done.phase, done.reason) == (Phase.DONE, None)


async def test_failed_leg_rolls_the_batch_back(autojump_clock: MockClock) -> None:
    """When a leg is rejected, the legs before it are cancelled, and those after never sent."""
    world = World(broker=RejectingBroker("C"))
    async with world.process() as process:
        await trio.sleep(OPENED)
        orders = [limit_order(symbol) for symbol in "ABCD"]
        answer = await batch_answer(process, await batched(process, *orders))
        assert not process.lane.ledger.tasks
    assert len(world.broker.sent()) == 3
    assert {row.tradingsymbol: row.status for row in world.broker.book.values()} == {
        "A": "CANCELLED",
        "B": "CANCELLED",
        "C": "REJECTED",
    }
    assert (answer["state"], answer["success"]) == ("rolled_back", False)
    assert (answer["succeeded"], answer["failed"], answer["unknown"]) == (0, 4, 0)
    assert answer["error"] == "Order 2 failed: Insufficient funds. Rolled back 2 orders."


async def test_filled_leg_is_named_as_residual(autojump_clock: MockClock) -> None:
    """What has filled cannot be rolled back: it is named with quantity and price."""

    class FillingFirst(RejectingBroker):
        def accept(self, order: PlaceOrder, tag: str, status: str = "OPEN") -> str:
            order_id = super().accept(order, tag, status)
            if order.tradingsymbol == "A":
                self.fill(order_id)
            return order_id

    world = World(broker=FillingFirst("B"))
    async with world.process() as process:
        await trio.sleep(OPENED)
        answer = await batch_answer(
            process, await batched(process, limit_order("A"), limit_order("B"))
        )
    assert answer["state"] == "rolled_back_with_residual"
    (rest,) = answer["residual"]
    assert (rest["leg"], rest["quantity"], rest["average_price"]) == (0, 10, 100.0)
    assert not world.broker.sent("cancel")
    assert "BUY 10 A at 100.00" in answer["error"]


class LateForB(LateOrderBroker):
    """Orders of the symbol B are late; others rest."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if order.tradingsymbol == "B":
            return await super().place(order, tag)
        return await FakeBroker.place(self, order, tag)


async def test_unknown_leg_delays_only_the_finish(autojump_clock: MockClock) -> None:
    """An unknown leg decides the rollback; known legs are cancelled now, it when it appears."""
    world = World(broker=LateForB(seconds=60))
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch_id = await batched(process, limit_order("A"), limit_order("B"), limit_order("C"))
        await trio.sleep(9)
        assert world.broker.book[world.broker.only()].status == "CANCELLED"
        under_way = await process.executor.batch(batch_id)
        assert under_way is not None
        assert under_way["state"] == "rolling_back"
        answer = await batch_answer(process, batch_id)
    statuses = {row.tradingsymbol: row.status for row in world.broker.book.values()}
    assert statuses == {"A": "CANCELLED", "B": "CANCELLED"}
    assert answer["state"] == "rolled_back"


async def test_leg_that_never_appears_fails_the_batch(autojump_clock: MockClock) -> None:
    """A leg whose absence is proved counts as failed, and the batch ends rolled back."""
    world = World(broker=LateForB(seconds=1_000_000))
    async with world.process() as process:
        await trio.sleep(OPENED)
        answer = await batch_answer(
            process, await batched(process, limit_order("A"), limit_order("B"))
        )
    assert (answer["state"], answer["failed"], answer["unknown"]) == ("rolled_back", 2, 0)


async def test_leg_that_does_not_settle_is_late(autojump_clock: MockClock) -> None:
    """A leg that the exchange has not confirmed in five seconds fails the batch."""
    world = World(broker=RegisteringBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        began = trio.current_time()
        answer = await batch_answer(
            process, await batched(process, limit_order("A"), limit_order("B"))
        )
        assert 5 <= trio.current_time() - began < 7
    assert answer["state"] == "rolled_back"
    assert "was not in the order book within 5 s" in answer["error"]
    assert len(world.broker.sent()) == 1


async def test_leg_that_waits_too_long_is_never_sent(autojump_clock: MockClock) -> None:
    """A leg whose turn has come but that the limit holds back for five seconds is given up."""
    world = World(broker=FakeBroker(), limits=Limits(0, 1, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        answer = await batch_answer(
            process, await batched(process, limit_order("A"), limit_order("B"))
        )
        assert trio.current_time() < 8
        await trio.sleep(120)
    assert len(world.broker.sent()) == 1
    assert answer["state"] == "rolled_back"


async def test_without_rollback_the_other_legs_go_on(autojump_clock: MockClock) -> None:
    """A failed leg is told, and the rest of the batch is placed."""
    world = World(broker=RejectingBroker("B"))
    async with world.process() as process:
        await trio.sleep(OPENED)
        orders = [limit_order(symbol) for symbol in "ABC"]
        answer = await batch_answer(process, await batched(process, *orders, rollback=False))
    assert (answer["state"], answer["succeeded"], answer["failed"]) == ("partly_succeeded", 2, 1)
    assert answer["error"] == "Order 1 failed: Insufficient funds."
    statuses = [row.status for row in world.broker.book.values()]
    assert statuses == ["OPEN", "REJECTED", "OPEN"]


async def test_batches_of_one_key_are_one(autojump_clock: MockClock) -> None:
    """Ten submissions of a batch at one instant make one batch, and all are told its id."""
    world = World(broker=FakeBroker())
    found: list[str] = []

    async def client() -> None:
        key = ClientKey("k", "hash")
        found.append(await batched(process, limit_order("A"), limit_order("B"), key=key))

    async with world.process() as process:
        await trio.sleep(OPENED)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client)
        await batch_answer(process, found[0])
        await client()
    assert len(set(found)) == 1
    assert len(world.broker.sent()) == 2


async def test_restart_goes_on_placing(autojump_clock: MockClock) -> None:
    """A batch interrupted between two legs is finished by the next process, each leg once."""
    world = World(broker=FakeBroker(latency=0.5))
    async with world.process() as process:
        await trio.sleep(1)
        batch_id = await batched(process, limit_order("A"), limit_order("B"), limit_order("C"))
        await until(lambda: len(world.broker.book) == 2)
    async with world.process() as process:
        answer = await batch_answer(process, batch_id)
    assert answer["state"] == "succeeded"
    assert sorted(row.tradingsymbol for row in world.broker.book.values()) == ["A", "B", "C"]


async def test_long_outage_stops_a_batch(autojump_clock: MockClock) -> None:
    """A batch that stood still for half a minute sends no further leg."""
    world = World(broker=FakeBroker(latency=0.5))
    async with world.process() as process:
        await trio.sleep(1)
        batch_id = await batched(process, limit_order("A"), limit_order("B"))
        await until(lambda: bool(world.broker.book))
        await trio.sleep(0.01)
    await trio.sleep(40)
    async with world.process() as process:
        answer = await batch_answer(process, batch_id)
    assert answer["state"] == "rolled_back"
    assert len(world.broker.sent()) == 1


async def test_restart_goes_on_rolling_back(autojump_clock: MockClock) -> None:
    """A decided rollback survives any number of kills, those of its own recovery among them."""
    world = World(broker=RejectingBroker("C", latency=0.5))
    async with world.process() as process:
        await trio.sleep(1)
        batch_id = await batched(process, *[limit_order(symbol) for symbol in "ABCD"])
        await until(lambda: world.store.batches[batch_id].state == "rolling_back")
    for life in (0.001, 0.01, 0.1, 0.6, 0.9):
        process = Process(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            await trio.sleep(life)
            process.kill()
    async with world.process() as process:
        answer = await batch_answer(process, batch_id)
    assert answer["state"] == "rolled_back"
    assert {row.tradingsymbol: row.status for row in world.broker.book.values()} == {
        "A": "CANCELLED",
        "B": "CANCELLED",
        "C": "REJECTED",
    }
    assert data(world.store, "batch_status") == [answer | {"event": "batch_status"}]


@pytest.mark.parametrize("restart", [False, True])
async def test_rollback_over_midnight_ends(
    autojump_clock: MockClock,
    restart: bool,  # noqa: FBT001
) -> None:
    """A leg that is open when its day ends is told as unknown: no book will tell more of it."""
    world = World(broker=RejectingBroker("B"), clock=TrioClock(EVENING))
    world.broker.cancel = StubbornBroker(ignored=10_000).cancel  # type: ignore[method-assign]
    async with world.process() as process:
        await trio.sleep(50)
        batch_id = await batched(process, limit_order("A"), limit_order("B"))
        await trio.sleep(5 if restart else 60)
    if restart:
        await trio.sleep(3600)
        async with world.process():
            await trio.sleep(5)
    answer = world.store.batches[batch_id].answer
    assert answer is not None
    assert answer["state"] == "rolled_back_with_residual"
    assert "Order 0 may be at the broker" in answer["error"]
    assert all(task.finished for task in world.store.tasks.values())


async def test_legs_over_midnight_end_the_batch(autojump_clock: MockClock) -> None:
    """A batch whose unknown leg's day ends is told with that leg unknown."""
    world = World(broker=LateForB(seconds=1_000_000), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        answer = await batch_answer(
            process, await batched(process, limit_order("A"), limit_order("B"))
        )
    assert answer["state"] == "rolled_back_with_residual"
    assert answer["unknown"] == 1
    assert "Order 1 may be at the broker" in answer["error"]


# Waiting and stopping


async def test_waiting_for_what_is_not_under_way_is_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    """There is nothing to wait for when a task or batch has ended or never was."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await finished(process, task)
        assert await process.executor.finished_task(task.task_id) is None
        assert await process.executor.finished_batch("none") is None
        assert await process.executor.batch("none") is None


async def test_waiting_for_a_leg_that_has_ended(autojump_clock: MockClock) -> None:
    """A leg that is done is told at once, though its batch still goes on."""
    world = World(broker=LateForB(seconds=1_000_000))
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch_id = await batched(process, limit_order("A"), limit_order("B"), rollback=False)
        await trio.sleep(3)
        leg = world.store.batches[batch_id].task_ids[0]
        with trio.fail_after(1):
            task = await process.executor.finished_task(leg)
        assert task is not None
        assert task.phase is Phase.DONE


async def test_draining_lets_calls_finish_and_sends_nothing_new(autojump_clock: MockClock) -> None:
    """Closing the mailboxes stops sending; what is out comes back and is stored."""
    world = World(broker=FakeBroker(latency=3.0), limits=Limits(0, 1, 0))
    connection = Process(world)
    async with (
        running(connection.hub, drain=5),
        running(connection.persistence, drain=5),
        running(connection.executor, drain=8) as executor,
    ):
        await trio.sleep(4)
        sent = await submit(connection)
        waiting = await submit(connection)
        await trio.sleep(1)
        batch = await executor.submit_batch(ACCOUNT, (limit_order(),), rollback_on_failure=True)
        assert isinstance(batch, AcceptedBatch)
        began = trio.current_time()
    assert trio.current_time() - began < 3
    assert world.store.tasks[sent.task_id].phase is Phase.DONE
    assert world.store.tasks[waiting.task_id].phase is Phase.QUEUED
    assert len(world.broker.calls) == 1


async def test_drain_is_quick_when_idle(autojump_clock: MockClock) -> None:
    """An idle service stops at once, waiters and all: they are told that it has stopped."""
    world = World(broker=SilentFeed())
    process = Process(world)
    stopped: list[str] = []

    async def wait(task: OrderTask) -> None:
        with pytest.raises(Stopped):
            await process.executor.finished_task(task.task_id)
        stopped.append(task.task_id)

    async with trio.open_nursery() as nursery:
        world.broker.orders = UnreadableBook().orders  # type: ignore[method-assign]
        async with (
            running(process.hub, drain=5),
            running(process.persistence, drain=5),
            running(process.executor, drain=8),
        ):
            nursery.start_soon(wait, await submit(process))
            await trio.sleep(0.5)
            began = trio.current_time()
    assert trio.current_time() - began < 0.1
    assert len(stopped) == 1


async def test_answer_of_a_slow_call_after_the_order_is_known(autojump_clock: MockClock) -> None:
    """A refusal of a request whose order exists changes nothing, and is told as an incident."""

    class SeenThenRefused(FakeBroker):
        async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
            self.note("place", tag)
            self.push(self.book[self.accept(order, tag)])
            await trio.sleep(1)
            return Refused("OrderException", "Try again.")

    world = World(broker=SeenThenRefused())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        await trio.sleep(5)
        assert not process.lane.ledger.tasks
    assert world.store.tasks[task.task_id].phase is Phase.DONE
    assert len(data(world.store, "order_incident")) == 1


async def test_stale_process_cannot_write(autojump_clock: MockClock) -> None:
    """Once another process has taken the account over, the old one's next commit fails."""
    world = World(broker=FakeBroker())
    old = Process(world)

    async def overlap() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.run)
            await old.ready.wait()
            await trio.sleep(OPENED)
            nursery.start_soon(Process(world).run)
            await trio.sleep(OPENED)
            nursery.start_soon(submit, old)
            await trio.sleep(5)

    with pytest.raises(BaseExceptionGroup) as caught:
        await overlap()
    assert caught.group_contains(StaleEpochError)
    assert not world.broker.calls


# The wall clock is set


async def test_clock_set_back_keeps_no_order_fresh(autojump_clock: MockClock) -> None:
    """Orders that wait die of age though the wall clock tells an earlier hour again."""
    world = World(broker=FakeBroker(), limits=Limits(1, 0, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        tasks = [await submit(process, market_order(f"S{number}")) for number in range(25)]
        world.clock.set_by = -HOUR
        ended = [await finished(process, task) for task in tasks]
        assert trio.current_time() == pytest.approx(10, abs=0.5)
        await trio.sleep(30)
    assert [task.reason for task in ended] == [None] * 11 + [Reason.EXPIRED] * 14
    assert len(world.broker.calls) == 11


async def test_clock_set_forward_is_followed_at_once(autojump_clock: MockClock) -> None:
    """After a suspend, which only the wall clock counts, no order of before is sent."""
    world = World(broker=FakeBroker(), limits=Limits(1, 0, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        tasks = [await submit(process, market_order(f"S{number}")) for number in range(5)]
        await finished(process, tasks[0])
        world.clock.set_by = HOUR
        ended = [await finished(process, task) for task in tasks[1:]]
        assert trio.current_time() < 2
        world.clock.set_by = timedelta()
        fresh = await finished(process, await submit(process, market_order()))
    assert {task.reason for task in ended} == {Reason.EXPIRED}
    assert fresh.phase is Phase.DONE
    assert fresh.created_at > ended[-1].updated_at
    assert len(world.broker.calls) == 2


async def test_clock_set_back_delays_no_retry(autojump_clock: MockClock) -> None:
    """A back-off is over when it is over."""
    world = World(broker=ScriptedBroker(NOT_SENT))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        await until(lambda: process.lane.ledger.tasks[task.task_id].phase is Phase.WAITING)
        world.clock.set_by = -HOUR
        assert (await finished(process, task)).phase is Phase.DONE
        assert trio.current_time() < 3


async def test_clock_set_back_delays_no_cancel(autojump_clock: MockClock) -> None:
    """A cancel without effect is asked again, whatever the wall clock tells."""
    world = World(broker=StubbornBroker(ignored=2))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        cancel = await cancelled(process, task.order_id or "")
        tasks = process.lane.ledger.tasks
        await until(lambda: tasks[cancel.task_id].phase is Phase.RESOLVING)
        world.clock.set_by = -HOUR
        assert (await finished(process, cancel)).phase is Phase.DONE
        assert trio.current_time() < 10


async def test_clock_set_back_keeps_no_leg_in_time(autojump_clock: MockClock) -> None:
    """A leg has its five seconds of real time."""
    world = World(broker=RegisteringBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch_id = await batched(process, limit_order("A"), limit_order("B"))
        await trio.sleep(1)
        world.clock.set_by = -HOUR
        answer = await batch_answer(process, batch_id)
        assert 5 <= trio.current_time() < 8
    assert answer["state"] == "rolled_back"
    assert len(world.broker.sent()) == 1


async def test_clock_set_back_makes_no_day_longer(autojump_clock: MockClock) -> None:
    """Midnight comes when the lane's time, which is never set back, comes to it."""
    world = World(broker=RequestLostBroker(), clock=TrioClock(EVENING))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        world.clock.set_by = -HOUR
        assert (await finished(process, task)).reason is Reason.UNRESOLVED
        assert trio.current_time() == pytest.approx(60, abs=1)


async def test_clock_set_back_before_a_start_keeps_no_order_fresh(
    autojump_clock: MockClock,
) -> None:
    """An order that a dead process left has no more time than it had then."""
    world = World(broker=UnreadableBook())
    async with world.process() as process:
        task = await submit(process, market_order())
        batch_id = await batched(process, limit_order("A"), limit_order("B"))
    world.clock.set_by = -HOUR
    async with world.process() as process:
        began = trio.current_time()
        assert (await finished(process, task)).reason is Reason.EXPIRED
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
        await trio.sleep(25)
        world.broker.broken = False
        answer = await batch_answer(process, batch_id)
    assert "stood still" in answer["error"]
    assert not world.broker.calls


async def test_clock_set_back_before_a_start_leaves_the_budget_usable(
    autojump_clock: MockClock,
) -> None:
    """Requests that a dead process made in the future count as made just now."""
    world = World(broker=FakeBroker(), limits=Limits(2, 0, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        for _ in range(4):
            await finished(process, await submit(process))
    world.clock.set_by = -HOUR
    async with world.process() as process:
        began = trio.current_time()
        task = await finished(process, await submit(process))
        assert 1 <= trio.current_time() - began < 2
    assert task.phase is Phase.DONE


# Cancelled while it is being stored, and in the store already


async def _cancel_what_is_stored(process: Process, operation: str) -> None:
    """Cancel the only task of this kind as soon as others can read it."""
    store = process.connection.store
    found: list[OrderTask] = []
    while not found:  # the store tells nobody
        await trio.sleep(0.01)
        found = [task for task in store.tasks.values() if task.operation == operation]
    answer = await process.executor.cancel_task(found[0].task_id)
    assert isinstance(answer, Accepted)
    assert answer.task.reason is Reason.CANCELLED


async def test_order_cancelled_before_it_is_answered_is_never_sent(
    autojump_clock: MockClock,
) -> None:
    """The cancel request is newer than the answer of the commit."""
    world = World(broker=UnreadableBook(), store=MemoryStore(lambda: 1.0))
    async with world.process() as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_what_is_stored, process, "place_order")
            task = await submit(process)
        world.broker.broken = False
        await trio.sleep(30)
    assert world.store.tasks[task.task_id].reason is Reason.CANCELLED
    assert not world.broker.calls


async def test_modify_cancelled_before_it_is_answered_is_never_sent(
    autojump_clock: MockClock,
) -> None:
    """Neither does it take the place of an earlier one."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        world.store.commit_seconds = lambda: 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_what_is_stored, process, "modify_order")
            modify = await modified(process, task.order_id or "", quantity=20)
        await trio.sleep(30)
        assert not process.lane.ledger.tasks
    assert modify.reason is Reason.CANCELLED
    assert world.store.tasks[modify.task_id].reason is Reason.CANCELLED
    assert not world.broker.sent("modify")
