"""The PostgreSQL store: asyncpg, on an asyncio loop that the store itself hosts inside Trio.

A commit is one statement, and so one transaction and one round trip: common table expressions
write every table set-wise, and one of them updates the accounts' rows, which fences, orders and
counts.

**What became of a commit is always known.** `epoch` names the owner of an account, `session` its
connection, `writes` counts its transactions. When a connection is lost in mid-commit, the next one
raises `session` first: from then on whatever the old one had sent and the server had not yet run
fails, even out of a frozen backend. Then `writes` tells whether the transaction is there. If so,
its answers are given (its sequences were numbered before it was sent); if not, it runs again.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, TypeVar

import asyncpg
import msgspec
import structlog
import trio
import trio_asyncio
from msgspec.structs import replace

from ticker_actors.model import ids
from ticker_actors.model.changes import (
    Change,
    CommitAnswer,
    Committed,
    Delivery,
    Installation,
    Key,
    KeyTaken,
    Recovered,
    Unstorable,
)
from ticker_actors.model.database import Postgres
from ticker_actors.model.events import Event
from ticker_actors.store import owner as owners
from ticker_actors.store import rows
from ticker_actors.store.tables import (
    ORDERED_ATTEMPTS,
    StaleEpochError,
    Store,
    StoreError,
    Subscriptions,
    new_installation,
    numbered,
)

T = TypeVar("T")

READERS = 4
"""Connections for reading, beside the one that writes."""
CONNECT_SECONDS = 5.0
LOCK_SECONDS = 5.0
"""How long a statement waits for somebody else's lock before it is begun anew, with a word."""
STATEMENT_SECONDS = 10.0
"""The longest that a statement may run: the largest commit takes a tenth of a second."""
ANSWER_SECONDS = 12.0
"""Without an answer for this long, longer than the server may take, the connection is given up."""
PATIENCE_SECONDS = 1.0
"""A commit that takes longer means that the database is away: newcomers should not wait too."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between tries to connect again; each is twice the one before."""
LEASE_SECONDS = 15
RENEW_SECONDS = 3.0
"""Well below the lease: four renewals may fail before another host may take over."""
RELEASE_SECONDS = 2.0
LEASE_LOOK_SECONDS = 0.5

_SESSION = {
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",  # acknowledged means on the disk
    "lock_timeout": f"{LOCK_SECONDS * 1000:.0f}",
    "statement_timeout": f"{STATEMENT_SECONDS * 1000:.0f}",
    # The server lets go of a client that has vanished, and of its locks, within half a minute.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}

BAD_ROW = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,  # a key too long for its index
    OverflowError,
    ValueError,  # of the encoders: asyncpg's own DataError is one, UnicodeError is another
)
"""The database, or the encoder before it, will not take a value."""
LOST = (
    OSError,  # TimeoutError is one
    trio.TooSlowError,
    asyncpg.InterfaceError,  # the connection is closed
    asyncpg.InternalClientError,  # it is about to be: the server's farewell was not read yet
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, cancelled, starting up
    asyncpg.InsufficientResourcesError,  # its disk is full, or its connections are used up
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,  # it has become a standby
)
"""Not this time, perhaps later: on a new connection, which finds out what became of this one."""
REFUSED = (*LOST, asyncpg.PostgresError, ValueError)
"""How connecting fails."""

_log = structlog.get_logger(__name__)


# SQL


def _insert(table: str, columns: Iterable[str], conflict: str = "") -> str:
    """Insert all the rows of one JSON array; the table itself gives the types."""
    names = ", ".join(columns)
    return (
        f"INSERT INTO {table} ({names}) "
        f"SELECT {names} FROM json_populate_recordset(NULL::{table}, $json){conflict}"
    )


def _upsert(table: str, columns: Sequence[str], key: str, fixed: Iterable[str] = ()) -> str:
    return _insert(table, columns, rows.replacing(columns, key, fixed))


_FENCE = (
    # No stale writer passes the NOT NULL of `epoch`, and so nothing of its statement is written.
    "UPDATE accounts a SET "
    "epoch = CASE WHEN a.epoch = f.epoch AND a.session = f.session THEN a.epoch END, "
    "head_sequence = f.head_sequence, writes = a.writes + 1, "
    f"lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' "
    "FROM json_populate_recordset(NULL::accounts, $json) f "
    "WHERE a.account_id = f.account_id RETURNING a.account_id"
)
_INSERT_KEYS = _insert("idempotency_keys", Key.__struct_fields__)
_UPSERT_TASKS = _upsert("order_tasks", rows.TASK, "task_id", rows.TASK_FIXED)
_UPSERT_ATTEMPTS = _upsert("task_attempts", rows.ATTEMPT, "task_id, send")
_UPSERT_BATCHES = _upsert("batches", rows.BATCH, "batch_id")
_UPSERT_ORDERS = _upsert("broker_orders", rows.ORDER, "account_id, order_id", rows.ORDER_FIXED)
_INSERT_EVENTS = _insert("order_events", rows.EVENT)
_UPSERT_WEBHOOKS = _upsert("webhooks", rows.WEBHOOK, "webhook_id")
_INSERT_DELIVERIES = _insert("webhook_deliveries", rows.OUTBOX)
_UPDATE_DELIVERIES = (  # one that was given up meanwhile is not tried again
    "UPDATE webhook_deliveries d SET attempts = r.attempts, updated_at = r.updated_at, "
    "state = CASE WHEN d.state = 'pending' OR r.state = 'succeeded' THEN r.state ELSE d.state END, "
    "next_at = CASE WHEN d.state = 'pending' THEN r.next_at END "
    "FROM json_populate_recordset(NULL::webhook_deliveries, $json) r "
    "WHERE d.delivery_id = r.delivery_id"
)
_GIVE_UP_DELIVERIES = (
    "UPDATE webhook_deliveries d SET state = 'failed', next_at = NULL, updated_at = now() "
    "FROM json_populate_recordset(NULL::webhooks, $json) w "
    "WHERE d.webhook_id = w.webhook_id AND d.state = 'pending'"
)
_UPSERT_ATTEMPT_RESULTS = _upsert("webhook_attempts", rows.ATTEMPT_RESULT, "delivery_id, attempt")
_NEW_SESSION = (
    "UPDATE accounts a SET session = a.session + 1, "
    f"lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' "
    "FROM unnest($1::text[], $2::bigint[]) f (account_id, epoch) "
    "WHERE a.account_id = f.account_id AND a.epoch = f.epoch "
    "RETURNING a.account_id, a.session, a.writes"
)
_RENEW = (
    f"UPDATE accounts a SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' "
    "FROM unnest($1::text[], $2::bigint[]) f (account_id, epoch) "
    "WHERE a.account_id = f.account_id AND a.epoch = f.epoch RETURNING a.account_id"
)
_RELEASE = (
    "UPDATE accounts a SET lease_until = NULL "
    "FROM unnest($1::text[], $2::bigint[]) f (account_id, epoch) "
    "WHERE a.account_id = f.account_id AND a.epoch = f.epoch"
)
_TAKE_OVER = (
    "INSERT INTO accounts AS a (account_id, owner, epoch, lease_until) "
    f"VALUES ($1, $2, 1, clock_timestamp() + interval '{LEASE_SECONDS} s') "
    "ON CONFLICT (account_id) DO UPDATE SET owner = excluded.owner, epoch = a.epoch + 1, "
    "session = 0, lease_until = excluded.lease_until WHERE a.epoch = $3 "
    "RETURNING epoch, session, writes, head_sequence"
)


class Fence(msgspec.Struct):
    """What this process knows of an account's row; a row that differs has another writer."""

    account_id: str
    epoch: int
    session: int
    writes: int
    head_sequence: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement that writes some changes, and the answers it gives them."""

    sql: str
    arguments: list[str]
    fences: list[Fence]
    """The accounts' rows once it is committed."""
    answers: list[CommitAnswer]


class PostgresStore(Store):
    """The tables, for the owner of their accounts. Open it with `PostgresStore.open`."""

    installation: Installation

    def __init__(self, address: Postgres, loop: trio_asyncio.TrioEventLoop) -> None:
        self._address = address
        self._loop = loop
        self._writer: asyncpg.Connection
        self._fences: dict[str, Fence] = {}
        self._subscriptions = Subscriptions(())
        self._idle: list[asyncpg.Connection] = []
        self._reading = trio.CapacityLimiter(READERS)
        self._writing = trio.Lock()
        self._lost = False
        self._waits_since: float | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: Postgres, *, now: datetime, chance: ids.Chance
    ) -> AsyncGenerator["PostgresStore", None]:
        """Connect, and make or alter the tables where needed.

        Raises `StoreError` when the database cannot be used. In the block `StaleEpochError` ends
        everything when another process has taken an account over.
        """
        async with _asyncio_loop() as loop:
            store = cls(address, loop)
            try:
                await store._start(now, chance)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store._keep_leases)
                    try:
                        yield store
                    finally:
                        nursery.cancel_scope.cancel()
            finally:
                await store._close()

    async def _start(self, now: datetime, chance: ids.Chance) -> None:
        try:
            self._writer = await self._connect()
            await self._call(_migrate, self._writer)
            made = new_installation(chance)
            await self._call(
                self._writer.execute,
                "INSERT INTO installation (stream, tag, created_at) "
                "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM installation)",
                made.stream,
                made.tag,
                now,
            )
            found = await self._call(self._writer.fetchrow, "SELECT stream, tag FROM installation")
        except REFUSED as error:
            message = f"The database {self._address} cannot be used: {_one_sentence(error)}."
            raise StoreError(message) from error
        self.installation = rows.to(Installation, found)
        self._subscriptions = Subscriptions(await self.webhooks(None))

    async def _close(self) -> None:
        """Let go of the leases if that is quickly done, and of the connections."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RELEASE_SECONDS):
            with suppress(AttributeError, *REFUSED):
                await self._call(self._writer.execute, _RELEASE, *self._held())
            with suppress(AttributeError):
                _terminate(self._writer)
            for connection in self._idle:
                _terminate(connection)

    # Connections

    async def _call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run one of asyncpg's functions on its loop. Raises `TooSlowError`."""
        with trio.fail_after(ANSWER_SECONDS):
            answer: T = await self._loop.run_aio_coroutine(function(*arguments))
            return answer

    async def _connect(self) -> asyncpg.Connection:
        address = self._address
        certificate = address.root_certificate
        with trio.fail_after(CONNECT_SECONDS):
            return await self._loop.run_aio_coroutine(
                asyncpg.connect(
                    None if certificate is None else f"postgresql://?sslrootcert={certificate}",
                    host=address.host,
                    port=address.port,
                    user=address.user,
                    password=address.password,
                    database=address.database,
                    ssl=address.tls,
                    timeout=2 * CONNECT_SECONDS,  # ours comes first
                    server_settings={**_SESSION, "application_name": address.application_name},
                )
            )

    async def _reconnect(self, error: BaseException) -> dict[str, int]:
        """A new writer's connection, fenced against the one before: the `writes` that it found.

        Tries for as long as it takes. Raises `StaleEpochError` when an account has a new owner.
        """
        _log.warning("database lost", error=_one_sentence(error), database=str(self._address))
        pause, self._lost = FIRST_PAUSE, True
        while True:
            _terminate(self._writer)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._writer = await self._connect()
                found = await self._call(self._writer.fetch, _NEW_SESSION, *self._held())
            except REFUSED as again:
                _log.warning("database away", error=_one_sentence(again), next_try_seconds=pause)
                continue
            sessions = {row["account_id"]: row["session"] for row in found}
            for account_id, fence in self._fences.items():
                if account_id not in sessions:
                    raise StaleEpochError(account_id)
                fence.session = sessions[account_id]
            _log.warning("database back", away_seconds=round(self.away_seconds, 3))
            self._lost = False
            return {row["account_id"]: row["writes"] for row in found}

    def _held(self) -> tuple[list[str], list[int]]:
        return list(self._fences), [fence.epoch for fence in self._fences.values()]

    @property
    def away_seconds(self) -> float:
        """For how long the database has not answered a writer; 0.0 while it does."""
        if self._waits_since is None:
            return 0.0
        waited = trio.current_time() - self._waits_since
        return waited if self._lost or waited > PATIENCE_SECONDS else 0.0

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        """The writer's connection, for one at a time."""
        async with self._writing:
            self._waits_since = trio.current_time()
            try:
                yield
            finally:
                self._waits_since = None

    # Owning accounts

    async def take_over(self, account_id: str, owner: str, now: datetime) -> Recovered:
        """Become the account's writer: raise its epoch, and load what is not finished.

        Waits out the lease of an owner who may be alive. Raises `StoreError` when it is renewed.
        """
        async with self._turn():
            fence = None
            while fence is None:
                try:
                    fence = await self._take(account_id, owner)
                except LOST as error:
                    await self._reconnect(error)
            self._fences[account_id] = fence
        return await self._recover(account_id, fence.epoch, fence.head_sequence, now)

    async def _take(self, account_id: str, owner: str) -> Fence:
        lease: datetime | None = None
        while True:
            found = await self._call(
                self._writer.fetchrow,
                "SELECT epoch, owner, lease_until, lease_until > clock_timestamp() AS held "
                "FROM accounts WHERE account_id = $1",
                account_id,
            )
            if found is None or not found["held"] or found["owner"] == owner:
                pass
            elif not owners.is_gone(found["owner"]):
                if lease is not None and found["lease_until"] != lease:
                    who = owners.shown(found["owner"])
                    message = f"Account {account_id} is in use by another running service ({who})."
                    raise StoreError(message)
                if lease is None:
                    _log.warning("waiting for a lease", account_id=account_id, owner=found["owner"])
                lease = found["lease_until"]
                await trio.sleep(LEASE_LOOK_SECONDS)
                continue
            epoch = None if found is None else found["epoch"]
            row = await self._call(self._writer.fetchrow, _TAKE_OVER, account_id, owner, epoch)
            if row is not None:  # else somebody was quicker
                return Fence(account_id, **row)

    async def _keep_leases(self) -> None:
        """Renew, and so notice a lost connection or a new owner, when nothing is written."""
        while True:
            await trio.sleep(RENEW_SECONDS)
            async with self._turn():
                try:
                    renewed = await self._call(self._writer.fetch, _RENEW, *self._held())
                except LOST as error:
                    await self._reconnect(error)
                    continue
                kept = {row["account_id"] for row in renewed}
                for account_id in self._fences:
                    if account_id not in kept:
                        raise StaleEpochError(account_id)

    # Writing

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one transaction; the answers are theirs, in order.

        A used key keeps only its own change from being written. A row that the database will not
        take fails only its own change. However long the database is away, the answer is definite.
        """
        async with self._turn():
            return await self._commit(changes, now)

    async def _commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        try:
            return await self._commit_together(changes, now)
        except BAD_ROW as error:
            if len(changes) == 1:
                _log.error("unstorable change", error=str(error), account_id=changes[0].account_id)
                return [Unstorable(str(error))]
        # One bad row must not fail its neighbours: each goes alone.
        return [answer for change in changes for answer in await self._commit([change], now)]

    async def _commit_together(
        self, changes: Sequence[Change], now: datetime
    ) -> list[CommitAnswer]:
        while True:
            transaction: Transaction | None = None
            try:
                taken = await self._taken_keys(changes)
                transaction = self._transaction(changes, taken, now)
                await self._run(transaction)
            except BAD_ROW:
                raise
            except LOST as error:
                found = await self._reconnect(error)
                if transaction is None or not _is_there(transaction, found):
                    continue
            for fence in transaction.fences:  # but not its session, which may be of an old one
                held = self._fences[fence.account_id]
                held.writes, held.head_sequence = fence.writes, fence.head_sequence
            self._subscriptions.note(changes, transaction.answers)
            return transaction.answers

    async def _run(self, transaction: Transaction) -> None:
        if not transaction.fences:
            return  # every change had a used key
        try:
            fenced = await self._call(self._writer.fetch, transaction.sql, *transaction.arguments)
        except asyncpg.NotNullViolationError as error:
            if error.table_name != "accounts":
                raise
            raise StaleEpochError(await self._stale()) from error
        if len(fenced) != len(transaction.fences):  # somebody deleted its row
            raise StaleEpochError(await self._stale())

    async def _stale(self) -> str:
        found = await self._call(self._writer.fetch, _RENEW, *self._held())
        lost = set(self._fences) - {row["account_id"] for row in found}
        return ", ".join(sorted(lost)) or "?"

    async def _taken_keys(self, changes: Sequence[Change]) -> dict[str, Key]:
        keys = [change.key.key for change in changes if change.key is not None]
        if not keys:
            return {}
        # A key that appears meanwhile, by another process, is a bad row: it comes back here alone.
        sql = "SELECT * FROM idempotency_keys WHERE key = ANY($1)"
        found = await self._call(self._writer.fetch, sql, keys)
        return {row["key"]: rows.to(Key, row) for row in found}

    def _transaction(
        self, changes: Sequence[Change], taken: dict[str, Key], now: datetime
    ) -> Transaction:
        """Decide everything before anything is sent: whose keys are used, and every sequence."""
        taken, fences = dict(taken), dict[str, Fence]()
        written: list[Change] = []
        events: list[Event] = []
        outbox: list[rows.OutboxRow] = []
        answers: list[CommitAnswer] = []
        for change in changes:
            if change.key is not None and change.key.key in taken:
                answers.append(KeyTaken(taken[change.key.key]))
                continue
            if change.key is not None:
                taken[change.key.key] = change.key
            fence = fences.get(change.account_id)
            if fence is None:
                if change.account_id not in self._fences:
                    raise StaleEpochError(change.account_id)
                fence = replace(self._fences[change.account_id])
                fence.writes += 1
                fences[change.account_id] = fence
            told = numbered(change.events, fence.head_sequence)
            fence.head_sequence += len(told)
            stream = self.installation.stream
            made = [row for event in told for row in self._subscriptions.deliveries(event, stream)]
            events += told
            outbox += made
            written.append(change)
            answers.append(Committed(told, len(made)))
        results = [result for change in written for result in change.deliveries]
        parts: dict[str, list[Any]] = {
            _FENCE: list(fences.values()),
            _INSERT_KEYS: [change.key for change in written if change.key is not None],
            _UPSERT_TASKS: _last(
                (task for change in written for task in change.tasks),
                ("task_id",),
                rows.TASK_FIXED,
            ),
            _UPSERT_ATTEMPTS: _last(
                (attempt for change in written for attempt in change.attempts),
                ("task_id", "send"),
            ),
            _UPSERT_BATCHES: _last(
                (batch for change in written for batch in change.batches), ("batch_id",)
            ),
            _UPSERT_ORDERS: _last(
                (rows.of_order(view, now) for change in written for view in change.orders),
                ("account_id", "order_id"),
                rows.ORDER_FIXED,
            ),
            _UPSERT_WEBHOOKS: _last(
                (webhook for change in written for webhook in change.webhooks), ("webhook_id",)
            ),
            _GIVE_UP_DELIVERIES: [
                webhook for change in written for webhook in change.webhooks if webhook.deleted
            ],
            _INSERT_EVENTS: events,
            _INSERT_DELIVERIES: outbox,
            _UPDATE_DELIVERIES: _last(
                (rows.of_result(result, now) for result in results), ("delivery_id",)
            ),
            _UPSERT_ATTEMPT_RESULTS: _last(results, ("delivery_id", "attempt")),
        }
        used = {sql: values for sql, values in parts.items() if values}
        statements = [
            f"part_{number} AS ({sql.replace('$json', f'${number}')})"
            for number, sql in enumerate(used, start=1)
        ]
        return Transaction(
            sql=f"WITH {', '.join(statements)} SELECT * FROM part_1",
            arguments=[msgspec.json.encode(values).decode() for values in used.values()],
            fences=list(fences.values()),
            answers=answers,
        )

    # Reading

    async def _rows(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query, again if it must be: a read waits for the database as a commit does."""
        pause = FIRST_PAUSE
        async with self._reading:
            while True:
                connection: asyncpg.Connection | None = None
                try:
                    connection = self._idle.pop() if self._idle else await self._connect()
                    found: Sequence[rows.Row] = await self._call(connection.fetch, sql, *values)
                except (asyncpg.DataError, ValueError):
                    found = []  # a text that no row can hold, such as one with a NUL
                except LOST:
                    _terminate(connection)
                    await trio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                except BaseException:  # cancelled or not, it is raised again
                    _terminate(connection)
                    raise
                if connection is not None:
                    self._idle.append(connection)
                return found

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries whose time has come, oldest first, at most `each` of one subscription.

        For each order only its next one; only accounts that this process writes.
        """
        return await self._all(
            Delivery,
            "SELECT d.*, w.url, w.secret FROM webhooks w CROSS JOIN LATERAL ("
            "SELECT c.delivery_id, c.webhook_id, c.account_id, c.event_id, c.event, c.sequence, "
            "c.attempts, convert_to(c.body, 'UTF8') AS body, c.next_at FROM webhook_deliveries c "
            "WHERE c.webhook_id = w.webhook_id AND c.state = 'pending' AND c.next_at <= $1 "
            "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.state = 'pending' "
            "AND e.webhook_id = c.webhook_id AND e.order_key = c.order_key "
            "AND e.sequence < c.sequence AND e.attempts <= $4) "
            "ORDER BY c.next_at LIMIT $2) d "
            "WHERE NOT w.deleted AND w.account_id = ANY($3) ORDER BY d.next_at, d.sequence",
            now,
            each,
            list(self._fences),
            ORDERED_ATTEMPTS,
        )


def _is_there(transaction: Transaction, writes: dict[str, int]) -> bool:
    """Whether a transaction is committed, by the counters found after it."""
    return all(writes[fence.account_id] == fence.writes for fence in transaction.fences)


def _last(
    structs: Iterable[rows.S], key: tuple[str, ...], fixed: tuple[str, ...] = ()
) -> list[rows.S]:
    """The last struct of each key: one statement may write a row only once."""
    found: dict[tuple[object, ...], rows.S] = {}
    for struct in structs:
        name = tuple(getattr(struct, part) for part in key)
        first = found.get(name)
        kept = {} if first is None else {part: getattr(first, part) for part in fixed}
        found[name] = replace(struct, **kept) if kept else struct
    return list(found.values())


# The schema

_MIGRATING = 7_461_993
"""Of the advisory lock: any number, as long as it stays the same."""


async def _migrate(connection: asyncpg.Connection) -> None:
    """Apply the numbered files that this database has not seen, each in its own transaction."""
    folder = resources.files(__package__) / "migrations" / "postgres"
    files = {int(file.name.split("_", 1)[0]): file for file in folder.iterdir()}
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(number INTEGER PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        )
        done = {row["number"] for row in await connection.fetch("SELECT * FROM schema_migrations")}
        if done - files.keys():
            raise ValueError("it was made by a newer version")
        for number, file in sorted(files.items()):
            if number not in done:
                await connection.execute(file.read_text())
                await connection.execute("INSERT INTO schema_migrations VALUES ($1)", number)


# asyncio


@asynccontextmanager
async def _asyncio_loop() -> AsyncGenerator[trio_asyncio.TrioEventLoop, None]:
    """A loop in a system task: what is raised in the block leaves it as it is, in no group."""
    started, ending, ended = trio.Event(), trio.Event(), trio.Event()
    loops: list[trio_asyncio.TrioEventLoop] = []

    async def host() -> None:
        try:
            async with trio_asyncio.open_loop() as loop:
                loop.set_exception_handler(_log_asyncio)
                loops.append(loop)
                started.set()
                await ending.wait()
        finally:
            ended.set()

    trio.lowlevel.spawn_system_task(host)
    await started.wait()
    try:
        yield loops[0]
    finally:
        ending.set()
        with trio.CancelScope(shield=True):
            await ended.wait()


def _log_asyncio(_loop: object, context: dict[str, Any]) -> None:
    """Asyncpg's own tasks may fail when a connection does: whoever used it knows already."""
    _log.info("asyncio", message=context.get("message"), error=repr(context.get("exception")))


def _terminate(connection: asyncpg.Connection | None) -> None:
    """Close a connection without a word to the server."""
    if connection is not None and not connection.is_closed():
        connection.terminate()


def _one_sentence(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
