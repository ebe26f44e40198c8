"""The embedded store: one SQLite file, one writer, readers of their own.

WAL with `synchronous=FULL`: a commit that returned is on the disk. Any I/O error stops the
process: SQLite has been seen to report a failed write once, and then to go on with a log that
misses it.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
import trio

from ticker_actors.model import ids
from ticker_actors.model.calendar import iso
from ticker_actors.model.changes import (
    Change,
    CommitAnswer,
    Delivery,
    Installation,
    Key,
    Unstorable,
    Webhook,
)
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.store import rows
from ticker_actors.store.commit import Decided, Fence, decide
from ticker_actors.store.sqlite_commit import prepare, write
from ticker_actors.store.sqlite_file import (
    check_version,
    connect,
    in_use,
    migrate,
    open_lock,
    take_lock,
    transaction,
)
from ticker_actors.store.sqlite_prune import prune
from ticker_actors.store.tables import (
    ORDERED_ATTEMPTS,
    Store,
    StoreError,
    Subscriptions,
    new_installation,
)

LOCK_LOOK_SECONDS = 0.25
"""Between two looks of a standby: it is there soon after the first copy has ended."""
READERS = 4
"""Connections for reading; each is a thread at work, and the machine has few cores."""

_log = structlog.get_logger(__name__)


class SqliteStore(Store):
    """The tables, for one process at a time. Open it with `SqliteStore.open`."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        readers: Sequence[sqlite3.Connection],
        installation: Installation,
    ) -> None:
        self.installation = installation
        self._writer = writer
        self._fences: dict[str, Fence] = {}
        self._subscriptions = Subscriptions(_webhooks(writer), installation.stream)
        self._idle = list(readers)
        self._reading = trio.CapacityLimiter(len(readers))
        self._writing = trio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, now: datetime, chance: ids.Chance, patient: bool = False
    ) -> AsyncGenerator["SqliteStore", None]:
        """Open the file, making it and its tables when they are not there.

        `patient`: while it is in use by another process, wait. Raises `StoreError` when the file is
        in use, is no database, or cannot be written.
        """
        check_version()
        async with _locked(path, patient=patient) as file:
            with ExitStack() as connections:
                try:
                    writer = connections.enter_context(closing(connect(file)))
                    migrate(writer, file)
                    prepare(writer)
                    installation = _installation(writer, now, chance)
                    # All of them now: later the process may have no file descriptor left.
                    readers = [
                        connections.enter_context(closing(connect(file, read_only=True)))
                        for _ in range(READERS)
                    ]
                except sqlite3.Error as error:
                    message = f"The database file {file} cannot be used: {error}."
                    raise StoreError(message) from error
                yield cls(writer, readers, installation)

    async def claim(self, account_id: str, owner: str) -> None:
        """Become the account's writer: raise its epoch. The file's lock keeps others out."""

        def claim() -> None:
            with closing(self._writer.cursor()) as cursor, transaction(cursor):
                cursor.execute(
                    "INSERT INTO accounts (account_id, owner, epoch) VALUES (?, ?, 1) "
                    "ON CONFLICT (account_id) DO UPDATE SET owner = excluded.owner, "
                    "epoch = epoch + 1 RETURNING epoch, head_sequence",
                    (account_id, owner),
                )
                found = Fence(account_id=account_id, **cursor.fetchone())
            self._fences[account_id] = found  # in the writer's turn, as all that looks through them

        await trio.to_thread.run_sync(claim, limiter=self._writing)

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one transaction; the answers are theirs, in order.

        A used key keeps only its own change from being written. A row that the database will not
        take fails only its own change. Raises `sqlite3.Error` on I/O errors: stop the process.
        """
        return await trio.to_thread.run_sync(self._commit, changes, now, limiter=self._writing)

    def _commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        try:
            return self._commit_together(changes, now)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError) as error:
            if len(changes) == 1:
                _log.error("unstorable change", error=str(error), account_id=changes[0].account_id)
                return [Unstorable(str(error))]
        # One bad row must not fail its neighbours: each goes alone.
        return [answer for change in changes for answer in self._commit([change], now)]

    def _commit_together(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        try:
            decided = self._write(changes, {}, now)
        except sqlite3.IntegrityError:
            # Most keys are new: to look first would cost each commit a query. Both in one
            # transaction: a program beside this one may use a key meanwhile, or delete it.
            with closing(self._writer.cursor()) as cursor, transaction(cursor):
                decided = self._write(changes, self._taken_keys(changes), now)
        for fence in decided.fences:
            self._fences[fence.account_id].head_sequence = fence.head_sequence
        self._subscriptions.note(changes, decided.answers)
        return decided.answers

    def _write(self, changes: Sequence[Change], taken: Mapping[str, Key], now: datetime) -> Decided:
        decided = decide(
            changes, taken=taken, held=self._fences, subscriptions=self._subscriptions, now=now
        )
        if decided.fences:  # else every change had a used key
            write(self._writer, decided)
        return decided

    def _taken_keys(self, changes: Sequence[Change]) -> dict[str, Key]:
        keys = [change.key.key for change in changes if change.key is not None]
        sql = "SELECT * FROM idempotency_keys WHERE key IN (SELECT value FROM json_each(?))"
        found = self._writer.execute(sql, (rows.column(keys),)).fetchall()
        return {row["key"]: rows.to(Key, row) for row in found}

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old, in a turn of the writer's; empty when nothing is left."""
        return await trio.to_thread.run_sync(prune, self._writer, table, old, limiter=self._writing)

    async def _rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        def run() -> list[dict[str, Any]]:
            connection = self._idle.pop()  # there is one: the limiter lets no more in
            try:
                found = connection.execute(sql.replace("$", "?"), tuple(map(rows.column, values)))
                return found.fetchall()
            finally:
                self._idle.append(connection)

        return await trio.to_thread.run_sync(run, limiter=self._reading)

    def _as_json(self, table: str, columns: Sequence[str], where: str) -> str:
        parts = (
            f"'{name}', json({name})" if name in rows.JSON_COLUMNS else f"'{name}', {name}"
            for name in columns
        )
        row = f"json_object({', '.join(parts)})"
        return f"SELECT json_array({row}) AS rows FROM {table} WHERE {where} ORDER BY rowid"

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries whose time has come, oldest first, at most `each` of one subscription.

        For each order only its next one; only accounts that this process writes.
        """
        return await self._all(
            Delivery,
            "SELECT d.*, w.url, w.secret, EXISTS (SELECT 1 FROM webhook_deliveries f "
            "WHERE f.state = 'pending' AND f.webhook_id = d.webhook_id "
            "AND f.order_key = d.order_key AND f.sequence > d.sequence) AS followed "
            "FROM webhooks w CROSS JOIN webhook_deliveries d "
            "ON d.delivery_id IN (SELECT c.delivery_id FROM webhook_deliveries c "
            "WHERE c.webhook_id = w.webhook_id AND c.state = 'pending' AND c.next_at <= $1 "
            "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.state = 'pending' "
            "AND e.webhook_id = c.webhook_id AND e.order_key = c.order_key "
            "AND e.sequence < c.sequence AND e.attempts <= $4) "
            "ORDER BY c.next_at LIMIT $2) "
            "WHERE w.deleted = 0 AND w.account_id IN (SELECT value FROM json_each($3)) "
            "ORDER BY d.next_at, d.sequence",
            now,
            each,
            list(self._fences),
            ORDERED_ATTEMPTS,
        )


@asynccontextmanager
async def _locked(path: Path, *, patient: bool) -> AsyncGenerator[Path, None]:
    """Hold the file for this process; `patient` waits for it."""
    file, lock = open_lock(path)
    try:
        while not take_lock(lock, file):
            if not patient:
                raise in_use(file)
            await trio.sleep(LOCK_LOOK_SECONDS)
        yield file
    finally:
        os.close(lock)


def _installation(
    connection: sqlite3.Connection, now: datetime, chance: ids.Chance
) -> Installation:
    made = new_installation(chance)
    connection.execute(
        "INSERT INTO installation (stream, tag, created_at) "
        "SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM installation)",
        (made.stream, made.tag, iso(now)),
    )
    row = connection.execute("SELECT stream, tag FROM installation").fetchone()
    return rows.to(Installation, row)


def _webhooks(connection: sqlite3.Connection) -> list[Webhook]:
    found = connection.execute("SELECT * FROM webhooks WHERE NOT deleted")
    return [rows.to(Webhook, row) for row in found]
