"""Group commit: what waits goes together, only news wait for others; what is told is durable."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.sockets import OpenSocket, live
from ticker_actors.actors.persistence import (
    MOST_CHANGES,
    NEWS_SECONDS,
    PersistenceActor,
    Wakeup,
)
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.actors.subscription import Subscription
from ticker_actors.mailbox import Stopped, running
from ticker_actors.metrics import Metrics
from ticker_actors.model.changes import (
    Change,
    CommitAnswer,
    Committed,
    DeliveryResult,
    Key,
    KeyTaken,
    Unstorable,
)
from ticker_actors.model.events import Event

AT = datetime(2025, 11, 20, 4, 0, tzinfo=UTC)


class StoppedClock:
    def now(self) -> datetime:
        """The present instant."""
        return AT


def change(name: str, *, events: int = 0) -> Change:
    """A change that is known by its key."""
    return Change(
        account_id="primary",
        key=Key(name, "hash", "task", f"task_{name}", "primary"),
        events=tuple(
            Event(
                event_id=f"evt_{name}_{number}",
                account_id="primary",
                event="order_placed",
                order_id=None,
                order_key=None,
                order_version=None,
                data=msgspec.Raw(b"{}"),
                created_at=AT,
            )
            for number in range(events)
        ),
    )


def name(made: Change) -> str:
    """What a change is known by."""
    assert made.key is not None
    return made.key.key


class SlowWriter:
    """Takes a second for each transaction, and keeps them."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.groups: list[list[str]] = []
        self.sequence = 0

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one durable transaction."""
        assert now == AT
        await trio.sleep(1)
        self.groups.append([name(made) for made in changes])
        self.log.append("durable")
        return [self.answer(made) for made in changes]

    def answer(self, made: Change) -> CommitAnswer:
        """What became of one of them."""
        if name(made) == "taken":
            return KeyTaken(Key("taken", "other", "task", "task_other", "primary"))
        if name(made) == "bad":
            return Unstorable("UNIQUE constraint failed")
        events = []
        for event in made.events:
            self.sequence += 1
            events.append(replace(event, sequence=self.sequence))
        return Committed(tuple(events), deliveries=len(events))


class BrokenWriter(SlowWriter):
    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Fail as a full disk does."""
        await super().commit(changes, now)
        raise OSError("disk full")


class ListeningHub(StreamHub):
    """Notes when it is given events."""

    def __init__(self, log: list[str]) -> None:
        super().__init__("str_1", Metrics())
        self.log = log
        self.told: list[tuple[int, str]] = []

    async def publish(self, events: tuple[Event, ...]) -> None:
        """Tell of committed events, in sequence."""
        self.log.append("told")
        self.told += [(event.sequence, event.event_id) for event in events]
        await super().publish(events)


class Parts:
    """A persistence actor and what is around it."""

    def __init__(self, writer: type[SlowWriter] = SlowWriter) -> None:
        self.log: list[str] = []
        self.writer = writer(self.log)
        self.hub = ListeningHub(self.log)
        self.outbox = Wakeup()
        self.metrics = Metrics()
        self.actor = PersistenceActor(
            self.writer, self.hub, self.outbox, StoppedClock(), self.metrics
        )
        self.answers: dict[str, CommitAnswer] = {}

    async def commit(self, made: Change, *, news: bool = False) -> None:
        """Commit and note the answer."""
        self.answers[name(made)] = await self.actor.commit(made, news=news)
        self.log.append(f"answered {name(made)}")


@asynccontextmanager
async def started(writer: type[SlowWriter] = SlowWriter) -> AsyncGenerator[Parts]:
    """The parts, running."""
    parts = Parts(writer)
    async with running(parts.hub, drain=5), running(parts.actor, drain=500):
        yield parts


async def test_a_lone_change_is_not_delayed(autojump_clock: MockClock) -> None:
    """It takes as long as its own transaction."""
    async with started() as parts:
        began = trio.current_time()
        await parts.commit(change("a"))
        assert trio.current_time() - began == 1
    assert parts.writer.groups == [["a"]]


async def test_what_waits_becomes_one_transaction(autojump_clock: MockClock) -> None:
    """A hundred that come during a commit cost one more, in the order in which they came."""
    async with started() as parts:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.commit, change("first"))
            await wait_all_tasks_blocked()
            for number in range(100):
                nursery.start_soon(parts.commit, change(str(number)))
                await wait_all_tasks_blocked()
        assert trio.current_time() - began == 2
    assert parts.writer.groups == [["first"], [str(number) for number in range(100)]]
    assert len(parts.answers) == 101


async def test_news_go_with_the_next_change(autojump_clock: MockClock) -> None:
    """Which does not wait for them: it ends their waiting."""
    async with started() as parts:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for made in ("n1", "n2"):
                nursery.start_soon(partial(parts.commit, change(made), news=True))
                await trio.sleep(NEWS_SECONDS / 4)
            await parts.commit(change("a"))
            assert trio.current_time() - began == pytest.approx(1 + NEWS_SECONDS / 2)
    assert parts.writer.groups == [["n1", "n2", "a"]]


async def test_news_do_not_wait_for_long(autojump_clock: MockClock) -> None:
    """Counted from when the first of them came, also when a transaction was under way then."""
    async with started() as parts:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for made in ("n1", "n2", "n3"):
                nursery.start_soon(partial(parts.commit, change(made), news=True))
                await trio.sleep(NEWS_SECONDS * 3 / 4)
        assert trio.current_time() - began == pytest.approx(2 + NEWS_SECONDS)
    assert parts.writer.groups == [["n1", "n2"], ["n3"]]


async def test_news_do_not_hold_up_a_stop(autojump_clock: MockClock) -> None:
    """What was accepted is committed at once, and in order."""
    async with trio.open_nursery() as nursery:
        async with started() as parts:
            nursery.start_soon(partial(parts.commit, change("n1"), news=True))
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began == 1
    assert parts.writer.groups == [["n1"]]
    assert isinstance(parts.answers["n1"], Committed)


async def test_nobody_waits_in_vain_for_news(autojump_clock: MockClock) -> None:
    """Who asked while it was cut short hears that it has stopped."""
    parts = Parts()
    async with running(parts.hub, drain=5), trio.open_nursery() as nursery:
        nursery.start_soon(parts.actor.run)
        nursery.cancel_scope.deadline = trio.current_time() + NEWS_SECONDS / 2
        with trio.CancelScope(shield=True), pytest.raises(Stopped):
            await parts.commit(change("n1"), news=True)
    assert parts.writer.groups == []


async def test_a_transaction_has_a_most(autojump_clock: MockClock) -> None:
    """So that the first in it is not kept waiting by all that follow; none is lost."""
    async with started() as parts, trio.open_nursery() as nursery:
        for number in range(2 * MOST_CHANGES + 2):
            nursery.start_soon(parts.commit, change(str(number)))
    assert max(map(len, parts.writer.groups)) == MOST_CHANGES
    assert sum(map(len, parts.writer.groups)) == 2 * MOST_CHANGES + 2


async def test_it_is_told_after_it_is_durable_and_before_it_is_answered(
    autojump_clock: MockClock,
) -> None:
    """Whoever has the answer finds the events on their way."""
    async with started() as parts:
        await parts.commit(change("a", events=1))
    assert parts.log == ["durable", "told", "answered a"]


async def test_events_are_told_in_sequence(autojump_clock: MockClock) -> None:
    """Across the changes of one transaction, and across transactions."""
    async with started() as parts, trio.open_nursery() as nursery:
        for made in ("a", "b", "c"):
            nursery.start_soon(parts.commit, change(made, events=2))
            await wait_all_tasks_blocked()
    assert parts.hub.told == [
        (1, "evt_a_0"),
        (2, "evt_a_1"),
        (3, "evt_b_0"),
        (4, "evt_b_1"),
        (5, "evt_c_0"),
        (6, "evt_c_1"),
    ]


async def test_a_client_gets_what_was_committed_after_it_joined(
    autojump_clock: MockClock,
) -> None:
    """Through the real hub, with the sequence of the transaction."""
    async with started() as parts:
        await parts.hub.start_from("primary", 0)
        await parts.commit(change("a", events=1))
        socket = OpenSocket()
        assert await live(parts.hub, Subscription("primary", socket)) == 1
        await parts.commit(change("b", events=1))
    (message,) = socket.messages
    assert (message["sequence"], message["event_id"]) == (2, "evt_b_0")


async def test_every_asker_gets_its_own_answer(autojump_clock: MockClock) -> None:
    """A used key or a bad row is its own change's matter."""
    async with started() as parts, trio.open_nursery() as nursery:
        for made in ("a", "taken", "bad", "b"):
            nursery.start_soon(parts.commit, change(made, events=1))
    kinds = {made: type(answer) for made, answer in parts.answers.items()}
    assert kinds == {"a": Committed, "taken": KeyTaken, "bad": Unstorable, "b": Committed}
    assert [event for _, event in sorted(parts.hub.told)] in (
        ["evt_a_0", "evt_b_0"],
        ["evt_b_0", "evt_a_0"],
    )


async def test_deliveries_wake_the_dispatcher(autojump_clock: MockClock) -> None:
    """And nothing else does; ringing twice before it is heeded is ringing once."""
    async with started() as parts:
        await parts.commit(change("a"))
        with trio.move_on_after(5) as asleep:
            await parts.outbox.wait()
        assert asleep.cancelled_caught
        await parts.commit(change("b", events=1))
        await parts.commit(change("c", events=1))
        with trio.fail_after(0.1):
            await parts.outbox.wait()
        assert parts.outbox.rings()
        parts.outbox.heed()
        assert not parts.outbox.rings()
        with trio.move_on_after(5) as asleep:
            await parts.outbox.wait()
        assert asleep.cancelled_caught


async def test_what_is_waited_for_stirs(autojump_clock: MockClock) -> None:
    """The dispatcher can wait until no order is under way for a while, but not without end."""
    async with started() as parts, trio.open_nursery() as nursery:

        async def orders() -> None:
            for number in range(10):
                await parts.commit(change(f"{number}"))  # a second each
            await parts.commit(change("news"), news=True)

        began = trio.current_time()
        await parts.outbox.quiet(2, began + 100)
        assert trio.current_time() == began  # nothing has stirred yet
        nursery.start_soon(orders)
        await trio.sleep(1.5)
        await parts.outbox.quiet(2, began + 5.5)
        assert trio.current_time() - began == pytest.approx(5.5)
        await parts.outbox.quiet(2, began + 100)
        assert trio.current_time() - began == pytest.approx(12)


async def test_results_of_webhooks_do_not_stir(autojump_clock: MockClock) -> None:
    """They are the end of something; what they share a transaction with stirs all the same."""
    result = DeliveryResult(
        delivery_id="dlv_1",
        attempt=1,
        state="succeeded",
        next_at=None,
        started_at=AT,
        seconds=0.1,
        status_code=200,
        error=None,
    )
    async with started() as parts:
        await parts.commit(replace(change("result"), deliveries=(result,)))
        began = trio.current_time()
        await parts.outbox.quiet(2, began + 100)
        assert trio.current_time() == began
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(parts.commit, change("news"), news=True))
            nursery.start_soon(parts.commit, replace(change("again"), deliveries=(result,)))
            nursery.start_soon(parts.commit, change("order"))
        assert sorted(parts.writer.groups[-1]) == ["again", "news", "order"]
        began = trio.current_time()
        await parts.outbox.quiet(2, began + 100)
        assert trio.current_time() == began + 2


async def test_who_asked_is_answered_before_clients_are_told(autojump_clock: MockClock) -> None:
    """By way of one more task, as a client's answer comes from its lane."""

    class Socket(OpenSocket):
        def push_frames(self, frames: bytes) -> int:
            parts.log.append("pushed")
            return super().push_frames(frames)

    async def lane() -> None:
        await parts.commit(change("a", events=1))
        committed.set()

    for _ in range(20):  # Trio's tasks take their turns in any order
        async with started() as parts, trio.open_nursery() as nursery:
            await live(parts.hub, Subscription("primary", Socket()))
            committed = trio.Event()
            nursery.start_soon(lane)
            await committed.wait()
            parts.log.append("client has its answer")
        assert parts.log == ["durable", "told", "answered a", "client has its answer", "pushed"]


async def test_what_was_accepted_before_the_end_is_committed(autojump_clock: MockClock) -> None:
    """Stopping drains; whoever comes later is refused."""
    async with trio.open_nursery() as nursery:
        async with started() as parts:
            for made in ("a", "b", "c"):
                nursery.start_soon(parts.commit, change(made))
            await wait_all_tasks_blocked()
        with pytest.raises(Stopped):
            await parts.commit(change("late"))
    assert sorted(made for group in parts.writer.groups for made in group) == ["a", "b", "c"]
    assert len(parts.answers) == 3


async def test_an_io_error_stops_it_and_nobody_is_told_or_kept_waiting(
    autojump_clock: MockClock,
) -> None:
    """What was asked may or may not be durable: callers hear `Stopped`, never a wrong answer."""
    stopped: list[str] = []
    kept: list[Parts] = []

    async def commit(parts: Parts, made: str) -> None:
        try:
            await parts.commit(change(made, events=1))
        except Stopped:
            stopped.append(made)

    async def crash(outside: trio.Nursery) -> None:
        async with started(BrokenWriter) as parts:
            kept.append(parts)
            for made in ("a", "b"):
                outside.start_soon(commit, parts, made)
                await wait_all_tasks_blocked()
            await trio.sleep_forever()

    async with trio.open_nursery() as outside:
        with pytest.raises(ExceptionGroup) as info:
            await crash(outside)
        assert info.group_contains(OSError, match="disk full")
    assert sorted(stopped) == ["a", "b"]
    assert (kept[0].hub.told, kept[0].answers) == ([], {})


async def test_what_is_measured_is_what_happened(autojump_clock: MockClock) -> None:
    """Changes in a transaction, its seconds, and the events."""
    async with started() as parts, trio.open_nursery() as nursery:
        for made in ("a", "b", "c"):
            nursery.start_soon(parts.commit, change(made, events=2))
            await wait_all_tasks_blocked()
    text = parts.metrics.render().decode()
    for line in (
        'ticker_events_total{event="order_placed"} 6.0',
        "ticker_commit_changes_sum 3.0",
        "ticker_commit_changes_count 2.0",
        "ticker_commit_seconds_sum 2.0",
        'ticker_stage_seconds_count{stage="commit"} 3.0',
    ):
        assert line in text
