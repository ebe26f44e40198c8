"""One seed, one simulated day at the broker: the real actors, kills, faults, and a checker.

`run(seed)` returns what broke the promise, in words; nothing when all is well. The same seed does
the same every time: Trio's scheduler and every chance are seeded from it.
"""

import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import structlog
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from tests.bare_portfolio import BarePortfolio
from tests.fakes import (
    ACCOUNT,
    CALL_SECONDS,
    INSTALLATION,
    KITE_LIMITS,
    MORNING,
    Call,
    FakeBroker,
    MemoryStore,
    Process,
    TrioClock,
    World,
    intent_of,
    limit_order,
    market_order,
    rate_limited,
)
from tests.sockets import OpenSocket, live
from ticker_actors.actors.requests import (
    Accepted,
    AcceptedBatch,
    ClientKey,
    KeyConflict,
    Submitted,
    SubmittedBatch,
    Unanswered,
)
from ticker_actors.actors.subscription import Subscription
from ticker_actors.mailbox import Busy, Stopped
from ticker_actors.model import tags
from ticker_actors.model.accounts import AccountState
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import Accepted as Taken
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedBack,
    FeedItem,
    FeedLost,
    NotSent,
    OrderBook,
    Placed,
    PlaceOutcome,
    Refused,
    Unknown,
    Unreadable,
)
from ticker_actors.model.tasks import OrderTask, Phase, Reason

A = TypeVar("A")

ORDERS = 20
LIVES = 60.0
"""Seconds during which processes are killed, a few seconds each."""
QUIET = 900.0
"""Seconds after the last late order in which everything must end: more than 5 horizons."""
MIDNIGHT = MORNING + timedelta(hours=13, minutes=59, seconds=20)
"""40 s before the trading day ends."""
BLIND = 200.0
"""Seconds: longer than the horizon, so that only the orders known before can tell that it lies."""
SURE = 119.0
"""Seconds of lateness up to which nothing may be called absent: the horizon."""
CLIENT_PATIENCE = 10.0
"""Seconds that a client waits for an answer before it asks again with the same key."""
SOON = 0.02
"""Seconds by which moments of calls may differ from moments of decisions: one commit."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a seed decides at its beginning."""

    seed: int
    late_max: float
    """Seconds by which an order may appear late."""
    overnight: bool
    batches: bool
    counts: bool
    """Whether the adapter only counts the rows that repeat."""
    blind_at: float
    """Seconds after which the book is empty for `BLIND` seconds; infinity when it never is."""


def plan(seed: int) -> Plan:
    """Every second seed has batches, some have very late orders, a midnight, an empty book."""
    return Plan(
        seed=seed,
        counts=seed % 3 != 0,
        blind_at=random.Random(seed).uniform(1, 20) if seed % 8 == 4 else math.inf,
        late_max=200.0 if seed % 4 == 3 else 97.0,
        overnight=seed % 8 in {5, 6},
        batches=seed % 2 == 1,
    )


class Exchange(FakeBroker):
    """A broker with every fault, by chance. It lives on when its clients die."""

    def __init__(self, rng: random.Random, plan: Plan, clock: TrioClock) -> None:
        super().__init__()
        self.rng = rng
        self.plan = plan
        self.clock = clock
        self.healthy = False
        self.created: dict[str, float] = {}
        self.busted: set[str] = set()
        """Orders whose trade was annulled."""
        self.attempts: list[Call] = []
        """Place calls that the process made, NOT_SENT ones among them."""
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    # Orders

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:  # noqa: PLR0911  # faults
        chance, latency = self.rng.random(), self.rng.uniform(0.03, 0.3)
        self.attempts.append(Call(trio.current_time(), "place", tag))
        if self.healthy:
            chance = 1.0
        if chance < 0.05:
            return NotSent("Connection refused.")
        self.note("place", tag)
        if chance < 0.09:
            await trio.sleep(latency)
            return Refused("MarginException", "Insufficient funds.")
        if chance < 0.11:
            await trio.sleep(latency)
            return rate_limited(self.rng.choice((None, 1.0, 3.0)))
        if chance < 0.12:
            await trio.sleep(latency)
            return Refused("TokenException", "Token is invalid or has expired.", retryable=True)
        if chance < 0.20:  # the request is lost, or it lies somewhere and comes out late
            late = self.rng.random() < 0.5
            if late:
                seconds = self.rng.uniform(0, self.plan.late_max)
                self._nursery.start_soon(self._create, order, tag, seconds)
            await trio.sleep(CALL_SECONDS if self.rng.random() < 0.5 else latency)
            return Unknown("Order request timed out. Please check the order book.")
        created = trio.open_memory_channel[str](1)
        self._nursery.start_soon(self._create, order, tag, latency / 2, created[0])
        order_id = await created[1].receive()
        if chance < 0.25:
            await trio.sleep(CALL_SECONDS)
            return Unknown("No reply within 7 s.")
        await trio.sleep(latency / 2)
        return Placed(order_id)

    async def _create(
        self,
        order: PlaceOrder,
        tag: str,
        seconds: float,
        told: trio.MemorySendChannel[str] | None = None,
    ) -> None:
        """The order comes to be, and lives its life."""
        await trio.sleep(seconds)
        order_id = self.accept(order, tag, "PUT ORDER REQ RECEIVED")
        self.created[order_id] = trio.current_time()
        if told is not None:
            told.send_nowait(order_id)
        await trio.sleep(self.rng.uniform(0.01, 1.0))
        rejected = self.rng.random() < 0.06
        if self.book[order_id].terminal:
            return
        if rejected:
            self.show(order_id, status="REJECTED", status_message="RMS: blocked.")
            return
        self.show(order_id, status="OPEN", push=self.rng.random() < 0.2)
        if order.order_type == "LIMIT" and self.rng.random() < 0.5:
            return  # rests until it is cancelled
        for quantity in sorted({self.rng.randint(1, order.quantity), order.quantity}):
            await trio.sleep(self.rng.expovariate(1 / 3))
            if not self.book[order_id].terminal:
                self.fill(order_id, quantity)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        del variety
        return await self._change(order_id, "cancel", status="CANCELLED")

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        del variety
        fields: dict[str, Any] = changes.named()
        return await self._change(order_id, "modify", **fields)

    async def _change(self, order_id: str, name: str, **fields: object) -> ChangeOutcome:
        chance, latency = self.rng.random(), self.rng.uniform(0.03, 0.3)
        if self.healthy:
            chance = 1.0
        if chance < 0.05:
            return NotSent("Connection refused.")
        self.note(name, order_id)
        if chance < 0.10:
            await trio.sleep(CALL_SECONDS)
            return Unknown("No reply within 7 s.")
        if chance < 0.13:
            await trio.sleep(latency)
            return rate_limited(None)
        await trio.sleep(latency)
        row = self.book.get(order_id)
        if row is None or row.terminal or chance < 0.20:
            return Refused("InputException", "Order cannot be changed as it is being processed.")
        if chance > 0.25:  # else: taken, and nothing comes of it
            self._nursery.start_soon(self._apply, order_id, fields)
        if 0.25 < chance < 0.30:
            await trio.sleep(CALL_SECONDS)
            return Unknown("No reply within 7 s.")
        return Taken()

    async def _apply(self, order_id: str, fields: dict[str, Any]) -> None:
        await trio.sleep(self.rng.uniform(0, 1))
        if not self.book[order_id].terminal:
            self.show(order_id, **fields)

    def bust(self) -> None:
        """Annul trades, a long time after they were told. Only the book shows it."""
        today = trading_day(self.clock.now())
        for row in tuple(self.book.values()):
            if row.status == "COMPLETE" and self.day_of(row) == today and self.rng.random() < 0.3:
                self.busted.add(row.order_id)
                self.show(row.order_id, push=False, status="CANCELLED")

    # What it shows

    async def orders(self) -> OrderBook | Unreadable:
        await trio.sleep(self.rng.uniform(0.03, 0.2))
        chance = 1.0 if self.healthy else self.rng.random()
        today = trading_day(self.clock.now())
        rows = [row for row in self.book.values() if self.day_of(row) == today]
        if chance < 0.05:
            return Unreadable("502 Bad Gateway")
        if chance < 0.10:
            rows = rows[: -self.rng.randint(1, 3)]
        elif chance < 0.12 or 0 < trio.current_time() - self.plan.blind_at < BLIND:
            rows = []
        return OrderBook(tuple(rows))

    def day_of(self, row: BrokerOrder) -> object:
        return trading_day(self.clock.start + timedelta(seconds=self.created[row.order_id]))

    def push(self, item: FeedItem) -> None:
        chance = 1.0 if self.healthy else self.rng.random()
        if chance < 0.1:
            return
        for _ in range(2 if chance < 0.15 else 1):
            self._nursery.start_soon(self._push, item, 0.0 if chance > 0.4 else self.rng.random())

    async def _push(self, item: FeedItem, seconds: float) -> None:
        await trio.sleep(seconds)
        super().push(item)

    async def lose_feed(self) -> None:
        """Lose the feed now and then: nothing pushed meanwhile arrives."""
        while trio.current_time() < LIVES + self.plan.late_max:
            super().push(FeedLost("Connection reset."))
            await trio.sleep(self.rng.expovariate(1 / 5))
            while self._feed[1].statistics().current_buffer_used:
                self._feed[1].receive_nowait()
            super().push(FeedBack())
            await trio.sleep(self.rng.expovariate(1 / 30))


class Witness(BarePortfolio):
    """Stands between a process and the exchange and looks at the store whenever it is called."""

    def __init__(self, exchange: Exchange, store: MemoryStore, faults: list[str]) -> None:
        self.exchange = exchange
        self.store = store
        self.faults = faults

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        parsed = tags.parse(tag)
        task = self.store.by_intent(parsed.intent) if parsed else None
        self._expect(task is not None and task.broker_tag == tag, f"place {tag} not durable")
        if task is not None:
            self._expect_sent(task)
            self._expect(not task.cancel_requested, f"{task.task_id} sent though cancelled")
        return await self.exchange.place(order, tag)

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        self._expect_change("modify_order", order_id)
        return await self.exchange.modify(order_id, variety, changes)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        self._expect_change("cancel_order", order_id)
        return await self.exchange.cancel(order_id, variety)

    def _expect_change(self, operation: str, order_id: str) -> None:
        tasks = [
            task
            for task in self.store.tasks.values()
            if task.operation == operation
            and task.order_id == order_id
            and task.phase is Phase.SENT
            and task.epoch == self.store.epochs[ACCOUNT]
        ]
        self._expect(bool(tasks), f"{operation} of {order_id} not durable")

    def _expect_sent(self, task: OrderTask) -> None:
        self._expect(task.phase is Phase.SENT, f"{task.task_id} called in phase {task.phase}")
        attempt = self.store.attempts.get((task.task_id, task.sends))
        known = attempt is not None and attempt.epoch == self.store.epochs[ACCOUNT]
        self._expect(known, f"{task.task_id} called without an attempt of this epoch")

    def _expect(self, good: bool, message: str) -> None:  # noqa: FBT001  # an assertion
        if not good:
            self.faults.append(f"call: {message}")

    async def orders(self) -> OrderBook | Unreadable:
        return await self.exchange.orders()

    def updates(self) -> AsyncIterable[FeedItem]:
        return self.exchange.updates()


@dataclass
class History:
    """What clients were told."""

    tasks: dict[str, str] = field(default_factory=dict)
    """Idempotency key → task id."""
    batches: dict[str, str] = field(default_factory=dict)
    cancelled_unsent: set[str] = field(default_factory=set)
    """Tasks that were told to be cancelled before they were ever sent."""
    unwanted: set[str] = field(default_factory=set)
    """Tasks whose cancel was acknowledged."""
    faults: list[str] = field(default_factory=list)


class Simulation:
    """One seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = rng = random.Random(plan.seed)
        self.clock = TrioClock(MIDNIGHT if plan.overnight else MORNING)
        self.store = MemoryStore(lambda: rng.uniform(0.0002, 0.004))
        self.history = History()
        self.exchange = Exchange(random.Random(rng.random()), plan, self.clock)
        self.world = World(
            broker=Witness(self.exchange, self.store, self.history.faults),
            store=self.store,
            clock=self.clock,
            chance=rng.getrandbits,
            limits=KITE_LIMITS,
        )
        self.process: Process | None = None
        self.kills = 0

    async def run(self) -> list[str]:
        async with trio.open_nursery() as nursery:
            self.exchange.start(nursery)
            nursery.start_soon(self.exchange.lose_feed)
            nursery.start_soon(self._clients, nursery)
            nursery.start_soon(self._operate)
            await self._live_and_die(nursery)
            await trio.sleep(self.plan.late_max + CALL_SECONDS)
            with trio.move_on_after(QUIET):
                await self._settled()
            self.exchange.healthy = True
            self.exchange.bust()
            await trio.sleep(60)
            faults = [*self.history.faults, *check(self)]
            before = self._tables()
            await self._restart(nursery)
            await trio.sleep(60)
            if self._tables() != before:
                faults.append("14: a restart with nothing new changed the tables")
            faults += self._held()
            nursery.cancel_scope.cancel()
        return faults

    async def _settled(self) -> None:
        """Until nothing is under way."""
        while not all(task.finished for task in self.store.tasks.values()):  # noqa: ASYNC110
            await trio.sleep(5)

    def exchange_shows(self, rows: list[BrokerOrder]) -> bool:
        """Whether the book of the day on which the simulation ends has all of these orders."""
        today = trading_day(self.clock.now())
        return all(self.exchange.day_of(row) == today for row in rows)

    def _held(self) -> Iterator[str]:
        """Orders that are done, which today's book shows, and that are in memory all the same.

        Of one sent just before midnight and first seen after it, no book tells any more: while it
        is missed no read is valid, and only a valid one lets go.
        """
        if self.process is not None:
            ledger, book = self.process.lane.ledger, self.exchange.book
            missed = [book[order_id] for order_id in ledger.missing if order_id in book]
            for view in ledger.views._views.values():
                if view.order.terminal and self.exchange_shows([view.order, *missed]):
                    yield f"15: {view.order.order_id} ({view.order.status}) was not let go"

    def _tables(self) -> object:
        store = self.store
        return (dict(store.tasks), dict(store.orders), dict(store.batches), list(store.events))

    # Processes

    async def _live_and_die(self, nursery: trio.Nursery) -> None:
        await self._restart(nursery)
        while trio.current_time() < LIVES:
            again = self.rng.random() < 0.15  # a kill in the middle of the recovery
            await trio.sleep(self.rng.uniform(0, 0.2) if again else self.rng.expovariate(1 / 6))
            await self._restart(nursery)
            self.kills += 1

    async def _restart(self, nursery: trio.Nursery) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.ended.wait()
            await trio.sleep(self.rng.uniform(0.1, 2))
        self.process = Process(self.world)
        self.process.line.counts = self.plan.counts
        nursery.start_soon(self.process.run)
        nursery.start_soon(self._stream, self.process)

    async def _stream(self, process: Process) -> None:
        """A stream client: it must get every event after the sequence at which it joined."""
        await process.ready.wait()
        with trio.move_on_after(self.rng.uniform(0, 5)):
            await process.ended.wait()
        with suppress(Stopped):
            socket = OpenSocket()
            last = await live(process.hub, Subscription(ACCOUNT, socket))
            await process.ended.wait()
            for sequence in socket.sequences:
                if sequence != last + 1:
                    self.history.faults.append(f"stream: {sequence} follows {last}")
                last = sequence

    # The operator

    async def _operate(self) -> None:
        """Where the book was wrong for so long that the account is halted: look, and go on."""
        while True:
            await trio.sleep(10)
            if self.store.standing.state is not AccountState.ACTIVE:
                await self._insist(
                    lambda process: process.executor.set_state(
                        ACCOUNT, AccountState.ACTIVE, "The book is whole again."
                    )
                )

    # Clients

    async def _clients(self, nursery: trio.Nursery) -> None:
        for number in range(ORDERS):
            await trio.sleep(self.rng.expovariate(4))
            if self.plan.batches and self.rng.random() < 0.3:
                nursery.start_soon(self._batch, f"b{number}")
            else:
                nursery.start_soon(self._order, f"k{number}")

    async def _insist(self, ask: Callable[[Process], Awaitable[A | Unanswered]]) -> A:
        """Ask whichever process lives until one answers: without an answer nothing is known."""
        while True:
            process = self.process
            if process is not None and process.alive and process.ready.is_set():
                with trio.move_on_after(CLIENT_PATIENCE), suppress(Stopped, Busy):
                    answer = await ask(process)
                    if not isinstance(answer, Unanswered):
                        return answer
            await trio.sleep(self.rng.uniform(0.01, 0.2))

    def _order_of(self, number: int) -> PlaceOrder:
        make = market_order if self.rng.random() < 0.3 else limit_order
        return make(f"SYM{number}", self.rng.randint(1, 50))

    async def _order(self, key: str) -> None:
        order = self._order_of(int(key[1:]))

        async def submit(process: Process) -> Submitted:
            return await process.executor.submit_order(ACCOUNT, order, ClientKey(key, "hash"))

        if self.rng.random() < 0.1:  # two at the same instant
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._submit, key, submit)
                nursery.start_soon(self._submit, key, submit)
        await self._submit(key, submit)
        task_id = self.history.tasks[key]
        if self.rng.random() < 0.2:
            other = await self._insist(
                lambda process: process.executor.submit_order(
                    ACCOUNT, order, ClientKey(key, "other")
                )
            )
            if not isinstance(other, KeyConflict):
                self.history.faults.append(f"7: {key} with another body got {other}")
        await trio.sleep(self.rng.expovariate(1 / 2))
        wish = self.rng.random()
        if wish < 0.2:
            await self._cancel(task_id)
        elif wish < 0.5:
            await self._change(task_id)

    async def _submit(self, key: str, submit: Callable[[Process], Awaitable[Submitted]]) -> None:
        answer = await self._insist(submit)
        if not isinstance(answer, Accepted):
            self.history.faults.append(f"7: {key} got {answer}")
        elif self.history.tasks.setdefault(key, answer.task.task_id) != answer.task.task_id:
            self.history.faults.append(f"7: {key} made two tasks")

    async def _cancel(self, task_id: str) -> None:
        answer = await self._insist(lambda process: process.executor.cancel_task(task_id))
        if not isinstance(answer, Accepted):
            self.history.faults.append(f"cancel of {task_id} got {answer}")
            return
        self.history.unwanted.add(task_id)
        if answer.task.sends == 0 and answer.task.reason is Reason.CANCELLED:
            self.history.cancelled_unsent.add(task_id)

    async def _change(self, task_id: str) -> None:
        """Modify the order of a task, then perhaps cancel it, once it is known."""
        await trio.sleep(self.rng.expovariate(1 / 3))
        order_id = self.store.tasks[task_id].order_id
        if order_id is None:
            return
        for _ in range(self.rng.randint(0, 2)):
            await self._modify(order_id, OrderChanges(price=float(self.rng.randint(90, 110))))
            await trio.sleep(self.rng.expovariate(1))
        if self.rng.random() < 0.5:
            key = ClientKey(f"c-{task_id}", "hash")
            await self._insist(
                lambda process: process.executor.cancel_order(ACCOUNT, order_id, key)
            )

    async def _modify(self, order_id: str, changes: OrderChanges) -> None:
        await self._insist(
            lambda process: process.executor.modify_order(ACCOUNT, order_id, changes)
        )

    async def _batch(self, key: str) -> None:
        number = int(key[1:])
        orders = tuple(self._order_of(number) for _ in range(self.rng.randint(2, 4)))
        rollback = self.rng.random() < 0.7

        async def submit(process: Process) -> SubmittedBatch:
            return await process.executor.submit_batch(
                ACCOUNT, orders, rollback_on_failure=rollback, key=ClientKey(key, "hash")
            )

        for _ in range(self.rng.randint(1, 2)):
            answer = await self._insist(submit)
            if not isinstance(answer, AcceptedBatch):
                self.history.faults.append(f"7: {key} got {answer}")
            elif self.history.batches.setdefault(key, answer.batch_id) != answer.batch_id:
                self.history.faults.append(f"7: {key} made two batches")


# The checker. Numbers are those of the invariants in the design paper on testing.

_LEGAL = {
    (Phase.PLANNED, Phase.QUEUED),
    (Phase.PLANNED, Phase.SENT),  # queued and sent by one transaction
    (Phase.PLANNED, Phase.DEAD),
    (Phase.QUEUED, Phase.SENT),
    (Phase.QUEUED, Phase.DEAD),
    (Phase.QUEUED, Phase.DONE),  # a change that its order shows already
    (Phase.WAITING, Phase.SENT),
    (Phase.WAITING, Phase.DEAD),
    (Phase.WAITING, Phase.DONE),
    (Phase.SENT, Phase.WAITING),
    (Phase.SENT, Phase.RESOLVING),
    (Phase.SENT, Phase.DONE),
    (Phase.SENT, Phase.DEAD),
    (Phase.RESOLVING, Phase.DONE),
    (Phase.RESOLVING, Phase.DEAD),
    (Phase.DEAD, Phase.DONE),
}
_LEGAL_FOR_CHANGES = {
    (Phase.RESOLVING, Phase.WAITING),
    (Phase.RESOLVING, Phase.SENT),  # asked again by the transaction that found it undone
}


def check(simulation: Simulation) -> Iterator[str]:
    """Everything that broke a promise, after all has come to rest."""
    yield from _check_tasks(simulation)
    yield from _check_orders(simulation)
    yield from _check_log(simulation)
    yield from _check_calls(simulation)
    yield from _check_batches(simulation)


def _orders_by_intent(simulation: Simulation) -> dict[str, list[BrokerOrder]]:
    found = defaultdict[str, list[BrokerOrder]](list)
    for row in simulation.exchange.book.values():
        found[intent_of(row) or ""].append(row)
    return found


def _check_tasks(simulation: Simulation) -> Iterator[str]:
    store, history = simulation.store, simulation.history
    placed = _orders_by_intent(simulation)
    for key, task_id in history.tasks.items():
        if task_id not in store.tasks:
            yield f"1: {key} was acknowledged as {task_id} and is lost"
    for batch_id in history.batches.values():
        if batch_id not in store.batches:
            yield f"1: batch {batch_id} was acknowledged and is lost"
    for task in store.tasks.values():
        if not task.finished:
            yield f"6: {task.operation} {task.task_id} is still {task.phase}"
        if task.reason is Reason.UNRESOLVED and not simulation.plan.overnight:
            yield f"6: {task.operation} {task.task_id} is unresolved"
        if task.operation == "place_order":
            orders = placed.get(task.intent, [])
            yield from _check_place(task, orders, seen=simulation.exchange_shows(orders))
            yield from _check_wish(simulation, task, orders)
    yield from _check_absences(simulation, placed)


def _check_place(task: OrderTask, orders: list[BrokerOrder], *, seen: bool) -> Iterator[str]:
    """`seen`: whether the service had all the time it needed to see these orders."""
    if len(orders) > 1:
        yield f"2: {task.task_id} was placed {len(orders)} times"
    if task.phase is Phase.DONE and task.order_id not in {row.order_id for row in orders}:
        yield f"3: {task.task_id} is completed, but has no order {task.order_id}"
    if task.phase is Phase.DEAD and orders and seen:
        yield f"3, 4: {task.task_id} is dead ({task.reason}), but has {orders[0].order_id}"
    if task.attempts > task.max_attempts:
        yield f"8: {task.task_id} had {task.attempts} attempts"


def _check_wish(
    simulation: Simulation, task: OrderTask, orders: list[BrokerOrder]
) -> Iterator[str]:
    history = simulation.history
    if task.task_id in history.cancelled_unsent and (orders or task.sends):
        yield f"13: {task.task_id} was cancelled before it was sent, and was sent"
    unwanted = task.task_id in history.unwanted and not simulation.plan.overnight
    if unwanted and not all(row.terminal for row in orders):
        yield f"13: {task.task_id} was cancelled, and its order is open"


def _check_absences(simulation: Simulation, placed: dict[str, list[BrokerOrder]]) -> Iterator[str]:
    """Nobody is told 'not placed' of an order that the book had shown for a while."""
    created = simulation.exchange.created
    sent = {call.about[4:16]: call.at for call in simulation.exchange.attempts}
    incidents = {
        msgspec.json.decode(event.data)["task_id"]
        for event in simulation.store.events
        if event.event == "order_incident"
    }
    for at, change in simulation.store.history:
        for task in change.tasks:
            if task.reason is not Reason.NOT_PLACED_PROVED or task.updated_at < task.created_at:
                continue
            for row in placed.get(task.intent, []):
                late = created[row.order_id] - sent[task.intent]
                if created[row.order_id] < at - 30 or late < SURE:
                    yield f"4: {task.task_id} was called absent, its order came after {late:.0f} s"
                if task.task_id not in incidents and not simulation.plan.overnight:
                    yield f"4: {task.task_id} came late without an incident"


def _check_orders(simulation: Simulation) -> Iterator[str]:
    """Every order of ours is in the view as the broker has it, told once and in order."""
    store = simulation.store
    told = defaultdict[str, list[str]](list)
    for event in store.events:
        if event.order_id is not None and event.order_version is not None:
            told[event.order_id].append(event.event)
    for row in simulation.exchange.book.values():
        if not simulation.exchange_shows([row]):
            continue
        view = store.orders.get((ACCOUNT, row.order_id))
        if view is None:
            yield f"view: {row.order_id} is unknown"
            continue
        if view.order.status != row.status or view.order.filled_quantity != row.filled_quantity:
            yield f"view: {row.order_id} is {row.status}, shown as {view.order.status}"
        names = told[row.order_id]
        if names[0] != "order_placed" or names.count("order_placed") != 1:
            yield f"events of {row.order_id} begin {names[:2]}"
        endings = [name for name in names if name not in {"order_placed", "order_updated"}]
        if row.order_id in simulation.exchange.busted and len(endings) > 1:
            names, endings = names[:-1], endings[:-1]  # that it was annulled is told last
        if len(endings) != row.terminal or (endings and names[-1] != endings[0]):
            yield f"events of {row.order_id} ({row.status}) end {names[-3:]}"


def _check_log(simulation: Simulation) -> Iterator[str]:
    store = simulation.store
    yield from _check_transitions(store)
    last: dict[str, Any] = {}
    for event in store.events:
        if event.event == "task_status":
            data = msgspec.json.decode(event.data)
            last[data["task_id"]] = (data["status"], data["phase"], data["reason"])
    for task in store.tasks.values():
        if task.finished and last.get(task.task_id) != (task.status, task.phase, task.reason):
            yield f"9: {task.task_id} is {task.phase}, told as {last.get(task.task_id)}"
    if len({event.event_id for event in store.events}) != len(store.events):
        yield "9: an event id was used twice"


def _check_transitions(store: MemoryStore) -> Iterator[str]:
    rows: dict[str, OrderTask] = {}
    for _, change in store.history:
        for task in change.tasks:
            old = rows.get(task.task_id)
            rows[task.task_id] = task
            if old is None:
                continue
            if task.updated_at < old.updated_at - timedelta(milliseconds=1):
                yield f"9: an older row of {task.task_id} was written over a newer one"
            legal = (
                old.phase is task.phase
                or (old.phase, task.phase) in _LEGAL
                or (
                    task.operation != "place_order"
                    and (old.phase, task.phase) in _LEGAL_FOR_CHANGES
                )
            )
            if not legal:
                yield f"9: {task.operation} {task.task_id} went from {old.phase} to {task.phase}"


def _check_calls(simulation: Simulation) -> Iterator[str]:
    exchange = simulation.exchange
    spaced = defaultdict[str, list[float]](list)
    for call in exchange.attempts:
        parsed = tags.parse(call.about)
        if parsed is None or parsed.installation != INSTALLATION:
            yield f"a foreign tag {call.about}"
        else:
            spaced[parsed.intent].append(call.at)
    for intent, times in spaced.items():
        if any(late - early < 0.39 for early, late in pairwise(times)):
            yield f"8: {intent} was sent again too soon: {times}"
    counts = [call for call in exchange.calls if call.name != "cancel"]
    for first, ninth in zip(counts, counts[KITE_LIMITS.per_second :], strict=False):
        if ninth.at - first.at < 1 - SOON:
            yield f"12: {KITE_LIMITS.per_second + 1} requests within {ninth.at - first.at:.3f} s"
    for first, later in zip(exchange.calls, exchange.calls[10:], strict=False):
        if later.at - first.at < 1 - SOON:
            yield f"12: 11 requests, cancels among them, in {later.at - first.at:.3f} s"


def _check_batches(simulation: Simulation) -> Iterator[str]:
    store = simulation.store
    finished = Counter(
        msgspec.json.decode(event.data)["batch_id"]
        for event in store.events
        if event.event == "batch_status"
    )
    for batch in store.batches.values():
        legs = [store.tasks[task_id] for task_id in batch.task_ids]
        if batch.answer is None:
            yield f"10: batch {batch.batch_id} is still {batch.state}"
            continue
        if finished[batch.batch_id] != 1:
            yield f"10: batch {batch.batch_id} was told {finished[batch.batch_id]} times"
        answer = batch.answer
        if answer["succeeded"] + answer["failed"] + answer["unknown"] != len(legs):
            yield f"10: the counts of batch {batch.batch_id} do not add up"
        late = any(leg.updated_at > batch.completed_at for leg in legs if batch.completed_at)
        if not batch.state.startswith("roll") or late or simulation.plan.overnight:
            continue
        rows = [simulation.exchange.book[leg.order_id] for leg in legs if leg.order_id]
        if not all(row.terminal for row in rows):
            yield f"10: batch {batch.batch_id} is {batch.state} with an open order"
        filled = sum(row.filled_quantity for row in rows)
        if filled != sum(rest["quantity"] for rest in answer["residual"]):
            yield f"10: batch {batch.batch_id} left {filled}, told {answer['residual']}"
        if (filled > 0) != (batch.state == "rolled_back_with_residual"):
            yield f"10: batch {batch.batch_id} left {filled} and is {batch.state}"


@contextmanager
def quiet() -> Generator[None]:
    """No log lines: they cost more than what they tell of."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


def simulate(the_plan: Plan) -> tuple[Simulation, list[str]]:
    """Run a plan; the simulation as it ended, and what it broke."""
    setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010  # Final, to mypy
    trio_run._r.seed(the_plan.seed)
    simulation = Simulation(the_plan)
    with quiet():
        faults = trio.run(simulation.run, clock=MockClock(autojump_threshold=0))
    return simulation, faults


def run(seed: int) -> list[str]:
    """Simulate one seed; what it broke."""
    return simulate(plan(seed))[1]
