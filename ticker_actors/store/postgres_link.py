"""Asyncpg under Trio: its connections, their loop, their errors, and the schema."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

import asyncpg
import structlog
import trio

from ticker_actors.model.database import Postgres
from ticker_actors.store.guest_loop import GuestLoop

T = TypeVar("T")

CONNECT_SECONDS = 5.0
LOCK_SECONDS = 5.0
"""How long a statement waits for somebody else's lock before it is begun anew, with a word."""
STATEMENT_SECONDS = 10.0
"""The longest that a statement may run: the largest commit takes a tenth of a second."""
ANSWER_SECONDS = 12.0
"""Without an answer for this long, longer than the server may take, the connection is given up."""

SESSION = {
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
    asyncpg.PostgresSystemError,  # its own I/O errors: what it could not write is not committed
    asyncpg.InsufficientResourcesError,  # its disk is full, or its connections are used up
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,  # it has become a standby
)
"""Not this time, perhaps later: on a new connection, which finds out what became of this one."""
REFUSED = (*LOST, asyncpg.PostgresError, ValueError)
"""How connecting fails."""

_log = structlog.get_logger(__name__)


class Link:
    """The way to one database."""

    def __init__(self, address: Postgres) -> None:
        self.address = address
        self._loop = GuestLoop()
        self._loop.set_exception_handler(_log_asyncio)
        self._connections: list[asyncpg.Connection] = []
        self._hosting, self._ended = trio.CancelScope(), trio.Event()

    @classmethod
    async def start(cls, address: Postgres) -> "Link":
        """Host a loop in a system task: until `close`, or until the whole Trio run ends."""
        await trio.lowlevel.checkpoint()
        link = cls(address)
        trio.lowlevel.spawn_system_task(link._host)
        return link

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Postgres) -> AsyncGenerator["Link", None]:
        """A link for a block: what is raised in it leaves it as it is, in no group."""
        link = await cls.start(address)
        try:
            yield link
        finally:
            await link.close()

    async def _host(self) -> None:
        try:
            with self._hosting:
                await self._loop.host()
        finally:  # also at the end of the run, when nobody closes anything
            for connection in self._connections:
                terminate(connection)
            self._loop.end()
            self._ended.set()

    @property
    def closed(self) -> bool:
        """Whether its loop has ended, or is about to."""
        return self._hosting.cancel_called or self._ended.is_set()

    async def close(self) -> None:
        """End the loop, and with it every connection."""
        self._hosting.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def call(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: object,
        within: float | None = None,
        **named: object,
    ) -> T:
        """Run one of asyncpg's functions on its loop. Raises `TooSlowError`."""
        # Not `fail_after`, which costs as much as all the rest of this.
        with trio.move_on_after(ANSWER_SECONDS if within is None else within):
            answer: T = await self._loop.run(function(*arguments, **named))
            return answer
        raise trio.TooSlowError

    async def connect(self) -> asyncpg.Connection:
        """A new connection. Raises one of `REFUSED`."""
        with trio.fail_after(CONNECT_SECONDS):
            return await self._loop.run(self._connect())

    async def _connect(self) -> asyncpg.Connection:
        address = self.address
        certificate = address.root_certificate
        connection = await asyncpg.connect(
            None if certificate is None else f"postgresql://?sslrootcert={certificate}",
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            ssl=address.tls,
            timeout=2 * CONNECT_SECONDS,  # ours comes first
            server_settings={**SESSION, "application_name": address.application_name},
        )
        # Kept here, so that none is dropped unclosed together with who used it.
        self._connections = [held for held in self._connections if not held.is_closed()]
        self._connections.append(connection)
        return connection


def _log_asyncio(_loop: object, context: dict[str, Any]) -> None:
    """Asyncpg's own tasks may fail when a connection does: whoever used it knows already."""
    _log.info("asyncio", message=context.get("message"), error=repr(context.get("exception")))


def terminate(connection: asyncpg.Connection | None) -> None:
    """Close a connection without a word to the server."""
    if connection is not None and not connection.is_closed():
        connection.terminate()


def one_sentence(error: BaseException) -> str:
    """What went wrong, as the rest of a sentence, without its full stop."""
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def migrations() -> dict[int, Traversable]:
    """The numbered files of the schema."""
    folder = resources.files(__package__) / "migrations" / "postgres"
    return {int(file.name.split("_", 1)[0]): file for file in folder.iterdir()}


MIGRATE_SECONDS = 1800.0
"""For a table of another program's making, with millions of rows, to be altered."""
_MIGRATING = 7_461_993
"""Of the advisory lock: any number, as long as it stays the same."""
_LEASED = "SELECT EXISTS (SELECT FROM accounts WHERE lease_until > clock_timestamp())"


async def migrate(connection: asyncpg.Connection, *, beside_services: bool = True) -> None:
    """Apply the numbered files that this database has not seen, in one transaction.

    With `beside_services=False` not while a service holds a lease, which runs on the older schema.
    """
    files = migrations()
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")  # a table may be large
        await connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(number INTEGER PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        )
        found = await connection.fetch("SELECT number FROM schema_migrations")
        done = {row["number"] for row in found}
        if done - files.keys():
            raise ValueError("it was made by a newer version")
        new = sorted(files.keys() - done)
        if new and done and not beside_services and await connection.fetchval(_LEASED):
            raise ValueError("a service is running on its older schema: stop that first")
        for number in new:
            await connection.execute(files[number].read_text())
            await connection.execute("INSERT INTO schema_migrations VALUES ($1)", number)
