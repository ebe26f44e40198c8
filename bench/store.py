"""Durable tasks a second: group commit on each store, beside a pool that saves one by one.

`python -m bench.store` starts what it needs, runs for two minutes and prints a table. All three
write the rows of a real task: its key, the task, the attempt that is sent, the account's row, an
event and a webhook delivery. They take turns on the same disk, in rounds. The machine may be busy
with other things, so what counts is the ratio within a round, and of the rounds the median.
"""

import asyncio
import itertools
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import structlog
import trio

from bench.machine import machine
from tests.postgres import Server
from ticker_actors.actors.persistence import PersistenceActor, Wakeup
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.mailbox import running
from ticker_actors.metrics import Metrics
from ticker_actors.model import database, ids
from ticker_actors.model.changes import Attempt, Change, Committed, Key, Webhook
from ticker_actors.model.events import Event, webhook_body
from ticker_actors.model.tasks import OrderTask, Phase, TaskStatus
from ticker_actors.service import SystemClock
from ticker_actors.store.postgres import PostgresStore
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.tables import Store

WAITERS = (1, 10, 50, 200, 500)
"""Clients that each have one task under way."""
SECONDS = 1.2
"""Of each measurement; what the first sixth of it did does not count."""
WARMING = SECONDS / 6
ROUNDS = 5
"""In each of which every system is measured once, in another order each time."""
POOL = 10
"""Connections of the pool that saves one by one: asyncpg's default."""

WEBHOOK = Webhook(
    webhook_id="hook",
    url="http://127.0.0.1:9/",
    account_id="primary",
    events=("order_placed",),
    secret=None,
    created_at=datetime.now(UTC),
)


class Measured(NamedTuple):
    """Of one system at one number of waiters."""

    per_second: float
    p50: float
    """Milliseconds."""
    p99: float


class Watch:
    """Counts what is durable and how long each waited."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._counts_from = self._began + WARMING
        self._ends = self._began + SECONDS
        self._waits: list[float] = []

    def over(self) -> bool:
        """Whether time is up."""
        return time.perf_counter() > self._ends

    def note(self, began: float) -> None:
        """One more, asked for at this time."""
        now = time.perf_counter()
        if began >= self._counts_from:
            self._waits.append(now - began)

    def measured(self) -> Measured:
        """What came out."""
        cuts = [1000 * cut for cut in statistics.quantiles(self._waits, n=100)]
        seconds = self._ends - self._counts_from
        return Measured(len(self._waits) / seconds, cuts[49], cuts[98])


def new_change() -> Change:
    """What one order's submission writes."""
    now = datetime.now(UTC)
    task_id, intent = ids.task_id(now, secrets.randbits), ids.intent(secrets.randbits)
    params = {
        "exchange": "NFO",
        "tradingsymbol": "NIFTY25NOVFUT",
        "transaction_type": "BUY",
        "quantity": 50,
        "product": "NRML",
        "order_type": "LIMIT",
        "price": 19500.0,
    }
    task = OrderTask(
        task_id=task_id,
        idempotency_key=task_id,
        operation="place_order",
        params=params,
        status=TaskStatus.RUNNING,
        created_at=now,
        updated_at=now,
        account_id="primary",
        phase=Phase.SENT,
        intent=intent,
        sends=1,
        broker_tag=f"1ABC{intent}0000",
        sent_at=now,
        epoch=1,
    )
    attempt = Attempt(
        task_id=task_id,
        send=1,
        account_id="primary",
        operation="place_order",
        broker_tag=f"1ABC{intent}0000",
        epoch=1,
        sent_at=now,
    )
    event = Event(
        event_id=ids.event_id(now, secrets.randbits),
        account_id="primary",
        event="order_placed",
        order_id=None,
        order_key=intent,
        order_version=1,
        data=msgspec.Raw(msgspec.json.encode({**params, "task_id": task_id, "status": "OPEN"})),
        created_at=now,
    )
    return Change(
        account_id="primary",
        key=Key(task_id, "0" * 64, "task", task_id, "primary"),
        tasks=(task,),
        attempts=(attempt,),
        events=(event,),
    )


async def group_commit(opening: AbstractAsyncContextManager[Store], waiters: int) -> Measured:
    """A store behind the PersistenceActor."""
    metrics = Metrics()
    async with (
        opening as store,
        running(StreamHub("bench", metrics), drain=5) as hub,
        running(
            PersistenceActor(store, hub, Wakeup(), SystemClock(), metrics), drain=5
        ) as persistence,
    ):
        await store.claim("primary", "bench")
        found = await store.recover("primary", datetime.now(UTC))
        await hub.start_from("primary", found.head_sequence)
        await persistence.commit(Change(account_id="primary", webhooks=(WEBHOOK,)))
        watch = Watch()

        async def client() -> None:
            while not watch.over():
                began = time.perf_counter()
                answer = await persistence.commit(new_change())
                if not isinstance(answer, Committed) or answer.deliveries != 1:
                    raise AssertionError(answer)
                watch.note(began)

        async with trio.open_nursery() as nursery:
            for _ in range(waiters):
                nursery.start_soon(client)
    return watch.measured()


async def make(opening: AbstractAsyncContextManager[Store]) -> None:
    """The tables, and the account's row."""
    async with opening as store:
        await store.claim("primary", "bench")


async def one_by_one(url: str, waiters: int) -> Measured:
    """A pool whose connections each save one task in one transaction, on plain asyncio."""
    async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool:
        watch = Watch()

        async def client() -> None:
            while not watch.over():
                began = time.perf_counter()
                change = new_change()
                async with pool.acquire() as connection, connection.transaction():
                    await save(connection, change)
                watch.note(began)

        await asyncio.gather(*(client() for _ in range(waiters)))
    return watch.measured()


async def save(connection: asyncpg.Connection, change: Change) -> None:
    """The rows of one task, a statement each."""
    (task,), (attempt,), (event,), key = change.tasks, change.attempts, change.events, change.key
    if key is None:
        raise AssertionError
    await connection.execute(
        "INSERT INTO idempotency_keys VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING",
        *(key.key, key.request_hash, key.kind, key.id, key.account_id),
    )
    await connection.execute(
        "INSERT INTO order_tasks (task_id, idempotency_key, operation, params, status, created_at, "
        "updated_at, account_id, phase, intent, sends, broker_tag, sent_at, epoch) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        *(task.task_id, task.idempotency_key, task.operation),
        *(msgspec.json.encode(task.params).decode(), task.status, task.created_at),
        *(task.updated_at, task.account_id, task.phase, task.intent, task.sends),
        *(task.broker_tag, task.sent_at, task.epoch),
    )
    await connection.execute(
        "INSERT INTO task_attempts (task_id, send, account_id, operation, broker_tag, epoch, "
        "sent_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *(attempt.task_id, attempt.send, attempt.account_id, attempt.operation),
        *(attempt.broker_tag, attempt.epoch, attempt.sent_at),
    )
    sequence = await connection.fetchval(
        "UPDATE accounts SET head_sequence = head_sequence + 1 WHERE account_id = $1 "
        "RETURNING head_sequence",
        event.account_id,
    )
    await connection.execute(
        "INSERT INTO order_events VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        *(event.account_id, sequence, event.event_id, event.event, event.order_id),
        *(event.order_key, event.order_version, bytes(event.data).decode(), event.created_at),
    )
    await connection.execute(
        "INSERT INTO webhook_deliveries (delivery_id, webhook_id, account_id, sequence, event_id, "
        "event, order_key, body, state, next_at, created_at, updated_at) "
        "VALUES ($1, 'hook', $2, $3, $4, $5, $6, $7, 'pending', $8, $8, $8)",
        *(f"dlv_{event.event_id}", event.account_id, sequence, event.event_id, event.event),
        *(event.order_key, webhook_body(event, "bench").decode(), event.created_at),
    )


def median(rounds: Iterable[Measured]) -> Measured:
    """What is in the middle, of each number by itself."""
    return Measured(*map(statistics.median, zip(*rounds, strict=True)))


def ratio(ours: list[Measured], theirs: list[Measured]) -> str:
    """How many times as many, in the median of the rounds, and from the worst to the best."""
    found = [our.per_second / their.per_second for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})"


def row(waiters: int, systems: Sequence[Callable[[], Measured]], rounds: int) -> str:
    """One line of the table: measures all systems in every round. The first is the peer."""
    found: list[list[Measured]] = [[] for _ in systems]
    for number in range(rounds):
        for turn in range(len(systems)):
            which = (number + turn) % len(systems)
            found[which].append(systems[which]())
    cells = [
        f"{middle.per_second:,.0f}/s, p50 {middle.p50:.1f}, p99 {middle.p99:.1f} ms"
        for middle in map(median, found)
    ]
    ratios = [ratio(ours, found[0]) for ours in found[1:]]
    return f"| {waiters} | {' | '.join((*cells, *ratios))} |"


def main(*, quick: bool = False) -> None:
    """Measure and print."""
    rounds, all_waiters = (1, WAITERS[2:3]) if quick else (ROUNDS, WAITERS)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    server, chance, names = Server(), secrets.randbits, itertools.count()

    def on_sqlite(waiters: int) -> Measured:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder) / "ticker.db"
            opening = SqliteStore.open(path, now=datetime.now(UTC), chance=chance)
            return trio.run(group_commit, opening, waiters)

    def postgres(url: str) -> AbstractAsyncContextManager[Store]:
        return PostgresStore.open(database.postgres(url), now=datetime.now(UTC), chance=chance)

    def on_postgres(url: str, waiters: int) -> Measured:
        return trio.run(group_commit, postgres(url), waiters)

    def in_pool(url: str, waiters: int) -> Measured:
        return asyncio.run(one_by_one(url, waiters))

    try:
        print(f"{machine(server)}; medians of {rounds} rounds of {SECONDS} s each\n")
        print("| waiters | pool of 10 | SQLite | PostgreSQL | SQLite : pool | PostgreSQL : pool |")
        print("|---|---|---|---|---|---|")
        for waiters in all_waiters:
            name = f"bench_{next(names)}"
            server.execute(f"CREATE DATABASE {name}")
            url = server.url(name)
            trio.run(make, postgres(url))
            systems = [
                partial(in_pool, url, waiters),
                partial(on_sqlite, waiters),
                partial(on_postgres, url, waiters),
            ]
            print(row(waiters, systems, rounds), flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main()
