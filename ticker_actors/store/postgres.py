"""The PostgreSQL store: asyncpg, on an asyncio loop that the store itself hosts inside Trio.

How a commit is one statement is in `postgres_commit.py`; connecting, errors and the schema are in
`postgres_link.py`.

**What became of a commit is always known.** `epoch` names the owner of an account, `session` its
connection, `writes` counts its transactions. When a connection is lost in mid-commit, the next one
raises `session` first: from then on whatever the old one had sent and the server had not yet run
fails, even out of a frozen backend. Then `writes` tells whether the transaction is there. If so,
its answers are given (its sequences were numbered before it was sent); if not, it runs again.
"""

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

import asyncpg
import structlog
import trio

from ticker_actors.model import ids
from ticker_actors.model.changes import (
    Change,
    CommitAnswer,
    Delivery,
    Installation,
    Key,
    Unstorable,
)
from ticker_actors.model.database import Postgres
from ticker_actors.model.retention import CannotPrune, Cutoffs, Table
from ticker_actors.store import owner as owners
from ticker_actors.store import rows
from ticker_actors.store.commit import Fence, decide
from ticker_actors.store.postgres_commit import (
    LEASE_SECONDS,
    Statements,
    Transaction,
    is_there,
)
from ticker_actors.store.postgres_link import (
    BAD_ROW,
    LOST,
    MIGRATE_SECONDS,
    REFUSED,
    Link,
    migrate,
    one_sentence,
    terminate,
)
from ticker_actors.store.postgres_prune import prune
from ticker_actors.store.tables import (
    ORDERED_ATTEMPTS,
    StaleEpochError,
    Store,
    StoreError,
    Subscriptions,
    new_installation,
)

READERS = 4
"""Connections for reading, beside the one that writes."""
PATIENCE_SECONDS = 1.0
"""A commit that takes longer means that the database is away: newcomers should not wait too."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between tries to connect again; each is twice the one before."""
RENEW_SECONDS = 3.0
"""Well below the lease: four renewals may fail before another host may take over."""
RELEASE_SECONDS = 2.0
LEASE_LOOK_SECONDS = 0.5

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts while the machine is suspended, as the database's clock does; macOS's other one does."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


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


class PostgresStore(Store):
    """The tables, for the owner of their accounts. Open it with `PostgresStore.open`."""

    installation: Installation

    def __init__(self, link: Link, *, patient: bool = False) -> None:
        self._link = link
        self._patient = patient
        self._writer: asyncpg.Connection
        self._fences: dict[str, Fence] = {}
        self._statements = Statements()
        self._leased_until: dict[str, float] = {}
        self._subscriptions: Subscriptions
        self._idle: list[asyncpg.Connection] = []
        self._reading = trio.CapacityLimiter(READERS)
        self._writing = trio.Lock()
        self._lost = False
        self._waits_since: float | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: Postgres, *, now: datetime, chance: ids.Chance, patient: bool = False
    ) -> AsyncGenerator["PostgresStore", None]:
        """Connect, and make or alter the tables where needed.

        `patient`: wait for accounts that another process writes, however long.

        Raises `StoreError` when the database cannot be used. In the block `StaleEpochError` ends
        everything when another process has taken an account over.
        """
        async with Link.open(address) as link:
            store = cls(link, patient=patient)
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
            self._writer = await self._link.connect()
            await self._link.call(migrate, self._writer, within=MIGRATE_SECONDS)
            made = new_installation(chance)
            await self._link.call(
                self._writer.execute,
                "INSERT INTO installation (stream, tag, created_at) "
                "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM installation)",
                made.stream,
                made.tag,
                now,
            )
            found = await self._link.call(
                self._writer.fetchrow, "SELECT stream, tag FROM installation"
            )
        except REFUSED as error:
            message = f"The database {self._link.address} cannot be used: {one_sentence(error)}."
            raise StoreError(message) from error
        self.installation = rows.to(Installation, found)
        self._subscriptions = Subscriptions((), self.installation.stream)

    async def _close(self) -> None:
        """Let go of the leases if that is quickly done, and of the connections."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RELEASE_SECONDS):
            with suppress(AttributeError, *REFUSED):
                await self._link.call(self._writer.execute, _RELEASE, *self._held())
            with suppress(AttributeError):
                terminate(self._writer)
            for connection in self._idle:
                terminate(connection)

    # Connections

    async def _reconnect(self, error: BaseException) -> dict[str, int]:
        """A new writer's connection, fenced against the one before: the `writes` that it found.

        Tries for as long as it takes. Raises `StaleEpochError` when an account has a new owner.
        """
        _log.warning("database lost", error=one_sentence(error), database=str(self._link.address))
        pause, self._lost = FIRST_PAUSE, True
        while self._idle:  # theirs is the same server
            terminate(self._idle.pop())
        while True:
            terminate(self._writer)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            asked_at = _now()
            try:
                self._writer = await self._link.connect()
                found = await self._link.call(self._writer.fetch, _NEW_SESSION, *self._held())
            except REFUSED as again:
                _log.warning("database away", error=one_sentence(again), next_try_seconds=pause)
                continue
            sessions = {row["account_id"]: row["session"] for row in found}
            for account_id, fence in self._fences.items():
                if account_id not in sessions:
                    raise StaleEpochError(account_id)
                fence.session = sessions[account_id]
            self._note_leases(sessions, asked_at)
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
        try:  # without a turn of the scheduler where it is free, as it is nearly always
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()
        self._waits_since = trio.current_time()
        try:
            yield
        finally:
            self._waits_since = None
            self._writing.release()

    # Owning accounts

    def lease_seconds(self, account_id: str) -> float:
        """For how long nobody else can become the account's writer; by a clock that never stops.

        Counted from before the lease was asked for: the database's clock began it later.
        """
        return self._leased_until.get(account_id, -math.inf) - _now()

    def _note_leases(self, account_ids: Iterable[str], asked_at: float) -> None:
        self._leased_until.update(dict.fromkeys(account_ids, asked_at + LEASE_SECONDS))

    async def claim(self, account_id: str, owner: str) -> None:
        """Become the account's writer: raise its epoch.

        Waits out the lease of an owner who may be alive. When it is renewed, waits on if the store
        is patient, else raises `StoreError`.
        """
        lease: datetime | None = None
        while True:
            async with self._turn():
                asked_at = _now()
                try:
                    found = await self._take(account_id, owner)
                except LOST as error:
                    await self._reconnect(error)
                    continue
                if isinstance(found, Fence):
                    self._fences[account_id] = found
                    self._note_leases([account_id], asked_at)
                    break
            if lease is None:
                who = owners.shown(found["owner"])
                _log.warning("waiting for a lease", account_id=account_id, owner=who)
            elif found["lease_until"] != lease and not self._patient:
                who = owners.shown(found["owner"])
                message = f"Account {account_id} is in use by another running service ({who})."
                raise StoreError(message)
            lease = found["lease_until"]
            await trio.sleep(LEASE_LOOK_SECONDS)
        # Not before: while this one waited, the owner may have made some.
        self._subscriptions.add(await self.webhooks(account_id))

    async def _take(self, account_id: str, owner: str) -> Fence | asyncpg.Record:
        """The account's row, now ours; or as it is, when its owner may be alive."""
        while True:
            found = await self._link.call(
                self._writer.fetchrow,
                "SELECT epoch, owner, lease_until, lease_until > clock_timestamp() AS held "
                "FROM accounts WHERE account_id = $1",
                account_id,
            )
            held = found is not None and found["held"] and found["owner"] != owner
            if held and not owners.is_gone(found["owner"]):
                return found
            epoch = None if found is None else found["epoch"]
            row = await self._link.call(self._writer.fetchrow, _TAKE_OVER, account_id, owner, epoch)
            if row is not None:  # else somebody was quicker
                return Fence(account_id=account_id, **row)

    async def _keep_leases(self) -> None:
        """Renew, and so notice a lost connection or a new owner, when nothing is written."""
        while True:
            await trio.sleep(RENEW_SECONDS)
            async with self._turn():
                asked_at = _now()
                try:
                    renewed = await self._link.call(self._writer.fetch, _RENEW, *self._held())
                except LOST as error:
                    await self._reconnect(error)
                    continue
                kept = {row["account_id"] for row in renewed}
                self._note_leases(kept, asked_at)
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

    async def _commit(
        self, changes: Sequence[Change], now: datetime, *, last: bool = False
    ) -> list[CommitAnswer]:
        try:
            return await self._commit_together(changes, now)
        except BAD_ROW as error:
            alone = len(changes) == 1
            if alone and (last or not isinstance(error, asyncpg.UniqueViolationError)):
                # What asyncpg says of a value that it cannot encode repeats it: it may be a secret.
                why = str(error.__cause__ or error)
                _log.error("unstorable change", error=why, account_id=changes[0].account_id)
                return [Unstorable(why)]
        # One bad row must not fail its neighbours: each goes alone. Once more even if it was alone:
        # a key that another copy has used since it was looked for is found now.
        return [
            answer for change in changes for answer in await self._commit([change], now, last=alone)
        ]

    async def _commit_together(
        self, changes: Sequence[Change], now: datetime
    ) -> list[CommitAnswer]:
        taken: dict[str, Key] = {}
        in_doubt = False  # most keys are new: to ask first would cost each commit a round trip
        while True:
            statement: Transaction | None = None
            asked_at = _now()
            try:
                if in_doubt:
                    taken = await self._taken_keys(changes)
                decided = decide(
                    changes,
                    taken=taken,
                    held=self._fences,
                    subscriptions=self._subscriptions,
                    now=now,
                )
                statement = self._statements.transaction(decided)
                await self._run(statement)
            except asyncpg.UniqueViolationError:
                if in_doubt:
                    raise
                in_doubt = True
                continue
            except BAD_ROW:
                raise
            except LOST as error:
                found = await self._reconnect(error)
                if statement is None or not is_there(statement, found):
                    continue
            else:
                self._note_leases([fence.account_id for fence in statement.fences], asked_at)
            for fence in statement.fences:  # but not its session, which may be of an old one
                held = self._fences[fence.account_id]
                held.writes, held.head_sequence = fence.writes, fence.head_sequence
            self._subscriptions.note(changes, statement.answers)
            return statement.answers

    async def _run(self, statement: Transaction) -> None:
        if not statement.fences:
            return  # every change had a used key
        try:
            fenced = await self._link.call(self._writer.fetch, statement.sql, *statement.arguments)
        except asyncpg.NotNullViolationError as error:
            if error.table_name != "accounts":
                raise
            raise StaleEpochError(await self._stale()) from error
        if len(fenced) != len(statement.fences):  # somebody deleted its row
            raise StaleEpochError(await self._stale())

    async def _stale(self) -> str:
        found = await self._link.call(self._writer.fetch, _RENEW, *self._held())
        lost = set(self._fences) - {row["account_id"] for row in found}
        return ", ".join(sorted(lost)) or "?"

    async def _taken_keys(self, changes: Sequence[Change]) -> dict[str, Key]:
        keys = [change.key.key for change in changes if change.key is not None]
        if not keys:
            return {}
        sql = "SELECT * FROM idempotency_keys WHERE key = ANY($1)"
        found = await self._link.call(self._writer.fetch, sql, keys)
        return {row["key"]: rows.to(Key, row) for row in found}

    # Reading

    async def _rows(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query, again if it must be: a read waits for the database as a commit does."""

        async def fetch(connection: asyncpg.Connection) -> Sequence[rows.Row]:
            try:
                found: Sequence[rows.Row] = await self._link.call(connection.fetch, sql, *values)
            except (asyncpg.DataError, ValueError):
                return []  # a text that no row can hold, such as one with a NUL
            return found

        return await self._beside(fetch)

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old; empty when nothing is left.

        On a reader's connection: it is no write of an account, and no commit waits for it. Should
        one be lost, the next deletes what is left.
        """
        try:
            return await self._beside(partial(self._link.call, prune, table=table, old=old))
        except asyncpg.PostgresError as error:
            raise CannotPrune(f"{table}: {one_sentence(error)}") from error

    async def _beside(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Use a connection beside the writer's; another one, for as long as they are lost."""
        pause = FIRST_PAUSE
        async with self._reading:
            while True:
                try:
                    connection = await self._reader()
                    try:
                        found = await work(connection)
                    except BaseException:  # cancelled or not, it is raised again
                        terminate(connection)
                        raise
                except LOST as error:
                    _log.warning("read tried again", error=one_sentence(error))
                    await trio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                self._idle.append(connection)
                return found

    async def _reader(self) -> asyncpg.Connection:
        """A connection for one read. Raises one of `LOST`."""
        if self._idle:
            return self._idle.pop()
        try:
            return await self._link.connect()
        except REFUSED as error:  # also one whose password is wrong just now
            raise ConnectionError(one_sentence(error)) from error

    def _as_json(self, table: str, columns: Sequence[str], where: str) -> str:  # noqa: ARG002  # all of them
        # A hundred in a text, sorted before they are texts: sorted after, they are twice the bytes
        # on disk; and one by one, each wakes the loop (together half of the time of the query).
        return (
            f"SELECT json_agg({table} ORDER BY rowid) AS rows FROM {table} WHERE {where} "
            "GROUP BY rowid / 100 ORDER BY rowid / 100"
        )

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries whose time has come, oldest first, at most `each` of one subscription.

        For each order only its next one; only accounts that this process writes.
        """
        return await self._all(
            Delivery,
            "SELECT d.*, w.url, w.secret FROM webhooks w CROSS JOIN LATERAL ("
            "SELECT c.delivery_id, c.webhook_id, c.account_id, c.event_id, c.event, c.sequence, "
            "c.attempts, convert_to(c.body, 'UTF8') AS body, c.next_at, "
            "EXISTS (SELECT 1 FROM webhook_deliveries f WHERE f.state = 'pending' "
            "AND f.webhook_id = c.webhook_id AND f.order_key = c.order_key "
            "AND f.sequence > c.sequence) AS followed FROM webhook_deliveries c "
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


def _now() -> float:
    """Seconds by the clock of leases."""
    return time.clock_gettime(_CLOCK)
