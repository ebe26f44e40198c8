"""The library's tables in PostgreSQL. Each write is one statement: no lock outlives a round trip.

The asyncio loop that asyncpg needs is hosted in a Trio system task: it ends with the Trio run.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import msgspec
import trio

from ticker_actors.model.changes import Key
from ticker_actors.model.database import Postgres
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.model.saved import NotSaved
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows
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
from ticker_actors.store.tables import StoreError
from ticker_actors.store.task_tables import ACCOUNT, CHANGED

T = TypeVar("T")

CONNECTIONS = 4
"""To a server that a service needs too; further calls wait their turn."""

_TASK, _KEY = ", ".join(rows.TASK), ", ".join(Key.__struct_fields__)
_INSERT = (
    # The account first: a service's commit takes the same locks in the same order.
    f"WITH account AS ({ACCOUNT}), wanted AS (SELECT t.* FROM account a "
    "JOIN json_populate_recordset(NULL::order_tasks, $2) t ON t.epoch = a.epoch), "
    f"key AS (INSERT INTO idempotency_keys ({_KEY}) SELECT {_KEY} FROM wanted CROSS JOIN "
    "LATERAL (SELECT k.key, k.request_hash, k.kind, k.id FROM "
    "json_populate_recordset(NULL::idempotency_keys, $3) k) k) "
    f"INSERT INTO order_tasks ({_TASK}) SELECT {_TASK} FROM wanted RETURNING task_id"
)
_REPLACE = (
    f"WITH account AS ({ACCOUNT}) UPDATE order_tasks t SET "
    f"{', '.join(f'{name} = n.{name}' for name in CHANGED)} "
    "FROM account a, json_populate_recordset(NULL::order_tasks, $2) n "
    "WHERE t.task_id = n.task_id AND t.status = $3 AND t.updated_at = $4 "
    "AND t.sends = 0 AND t.epoch = a.epoch RETURNING t.task_id"
)


class PostgresTaskTables:
    """A database."""

    def __init__(self, address: Postgres) -> None:
        self._address = address
        self._link: Link | None = None
        self._idle: list[asyncpg.Connection] = []
        self._limit = trio.CapacityLimiter(CONNECTIONS)

    @property
    def closed(self) -> bool:
        """Whether there is no loop to run on, or only one of a Trio run that is over."""
        return self._link is None or self._link.closed

    async def open(self) -> None:
        """Connect, and make or alter the tables where needed."""
        link = await Link.start(self._address)
        try:
            connection = await link.connect()
            await link.call(
                lambda: migrate(connection, beside_services=False), within=MIGRATE_SECONDS
            )
        except BaseException as error:  # raised again, as what it is or in a sentence
            await link.close()
            if isinstance(error, REFUSED):
                raise self._unusable(error) from error
            raise
        self._link, self._idle = link, [connection]

    async def select(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query."""
        try:
            return await self._run(sql, *values)
        except BAD_ROW:
            return []  # a text that no row can hold, such as one with a NUL

    async def _run(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a statement. Raises `BAD_ROW`, or `StoreError`."""
        return await self._with(lambda connection: connection.fetch(sql, *values))

    async def _with(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Do something with a connection; again, when it was lost and may have done it.

        Nothing of ours does harm when it is repeated. Raises `BAD_ROW`, or `StoreError`.
        """
        assert self._link is not None  # noqa: S101  # the caller has opened it
        async with self._limit:
            for again in (True, False):
                connection: asyncpg.Connection | None = None
                try:
                    connection = self._idle.pop() if self._idle else await self._link.connect()
                    found = await self._link.call(work, connection)
                except BAD_ROW:
                    if connection is not None:
                        self._idle.append(connection)
                    raise
                except LOST as error:
                    for lost in (connection, *self._idle):
                        terminate(lost)
                    self._idle.clear()
                    if not again:
                        raise self._unusable(error) from error
                except asyncpg.PostgresError as error:
                    terminate(connection)
                    raise self._unusable(error) from error
                except BaseException:  # cancelled or not, it is raised again
                    terminate(connection)
                    raise
                else:
                    self._idle.append(connection)
                    return found
        raise AssertionError  # the second time returns or raises

    async def insert(self, task: OrderTask, key: Key) -> bool:
        """Write a new task and its key, if the account's epoch still is the task's."""
        try:
            return bool(await self._run(_INSERT, task.account_id, _json(task), _json(key)))
        except asyncpg.UniqueViolationError:
            return False
        except BAD_ROW as error:
            raise _refused(task, error) from None

    async def replace(self, old: OrderTask, new: OrderTask) -> bool:
        """Write a task anew, if it still is what was read."""
        values = (new.account_id, _json(new), str(old.status), old.updated_at)
        try:
            return bool(await self._run(_REPLACE, *values))
        except BAD_ROW as error:
            raise _refused(new, error) from None

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old, in one transaction."""
        return await self._with(lambda connection: prune(connection, table, old))

    def _unusable(self, error: BaseException) -> StoreError:
        return StoreError(f"The database {self._address} cannot be used: {one_sentence(error)}.")


def _json(row: msgspec.Struct) -> str:
    return msgspec.json.encode([row]).decode()


def _refused(task: OrderTask, error: BaseException) -> NotSaved:
    return NotSaved(f"The database will not take task {task.task_id!r}: {one_sentence(error)}.")
