"""A world of fakes around the real actors: a store and brokers in memory, on Trio's clock.

Everything here is in memory, so that under `MockClock(autojump_threshold=0)` time passes only while
nothing can happen. Stores and brokers outlive processes; a `Process` can be killed at any moment.
"""

import math
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Generic, TypeVar

import msgspec
import trio

from tests.bare_portfolio import BarePortfolio
from ticker_actors.actors.executor import ExecutorActor
from ticker_actors.actors.lane import Lane
from ticker_actors.actors.persistence import PersistenceActor, Wakeup
from ticker_actors.actors.ports import Broker, Trading
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.brokers.repeated import RepeatedRows
from ticker_actors.metrics import Metrics
from ticker_actors.model import tags
from ticker_actors.model.accounts import Standing
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.changes import (
    Attempt,
    Change,
    CommitAnswer,
    Committed,
    Key,
    KeyTaken,
    Recovered,
    Unstorable,
)
from ticker_actors.model.events import Event
from ticker_actors.model.ids import Chance
from ticker_actors.model.limits import Limits
from ticker_actors.model.orders import (
    BrokerOrder,
    OrderChanges,
    OrderView,
    PlaceOrder,
)
from ticker_actors.model.outcomes import (
    Accepted,
    ChangeOutcome,
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
from ticker_actors.model.portfolio import Positions
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.tasks import OrderTask, Phase
from ticker_actors.store import rows

B = TypeVar("B", bound=Broker)
S = TypeVar("S", bound=msgspec.Struct)

ACCOUNT = "primary"
INSTALLATION = "ABC"
OPENED = 0.2
"""Seconds after which the first read of the book has opened the gate."""
MORNING = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)
"""Monday, 10:00 IST."""
NO_LIMITS = Limits(0, 0, 0)
KITE_LIMITS = Limits(8, 400, 5000)
CALL_SECONDS = 7.0
"""A broker call's deadline: when the reply is lost, it takes so long to know."""
METRICS = Metrics()
"""One for all processes of all tests: making it costs more than a simulated day."""


class TrioClock:
    """A wall clock that goes with Trio's, until it is set."""

    def __init__(self, start: datetime = MORNING) -> None:
        self.start = start
        self.set_by = timedelta()

    def now(self) -> datetime:
        return self.start + timedelta(seconds=trio.current_time()) + self.set_by


# The store


class StaleEpochError(Exception):
    """Another process has taken the account over."""


class MemoryStore:
    """The tables as dicts. What was written stays, whichever process dies."""

    def __init__(self, commit_seconds: Callable[[], float] = lambda: 0.002) -> None:
        self.commit_seconds = commit_seconds
        self.keys: dict[str, Key] = {}
        self.tasks: dict[str, OrderTask] = {}
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.orders: dict[tuple[str, str], OrderView] = {}
        self.batches: dict[str, Batch] = {}
        self.events: list[Event] = []
        self.epochs: dict[str, int] = {}
        self.standing = Standing()
        self.history: list[tuple[float, Change]] = []
        """Every transaction and its time, in order."""
        self._owners: dict[str, str] = {}
        """Whose a unique value is: idempotency keys and intents."""

    def write(self, change: Change, epoch: int | None) -> CommitAnswer:
        """One transaction."""
        if epoch != self.epochs.get(change.account_id):
            raise StaleEpochError
        if change.key is not None and change.key.key in self.keys:
            return KeyTaken(self.keys[change.key.key])
        for task in change.tasks:
            for unique in (task.idempotency_key, task.intent):
                if self._owners.get(unique, task.task_id) != task.task_id:
                    return Unstorable(f"UNIQUE constraint failed: {unique}")
        if change.key is not None:
            self.keys[change.key.key] = change.key
        for task in change.tasks:
            self._owners[task.idempotency_key] = self._owners[task.intent] = task.task_id
            self.tasks[task.task_id] = task
        self.attempts.update(
            {(attempt.task_id, attempt.send): attempt for attempt in change.attempts}
        )
        self.orders.update({(view.account_id, view.order.order_id): view for view in change.orders})
        self.batches.update({batch.batch_id: batch for batch in change.batches})
        self.standing = change.standing or self.standing
        head = len(self.events)
        events = tuple(
            msgspec.structs.replace(event, sequence=number)
            for number, event in enumerate(change.events, start=head + 1)
        )
        self.events.extend(events)
        self.history.append((trio.current_time(), change))
        return Committed(events)

    def by_intent(self, intent: str) -> OrderTask | None:
        owner = self._owners.get(intent)
        return None if owner is None else self.tasks[owner]

    def names(self) -> list[str]:
        """The names of all events, in order."""
        return [event.event for event in self.events]


@dataclass(slots=True)
class Connection:
    """One process's way to the store. After `alive` is unset nothing of it becomes durable."""

    store: MemoryStore
    alive: bool = True
    epochs: dict[str, int] = field(default_factory=dict)
    lease: float = math.inf

    async def _pass(self, seconds: float) -> None:
        await trio.sleep(seconds)
        if not self.alive:
            await trio.sleep_forever()

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        del now
        seconds = self.store.commit_seconds() / 2
        await self._pass(seconds)
        answers = [
            self.store.write(change, self.epochs.get(change.account_id)) for change in changes
        ]
        await self._pass(seconds)
        return answers

    def lease_seconds(self, _account_id: str) -> float:
        return self.lease

    async def recover(self, account_id: str, now: datetime) -> Recovered:
        await self._pass(0.001)
        store = self.store
        epoch = self.epochs[account_id] = store.epochs.get(account_id, 0) + 1
        store.epochs[account_id] = epoch
        batches = [batch for batch in store.batches.values() if not batch.finished]
        unfinished = {batch.batch_id for batch in batches}
        day = trading_day(now)
        return Recovered(
            account_id=account_id,
            epoch=epoch,
            head_sequence=len(store.events),
            standing=store.standing,
            modifications=Counter(
                task.order_id or ""
                for task in store.tasks.values()
                if task.operation == "modify_order"
                for _ in range(task.attempts)
            ),
            taken_today=sum(
                task.operation == "place_order" and trading_day(task.created_at) == day
                for task in store.tasks.values()
            ),
            tasks=tuple(
                _stored(task)
                for _, task in sorted(store.tasks.items())
                if not task.finished or task.batch_id in unfinished
            ),
            batches=tuple(_stored(batch) for batch in batches),
            orders=tuple(
                view
                for view in store.orders.values()
                if view.trading_day == day or store.tasks[view.task_id].batch_id in unfinished
            ),
            attempts=tuple(
                _stored(attempt)
                for attempt in sorted(store.attempts.values(), key=lambda each: each.sent_at)
                if attempt.sent_at > now - timedelta(days=1)
            ),
        )

    async def task(self, task_id: str) -> OrderTask | None:
        return await self._read(lambda: self.store.tasks.get(task_id))

    async def key(self, key: str) -> Key | None:
        return await self._read(lambda: self.store.keys.get(key))

    async def task_by_intent(self, intent: str) -> OrderTask | None:
        return await self._read(lambda: self.store.by_intent(intent))

    async def order(self, account_id: str, order_id: str) -> OrderView | None:
        await self._pass(0.0005)
        return self.store.orders.get((account_id, order_id))

    async def orders(self, account_id: str, day: date) -> list[OrderView]:
        await self._pass(0.001)
        return [
            view
            for (owner, _), view in self.store.orders.items()
            if owner == account_id and view.trading_day == day
        ]

    async def batch(self, batch_id: str) -> Batch | None:
        return await self._read(lambda: self.store.batches.get(batch_id))

    async def _read(self, find: Callable[[], S | None]) -> S | None:
        """The row as it was in the middle of the read."""
        await self._pass(0.0003)
        found = find()
        await self._pass(0.0003)
        return None if found is None else _stored(found)


def _stored(struct: S) -> S:
    """A struct as SQLite gives it back: times lose what is below a millisecond."""
    names = struct.__struct_fields__
    return rows.to(type(struct), dict(zip(names, rows.of(struct), strict=True)))


# Brokers


@dataclass(frozen=True, slots=True)
class Call:
    """One request that a broker got."""

    at: float
    name: str
    about: str
    """The tag of a place call, else the order id."""


class FakeBroker(BarePortfolio):
    """A broker that does what it is asked: orders rest until the test fills or ends them."""

    def __init__(self, latency: float = 0.05) -> None:
        self.latency = latency
        self.book: dict[str, BrokerOrder] = {}
        self.calls: list[Call] = []
        self.reads: list[float] = []
        self._feed = trio.open_memory_channel[FeedItem](10_000)

    # The port

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        self.note("place", tag)
        await trio.sleep(self.latency)
        return Placed(self.accept(order, tag))

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        del variety
        self.note("modify", order_id)
        await trio.sleep(self.latency)
        if order_id not in self.book or self.book[order_id].terminal:
            return Refused("InputException", "Order cannot be modified as it is being processed.")
        fields: dict[str, Any] = changes.named()
        self.show(order_id, **fields)
        return Accepted()

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        del variety
        self.note("cancel", order_id)
        await trio.sleep(self.latency)
        if order_id not in self.book or self.book[order_id].terminal:
            return Refused("InputException", "Order cannot be cancelled as it is being processed.")
        self.show(order_id, status="CANCELLED")
        return Accepted()

    async def orders(self) -> OrderBook | Unreadable:
        self.reads.append(trio.current_time())
        await trio.sleep(self.latency)
        return OrderBook(tuple(self.book.values()))

    def updates(self) -> AsyncIterable[FeedItem]:
        return self._feed[1]

    # What tests do with it

    def note(self, name: str, about: str) -> None:
        self.calls.append(Call(trio.current_time(), name, about))

    def accept(self, order: PlaceOrder, tag: str, status: str = "OPEN") -> str:
        """The order exists from now on."""
        order_id = str(2_603_020_000_000 + len(self.book) + 1)
        self.book[order_id] = BrokerOrder(
            order_id=order_id,
            status=status,
            exchange=order.exchange,
            tradingsymbol=order.tradingsymbol,
            transaction_type=order.transaction_type,
            quantity=order.quantity,
            product=order.product,
            order_type=order.order_type,
            variety=order.variety,
            price=order.price or 0.0,
            pending_quantity=order.quantity,
            tag=tag,
            tags=(tag,),
        )
        return order_id

    def show(self, order_id: str, *, push: bool = True, **fields: object) -> None:
        """Change an order in the book, and push it."""
        self.book[order_id] = msgspec.structs.replace(self.book[order_id], **fields)
        if push:
            self.push(self.book[order_id])

    def fill(self, order_id: str, quantity: int | None = None, *, push: bool = True) -> None:
        """Fill an order, up to `quantity` in all."""
        asked = self.book[order_id].quantity
        filled = asked if quantity is None else quantity
        status = "COMPLETE" if filled == asked else "OPEN"
        self.show(
            order_id,
            push=push,
            status=status,
            filled_quantity=filled,
            pending_quantity=asked - filled,
            average_price=100.0,
        )

    def push(self, item: FeedItem) -> None:
        """Put an item on the feed."""
        self._feed[0].send_nowait(item)

    def sent(self, name: str = "place") -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def only(self) -> str:
        """The id of the one order in the book."""
        (order_id,) = self.book
        return order_id


class ScriptedBroker(FakeBroker):
    """Answers place calls from a list of outcomes; places no order for them. Then it behaves."""

    def __init__(self, *outcomes: PlaceOutcome, latency: float = 0.05) -> None:
        super().__init__(latency)
        self._outcomes = deque(outcomes)

    def script(self, *outcomes: PlaceOutcome) -> None:
        """What the next place calls are answered."""
        self._outcomes.extend(outcomes)

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if not self._outcomes:
            return await super().place(order, tag)
        outcome = self._outcomes.popleft()
        self.note("place", tag)
        await trio.sleep(self.latency)
        return outcome


class ReplyLostBroker(FakeBroker):
    """The order exists; its reply never comes."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        await super().place(order, tag)
        await trio.sleep(CALL_SECONDS)
        return Unknown("No reply within 7 s.")


class RequestLostBroker(FakeBroker):
    """Neither the order nor a reply comes of a place call."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        del order
        self.note("place", tag)
        await trio.sleep(CALL_SECONDS)
        return Unknown("No reply within 7 s.")


class LateOrderBroker(RequestLostBroker):
    """The reply never comes, and the order appears in the book only much later."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._late: list[tuple[float, PlaceOrder, str]] = []

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        self._late.append((trio.current_time() + self.seconds, order, tag))
        return await super().place(order, tag)

    async def orders(self) -> OrderBook | Unreadable:
        for late in tuple(self._late):
            if late[0] <= trio.current_time():
                self._late.remove(late)
                self.accept(late[1], late[2])
        return await super().orders()


class SilentBroker(FakeBroker):
    """Never answers a place call, and never gives up: for what happens meanwhile."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        del order
        self.note("place", tag)
        await trio.sleep_forever()
        raise AssertionError


class RegisteringBroker(FakeBroker):
    """Its orders stay at the first status, which no exchange has confirmed."""

    def accept(self, order: PlaceOrder, tag: str, status: str = "PUT ORDER REQ RECEIVED") -> str:
        return super().accept(order, tag, status)


class RejectingBroker(FakeBroker):
    """Orders of this symbol are rejected in the book; others rest."""

    def __init__(self, symbol: str, latency: float = 0.05) -> None:
        super().__init__(latency)
        self.symbol = symbol

    def accept(self, order: PlaceOrder, tag: str, status: str = "OPEN") -> str:
        rejected = order.tradingsymbol == self.symbol
        order_id = super().accept(order, tag, "REJECTED" if rejected else status)
        if rejected:
            self.show(order_id, push=False, status_message="Insufficient funds.")
        return order_id


class StubbornBroker(FakeBroker):
    """Accepts so many cancels without carrying them out."""

    def __init__(self, ignored: int) -> None:
        super().__init__()
        self.ignored = ignored

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        if self.ignored:
            self.ignored -= 1
            self.note("cancel", order_id)
            await trio.sleep(self.latency)
            return Accepted()
        return await super().cancel(order_id, variety)


class StaleBook(FakeBroker):
    """Reads of the book lack these orders."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()

    async def orders(self) -> OrderBook | Unreadable:
        await super().orders()
        return OrderBook(
            tuple(row for row in self.book.values() if row.order_id not in self.hidden)
        )


class UnreadableBook(FakeBroker):
    """The book cannot be read until the fault is over."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = True

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        return Unreadable("502 Bad Gateway") if self.broken else book


class LostFeed(FakeBroker):
    """Says at once that its feed is lost, and pushes nothing more."""

    def __init__(self) -> None:
        super().__init__()
        super().push(FeedLost("The connection was refused."))

    def push(self, item: FeedItem) -> None:
        del item


class SilentFeed(FakeBroker):
    """Pushes nothing, and does not say so."""

    def push(self, item: FeedItem) -> None:
        del item


class EndedFeed(SilentFeed):
    """Its feed just ends."""

    def __init__(self) -> None:
        super().__init__()
        self._feed[0].close()


NOT_SENT = NotSent("Connection refused.")
REFUSED = Refused("InputException", "Quantity must be a multiple of the lot size.")
TOKEN_DEAD = Refused("TokenException", "Incorrect `api_key` or `access_token`.", retryable=True)


def rate_limited(seconds: float | None) -> Refused:
    """A 429."""
    return Refused("NetworkException", "Too many requests", retryable=True, retry_after=seconds)


# Processes


class Line(BarePortfolio):
    """A process's way to its broker. A dead process sends nothing and hears nothing.

    It counts repeated rows, as an adapter may; what it gave before is forgotten with its process.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.alive = True
        self.counts = True
        """Unset, it gives every row in every read, as an adapter may too."""
        self._repeated = RepeatedRows()

    async def _hang_if_dead(self) -> None:
        if not self.alive:
            await trio.sleep_forever()

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        await self._hang_if_dead()
        return await self.broker.place(order, tag)

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        await self._hang_if_dead()
        return await self.broker.modify(order_id, variety, changes)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        await self._hang_if_dead()
        return await self.broker.cancel(order_id, variety)

    async def orders(self) -> OrderBook | Unreadable:
        await self._hang_if_dead()
        book = await self.broker.orders()
        if not self.counts or (isinstance(book, Unreadable) and not book.orders):
            return book
        counted = self._repeated.book(book.orders)
        return replace(book, orders=counted.orders, repeated=counted.repeated)

    def forget_book(self) -> None:
        self._repeated.forget()

    async def positions(self) -> Positions | Unreadable:
        return await self.broker.positions()

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        return await self.broker.last_price(exchange, tradingsymbol)

    def updates(self) -> AsyncIterable[FeedItem]:
        return LineFeed(self)


class LineFeed:
    """The feed as a process hears it. No generator: a killed process would leave one open."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._items = aiter(line.broker.updates())

    def __aiter__(self) -> AsyncIterator[FeedItem]:
        return self

    async def __anext__(self) -> FeedItem:
        item = await anext(self._items)
        if not self._line.alive:
            await trio.sleep_forever()
        return item

    def take_nowait(self) -> FeedItem | None:
        if not self._line.alive or not isinstance(self._items, trio.MemoryReceiveChannel):
            return None
        try:
            item: FeedItem = self._items.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return None
        return item


class Process:
    """One life of the service: hub, persistence and executor on a store and a broker."""

    def __init__(self, world: "World[Any]") -> None:
        self.connection = Connection(world.store)
        self.line = Line(world.broker)
        self.hub = StreamHub("str_0", METRICS)
        self.persistence = PersistenceActor(
            self.connection, self.hub, Wakeup(), world.clock, METRICS
        )
        self.executor = ExecutorActor(
            {ACCOUNT: Trading("fake", self.line, world.limits, world.risk)},
            self.persistence,
            self.hub,
            self.connection,
            world.clock,
            world.chance,
            METRICS,
            installation=INSTALLATION,
            horizon=world.horizon,
            max_attempts=world.max_attempts,
        )
        self.ready = trio.Event()
        self.ended = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def lane(self) -> Lane:
        return self.executor._lanes[ACCOUNT]

    @property
    def alive(self) -> bool:
        return self.line.alive

    async def run(self) -> None:
        """Live until killed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.hub.run)
                await nursery.start(self.persistence.run)
                await nursery.start(self.executor.run)
                self.ready.set()
        for actor in (self.hub, self.persistence, self.executor):
            for mailbox in actor.mailboxes:
                mailbox.abandon()
        self.ended.set()

    def kill(self) -> None:
        """`kill -9`: from here on nothing it does is seen outside."""
        self.line.alive = self.connection.alive = False
        self._scope.cancel()


@dataclass(kw_only=True)
class World(Generic[B]):
    """What outlives processes, and the settings they start with."""

    broker: B
    store: MemoryStore = field(default_factory=MemoryStore)
    clock: TrioClock = field(default_factory=TrioClock)
    chance: Chance = field(default_factory=lambda: random.Random(1).getrandbits)
    limits: Limits = NO_LIMITS
    risk: RiskLimits = field(default_factory=RiskLimits)
    horizon: float = 120.0
    max_attempts: int = 5

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[Process]:
        """A process that is ready; it is killed at the end of the block."""
        process = Process(self)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            await process.ready.wait()
            try:
                yield process
            finally:
                process.kill()


# Orders


def limit_order(symbol: str = "INFY", quantity: int = 10, **fields: object) -> PlaceOrder:
    """An order that rests."""
    return msgspec.convert(
        {
            "exchange": "NSE",
            "tradingsymbol": symbol,
            "transaction_type": "BUY",
            "quantity": quantity,
            "product": "CNC",
            "order_type": "LIMIT",
            "price": 100.0,
            **fields,
        },
        PlaceOrder,
    )


def market_order(symbol: str = "INFY", quantity: int = 10, **fields: object) -> PlaceOrder:
    """An order at any price."""
    return limit_order(symbol, quantity, **{"order_type": "MARKET", "price": None, **fields})


def intent_of(row: BrokerOrder) -> str | None:
    """The intent in a row's tag."""
    tag = tags.ours(row.all_tags(), INSTALLATION)
    return None if tag is None else tag.intent


def phases(store: MemoryStore, task_id: str) -> list[Phase]:
    """The phases that a task was durably in, in order, without repeats."""
    found: list[Phase] = []
    for _, change in store.history:
        for task in change.tasks:
            if task.task_id == task_id and (not found or found[-1] is not task.phase):
                found.append(task.phase)
    return found
