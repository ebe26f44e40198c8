"""The paper broker: answers only what is in its file, pushes like Kite, survives a `kill -9`.

Commits wait for a thread, which a mocked clock takes for idleness: Trio's clock is real here, the
wall clock is the test's, and every wait is bounded.
"""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterable
from contextlib import AbstractAsyncContextManager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from ticker_actors.actors.ports import Broker
from ticker_actors.brokers import paper
from ticker_actors.brokers.paper import PaperBroker, open_paper
from ticker_actors.exchange.book import LIQUIDITY, Unsaved
from ticker_actors.exchange.file import PaperFile, PaperFileInUse
from ticker_actors.model.order_keys import order_key
from ticker_actors.model.orders import (
    BrokerOrder,
    OrderChanges,
    OrderType,
    PlaceOrder,
)
from ticker_actors.model.outcomes import Accepted, FeedBack, FeedItem, FeedLost, Placed, Refused

pytestmark = pytest.mark.trio

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
SOON = 10.0
"""Seconds within which anything awaited here happens, on a slow machine too."""


class HandClock:
    """A wall clock that the test turns."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        """The present instant."""
        return self.time

    def turn(self, **by: float) -> None:
        """Let time pass."""
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> HandClock:
    """The wall clock."""
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The paper file."""
    return tmp_path / "paper.db"


@pytest.fixture(autouse=True)
def _quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resting orders meet the market all the time; the wall clock says which second it is."""
    monkeypatch.setattr(paper, "STEP_SECONDS", 0.005)


def opened(path: Path, clock: HandClock) -> AbstractAsyncContextManager[PaperBroker]:
    """A broker with a million rupees."""
    return open_paper(path, funds=1_000_000_000, clock=clock)


def order(
    quantity: int = 10, order_type: OrderType = "LIMIT", price: float | None = 1.0
) -> PlaceOrder:
    """A BUY of INFY, by default one that rests."""
    return PlaceOrder(
        exchange="NSE",
        tradingsymbol="INFY",
        transaction_type="BUY",
        quantity=quantity,
        product="CNC",
        order_type=order_type,
        price=price if order_type == "LIMIT" else None,
    )


async def placed(broker: Broker, what: PlaceOrder, tag: str = "TAG") -> str:
    """Place an order that must be taken; its id."""
    outcome = await broker.place(what, tag)
    assert isinstance(outcome, Placed)
    return outcome.order_id


async def book(broker: Broker) -> list[tuple[str, str, int]]:
    """Tag, status and fill of every row."""
    broker.forget_book()
    rows = await broker.orders()
    assert not hasattr(rows, "message")
    return [(row.tag or "", row.status, row.filled_quantity) for row in rows.orders]


async def test_rows_at_their_end_are_given_once(path: Path, clock: HandClock) -> None:
    """Then they are counted, until they are forgotten; open ones are given in every read."""
    async with opened(path, clock) as broker:
        done = await placed(broker, order(order_type="MARKET"))
        resting = await placed(broker, order(price=0.05))
        first, second = await broker.orders(), await broker.orders()
        assert [row.order_id for row in first.orders] == [done, resting]
        assert [row.order_id for row in second.orders] == [resting]
        assert set(second.repeated) == {order_key(done)}
        assert second.present == first.present
        broker.forget_book()
        assert await broker.orders() == first


async def take(updates: AsyncIterable[FeedItem], count: int) -> list[object]:
    """The next items of the feed, updates as status and fill."""
    items: list[object] = []
    with trio.fail_after(SOON):
        async for item in updates:
            items.append(
                (item.status, item.filled_quantity) if isinstance(item, BrokerOrder) else item
            )
            if len(items) == count:
                break
    return items


def in_file(path: Path) -> list[tuple[str, str]]:
    """Tag and status of every order in the file, seen from outside."""
    with closing(sqlite3.connect(path)) as outside:
        return outside.execute("SELECT tag, status FROM orders ORDER BY order_id").fetchall()


async def test_is_a_broker(path: Path, clock: HandClock) -> None:
    """Place, modify, cancel and read go through the port, each in the file when answered."""
    async with opened(path, clock) as paper_broker:
        broker: Broker = paper_broker
        first = await placed(broker, order(), "A")
        assert in_file(path) == [("A", "OPEN")]
        await placed(broker, order(order_type="MARKET"), "B")
        assert in_file(path) == [("A", "OPEN"), ("B", "COMPLETE")]
        assert await broker.modify(first, "regular", OrderChanges(price=2.0)) == Accepted()
        assert await broker.cancel(first, "regular") == Accepted()
        assert in_file(path) == [("A", "CANCELLED"), ("B", "COMPLETE")]
        assert await book(broker) == [("A", "CANCELLED", 0), ("B", "COMPLETE", 10)]
        assert isinstance(await broker.cancel("1", "regular"), Refused)


async def test_pushes_like_kite(path: Path, clock: HandClock) -> None:
    """The feed says that it is up, then every change, but not that an order began to rest."""
    async with opened(path, clock) as broker:
        resting = await placed(broker, order())
        await broker.modify(resting, "regular", OrderChanges(quantity=5))
        await broker.cancel(resting, "regular")
        await placed(broker, order(LIQUIDITY + 1, "MARKET"))
        updates = broker.updates()
        expected = [FeedBack(), ("UPDATE", 0), ("CANCELLED", 0), ("UPDATE", LIQUIDITY)]
        assert await take(updates, 4) == expected
        clock.turn(seconds=1)
        assert await take(updates, 1) == [("COMPLETE", LIQUIDITY + 1)]
        assert in_file(path) == [("TAG", "CANCELLED"), ("TAG", "COMPLETE")]


async def test_lost_updates_are_told(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When updates overflow, the reader gets those before the gap, then word of the gap."""
    monkeypatch.setattr(paper, "FEED_SIZE", 2)
    async with opened(path, clock) as broker:
        updates = broker.updates()
        assert await take(updates, 1) == [FeedBack()]
        for _ in range(4):
            await placed(broker, order(order_type="MARKET"))
        assert await take(updates, 1) == [("COMPLETE", 10)]
        await placed(broker, order(5, "MARKET"))  # there is room again, but it is after the gap
        lost = FeedLost("Order updates came faster than they were read.")
        assert await take(updates, 3) == [("COMPLETE", 10), lost, FeedBack()]
        await placed(broker, order(7, "MARKET"))
        assert await take(updates, 1) == [("COMPLETE", 7)]


async def test_feed_ends_with_the_broker(path: Path, clock: HandClock) -> None:
    """A reader gets what was pushed before the close, then the end."""
    read: list[FeedItem] = []

    async def read_all(updates: AsyncIterable[FeedItem]) -> None:
        read.extend([item async for item in updates])

    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery, opened(path, clock) as broker:
            nursery.start_soon(read_all, broker.updates())
            await placed(broker, order(order_type="MARKET"))
    assert len(read) == 2


async def test_finds_its_orders_again(path: Path, clock: HandClock) -> None:
    """A new run has the book of the last one, and what was half filled goes on."""
    async with opened(path, clock) as broker:
        first = await placed(broker, order(), "A")
        await placed(broker, order(LIQUIDITY + 1, "MARKET"), "B")
    clock.turn(seconds=1)
    async with opened(path, clock) as broker:
        assert await take(broker.updates(), 2) == [FeedBack(), ("COMPLETE", LIQUIDITY + 1)]
        assert await book(broker) == [("A", "OPEN", 0), ("B", "COMPLETE", LIQUIDITY + 1)]
        assert await placed(broker, order()) > first


async def test_wakes_on_another_day(path: Path, clock: HandClock) -> None:
    """After midnight the book is empty, and yesterday's resting order is cancelled for good."""
    async with opened(path, clock) as broker:
        await placed(broker, order())
    clock.turn(days=1)
    async with opened(path, clock) as broker:
        assert await book(broker) == []
        assert await take(broker.updates(), 2) == [FeedBack(), ("CANCELLED", 0)]
        assert in_file(path) == [("TAG", "CANCELLED")]


async def test_file_serves_one_broker(path: Path, clock: HandClock) -> None:
    """A second broker on the same file is refused by name."""
    async with opened(path, clock):
        with pytest.raises(PaperFileInUse):
            async with opened(path, clock):
                pytest.fail("it opened")


async def test_places_at_once_are_all_different(path: Path, clock: HandClock) -> None:
    """Calls from many tasks take turns, and each makes its own order."""
    async with opened(path, clock) as broker, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(placed, broker, order(), f"T{number}")
    assert len(set(in_file(path))) == 50


class StuckFile(PaperFile):
    """A disk on which every commit is stuck until it is let go."""

    busy: threading.Semaphore
    let_go: threading.Semaphore

    def commit(self, unsaved: Unsaved) -> None:
        """Keep it, some time."""
        self.busy.release()
        assert self.let_go.acquire(timeout=SOON)
        super().commit(unsaved)

    @classmethod
    async def wait_stuck(cls) -> None:
        """Until one more commit is stuck."""
        assert await trio.to_thread.run_sync(partial(cls.busy.acquire, timeout=SOON))


@pytest.fixture
def stuck_file(monkeypatch: pytest.MonkeyPatch) -> type[StuckFile]:
    """The next broker gets a stuck file."""
    StuckFile.busy, StuckFile.let_go = threading.Semaphore(0), threading.Semaphore(0)
    monkeypatch.setattr(paper, "PaperFile", StuckFile)
    return StuckFile


async def test_nobody_sees_what_is_not_kept(
    path: Path, clock: HandClock, stuck_file: type[StuckFile]
) -> None:
    """While an order is being committed, a read of the book waits for it."""
    seen: list[tuple[str, str, int]] = []

    async def read(broker: Broker) -> None:
        seen.extend(await book(broker))

    with trio.fail_after(SOON):
        async with opened(path, clock) as broker:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(placed, broker, order(), "A")
                await stuck_file.wait_stuck()
                nursery.start_soon(placed, broker, order(), "B")
                await trio.testing.wait_all_tasks_blocked()
                stuck_file.let_go.release()
                await stuck_file.wait_stuck()
                assert in_file(path) == [("A", "OPEN")]
                nursery.start_soon(read, broker)
                await trio.testing.wait_all_tasks_blocked()
                assert not seen
                stuck_file.let_go.release()
            assert seen == [("A", "OPEN", 0), ("B", "OPEN", 0)]


async def test_cancelled_commit_is_carried_out(
    path: Path, clock: HandClock, stuck_file: type[StuckFile]
) -> None:
    """A caller cancelled during the commit leaves an order that is in the book and in the file."""
    with trio.fail_after(SOON):
        async with opened(path, clock) as broker:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(placed, broker, order())
                await stuck_file.wait_stuck()
                nursery.cancel_scope.cancel()
                stuck_file.let_go.release()
            assert in_file(path) == [("TAG", "OPEN")]
            assert await book(broker) == [("TAG", "OPEN", 0)]


async def test_close_waits_for_a_commit(
    path: Path, clock: HandClock, stuck_file: type[StuckFile]
) -> None:
    """A fill that is being committed while the broker closes is kept and pushed."""

    async def let_go() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stuck_file.let_go.release()

    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            stuck_file.let_go.release()
            async with opened(path, clock) as broker:
                updates = broker.updates()
                await placed(broker, order(LIQUIDITY + 1, "MARKET"))
                await stuck_file.wait_stuck()
                clock.turn(seconds=1)
                await stuck_file.wait_stuck()
                nursery.start_soon(let_go)
        assert in_file(path) == [("TAG", "COMPLETE")]
        pushed = [FeedBack(), ("UPDATE", LIQUIDITY), ("COMPLETE", LIQUIDITY + 1)]
        assert await take(updates, 9) == pushed


async def test_cancelled_anywhere_book_and_file_agree(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a call is cancelled, the file has exactly what the book has."""
    monkeypatch.setattr(paper, "STEP_SECONDS", SOON)
    async with opened(path, clock) as broker:
        for turns in range(8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(placed, broker, order(), f"T{turns}")
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            kept = in_file(path)
            assert kept == [(tag, status) for tag, status, _ in await book(broker)]


class FullDiskFile(PaperFile):
    """A disk that is full for one commit only."""

    failures = 1

    def commit(self, unsaved: Unsaved) -> None:
        """Fail as SQLite does, which also closes the file."""
        if self.failures:
            self.failures -= 1
            self._connection.close()
            message = "database or disk is full"
            raise sqlite3.OperationalError(message)
        super().commit(unsaved)


async def test_failed_commit_answers_nobody(
    path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that could not be kept is an exception, and no later call shows it either."""
    monkeypatch.setattr(paper, "PaperFile", FullDiskFile)
    monkeypatch.setattr(paper, "STEP_SECONDS", SOON)
    async with opened(path, clock) as broker:
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            await broker.place(order(), "TAG")
        with pytest.raises(sqlite3.ProgrammingError):
            await broker.orders()
    assert in_file(path) == []


VICTIM = """
import sys, trio
from datetime import UTC, datetime
from pathlib import Path
from ticker_actors.brokers.paper import open_paper
from ticker_actors.model.orders import PlaceOrder

class Clock:
    def now(self):
        return datetime(2025, 11, 20, 6, 30, tzinfo=UTC)

async def main():
    async with open_paper(Path(sys.argv[1]), funds=1_000_000, clock=Clock()) as broker:
        for number in range(1_000_000):
            order = PlaceOrder(
                exchange="NSE", tradingsymbol="INFY", transaction_type="BUY", quantity=1,
                product="CNC", order_type="LIMIT", price=0.05,
            )
            print((await broker.place(order, f"T{number}")).order_id, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("answers", [1, 2, 25, 200])
async def test_answered_orders_survive_kill_9(path: Path, clock: HandClock, answers: int) -> None:
    """A process killed at any time has kept every order that it answered for, and its lock dies."""
    seen = await trio.to_thread.run_sync(answers_before_kill, path, answers)
    assert len(seen) >= answers
    async with opened(path, clock) as broker:
        rows = await broker.orders()
        kept = [row.order_id for row in rows.orders]
        assert kept[: len(seen)] == seen
        assert len(kept) <= len(seen) + 1, "no more than the one order that was on its way"
        assert await placed(broker, order()) > kept[-1]


def answers_before_kill(path: Path, count: int) -> list[str]:
    """Start a process that places orders, kill it after some answers: all its answers."""
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path)], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        seen = [victim.stdout.readline().strip() for _ in range(count)]
        victim.send_signal(signal.SIGKILL)
        seen.extend(line.strip() for line in victim.stdout if line.endswith("\n"))
    assert victim.returncode == -signal.SIGKILL
    return seen
