"""Retention in a SQLite file: in the writer's turn, or beside a running service."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import trio

from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.store import retention, rows
from ticker_actors.store.sqlite_file import connect, migrations, transaction
from ticker_actors.store.tables import StoreError


class SqlitePruner:
    """Deletes what is old from a file that a running service may have open."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["SqlitePruner"]:
        """Use a file as it is. Raises `StoreError` when it is none of just this version."""
        if not path.is_file():
            raise StoreError(f"There is no database file {path}.")
        with ExitStack() as connections:
            try:
                look = connections.enter_context(closing(connect(path, read_only=True)))
                (version,) = look.execute("PRAGMA user_version").fetchone().values()
                if version != max(migrations()):
                    message = f"The database file {path} was made by another program or version."
                    raise StoreError(message)
                connection = connections.enter_context(closing(connect(path)))
            except sqlite3.Error as error:
                message = f"The database file {path} cannot be used: {error}."
                raise StoreError(message) from error
            yield cls(path, connection)

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old; empty when nothing is left. Raises `StoreError`."""
        try:
            return await trio.to_thread.run_sync(prune, self._connection, table, old)
        except sqlite3.Error as error:
            message = f"The database file {self._path} cannot be used: {error}."
            raise StoreError(message) from error


def prune(connection: sqlite3.Connection, table: Table, old: Cutoffs) -> dict[str, int]:
    """Delete some of what is too old, in one transaction; empty when nothing is left."""
    sql, values = retention.deletion(table, old)
    with closing(connection.cursor()) as cursor, transaction(cursor):
        cursor.execute(sql.replace("$", "?"), tuple(map(rows.column, values)))
        gone = [row["key"] for row in cursor.fetchall()]
        keys = retention.keys_of(table, gone, "IN (SELECT value FROM json_each(?1))")
        freed = [] if keys is None else cursor.execute(keys, (rows.column(gone),)).fetchall()
    return retention.counted(**{table: len(gone)}, idempotency_keys=len(freed))
