"""The embedded store: one SQLite file, one writer, readers of their own.

WAL with `synchronous=FULL`: a commit that returned is on the disk. Any I/O error stops the
process: SQLite has been seen to report a failed write once, and then to go on with a log that
misses it.
"""

import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from datetime import date, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
import trio

from ticker_actors.model import events as catalogue
from ticker_actors.model import ids
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import iso, trading_day
from ticker_actors.model.changes import (
    Attempt,
    Change,
    CommitAnswer,
    Committed,
    Delivery,
    DeliveryResult,
    Installation,
    Key,
    KeyTaken,
    Recovered,
    Unstorable,
    Webhook,
)
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderView
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows

T = TypeVar("T")

BUSY_SECONDS = 1.0
"""How long to wait for somebody else's lock (a backup, a shell) before saying so and going on."""
READERS = 4
"""Connections for reading; each is a thread at work, and the machine has few cores."""
OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables."""
ORDERED_ATTEMPTS = 4
"""Deliveries of one order wait for an earlier one until it has failed this often (up to 1 min)."""

_log = structlog.get_logger(__name__)


class StoreError(Exception):
    """The store cannot be opened. Its message is one sentence for the operator."""


class StaleEpochError(Exception):
    """Another process has taken the account over: this one must not write another word."""


_INSERT_KEY = (
    rows.insert("idempotency_keys", Key.__struct_fields__) + " ON CONFLICT (key) DO NOTHING"
)
_UPSERT_TASK = rows.upsert(
    "order_tasks",
    rows.TASK,
    "task_id",
    fixed=("idempotency_key", "operation", "params", "created_at", "account_id", "intent"),
)
_UPSERT_ATTEMPT = rows.upsert("task_attempts", rows.ATTEMPT, "task_id, send")
_UPSERT_BATCH = rows.upsert("batches", rows.BATCH, "batch_id")
_UPSERT_ORDER = rows.upsert(
    "broker_orders", rows.ORDER, "account_id, order_id", fixed=("trading_day",)
)
_INSERT_EVENT = rows.insert("order_events", rows.EVENT)
_UPSERT_WEBHOOK = rows.upsert("webhooks", rows.WEBHOOK, "webhook_id")
_INSERT_DELIVERY = rows.insert(
    "webhook_deliveries",
    (
        "delivery_id",
        "webhook_id",
        "account_id",
        "sequence",
        "event_id",
        "event",
        "order_key",
        "body",
        "state",
        "next_at",
        "created_at",
        "updated_at",
    ),
)
_GIVE_UP_DELIVERIES = (
    "UPDATE webhook_deliveries SET state = 'failed', next_at = NULL, updated_at = ? "
    "WHERE webhook_id = ? AND state = 'pending'"
)
_INSERT_ATTEMPT_RESULT = (
    "INSERT OR REPLACE INTO webhook_attempts "
    "(delivery_id, attempt, started_at, seconds, status_code, error) VALUES (?, ?, ?, ?, ?, ?)"
)


class SqliteStore:
    """The tables, for one process at a time. Open it with `SqliteStore.open`."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        readers: Sequence[sqlite3.Connection],
        installation: Installation,
    ) -> None:
        self.installation = installation
        self._writer = writer
        self._epochs: dict[str, int] = {}
        self._subscriptions = _subscriptions(writer)
        self._idle = list(readers)
        self._reading = trio.CapacityLimiter(len(readers))
        self._writing = trio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, now: datetime, chance: ids.Chance
    ) -> AsyncGenerator["SqliteStore", None]:
        """Open the file, making it and its tables when they are not there.

        Raises `StoreError` when the file is in use, is no database, or cannot be written.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            needed = ".".join(map(str, OLDEST_SQLITE))
            message = f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed."
            raise StoreError(message)
        with _locked(path) as file, ExitStack() as connections:
            try:
                writer = connections.enter_context(closing(_connect(file)))
                _migrate(writer, file)
                installation = _installation(writer, now, chance)
                # All of them now: later the process may have no file descriptor left.
                readers = [
                    connections.enter_context(closing(_connect(file, read_only=True)))
                    for _ in range(READERS)
                ]
            except sqlite3.Error as error:
                message = f"The database file {file} cannot be used: {error}."
                raise StoreError(message) from error
            yield cls(writer, readers, installation)

    async def take_over(self, account_id: str, owner: str, now: datetime) -> Recovered:
        """Become the account's writer: raise its epoch, and load what is not finished."""

        def take_over() -> Recovered:
            with closing(self._writer.cursor()) as cursor, _transaction(cursor):
                cursor.execute(
                    "INSERT INTO accounts (account_id, owner, epoch) VALUES (?, ?, 1) "
                    "ON CONFLICT (account_id) DO UPDATE SET owner = excluded.owner, "
                    "epoch = epoch + 1 RETURNING epoch, head_sequence",
                    (account_id, owner),
                )
                epoch, head = cursor.fetchone().values()
            self._epochs[account_id] = epoch
            return _recover(self._writer, account_id, epoch, head, now)

        return await trio.to_thread.run_sync(take_over, limiter=self._writing)

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
        with closing(self._writer.cursor()) as cursor, _transaction(cursor):
            answers = [self._write(cursor, change, now) for change in changes]
        for change, answer in zip(changes, answers, strict=True):
            if isinstance(answer, Committed):
                for webhook in change.webhooks:
                    self._subscribe(webhook)
        return answers

    def _write(self, cursor: sqlite3.Cursor, change: Change, now: datetime) -> CommitAnswer:
        if change.key is not None:
            cursor.execute(_INSERT_KEY, rows.of(change.key))
            if cursor.rowcount == 0:
                return KeyTaken(_key(cursor, change.key.key))
        head = self._take_sequences(cursor, change.account_id, len(change.events))
        cursor.executemany(_UPSERT_TASK, map(rows.of, change.tasks))
        cursor.executemany(_UPSERT_ATTEMPT, map(rows.of, change.attempts))
        cursor.executemany(_UPSERT_BATCH, map(rows.of, change.batches))
        cursor.executemany(_UPSERT_ORDER, (rows.of_order(view, now) for view in change.orders))
        for webhook in change.webhooks:
            cursor.execute(_UPSERT_WEBHOOK, rows.of(webhook))
            if webhook.deleted:
                cursor.execute(_GIVE_UP_DELIVERIES, (iso(now), webhook.webhook_id))
        events = tuple(
            msgspec.structs.replace(event, sequence=number)
            for number, event in enumerate(change.events, start=head - len(change.events) + 1)
        )
        cursor.executemany(_INSERT_EVENT, map(rows.of_event, events))
        outbox = [row for event in events for row in self._deliveries(event)]
        cursor.executemany(_INSERT_DELIVERY, outbox)
        for result in change.deliveries:
            _record(cursor, result, now)
        return Committed(events, len(outbox))

    def _take_sequences(self, cursor: sqlite3.Cursor, account_id: str, count: int) -> int:
        """Advance the account's event log and return its head. Fences a writer of an old epoch."""
        cursor.execute(
            "UPDATE accounts SET head_sequence = head_sequence + ? "
            "WHERE account_id = ? AND epoch = ? RETURNING head_sequence",
            (count, account_id, self._epochs.get(account_id)),
        )
        row = cursor.fetchone()
        if row is None:
            message = f"Account {account_id} has another writer."
            raise StaleEpochError(message)
        return int(row["head_sequence"])

    def _deliveries(self, event: Event) -> list[tuple[object, ...]]:
        """The event's rows in the outbox, one for each subscription that wants it."""
        wanted = [
            webhook
            for webhook in self._subscriptions.get(event.account_id, {}).values()
            if webhook.active and event.event in webhook.events
        ]
        if not wanted:
            return []
        at = iso(event.created_at)
        body = catalogue.webhook_body(event, self.installation.stream)
        return [
            (
                f"dlv_{event.event_id.removeprefix('evt_')}_{webhook.webhook_id}",
                webhook.webhook_id,
                event.account_id,
                event.sequence,
                event.event_id,
                event.event,
                event.order_key or event.order_id,
                body,
                "pending",
                at,
                at,
                at,
            )
            for webhook in wanted
        ]

    def _subscribe(self, webhook: Webhook) -> None:
        known = self._subscriptions.setdefault(webhook.account_id, {})
        if webhook.deleted:
            known.pop(webhook.webhook_id, None)
        else:
            known[webhook.webhook_id] = webhook

    # Reads, each on a connection of its own, so that they never wait for a commit.

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            connection = self._idle.pop()  # there is one: the limiter lets no more in
            try:
                return query(connection)
            finally:
                self._idle.append(connection)

        return await trio.to_thread.run_sync(run, limiter=self._reading)

    async def _all(self, kind: type[msgspec.Struct], sql: str, *values: object) -> list[Any]:
        return await self._read(
            lambda connection: [rows.to(kind, row) for row in connection.execute(sql, values)]
        )

    async def task(self, task_id: str) -> OrderTask | None:
        """One task, or None."""
        found = await self._all(OrderTask, "SELECT * FROM order_tasks WHERE task_id = ?", task_id)
        return found[0] if found else None

    async def key(self, key: str) -> Key | None:
        """An idempotency key, and what was made under it, or None."""
        found = await self._all(Key, "SELECT * FROM idempotency_keys WHERE key = ?", key)
        return found[0] if found else None

    async def task_by_intent(self, intent: str) -> OrderTask | None:
        """The task whose orders carry this intent in their tag, or None."""
        found = await self._all(OrderTask, "SELECT * FROM order_tasks WHERE intent = ?", intent)
        return found[0] if found else None

    async def attempts(self, task_id: str) -> list[Attempt]:
        """The sends of a task, in order."""
        return await self._all(
            Attempt, "SELECT * FROM task_attempts WHERE task_id = ? ORDER BY send", task_id
        )

    async def tasks(
        self,
        *,
        account_id: str | None,
        status: str | None,
        batch_id: str | None,
        before: str | None,
        limit: int,
    ) -> list[OrderTask]:
        """Tasks, newest first, before the id `before` (ids sort by time)."""
        return await self._all(
            OrderTask,
            "SELECT * FROM order_tasks WHERE (?1 IS NULL OR account_id = ?1) "
            "AND (?2 IS NULL OR status = ?2) AND (?3 IS NULL OR batch_id = ?3) "
            "AND (?4 IS NULL OR task_id < ?4) ORDER BY task_id DESC LIMIT ?5",
            account_id,
            status,
            batch_id,
            before,
            limit,
        )

    async def task_statistics(self) -> list[tuple[str, int, float]]:
        """Status, count and average attempts."""
        sql = "SELECT status, COUNT(*), AVG(attempts) FROM order_tasks GROUP BY status"
        return await self._read(
            lambda connection: [tuple(row.values()) for row in connection.execute(sql)]
        )

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        found = await self._all(Batch, "SELECT * FROM batches WHERE batch_id = ?", batch_id)
        return found[0] if found else None

    async def orders(self, account_id: str, day: date) -> list[OrderView]:
        """The account's orders first seen on an IST day, oldest first."""
        sql = "SELECT * FROM broker_orders WHERE account_id = ? AND trading_day = ? ORDER BY rowid"
        return await self._read(
            lambda connection: [
                rows.to_order(row) for row in connection.execute(sql, (account_id, day.isoformat()))
            ]
        )

    async def order(self, account_id: str, order_id: str) -> OrderView | None:
        """One order of any day, or None."""
        sql = "SELECT * FROM broker_orders WHERE account_id = ? AND order_id = ?"
        found = await self._read(
            lambda connection: [
                rows.to_order(row) for row in connection.execute(sql, (account_id, order_id))
            ]
        )
        return found[0] if found else None

    async def order_events(self, account_id: str, order_id: str) -> list[Event]:
        """What was told of one order, in order."""
        sql = "SELECT * FROM order_events WHERE account_id = ? AND order_id = ? ORDER BY sequence"
        return await self._read(
            lambda connection: [
                rows.to_event(row) for row in connection.execute(sql, (account_id, order_id))
            ]
        )

    async def webhooks(self, account_id: str | None) -> list[Webhook]:
        """Subscriptions that are not deleted, oldest first."""
        return await self._all(
            Webhook,
            "SELECT * FROM webhooks WHERE deleted = 0 AND (?1 IS NULL OR account_id = ?1) "
            "ORDER BY created_at, webhook_id",
            account_id,
        )

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One subscription that is not deleted, or None."""
        found = await self._all(
            Webhook, "SELECT * FROM webhooks WHERE webhook_id = ? AND deleted = 0", webhook_id
        )
        return found[0] if found else None

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries whose time has come, oldest first, at most `each` of one subscription.

        For each order only its next one; only accounts that this process writes.
        """
        return await self._all(
            Delivery,
            "SELECT d.*, w.url, w.secret FROM webhooks w CROSS JOIN webhook_deliveries d "
            "ON d.delivery_id IN (SELECT c.delivery_id FROM webhook_deliveries c "
            "WHERE c.webhook_id = w.webhook_id AND c.state = 'pending' AND c.next_at <= ?1 "
            "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.state = 'pending' "
            "AND e.webhook_id = c.webhook_id AND e.order_key = c.order_key "
            "AND e.sequence < c.sequence AND e.attempts <= ?4) "
            "ORDER BY c.next_at LIMIT ?2) "
            "WHERE w.deleted = 0 AND w.account_id IN (SELECT value FROM json_each(?3)) "
            "ORDER BY d.next_at, d.sequence",
            iso(now),
            each,
            msgspec.json.encode(list(self._epochs)).decode(),
            ORDERED_ATTEMPTS,
        )

    async def next_delivery_at(self, after: datetime) -> datetime | None:
        """When the first delivery that is not due yet will be, or None."""
        sql = (
            "SELECT MIN((SELECT MIN(d.next_at) FROM webhook_deliveries d WHERE "
            "d.webhook_id = w.webhook_id AND d.state = 'pending' AND d.next_at > ?)) AS at "
            "FROM webhooks w WHERE w.deleted = 0"
        )
        text = await self._read(
            lambda connection: connection.execute(sql, (iso(after),)).fetchone()["at"]
        )
        return None if text is None else datetime.fromisoformat(text)


@contextmanager
def _transaction(cursor: sqlite3.Cursor) -> Iterator[None]:
    """Commit the block, or nothing of it."""
    _begin(cursor)
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        if cursor.connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise


def _begin(cursor: sqlite3.Cursor) -> None:
    """Take the write lock, however long somebody else holds it, unless the caller is cancelled."""
    while True:
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            _log.warning("database locked by another program", waited_seconds=BUSY_SECONDS)
            trio.from_thread.check_cancelled()  # else a stop would wait as long
        else:
            return


def _record(cursor: sqlite3.Cursor, result: DeliveryResult, now: datetime) -> None:
    """What became of an attempt. One that was given up meanwhile is not tried again."""
    cursor.execute(
        "UPDATE webhook_deliveries SET attempts = ?1, updated_at = ?2, "
        "state = iif(state = 'pending' OR ?3 = 'succeeded', ?3, state), "
        "next_at = iif(state = 'pending', ?4, NULL) WHERE delivery_id = ?5",
        (result.attempt, iso(now), result.state, rows.column(result.next_at), result.delivery_id),
    )
    cursor.execute(_INSERT_ATTEMPT_RESULT, rows.of_attempt_result(result))


def _key(cursor: sqlite3.Cursor, key: str) -> Key:
    cursor.execute("SELECT * FROM idempotency_keys WHERE key = ?", (key,))
    return rows.to(Key, cursor.fetchone())


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold the file for this process. The system lets go of it when the process dies."""
    try:
        path = path.resolve()  # one lock for one file, by whatever name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        message = f"The database file {path} cannot be used: {error.strerror}."
        raise StoreError(message) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"The database file {path} is in use by another running service."
            raise StoreError(message) from None
        except OSError as error:
            message = f"The database file {path} cannot be locked: {error.strerror}."
            raise StoreError(message) from error
        yield path
    finally:
        os.close(lock)


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    # Connections move between threads, but each is used by one at a time.
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = _row
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            _make_durable(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone().values()
    if mode != "wal":
        message = f"The file system of {path} cannot share memory, which SQLite's WAL needs."
        raise StoreError(message)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: an fsync that is one


def _row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the numbered files that this database has not seen, each in its own transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone().values()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone().values()
    folder = resources.files(__package__) / "migrations" / "sqlite"
    files = {int(file.name.split("_", 1)[0]): file for file in folder.iterdir()}
    if version > max(files) or (tables and not version):
        message = f"The database file {path} was made by another program or a newer version."
        raise StoreError(message)
    for number, file in sorted(files.items()):
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE; {file.read_text()} PRAGMA user_version = {number}; COMMIT;"
            )


def _installation(
    connection: sqlite3.Connection, now: datetime, chance: ids.Chance
) -> Installation:
    connection.execute(
        "INSERT INTO installation (stream, tag, created_at) "
        "SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM installation)",
        (ids.stream(chance), ids.base36(chance(16), 3), iso(now)),
    )
    row = connection.execute("SELECT stream, tag FROM installation").fetchone()
    return rows.to(Installation, row)


def _subscriptions(connection: sqlite3.Connection) -> dict[str, dict[str, Webhook]]:
    known: dict[str, dict[str, Webhook]] = {}
    for row in connection.execute("SELECT * FROM webhooks WHERE deleted = 0"):
        webhook = rows.to(Webhook, row)
        known.setdefault(webhook.account_id, {})[webhook.webhook_id] = webhook
    return known


def _recover(
    connection: sqlite3.Connection, account_id: str, epoch: int, head: int, now: datetime
) -> Recovered:
    def select(kind: type[rows.S], sql: str, *values: object) -> tuple[rows.S, ...]:
        found = connection.execute(sql, (account_id, *values))
        return tuple(rows.to(kind, row) for row in found)

    tasks = select(
        OrderTask,
        "SELECT * FROM order_tasks WHERE account_id = ?1 AND (phase NOT IN ('done', 'dead') OR "
        "batch_id IN (SELECT batch_id FROM batches WHERE account_id = ?1 AND completed_at IS NULL))"
        " ORDER BY created_at, rowid",
    )
    batches = select(Batch, "SELECT * FROM batches WHERE account_id = ? AND completed_at IS NULL")
    orders = tuple(
        rows.to_order(row)
        for row in connection.execute(
            "SELECT * FROM broker_orders WHERE account_id = ?1 AND (trading_day = ?2 OR task_id IN "
            "(SELECT task_id FROM order_tasks WHERE batch_id IN (SELECT batch_id FROM batches "
            "WHERE account_id = ?1 AND completed_at IS NULL))) ORDER BY rowid",
            (account_id, trading_day(now).isoformat()),
        )
    )
    attempts = select(
        Attempt,
        "SELECT * FROM task_attempts WHERE account_id = ? AND sent_at > ? ORDER BY sent_at",
        iso(now - timedelta(days=1)),
    )
    return Recovered(
        account_id=account_id,
        epoch=epoch,
        head_sequence=head,
        tasks=tasks,
        batches=batches,
        orders=orders,
        attempts=attempts,
    )
