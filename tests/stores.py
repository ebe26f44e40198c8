"""A place for each kind of store, for tests that hold for both; and what they store."""

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Protocol

import msgspec

from tests import postgres
from ticker_actors.model import database
from ticker_actors.model.changes import Change, Recovered, Webhook
from ticker_actors.model.events import Event, EventName
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask, Phase, TaskStatus
from ticker_actors.store.postgres import PostgresStore
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.tables import Store

AT = datetime(2025, 11, 20, 4, 0, 0, 123000, tzinfo=UTC)
TODAY = date(2025, 11, 20)
SECOND = timedelta(seconds=1)
UNICODE = "größer 🚀 \u2028 'quoted\" ; DROP TABLE order_tasks; --"


class Place(Protocol):
    """Where a store is, and what another program sees there."""

    def open(self, seed: int = 1) -> AbstractAsyncContextManager[Store]:
        """The store of a service that starts now."""
        ...

    def execute(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Run a statement as another program; its rows."""
        ...


class SqlitePlace:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, seed: int = 1) -> AbstractAsyncContextManager[SqliteStore]:
        return SqliteStore.open(self.path, now=AT, chance=Random(seed).getrandbits)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()


class PostgresPlace:
    """A database of its own on a server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, seed: int = 1) -> AbstractAsyncContextManager[PostgresStore]:
        address = database.postgres(self.url)
        return PostgresStore.open(address, now=AT, chance=Random(seed).getrandbits)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return postgres.execute(self.url, sql)


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


async def commit(store: Store, *changes: Change) -> list[type]:
    """Commit, and say what became of each."""
    return [type(answer) for answer in await store.commit(changes, AT)]


async def take_over(store: Store, account_id: str, owner: str) -> Recovered:
    """Become an account's writer, as a start does; what is found."""
    await store.claim(account_id, owner)
    return await store.recover(account_id, AT)
