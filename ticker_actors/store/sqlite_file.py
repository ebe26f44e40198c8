"""A SQLite file: its lock, its connections, its transactions, its schema."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import structlog
import trio

from ticker_actors.store.tables import StoreError

BUSY_SECONDS = 1.0
"""How long to wait for somebody else's lock (a backup, a shell) before saying so and going on."""
OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables."""

_log = structlog.get_logger(__name__)


def check_version() -> None:
    """Raises `StoreError` when Python's SQLite is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        message = f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed."
        raise StoreError(message)


def insert(table: str, columns: Iterable[str]) -> str:
    """The statement that inserts one row."""
    names = tuple(columns)
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"


@contextmanager
def transaction(cursor: sqlite3.Cursor) -> Iterator[None]:
    """Commit the block, or nothing of it."""
    patiently(lambda: cursor.execute("BEGIN IMMEDIATE"))
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:  # cancelled or not, it is raised again
        if cursor.connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise


def patiently(begin: Callable[[], object]) -> None:
    """Take the write lock, however long somebody else holds it, unless the caller is cancelled."""
    while True:
        try:
            begin()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            _log.warning("database locked by another program", waited_seconds=BUSY_SECONDS)
            trio.from_thread.check_cancelled()  # else a stop would wait as long
        else:
            return


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Hold the file for this process. The system lets go of it when the process dies."""
    file, lock = open_lock(path)
    try:
        if not take_lock(lock, file):
            raise in_use(file)
        yield file
    finally:
        os.close(lock)


def open_lock(path: Path) -> tuple[Path, int]:
    """The file by its one true name, and its lock's descriptor."""
    try:
        path = path.resolve()  # one lock for one file, by whatever name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        message = f"The database file {path} cannot be used: {error.strerror}."
        raise StoreError(message) from error
    return path, lock


def take_lock(lock: int, path: Path) -> bool:
    """Take the lock, or say that another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        message = f"The database file {path} cannot be locked: {error.strerror}."
        raise StoreError(message) from error
    return True


def in_use(path: Path) -> StoreError:
    """Another process holds the lock."""
    return StoreError(f"The database file {path} is in use by another running service.")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection that commits durably, or one that only reads."""
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
    except BaseException:  # cancelled or not, it is raised again
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


def migrations() -> dict[int, Traversable]:
    """The numbered files of the schema."""
    folder = resources.files(__package__) / "migrations" / "sqlite"
    return {int(file.name.split("_", 1)[0]): file for file in folder.iterdir()}


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the numbered files that this database has not seen, each in its own transaction."""
    for number, script in unapplied(connection, path):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;"
        )


def unapplied(connection: sqlite3.Connection, path: Path) -> list[tuple[int, str]]:
    """The numbered files that this database has not seen. Raises `StoreError` when not ours."""
    (version,) = connection.execute("PRAGMA user_version").fetchone().values()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone().values()
    files = migrations()
    if version > max(files) or (tables and not version):
        message = f"The database file {path} was made by another program or a newer version."
        raise StoreError(message)
    return [
        (number, file.read_text()) for number, file in sorted(files.items()) if number > version
    ]
