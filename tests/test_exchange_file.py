"""The paper exchange's own file: what is committed is there, and nobody else's file is harmed."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from ticker_actors.exchange.account import Position
from ticker_actors.exchange.book import Unsaved
from ticker_actors.exchange.file import PaperFile, PaperFileInUse, PaperFileUnusable
from ticker_actors.exchange.order import PaperOrder

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
ORDER = PaperOrder(
    order_id="251120000000001",
    day=date(2025, 11, 20),
    tag="TAG1",
    status="OPEN",
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type="BUY",
    quantity=10,
    product="MIS",
    order_type="LIMIT",
    variety="regular",
    validity="DAY",
    placed_at=NOON,
    changed_at=NOON,
    price=20,
    margin_quantity=10,
    margin_price=20,
)
POSITION = Position(exchange="NSE", tradingsymbol="TCS", product="MIS", net=-3, cost=90, realised=7)
ONE_EACH = Unsaved(orders=(ORDER,), positions=(POSITION,), updates=())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is going to be: in a folder that is not there yet."""
    return tmp_path / "data" / "paper.db"


@pytest.fixture
def file(path: Path) -> Iterator[PaperFile]:
    """An open, new file."""
    with closing(PaperFile(path)) as file:
        yield file


def test_committed_is_loaded_again(file: PaperFile, path: Path) -> None:
    """Orders and positions come back as they were, to the last field, in the next run."""
    file.commit(ONE_EACH)
    file.close()
    with closing(PaperFile(path)) as again:
        assert again.load() == ((ORDER,), (POSITION,))


def test_newest_version_wins(file: PaperFile) -> None:
    """A changed order or position replaces its older version."""
    file.commit(ONE_EACH)
    order, position = ORDER.cancelled(NOON), POSITION.traded(3, 40)
    file.commit(Unsaved(orders=(order,), positions=(position,), updates=()))
    assert file.load() == ((order,), (position,))


def test_only_the_last_day_is_loaded(file: PaperFile) -> None:
    """Orders of earlier days stay in the file but not in the book, and go after a month."""
    earlier = replace(ORDER, order_id="251020000000001", day=date(2025, 10, 20))
    file.commit(Unsaved(orders=(earlier, ORDER), positions=(), updates=()))
    assert file.load() == ((ORDER,), ())
    file.prune(date(2025, 11, 20))
    file.commit(Unsaved(orders=(), positions=(), updates=()))
    with closing(sqlite3.connect(file._path)) as outside:
        assert outside.execute("SELECT order_id FROM orders").fetchall() == [(ORDER.order_id,)]


def test_outsiders_can_read(file: PaperFile, path: Path) -> None:
    """While the file is open, anyone can check tags and statuses in it."""
    file.commit(ONE_EACH)
    with closing(sqlite3.connect(path)) as outside:
        rows = outside.execute("SELECT order_id, tag, status FROM orders").fetchall()
    assert rows == [("251120000000001", "TAG1", "OPEN")]


def test_commits_are_durable(file: PaperFile) -> None:
    """The file syncs at every commit, in WAL mode."""
    connection = file._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_failed_commit_ends_the_file(file: PaperFile, path: Path) -> None:
    """After an error nothing of it is kept, and the file takes no more, ever."""
    with closing(sqlite3.connect(path)) as outside:
        outside.execute(
            "CREATE TRIGGER full BEFORE INSERT ON positions "
            "BEGIN SELECT raise(FAIL, 'the disk is full'); END"
        )
    with pytest.raises(sqlite3.IntegrityError, match="the disk is full"):
        file.commit(ONE_EACH)
    with pytest.raises(sqlite3.ProgrammingError):
        file.commit(Unsaved(orders=(ORDER,), positions=(), updates=()))
    file.close()
    with closing(PaperFile(path)) as again:
        assert again.load() == ((), ())


def test_second_open_is_refused(file: PaperFile, path: Path) -> None:
    """A second book on one file is refused by name, also over another spelling of its path."""
    assert file.load() == ((), ())
    with pytest.raises(PaperFileInUse, match=r"paper\.db is already open\.$"):
        PaperFile(path.parent / ".." / "data" / "paper.db")
    file.close()
    PaperFile(path).close()


def test_second_process_is_refused(file: PaperFile, path: Path) -> None:
    """Another process gets the same sentence."""
    assert file.load() == ((), ())
    code = f"from ticker_actors.exchange.file import *; PaperFile(Path({str(path)!r}))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert other.returncode == 1
    assert "PaperFileInUse: The paper exchange's file" in other.stderr


def test_no_database_is_refused(path: Path) -> None:
    """A file that is no database is refused in one sentence and left as it is."""
    path.parent.mkdir()
    path.write_text("no database\n" * 100)
    with pytest.raises(PaperFileUnusable, match="file is not a database"):
        PaperFile(path)
    assert path.read_text() == "no database\n" * 100


def test_other_programs_database_is_refused(path: Path) -> None:
    """Another program's database, such as our own task store, is refused and left as it is."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE order_tasks (task_id TEXT)")
    before = path.read_bytes()
    with pytest.raises(PaperFileUnusable, match="another program's database"):
        PaperFile(path)
    assert path.read_bytes() == before


def test_newer_schema_is_refused(file: PaperFile, path: Path) -> None:
    """A file of a later program is refused by its version."""
    file.close()
    with closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(PaperFileUnusable, match="schema 99"):
        PaperFile(path)


def test_folder_in_its_place_is_refused(path: Path) -> None:
    """A path that cannot be a file is refused in one sentence."""
    path.mkdir(parents=True)
    with pytest.raises(PaperFileUnusable, match="unable to open database file"):
        PaperFile(path)


def test_damaged_row_is_refused(file: PaperFile, path: Path) -> None:
    """A row that is no order is an error with a name, not a half-known book."""
    file.commit(ONE_EACH)
    with closing(sqlite3.connect(path, isolation_level=None)) as outside:
        outside.execute("UPDATE orders SET body = json_set(body, '$.quantity', 'ten')")
    with pytest.raises(PaperFileUnusable, match="quantity"):
        file.load()


def test_refused_file_is_released(file: PaperFile, path: Path) -> None:
    """After a refusal the lock is free again, so that a mended file opens."""
    file.close()
    content = path.read_bytes()
    path.write_text("broken" * 1_000)
    with pytest.raises(PaperFileUnusable):
        PaperFile(path)
    path.write_bytes(content)
    PaperFile(path).close()
