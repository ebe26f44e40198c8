"""The library: a task in the tables, saved and read by a program of one's own, under Trio.

async def main() -> None:
    store = TaskStore("postgresql://user:password@host/database")  # or sqlite:///file.db
    await store.initialize()
    await store.save(OrderTask(task_id="task_1", idempotency_key="key-1", …))

trio.run(main)
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio

from ticker_actors.model import database, ids, saved, tasks
from ticker_actors.model.changes import Key
from ticker_actors.model.retention import Retention, cutoffs
from ticker_actors.model.saved import NotSaved, SavedTask
from ticker_actors.model.tasks import Operation, Phase, Reason, TaskStatus
from ticker_actors.store import rows
from ticker_actors.store.task_sqlite import SqliteTaskTables
from ticker_actors.store.task_tables import TaskTables

MOST_TRIES = 10
"""Of one save, each after another program came in between. It must have been done by then."""


def _now() -> datetime:
    return _whole(datetime.now(UTC))


def _whole(instant: datetime) -> datetime:
    """In UTC and milliseconds: what every table keeps."""
    kept = instant.replace(microsecond=instant.microsecond // 1_000 * 1_000)
    return kept if instant.tzinfo is None else kept.astimezone(UTC)


@dataclass(kw_only=True)
class OrderTask:
    """A task in the mission document's columns. Times are UTC and milliseconds.

    `save` writes what you set. The rest is told by the store when it reads a task, is not compared,
    and is not saved: `updated_at`, `phase` (where inside its status it is), `reason` (why a dead
    letter is dead) and `may_be_at_broker` (whether an order of it is, or may come to be, there).
    """

    task_id: str
    idempotency_key: str
    operation: Operation
    params: dict[str, Any]
    """For `place_order` an order's fields; for the others `order_id`, `variety` and `changes`."""
    status: TaskStatus = TaskStatus.PENDING
    attempts: int = 0
    max_attempts: int = 5
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now, compare=False)
    last_error: str | None = None
    result: dict[str, Any] | None = None
    account_id: str = "primary"
    phase: Phase | None = field(default=None, compare=False)
    reason: Reason | None = field(default=None, compare=False)
    may_be_at_broker: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        self.created_at = _whole(self.created_at)


class TaskStore:
    """The table `order_tasks`, on SQLite or PostgreSQL, also beside a running service.

    It takes no lease, writes no events and sends nothing. Use it under `trio.run`, from as many
    tasks as you like; there is nothing to close: what it needs ends with the run. Every method
    raises `StoreError` when the database cannot be used, after half a minute at most.
    """

    def __init__(self, connection_string: str, *, now: Callable[[], datetime] = _now) -> None:
        """Name a database: `postgresql://user:password@host/database` or `sqlite:///file.db`.

        Raises `ValueError` when it names none. Nothing is opened yet.
        """
        self._now = now
        self._opening = trio.Lock()
        self._tables: TaskTables
        try:
            if database.is_postgres(connection_string):
                # Who keeps a file need not wait for asyncpg's import.
                from ticker_actors.store.task_postgres import (  # noqa: PLC0415
                    PostgresTaskTables,
                )

                self._tables = PostgresTaskTables(database.postgres(connection_string))
            else:
                self._tables = SqliteTaskTables(Path(database.sqlite(connection_string)))
        except ValueError as error:
            raise ValueError(f"The connection string {error}.") from None

    async def initialize(self) -> None:
        """Connect, and make or alter the tables where needed. Once in each Trio run; twice is fine.

        Raises `StoreError` when a service is running on an older schema: stop that first.
        """
        async with self._opening:
            if self._tables.closed:
                await self._tables.open()

    async def save(self, task: OrderTask) -> None:
        """Write a new task, or the next state of one. It is durable when this returns.

        A task may go the ways of the mission document: pending to running; running to completed,
        retrying or dead_letter; retrying to running; and whatever is not completed may come to be
        completed or dead. Saving the same again does nothing. Raises `NotSaved` for any other step,
        for another task's key, and for a task that a service has taken up: only that may change it.

        **A service takes these rows up when it starts, not before.** Then a pending task is sent
        only if it has not expired, counted from `created_at`: a MARKET or IOC order after 10 s,
        others after 5 minutes or their own `expires_in`. So most will have expired: they end as
        dead letters, as do params that are no valid order. What is saved as running or retrying, or
        with attempts, was tried without the service's tag, which no order book can trace: it ends
        as an unresolved dead letter, for a person to look up, and is never sent again. To have an
        order placed now, ask the service: `POST /orders`.
        """
        wanted = saved.checked({name: getattr(task, name) for name in SavedTask.__struct_fields__})
        for _ in range(MOST_TRIES):
            if await self._saved(wanted):
                return
        raise NotSaved(f"Task {wanted.task_id!r} is being changed by other programs all the time.")

    async def _saved(self, wanted: SavedTask) -> bool:
        """Try once. False when another program came in between."""
        row = await self._task(wanted.task_id)
        found = await self._rows(
            "SELECT epoch FROM accounts WHERE account_id = $1", wanted.account_id
        )
        epoch = found[0]["epoch"] if found else 0
        if row is not None:
            changed = saved.following(row, wanted, epoch=epoch, now=self._after(row))
            return changed is row or await self._tables.replace(row, changed)
        taken = await self._rows(
            "SELECT id, kind FROM idempotency_keys WHERE key = $1 UNION ALL "
            "SELECT task_id, 'task' FROM order_tasks WHERE idempotency_key = $1 UNION ALL "
            "SELECT batch_id, 'batch' FROM batches WHERE idempotency_key = $1",
            wanted.idempotency_key,
        )
        if taken:
            used, kind = taken[0]["id"], taken[0]["kind"]
            if used == wanted.task_id and await self._task(used) is not None:
                return False  # somebody has just saved it
            raise NotSaved(f"Key {wanted.idempotency_key!r} was used before, for {kind} {used!r}.")
        intent = ids.intent(secrets.randbits)
        new = saved.first(wanted, intent=intent, epoch=epoch, now=self._now())
        return await self._tables.insert(new, _key(wanted))

    async def load_pending(self) -> list[OrderTask]:
        """Tasks that wait to be sent, or to be sent again, oldest first; never a running one."""
        found = await self._rows(
            "SELECT * FROM order_tasks WHERE status IN ('pending', 'retrying') "
            "ORDER BY created_at, rowid"
        )
        return [_shown(rows.to(tasks.OrderTask, row)) for row in found]

    async def get(self, task_id: str) -> OrderTask | None:
        """One task, or None when there is none of that id."""
        row = await self._task(task_id)
        return None if row is None else _shown(row)

    async def delete_old_completed(self, days: int = 7) -> int:
        """Delete what ended more than so many days ago, and say how many tasks it were.

        Completed tasks and settled dead letters, by the service's own rules (`store/retention.py`):
        never an unresolved one, nor a leg of a batch that is under way, and nothing under a key
        that is younger than 7 days. Raises `ValueError` below 1.
        """
        if days < 1:
            raise ValueError(f"days must be 1 or more, not {days}.")
        self._ready()
        old, deleted = cutoffs(self._now(), Retention(days)), 0
        for table in ("order_tasks", "task_attempts"):
            while part := await self._tables.prune(table, old):
                deleted += part.get("order_tasks", 0)
        return deleted

    async def _task(self, task_id: str) -> tasks.OrderTask | None:
        found = await self._rows("SELECT * FROM order_tasks WHERE task_id = $1", task_id)
        return rows.to(tasks.OrderTask, found[0]) if found else None

    async def _rows(self, sql: str, *values: object) -> list[rows.Row]:
        self._ready()
        return list(await self._tables.select(sql, *values))

    def _ready(self) -> None:
        if self._tables.closed:
            raise RuntimeError("Call `await store.initialize()` first, in this Trio run.")

    def _after(self, row: tasks.OrderTask) -> datetime:
        """A step of a task is later than the one before: the guard against a lost one asks that."""
        return max(self._now(), _whole(row.updated_at) + timedelta(milliseconds=1))


def _key(task: SavedTask) -> Key:
    """Its key as the service keeps them. No HTTP request has the same hash: it would be refused."""
    said = msgspec.json.encode(("save", task.operation, task.params), order="sorted")
    digest = hashlib.sha256(said).hexdigest()
    return Key(task.idempotency_key, digest, "task", task.task_id, task.account_id)


def _shown(row: tasks.OrderTask) -> OrderTask:
    names = OrderTask.__dataclass_fields__
    return OrderTask(**{name: getattr(row, name) for name in names})
