"""What the library's TaskStore asks of a database: the part that SQLite and PostgreSQL do alike."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ticker_actors.model.changes import Key
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows

WAIT_SECONDS = 12.0
"""For a database that does not answer, or is locked, before `StoreError` says so."""

ACCOUNT = (
    # A row without owner or lease: the first service to start finds it, and takes the account over.
    "INSERT INTO accounts (account_id) VALUES ($1) "
    "ON CONFLICT (account_id) DO UPDATE SET state = accounts.state RETURNING epoch"
)
"""The account's epoch, held until the transaction ends: no service takes the account over between.
So a row whose `epoch` is the account's has never been read by a service that starts."""

CHANGED = tuple(name for name in rows.TASK if name not in {"task_id", "epoch", *rows.TASK_FIXED})


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

    async def prune(self, table: Table, old: Cutoffs) -> Mapping[str, int]:
        """Delete some of what is too old: how many rows of which table; none at the end."""
        ...
