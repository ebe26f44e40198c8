"""Deleting what is old from PostgreSQL: beside a running service, or in it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from ticker_actors.model.database import Postgres
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.store import retention
from ticker_actors.store.postgres_link import REFUSED, Link, migrations, one_sentence, terminate
from ticker_actors.store.tables import StoreError

_SKIP_HELD = " FOR UPDATE OF t SKIP LOCKED"
"""A row that a commit holds is not waited for, and after the lock the rule is asked again."""


async def prune(connection: asyncpg.Connection, table: Table, old: Cutoffs) -> dict[str, int]:
    """Delete some of what is too old, in one transaction; empty when nothing is left."""
    sql, values = retention.deletion(table, old, lock=_SKIP_HELD)
    async with connection.transaction():
        gone = [row["key"] for row in await connection.fetch(sql, *values)]
        keys = retention.keys_of(table, gone, "= ANY($1)")
        freed = [] if keys is None else await connection.fetch(keys, gone)
    return retention.counted(**{table: len(gone)}, idempotency_keys=len(freed))


class PostgresPruner:
    """Deletes what is old from a database that services may be using."""

    def __init__(self, link: Link, connection: asyncpg.Connection) -> None:
        self._link = link
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Postgres) -> AsyncGenerator["PostgresPruner", None]:
        """Use a database as it is. Raises `StoreError` when it is none of just this version."""
        async with Link.open(address) as link:
            connection: asyncpg.Connection | None = None
            try:
                connection = await link.connect()
                found = await link.call(connection.fetch, "SELECT number FROM schema_migrations")
            except asyncpg.UndefinedTableError:
                found = []
            except REFUSED as error:
                terminate(connection)
                raise _refused(address, error) from error
            try:
                if {row["number"] for row in found} != migrations().keys():
                    message = f"The database {address} was made by another program or version."
                    raise StoreError(message)
                yield cls(link, connection)
            finally:
                terminate(connection)

    async def prune(self, table: Table, old: Cutoffs) -> dict[str, int]:
        """Delete some of what is too old; empty when nothing is left. Raises `StoreError`."""
        try:
            return await self._link.call(prune, self._connection, table, old)
        except REFUSED as error:
            raise _refused(self._link.address, error) from error


def _refused(address: Postgres, error: BaseException) -> StoreError:
    return StoreError(f"The database {address} cannot be used: {one_sentence(error)}.")
