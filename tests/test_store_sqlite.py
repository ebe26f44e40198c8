"""What only the SQLite store does: one file, one process, disks that fail."""

# ruff: noqa: ASYNC221, ASYNC240  # the store's own threads go on while a test blocks for a moment

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace

from tests.stores import AT, SECOND, UNICODE, SqlitePlace, change, commit, event, take_over, task
from ticker_actors.model.calendar import IST, iso
from ticker_actors.model.changes import Committed, Key, KeyTaken, Unstorable
from ticker_actors.model.tasks import OrderTask, Phase, Reason, TaskStatus
from ticker_actors.store import sqlite_commit
from ticker_actors.store.commit import Decided
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.sqlite_commit import write
from ticker_actors.store.tables import StoreError


def open_store(path: Path) -> AbstractAsyncContextManager[SqliteStore]:
    """The store of a service that starts now."""
    return SqlitePlace(path).open()


def select(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program reads in the file."""
    return SqlitePlace(path).execute(sql)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database file."""
    return tmp_path / "ticker.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SqliteStore]:
    """A store that owns account `primary`."""
    async with open_store(path) as opened:
        await opened.claim("primary", "me")
        yield opened


HOLDER = """
import sys, trio
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from ticker_actors.store import sqlite_commit
from ticker_actors.store.commit import Decided
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.sqlite_commit import write

async def main():
    now = datetime.now(UTC)
    async with SqliteStore.open(Path(sys.argv[1]), now=now, chance=Random(1).getrandbits) as store:
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
async def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    """In one sentence, by whatever name; after a `kill -9` at once."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    with holder(path) as first:
        for name in (path, link):
            with pytest.raises(StoreError) as info:
                async with open_store(name):
                    pytest.fail("opened")
            assert (
                str(info.value) == f"The database file {path} is in use by another running service."
            )
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        async with open_store(path) as store:
            assert (await take_over(store, "primary", "me")).epoch == 1


async def test_a_process_cannot_open_it_twice(store: SqliteStore, path: Path) -> None:
    """A lock that only other processes see would not do."""
    with pytest.raises(StoreError, match="in use"):
        async with open_store(path):
            pytest.fail("opened")


# Files that are no database of ours.


async def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(StoreError) as info:
        async with open_store(path):
            pytest.fail("opened")
    message = str(info.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """And left as it was."""
    path.write_bytes(b"Dear diary, " * 1000)
    await refusal(path)
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_another_programs_database_is_refused(path: Path) -> None:
    """Nothing is mixed into it."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (day TEXT)")
    assert "another program" in await refusal(path)
    assert select(path, "SELECT name FROM sqlite_schema") == [("diary",)]


async def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    """It may hold what this version does not understand."""
    async with open_store(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 999")
    assert "newer version" in await refusal(path)


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file in the way, or a file system that is read only."""
    (tmp_path / "file").write_text("x")
    await refusal(tmp_path / "file" / "ticker.db")
    await refusal(Path("/proc/ticker.db"))


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """Its name could be meant as one."""
    await refusal(tmp_path)


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    """The default is `data/ticker.db`."""
    async with open_store(tmp_path / "a" / "b" / "ticker.db"):
        assert (tmp_path / "a" / "b" / "ticker.db").exists()


async def test_a_name_that_means_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in memory would lose what was acknowledged."""
    monkeypatch.chdir(tmp_path)
    async with open_store(Path(":memory:")):
        assert (tmp_path / ":memory:").exists()


# Other programs, and disks that fail.


async def test_reads_do_not_wait_for_another_programs_lock(store: SqliteStore, path: Path) -> None:
    """Neither does a commit give up: it goes on when the lock is free."""
    await commit(store, change(task(1)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, store, change(task(2)))
            assert await store.task("task_1") is not None
            assert await store.task("task_2") is None
            other.execute("ROLLBACK")
    assert await store.task("task_2") is not None


async def test_a_lock_held_too_long_is_waited_out(store: SqliteStore, path: Path) -> None:
    """Not even a backup that outlasts SQLite's own patience fails a commit."""
    store._writer.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, store, change(task(1)))
            await trio.sleep(0.1)  # several times its patience
            other.execute("ROLLBACK")
    assert await store.task("task_1") is not None


BIG = "x" * 1_000_000


async def test_a_full_database_raises(store: SqliteStore) -> None:
    """It is no bad row: nothing of the transaction is there, and the process must stop."""
    pages = store._writer.execute("PRAGMA page_count").fetchone()["page_count"]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await store.commit([change(task(1)), change(task(2, last_error=BIG))], AT)
    assert await store.task("task_1") is None


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def fill(store: SqliteStore, acknowledged: list[str]) -> None:
    """Commit without end."""
    for number in itertools.count():
        made = task(number, last_error=BIG[:50_000])
        assert await commit(store, change(made)) == [Committed]
        acknowledged.append(made.task_id)


async def test_a_full_disk_raises(tmp_path: Path) -> None:
    """A real one; after a restart with room everything acknowledged is there."""
    acknowledged: list[str] = []
    with small_disk(tmp_path / "disk") as disk:
        async with open_store(disk / "ticker.db") as store:
            await store.claim("primary", "me")
            with pytest.raises(sqlite3.OperationalError):
                await fill(store, acknowledged)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        async with open_store(disk / "ticker.db") as store:
            found = await take_over(store, "primary", "me")
            assert acknowledged
            assert [made.task_id for made in found.tasks] == acknowledged


# What the mission document promises of the tables.

DEAD = task(
    9,
    status=TaskStatus.DEAD_LETTER,
    phase=Phase.DEAD,
    reason=Reason.EXHAUSTED,
    attempts=3,
    last_error=UNICODE,
    updated_at=AT + SECOND,
)


async def test_the_documents_queries_run(store: SqliteStore, path: Path) -> None:
    """As written there, by another program, while the service runs."""
    waiting = task(2, status=TaskStatus.RETRYING, attempts=1, created_at=AT + SECOND)
    await commit(store, change(waiting, task(1), DEAD))
    pending = select(
        path,
        """
        SELECT task_id, operation, status, attempts, created_at, last_error
        FROM order_tasks
        WHERE status IN ('pending', 'retrying')
        ORDER BY created_at;
        """,
    )
    assert pending == [
        ("task_1", "place_order", "pending", 0, "2025-11-20T04:00:00.123Z", None),
        ("task_2", "place_order", "retrying", 1, "2025-11-20T04:00:01.123Z", None),
    ]
    failed = select(
        path,
        """
        SELECT task_id, operation, attempts, last_error, created_at
        FROM order_tasks
        WHERE status = 'dead_letter'
        ORDER BY updated_at DESC
        LIMIT 10;
        """,
    )
    assert failed == [("task_9", "place_order", 3, UNICODE, "2025-11-20T04:00:00.123Z")]
    statistics = select(
        path,
        """
        SELECT
            status,
            COUNT(*) as count,
            AVG(attempts) as avg_attempts
        FROM order_tasks
        GROUP BY status;
        """,
    )
    assert sorted(statistics) == [
        ("dead_letter", 1, 3.0),
        ("pending", 1, 0.0),
        ("retrying", 1, 1.0),
    ]


async def test_the_documents_columns_and_indexes_exist(store: SqliteStore, path: Path) -> None:
    """Its columns come first, in its order; the partial index is partial, and is used."""
    columns = [name for _, name, *_ in select(path, "PRAGMA table_info(order_tasks)")]
    assert columns[:12] == [
        "task_id",
        "idempotency_key",
        "operation",
        "params",
        "status",
        "attempts",
        "max_attempts",
        "created_at",
        "updated_at",
        "last_error",
        "result",
        "account_id",
    ]
    assert columns == list(OrderTask.__struct_fields__)
    indexes = {
        name: bool(part) for _, name, _, _, part in select(path, "PRAGMA index_list(order_tasks)")
    }
    assert indexes["idx_order_tasks_status"]
    assert not indexes["idx_order_tasks_account"]
    query = "SELECT * FROM order_tasks WHERE status IN ('pending', 'retrying')"
    plan = select(path, f"EXPLAIN QUERY PLAN {query}")
    assert "idx_order_tasks_status" in str(plan)


async def test_a_key_deleted_after_its_conflict_is_a_new_key(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune beside the service may come between the two: what was refused for it is written."""
    key = Key("k", "hash", "task", "task_1", "primary")
    await commit(store, change(task(1), key=key))
    refused = []

    def write_then_prune(writer: sqlite3.Connection, decided: Decided) -> None:
        try:
            write(writer, decided)
        except sqlite3.IntegrityError:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("DELETE FROM idempotency_keys")
            refused.append(decided)
            raise

    monkeypatch.setattr("ticker_actors.store.sqlite.write", write_then_prune)
    assert await commit(store, change(task(2), key=replace(key, id="task_2"))) == [Committed]
    assert len(refused) == 1
    assert await store.task("task_2") is not None


async def test_a_key_that_another_program_uses_meanwhile_is_a_used_key(
    store: SqliteStore, path: Path
) -> None:
    """The library's, for one: it writes keys beside a running service."""
    key = Key("k", "theirs", "task", "task_1", "primary")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        values = [getattr(key, name) for name in Key.__struct_fields__]
        other.execute("INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?)", values)
    ours = change(task(2), key=replace(key, request_hash="ours"), events=(event("2"),))
    answers = await store.commit([ours, change(task(3), events=(event("3"),))], AT)
    assert answers[0] == KeyTaken(key)
    assert isinstance(answers[1], Committed)
    assert answers[1].events[0].sequence == 1
    assert await store.task("task_2") is None


async def test_json_too_deep_fails_alone(store: SqliteStore) -> None:
    """SQLite's word for it is that of a failed disk, but it is a bad row."""
    deep = msgspec.Raw(b'{"a":' * 3_000 + b"1" + b"}" * 3_000)
    bad = change(events=(event("1", data=deep),))
    answers = await store.commit([change(task(1)), bad, change(task(2))], AT)
    assert [type(answer) for answer in answers] == [Committed, Unstorable, Committed]


async def test_a_nul_inside_of_json_is_stored(store: SqliteStore) -> None:
    """It is an escape there, which nothing cuts off."""
    params = {"tag": "a\0b", "\\u0000": "\\"}
    assert await commit(store, change(task(1, params=params))) == [Committed]
    found = await store.task("task_1")
    assert found is not None
    assert found.params == params


async def test_a_sqlite_without_what_a_commit_needs_is_refused_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the first order."""
    broken = {**sqlite_commit._SQL, "keys": "SELECT no_such_function();"}
    monkeypatch.setattr(sqlite_commit, "_SQL", broken)
    assert "no_such_function" in await refusal(path)


@pytest.mark.parametrize(
    "instant, stored",
    [
        (datetime(2025, 11, 20, 4, 0, 0, 999999, UTC), "2025-11-20T04:00:00.999Z"),
        (datetime(2025, 11, 20, 4, 0, 59, 999600, UTC), "2025-11-20T04:00:59.999Z"),
        (datetime(2025, 11, 20, 4, 0, 0, 7000, UTC), "2025-11-20T04:00:00.007Z"),
        (datetime(2025, 11, 20, 4, tzinfo=UTC), "2025-11-20T04:00:00.000Z"),
        (datetime(2025, 11, 20, 9, 30, 1, tzinfo=IST), "2025-11-20T04:00:01.000Z"),
        (datetime(2025, 11, 20, 9, 30, 59, 999999, IST), "2025-11-20T04:00:59.999Z"),
    ],
)
async def test_times_are_stored_as_they_sort(
    store: SqliteStore, path: Path, instant: datetime, stored: str
) -> None:
    """In the one form that every wire has, however they were written down on the way."""
    assert stored == iso(instant)
    await commit(store, change(task(created_at=instant, updated_at=instant, sent_at=None)))
    sql = "SELECT created_at, updated_at, sent_at FROM order_tasks"
    assert select(path, sql) == [(stored, stored, None)]


async def test_a_commit_is_on_the_disk_when_it_returns(store: SqliteStore) -> None:
    """WAL, and a sync with every commit."""

    def pragma(name: str) -> object:
        return next(iter(store._writer.execute(f"PRAGMA {name}").fetchone().values()))

    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)
