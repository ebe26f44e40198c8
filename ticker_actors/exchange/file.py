"""The paper exchange's own file: what it answered for is in here, whatever happens to the service.

SQLite in WAL mode with `synchronous=FULL`: a `commit` that returned is on the disk. One process at
a time, by a lock that dies with its holder; anyone may read the tables meanwhile.

An order's last version is one row, its body JSON (`PaperOrder`); `tag` and `status` are columns for
whoever wants to check a book from outside. Every method blocks; one thread at a time may call.
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec

from ticker_actors.exchange.account import Position
from ticker_actors.exchange.book import Unsaved
from ticker_actors.exchange.order import PaperOrder

APPLICATION_ID = 0x4B_50_41_50
"""`KPAP` in the file's header: tells our file from another database given by mistake."""
SCHEMA_VERSION = 1
KEEP_DAYS = 30
"""How long orders of past days stay in the file, for whoever wants to look back."""

SCHEMA = """
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY,
    day TEXT NOT NULL,
    tag TEXT NOT NULL,
    status TEXT NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_day ON orders (day);
CREATE TABLE positions (
    exchange TEXT, tradingsymbol TEXT, product TEXT,
    net INTEGER NOT NULL, cost INTEGER NOT NULL, realised INTEGER NOT NULL,
    PRIMARY KEY (exchange, tradingsymbol, product)
) WITHOUT ROWID;
"""


LOCK_SECONDS = 30.0
"""How long a commit waits for somebody's shell that has locked the file; then it fails."""


class PaperFileUnusable(Exception):
    """The file cannot be opened or is no paper exchange's; the message says so in one sentence."""


class PaperFileInUse(PaperFileUnusable):
    """Another process (or another book of this one) has the file open."""


class PaperFile:
    """The open file. `close` it, or let the process die."""

    def __init__(self, path: Path) -> None:
        """Opens the file, makes it and its folder where they are missing, and takes its lock."""
        self._path = path.resolve()
        with ExitStack() as undo, _named_errors(self._path):
            self._lock = undo.enter_context(_locked(self._path))
            # No thread of its own: the callers' threads take turns.
            self._connection = undo.enter_context(
                closing(
                    sqlite3.connect(
                        path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
                    )
                )
            )
            _prepare(self._connection, self._path)
            self._closing = undo.pop_all()

    def load(self) -> tuple[tuple[PaperOrder, ...], tuple[Position, ...]]:
        """The orders of the last day that had any, and all positions."""
        with _named_errors(self._path):
            rows = self._connection.execute(
                "SELECT body FROM orders WHERE day = (SELECT max(day) FROM orders)"
            )
            orders = tuple(msgspec.json.decode(body, type=PaperOrder) for (body,) in rows)
            held = self._connection.execute("SELECT * FROM positions")
            names = [column[0] for column in held.description]
            positions = [dict(zip(names, row, strict=True)) for row in held]
            return orders, msgspec.convert(tuple(positions), tuple[Position, ...])

    def prune(self, today: date) -> None:
        """Forgets orders of more than `KEEP_DAYS` ago."""
        last = (today - timedelta(days=KEEP_DAYS)).isoformat()
        with _named_errors(self._path):
            self._connection.execute("DELETE FROM orders WHERE day < ?", (last,))

    def commit(self, unsaved: Unsaved) -> None:
        """Keeps all of it or nothing. After an error the file is closed and takes nothing more.

        The failed commit may still have happened; going on could use an order id twice.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        o.order_id,
                        o.day.isoformat(),
                        o.tag,
                        o.status,
                        msgspec.json.encode(o).decode(),
                    )
                    for o in unsaved.orders
                ],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?, ?)",
                [(*p.key, p.net, p.cost, p.realised) for p in unsaved.positions],
            )
            self._connection.execute("COMMIT")
        except BaseException:  # cancelled or not, it is raised again
            self._connection.close()
            raise

    def close(self) -> None:
        """Gives the file back."""
        self._closing.close()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file becomes one sentence for the operator."""
    try:
        yield
    except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
        raise PaperFileUnusable(f"The paper exchange cannot use {path}: {error}.") from error


def _locked(path: Path) -> BinaryIO:
    """The lock of the file, on a side file.

    Not on the file: closing any descriptor of it would drop SQLite's own locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise PaperFileInUse(f"The paper exchange's file {path} is already open.") from error
    return lock


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Checks before it writes: a file of somebody else's stays as it is."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise PaperFileUnusable(f"{path} is another program's database, not a paper exchange's.")
    if version > SCHEMA_VERSION:
        raise PaperFileUnusable(
            f"{path} is of schema {version}, but this program knows only up to {SCHEMA_VERSION}."
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if not tables:
        connection.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
