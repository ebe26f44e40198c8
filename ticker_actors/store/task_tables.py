"""What the library's TaskStore asks of a database: the part that SQLite and PostgreSQL do alike."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from ticker_actors.model.changes import Key
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows

WAIT_SECONDS = 12.0
"""For a database that does not answer, or is locked, before `StoreError` says so."""
DELETED_TOGETHER = 1_000
"""Rows in one transaction, so that a running service never waits for long."""

ACCOUNT = (
    # A row without owner or lease: the first service to start finds it, and takes the account over.
    "INSERT INTO accounts (account_id) VALUES ($1) "
    "ON CONFLICT (account_id) DO UPDATE SET state = accounts.state RETURNING epoch"
)
"""The account's epoch, held until the transaction ends: no service takes the account over between.
So a row whose `epoch` is the account's has never been read by a service that starts."""

CHANGED = tuple(name for name in rows.TASK if name not in {"task_id", "epoch", *rows.TASK_FIXED})

FINISHED = (
    "SELECT t.task_id FROM order_tasks t LEFT JOIN batches b ON b.batch_id = t.batch_id "
    "WHERE (t.status = 'completed' OR (t.status = 'dead_letter' AND t.reason <> 'unresolved')) "
    "AND t.updated_at < $1 AND (t.batch_id IS NULL OR b.completed_at IS NOT NULL) LIMIT $2"
)
"""Tasks that nobody will ask for any more. An unresolved one waits for its operator."""


class TaskTables(Protocol):
    """One database. Every method raises `StoreError` when that cannot be used."""

    async def open(self) -> None:
        """Connect, and make or alter the tables where needed."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it must be opened (again): each Trio run needs that."""
        ...

    async def select(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query."""
        ...

    async def insert(self, task: OrderTask, key: Key) -> bool:
        """Write a new task. False when the account's epoch, its id or its key is another's now.

        Raises `NotSaved` when the database will not take it.
        """
        ...

    async def replace(self, old: OrderTask, new: OrderTask) -> bool:
        """Write a task anew. False when it is not `old` any more, or a service has taken it up."""
        ...

    async def delete_finished(self, before: datetime, keys_before: datetime) -> int:
        """Delete some finished tasks of before an instant, and their keys if they are older yet.

        How many it were: at most `DELETED_TOGETHER`.
        """
        ...
