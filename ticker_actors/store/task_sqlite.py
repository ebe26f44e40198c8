"""The library's tables in a SQLite file, beside a running service or alone.

One connection, used in one thread at a time. A Trio system task closes it when the run ends.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import trio

from ticker_actors.model.changes import Key
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.model.saved import NotSaved
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows
from ticker_actors.store.sqlite_file import (
    check_version,
    connect,
    insert,
    locked,
    migrate,
    transaction,
    unapplied,
)
from ticker_actors.store.sqlite_prune import prune
from ticker_actors.store.tables import StoreError
from ticker_actors.store.task_tables import (
    ACCOUNT,
    CHANGED,
    WAIT_SECONDS,
)

T = TypeVar("T")

_INSERT_KEY = insert("idempotency_keys", Key.__struct_fields__)
_INSERT_TASK = insert("order_tasks", rows.TASK)
_REPLACE_TASK = (
    f"UPDATE order_tasks SET {', '.join(f'{name} = ?' for name in CHANGED)} "
    "WHERE task_id = ? AND status = ? AND updated_at = ? AND sends = 0 AND epoch = ?"
)


class SqliteTaskTables:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._connection: sqlite3.Connection | None = None
        self._turn = trio.Lock()

    @property
    def closed(self) -> bool:
        """Whether nobody has opened it in this Trio run."""
        return self._connection is None

    async def open(self) -> None:
        """Make or alter the tables where needed, under the lock that a running service holds."""

        def prepare() -> sqlite3.Connection:
            check_version()
            if not self._path.exists() or self._outdated():
                with locked(self._path) as file, closing(connect(file)) as connection:
                    migrate(connection, file)
            return connect(self._path)

        self._connection = await self._run(prepare)
        trio.lowlevel.spawn_system_task(self._close_at_the_end, self._connection)

    def _outdated(self) -> bool:
        with closing(connect(self._path, read_only=True)) as connection:
            return bool(unapplied(connection, self._path))

    async def _close_at_the_end(self, connection: sqlite3.Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._connection = None
            connection.close()

    async def select(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query."""

        def read() -> list[rows.Row]:
            assert self._connection is not None  # noqa: S101  # the caller has opened it
            return self._connection.execute(_marked(sql), _plain(*values)).fetchall()

        try:
            return await self._run(read)
        except (OverflowError, UnicodeError):
            return []  # a text that no row can hold

    async def insert(self, task: OrderTask, key: Key) -> bool:
        """Write a new task and its key, if the account's epoch still is the task's."""

        def write(cursor: sqlite3.Cursor) -> bool:
            if _epoch(cursor, task) != task.epoch:
                return False
            cursor.execute(_INSERT_KEY, rows.of(key))
            cursor.execute(_INSERT_TASK, rows.of(task))
            return True

        try:
            return await self._write(write)
        except sqlite3.IntegrityError:  # the id, the key or the intent is there
            return False
        except (sqlite3.DataError, OverflowError, UnicodeError) as error:
            raise NotSaved(f"The database will not take task {task.task_id!r}: {error}.") from None

    async def replace(self, old: OrderTask, new: OrderTask) -> bool:
        """Write a task anew, if it still is what was read."""

        def write(cursor: sqlite3.Cursor) -> bool:
            values = _plain(new.task_id, old.status, old.updated_at, _epoch(cursor, new))
            return cursor.execute(_REPLACE_TASK, rows.of(new, CHANGED) + values).rowcount == 1

        try:
            return await self._write(write)
        except (sqlite3.DataError, OverflowError, UnicodeError) as error:
            raise NotSaved(f"The database will not take task {new.task_id!r}: {error}.") from None

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old, in one transaction."""

        def write() -> dict[str, int]:
            assert self._connection is not None  # noqa: S101  # the caller has opened it
            return prune(self._connection, table, old)

        return await self._run(write)

    async def _write(self, write: Callable[[sqlite3.Cursor], T]) -> T:
        def run() -> T:
            assert self._connection is not None  # noqa: S101  # the caller has opened it
            with closing(self._connection.cursor()) as cursor, transaction(cursor):
                return write(cursor)

        return await self._run(run)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run it in a thread. A caller who is cancelled waits for its end, but not for a lock."""
        try:
            async with self._turn:
                with trio.fail_after(WAIT_SECONDS):
                    return await trio.to_thread.run_sync(work)
        except trio.TooSlowError:
            message = f"The database file {self._path} is locked by another program."
            raise StoreError(message) from None
        except sqlite3.OperationalError as error:
            message = f"The database file {self._path} cannot be used: {error}."
            raise StoreError(message) from error
        except (sqlite3.IntegrityError, sqlite3.DataError):
            raise
        except sqlite3.DatabaseError as error:  # no database at all
            message = f"The database file {self._path} cannot be used: {error}."
            raise StoreError(message) from error


def _marked(sql: str) -> str:
    return sql.replace("$", "?")


def _plain(*values: object) -> tuple[object, ...]:
    return tuple(map(rows.column, values))


def _epoch(cursor: sqlite3.Cursor, task: OrderTask) -> int:
    cursor.execute(_marked(ACCOUNT), (task.account_id,))
    return int(cursor.fetchone()["epoch"])
