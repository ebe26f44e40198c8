"""What only the PostgreSQL store does: lost connections, leases, tables of another make."""

# ruff: noqa: ASYNC220, ASYNC221  # the server goes on while a test blocks for a moment

import asyncio
import signal
import subprocess
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import asyncpg
import msgspec
import pytest
import trio
from msgspec.structs import replace

from tests.postgres import Server, execute
from tests.stores import (
    AT,
    SECOND,
    UNICODE,
    PostgresPlace,
    change,
    commit,
    event,
    take_over,
    task,
    webhook,
)
from ticker_actors.model import database
from ticker_actors.model.changes import Attempt, Change, Committed, Key, KeyTaken
from ticker_actors.model.tasks import Phase, Reason, TaskStatus
from ticker_actors.store import owner as owners
from ticker_actors.store import postgres, postgres_link
from ticker_actors.store.commit import Decided, Fence, Part
from ticker_actors.store.postgres import LEASE_LOOK_SECONDS, RENEW_SECONDS, PostgresStore
from ticker_actors.store.postgres_commit import (
    FEW,
    LEASE_SECONDS,
    MOST_FORMS,
    Statements,
    Transaction,
)
from ticker_actors.store.tables import StaleEpochError, StoreError

ME = owners.this_process()


@pytest.fixture
def place(postgres_url: str) -> PostgresPlace:
    """An empty database."""
    return PostgresPlace(postgres_url)


@pytest.fixture
async def store(place: PostgresPlace) -> AsyncGenerator[PostgresStore]:
    """A store that owns account `primary`."""
    async with place.open() as opened:
        await opened.claim("primary", ME)
        yield opened


# A connection that is lost in mid-commit, at each side of the commit.


class Losing:
    """Loses the connection in one commit: before the statement is sent, or after its commit."""

    def __init__(self, store: PostgresStore, *, committed: bool) -> None:
        self._run = store._run
        self._committed = committed
        self.lost: list[Transaction] = []

    async def run(self, transaction: Transaction) -> None:
        """What stands in for the store's own."""
        if not self.lost:
            self.lost.append(transaction)
            if self._committed:
                await self._run(transaction)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")
        await self._run(transaction)


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_a_commit_cut_off_has_a_definite_answer(
    store: PostgresStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The one that it would have had; every row and event is there once."""
    await commit(store, change(task(0), events=(event("0"),), webhooks=(webhook(),)))
    losing = Losing(store, committed=committed)
    monkeypatch.setattr(store, "_run", losing.run)
    key = Key("k", "hash", "task", "task_1", "primary")
    changes = [
        change(task(1), key=key, events=(event("1"), event("2"))),
        change(task(2), key=replace(key, id="task_2")),
        change(task(3), events=(event("3"),)),
    ]
    answers = await store.commit(changes, AT)
    assert losing.lost
    first, second, third = answers
    assert isinstance(first, Committed)
    assert isinstance(third, Committed)
    assert second == KeyTaken(key)
    assert [made.sequence for made in first.events + third.events] == [2, 3, 4]
    assert (first.deliveries, third.deliveries) == (2, 1)
    assert await commit(store, change(task(4), events=(event("4"),))) == [Committed]
    log = place.execute("SELECT sequence, event_id FROM order_events ORDER BY sequence")
    assert log == [(number + 1, f"evt_{number}") for number in range(5)]
    assert place.execute("SELECT COUNT(*) FROM webhook_deliveries") == [(4,)]
    assert place.execute("SELECT COUNT(*) FROM order_tasks") == [(4,)]
    assert place.execute("SELECT epoch, session, writes FROM accounts") == [(1, 1, 3)]


async def test_what_a_frozen_backend_runs_late_writes_nothing(
    store: PostgresStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statement asks for the session before: after the reconnect it cannot be committed."""
    losing = Losing(store, committed=False)
    monkeypatch.setattr(store, "_run", losing.run)
    await commit(store, change(task(1), events=(event("1"),)))
    late = replace_ids(losing.lost[0])
    with pytest.raises(asyncpg.NotNullViolationError):
        await store._link.call(store._writer.fetch, late.sql, *late.arguments)
    assert place.execute("SELECT task_id FROM order_tasks") == [("task_1",)]
    assert await commit(store, change(task(2), events=(event("2"),))) == [Committed]


def replace_ids(transaction: Transaction) -> Transaction:
    """The same statement for rows of other names: only the fence can stop it."""
    others = {"_1": "_9", "key-1": "k9", "000000000001": "000000000009"}

    def renamed(value: object) -> object:
        for name, other in others.items():
            value = value.replace(name, other) if isinstance(value, str) else value
        return value

    return Transaction(
        transaction.sql,
        [renamed(value) for value in transaction.arguments],
        transaction.fences,
        transaction.answers,
    )


def test_statements_are_no_more_than_are_kept_prepared() -> None:
    """Those with parameters are the first that occur; what comes later is JSON."""
    parts: dict[Part, msgspec.Struct] = {
        "tasks": task(),
        "events": event("1"),
        "webhooks": webhook(),
        "keys": Key("k", "h", "task", "t", "primary"),
    }
    statements, chance, seen = Statements(), Random(1), list[str]()
    fences: list[Fence] = [Fence(account_id="primary", epoch=1, head_sequence=0)]

    def sql(numbers: Sequence[int]) -> str:
        found = zip(parts.items(), numbers, strict=True)
        rows = {part: [row] * number for (part, row), number in found if number}
        return statements.transaction(Decided({"fences": fences, **rows}, fences, [])).sql

    often = [sql([1, 2, 0, 1]), sql([0, FEW, 0, 0])]
    for _ in range(1_000):
        seen.append(sql([chance.randrange(FEW + 2) for _ in parts]))
    few = {text for text in (*often, *seen) if "json" not in text}
    assert len(few) == MOST_FORMS
    assert len(set(seen) - few) <= 2 ** len(parts)
    assert often == [sql([1, 2, 0, 1]), sql([0, FEW, 0, 0])]


async def test_many_changes_of_one_row_are_its_last(
    store: PostgresStore, place: PostgresPlace
) -> None:
    """In one transaction too; what never changes is that of the first."""
    sent = Attempt(
        task_id="task_1",
        send=1,
        account_id="primary",
        operation="place_order",
        broker_tag="t",
        epoch=1,
        sent_at=AT,
    )
    answered = replace(sent, outcome="placed", answered_at=AT)
    moved = task(phase=Phase.SENT, params={"quantity": 99}, intent="y" * 12)
    made = await commit(
        store, change(task(), attempts=(sent,)), change(moved, attempts=(answered,))
    )
    assert made == [Committed, Committed]
    assert await store.task("task_1") == task(phase=Phase.SENT)
    assert await store.attempts("task_1") == [answered]
    assert place.execute("SELECT writes FROM accounts") == [(1,)]


async def test_a_used_key_alone_writes_nothing(store: PostgresStore, place: PostgresPlace) -> None:
    """Not even a transaction."""
    key = Key("k", "hash", "task", "task_1", "primary")
    await commit(store, change(task(), key=key))
    assert await commit(store, change(task(2), key=key)) == [KeyTaken]
    assert place.execute("SELECT writes FROM accounts") == [(1,)]


async def test_a_key_that_another_copy_uses_meanwhile_is_a_used_key(
    store: PostgresStore, place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is used between the look and the commit: it is told as any used key."""
    theirs = Key("k", "theirs", "task", "task_2", "second")
    used = Key("used", "hash", "task", "task_3", "primary")
    await commit(store, change(task(3), key=used))
    looks: list[dict[str, Key]] = []
    async with place.open() as other:
        await other.claim("second", ME)
        look = store._taken_keys

        async def look_too_soon(changes: Sequence[Change]) -> dict[str, Key]:
            found = await look(changes)
            if not looks:
                await other.commit([Change(account_id="second", tasks=(task(2),), key=theirs)], AT)
            looks.append(found)
            return found

        monkeypatch.setattr(store, "_taken_keys", look_too_soon)
        ours = replace(theirs, request_hash="ours", id="task_1", account_id="primary")
        answers = await store.commit([change(task(4), key=used), change(task(1), key=ours)], AT)
    assert looks[0] == {"used": used}  # one used key made it look, and the other came then
    assert answers == [KeyTaken(used), KeyTaken(theirs)]
    assert place.execute("SELECT task_id FROM order_tasks ORDER BY 1") == [
        ("task_2",),
        ("task_3",),
    ]


async def test_texts_that_no_row_can_hold_are_not_found(store: PostgresStore) -> None:
    """A reader that asks for one gets nothing, not an error."""
    assert await store.task("task_\0") is None
    assert await store.order("primary", "\ud800") is None
    await commit(store, change(task()))
    assert await store.task("task_1") is not None


# Real faults under load: what was acknowledged is compared with the table.

CLIENTS = 20


class Load:
    """Many who commit without end, and what was acknowledged to them."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.acknowledged: dict[str, int] = {}
        self.stopping = False
        self._asked = 0

    async def client(self) -> None:
        """Commit tasks with an event each until told to stop."""
        while not self.stopping:
            self._asked += 1
            name = str(self._asked)
            made = change(task(self._asked), events=(event(name),))
            (answer,) = await self.store.commit([made], AT)
            assert isinstance(answer, Committed)
            self.acknowledged[f"evt_{name}"] = answer.events[0].sequence

    async def more(self, count: int = 50) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:  # noqa: ASYNC110  # clients are many
            await trio.sleep(0.005)


async def under_load(
    store: PostgresStore, place: PostgresPlace, fault: Callable[[Load], Awaitable[None]]
) -> Load:
    """Commit, let the fault happen, commit on; then the table holds what was acknowledged, once."""
    load = Load(store)
    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(load.client)
        await load.more()
        await fault(load)
        await load.more()
        load.stopping = True
    log = place.execute("SELECT event_id, sequence FROM order_events ORDER BY sequence")
    assert dict(log) == load.acknowledged
    assert [number for _, number in log] == list(range(1, len(log) + 1))
    assert place.execute("SELECT COUNT(*) FROM order_tasks") == [(len(log),)]
    return load


def sessions(place: PostgresPlace) -> int:
    """How often the store has connected anew."""
    ((count,),) = place.execute("SELECT session FROM accounts")
    return int(count)


@pytest.mark.slow
async def test_a_server_that_crashes_and_recovers(
    store: PostgresStore, place: PostgresPlace, own_server: Server
) -> None:
    """An immediate stop, some seconds without any, a start: every commit has its answer."""

    async def crash(load: Load) -> None:
        for _ in range(2):
            await trio.to_thread.run_sync(own_server.stop)
            before = len(load.acknowledged)
            await trio.sleep(0.5)
            assert store.away_seconds > 0
            assert len(load.acknowledged) <= before + CLIENTS
            await trio.to_thread.run_sync(own_server.start)
            await load.more()
            assert store.away_seconds == 0

    await under_load(store, place, crash)
    assert sessions(place) >= 2


@pytest.mark.slow
async def test_a_writer_whose_backend_is_terminated(
    store: PostgresStore, place: PostgresPlace
) -> None:
    """Again and again in the midst of commits: none is lost, none is there twice."""
    times = 12

    async def terminate(load: Load) -> None:
        for _ in range(times):
            await load.more(10)
            pid = store._writer.get_server_pid()
            await trio.to_thread.run_sync(place.execute, f"SELECT pg_terminate_backend({pid})")

    await under_load(store, place, terminate)
    assert sessions(place) == times


@pytest.mark.slow
async def test_a_server_that_freezes(
    store: PostgresStore, place: PostgresPlace, own_server: Server
) -> None:
    """For two seconds: commits wait, and whoever asks hears that it is away."""

    async def freeze(load: Load) -> None:
        own_server.signal(signal.SIGSTOP)
        try:
            before = len(load.acknowledged)
            await trio.sleep(2)
            assert store.away_seconds > postgres.PATIENCE_SECONDS
            assert len(load.acknowledged) <= before + CLIENTS
        finally:
            own_server.signal(signal.SIGCONT)

    await under_load(store, place, freeze)


@pytest.mark.slow
async def test_a_server_frozen_for_too_long_is_given_up(
    store: PostgresStore,
    place: PostgresPlace,
    own_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What its backend had received may be run when it thaws; the answer is right either way."""
    monkeypatch.setattr(postgres_link, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(postgres_link, "CONNECT_SECONDS", 0.5)

    async def freeze(load: Load) -> None:
        for _ in range(3):
            own_server.signal(signal.SIGSTOP)
            try:
                await trio.sleep(1.2)
            finally:
                own_server.signal(signal.SIGCONT)
            await load.more()

    await under_load(store, place, freeze)
    assert sessions(place) >= 3


@contextmanager
def locked(place: PostgresPlace, table: str) -> Iterator[None]:
    """Another program holds a table in a transaction of its own."""
    let_go = threading.Event()
    held = threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(place.url)
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            held.set()
            while not let_go.is_set():  # noqa: ASYNC110  # set by another thread
                await asyncio.sleep(0.01)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        let_go.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("table", ["order_tasks", "accounts"])
async def test_a_table_that_somebody_locks(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """Longer than a statement waits for it: it is begun anew until the lock is free."""
    monkeypatch.setitem(postgres_link.SESSION, "lock_timeout", "150")

    async def lock(load: Load) -> None:
        with locked(place, table):
            before = len(load.acknowledged)
            await trio.sleep(1.5)
            assert load.store.away_seconds > 0
            assert len(load.acknowledged) <= before + CLIENTS

    async with place.open() as store:
        await store.claim("primary", ME)
        await under_load(store, place, lock)
    assert sessions(place) >= 1


@pytest.mark.slow
async def test_reads_wait_for_the_database(
    store: PostgresStore, own_server: Server, place: PostgresPlace
) -> None:
    """An actor that reads while it is away is no worse off than one that writes."""
    await commit(store, change(task()))
    assert await store.task("task_1") is not None
    found = []

    async def read() -> None:
        found.append(await store.task("task_1"))

    await trio.to_thread.run_sync(own_server.stop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(0.3)
        assert found == []
        await trio.to_thread.run_sync(own_server.start)
    assert found == [task()]


# Owners.


async def test_a_dead_owner_is_followed_at_once(place: PostgresPlace) -> None:
    """Though its lease would last: a `kill -9` must not cost it."""
    with subprocess.Popen(["sleep", "100"]) as other:
        *here, _, _ = ME.split("/")
        started = owners._started(other.pid)
        dead = "/".join([*here, str(other.pid), str(started)])
        assert not owners.is_gone(dead)
        other.kill()
    assert owners.is_gone(dead)
    async with place.open() as store:
        await store.claim("primary", ME)
        take_as(place, dead, "1 hour")
        assert (await take_over(store, "primary", ME)).epoch == 3


def take_as(place: PostgresPlace, owner: str, lease: str) -> None:
    """Another process takes the account over."""
    place.execute(
        f"UPDATE accounts SET owner = '{owner}', epoch = epoch + 1, "  # noqa: S608  # ours
        f"lease_until = clock_timestamp() + interval '{lease}'"
    )


def test_who_is_gone() -> None:
    """Only what is certain: the same host, boot and namespace, and no process of that start."""
    *here, pid, started = ME.split("/")
    assert not owners.is_gone(ME)
    assert owners.is_gone("/".join([*here, pid, started + "1"]))
    assert not owners.is_gone("/".join(["elsewhere", *here[1:], pid, started + "1"]))
    assert not owners.is_gone("/".join([here[0], "other boot", here[2], pid, "1"]))
    assert not owners.is_gone("me")
    assert not owners.is_gone("")
    assert owners.shown(ME) == f"process {pid} on {here[0]}"


@pytest.mark.slow
async def test_a_lease_of_another_host_is_waited_out(
    store: PostgresStore, place: PostgresPlace
) -> None:
    """Then it is taken over, under a new epoch."""
    take_as(place, "elsewhere/boot/1/2/3", "1 second")
    began = trio.current_time()
    assert (await take_over(store, "primary", ME)).epoch == 3
    assert trio.current_time() - began > 0.5


async def test_a_lease_runs_while_the_process_stands_still(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted from before it was asked for; each commit begins it anew."""
    seconds = 1000.0
    monkeypatch.setattr(postgres, "_now", lambda: seconds)
    assert store.lease_seconds("nobody's") < 0
    await commit(store, change(task()))
    assert store.lease_seconds("primary") == LEASE_SECONDS
    seconds += LEASE_SECONDS + 1
    assert store.lease_seconds("primary") == -1
    await commit(store, change(task(2)))
    assert store.lease_seconds("primary") == LEASE_SECONDS


@pytest.mark.slow
async def test_a_patient_store_waits_for_its_account(place: PostgresPlace) -> None:
    """As long as the holder renews its lease; and it keeps what it has claimed meanwhile."""
    async with (
        place.open() as holder,
        PostgresStore.open(
            database.postgres(place.url), now=AT, chance=Random(2).getrandbits, patient=True
        ) as standby,
        trio.open_nursery() as nursery,
    ):
        await holder.claim("primary", ME)
        await standby.claim("second", "elsewhere/boot/1/2/3")
        nursery.start_soon(standby.claim, "primary", "elsewhere/boot/1/2/3")
        await trio.sleep(RENEW_SECONDS + 2 * LEASE_LOOK_SECONDS)
        assert await commit(holder, change(task())) == [Committed]
        assert standby.lease_seconds("primary") < 0 < standby.lease_seconds("second")
        await holder._link.call(holder._writer.execute, postgres._RELEASE, *holder._held())
        holder._fences.clear()  # so that it does not renew what it has let go of


async def test_webhooks_made_while_a_store_waits_are_served_by_it(place: PostgresPlace) -> None:
    """What the former owner was told to deliver, the next one puts in the outbox."""
    async with place.open(2) as patient:
        async with place.open() as first:
            await first.claim("primary", ME)
            await commit(first, change(webhooks=(webhook(),)))
        await patient.claim("primary", "another/process")
        (answer,) = await patient.commit([change(events=(event("1"),))], AT)
    assert isinstance(answer, Committed)
    assert answer.deliveries == 1


@pytest.mark.slow
async def test_an_account_in_use_is_refused(place: PostgresPlace) -> None:
    """Once its lease is renewed, in one sentence; the holder goes on."""
    async with place.open() as holder, place.open() as other:
        await holder.claim("primary", ME)
        with pytest.raises(StoreError) as info:
            await other.claim("primary", "elsewhere/boot/1/2/3")
        assert str(info.value) == (
            f"Account primary is in use by another running service ({owners.shown(ME)})."
        )
        assert await commit(holder, change(task())) == [Committed]


async def test_a_clean_stop_lets_go_of_the_lease(place: PostgresPlace) -> None:
    """The next start, on any host, need not wait."""
    async with place.open() as store:
        await store.claim("primary", "elsewhere/boot/1/2/3")
        assert place.execute("SELECT lease_until > now() FROM accounts") == [(True,)]
    assert place.execute("SELECT lease_until FROM accounts") == [(None,)]
    async with place.open() as store:
        assert (await take_over(store, "primary", ME)).epoch == 2


@pytest.mark.slow
async def test_an_idle_owner_learns_that_it_is_one_no_more(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it renews: the process ends, as one that writes would."""
    monkeypatch.setattr(postgres, "RENEW_SECONDS", 0.1)

    async def idle() -> None:
        async with place.open() as store:
            await store.claim("primary", ME)
            await trio.sleep(0.3)
            take_as(place, "elsewhere/boot/1/2/3", "1 hour")
            await trio.sleep(20)

    with pytest.raises(ExceptionGroup) as info:
        await idle()
    assert info.group_contains(StaleEpochError, match="primary")


@pytest.mark.slow
async def test_an_idle_owner_connects_again(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next order needs the connection."""
    monkeypatch.setattr(postgres, "RENEW_SECONDS", 0.1)
    async with place.open() as store:
        await store.claim("primary", ME)
        pid = store._writer.get_server_pid()
        place.execute(f"SELECT pg_terminate_backend({pid})")
        with trio.fail_after(20):
            while sessions(place) == 0:  # noqa: ASYNC110  # another connection raises it
                await trio.sleep(0.05)
        assert store._writer.get_server_pid() != pid


# Tables of another make.

DOCUMENTED = """
CREATE TABLE IF NOT EXISTS order_tasks (
    task_id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    params JSONB NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER DEFAULT 0,
    max_attempts INTEGER DEFAULT 5,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_error TEXT,
    result JSONB,
    account_id TEXT NOT NULL
)
"""
DOCUMENTED_INDEXES = (
    """
    CREATE INDEX idx_order_tasks_status
    ON order_tasks(status)
    WHERE status IN ('pending', 'retrying')
    """,
    """
    CREATE INDEX idx_order_tasks_account
    ON order_tasks(account_id)
    """,
)
OF_THE_TABLE = (
    "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
    "WHERE table_name = 'order_tasks' ORDER BY ordinal_position LIMIT 12"
)
OF_ITS_INDEXES = (
    "SELECT indexdef FROM pg_indexes WHERE indexname IN ('idx_order_tasks_status', "
    "'idx_order_tasks_account', 'order_tasks_pkey', 'order_tasks_idempotency_key_key') "
    "ORDER BY indexname"
)


async def test_the_documents_table_is_made_and_taken_over(place: PostgresPlace) -> None:
    """Column for column, index for index the same; its rows stay, and nothing of it is sent."""
    for sql in (DOCUMENTED, *DOCUMENTED_INDEXES):
        place.execute(sql)
    documented = [place.execute(sql) for sql in (OF_THE_TABLE, OF_ITS_INDEXES)]
    place.execute(
        "INSERT INTO order_tasks SELECT 'task_' || s, 'key-' || s, 'place_order', '{}', s, "
        "1, 5, now(), now(), NULL, '{}', 'primary' FROM (VALUES ('pending'), ('running'), "
        "('retrying'), ('completed'), ('dead_letter')) r (s)"
    )
    async with place.open() as store:
        assert [place.execute(sql) for sql in (OF_THE_TABLE, OF_ITS_INDEXES)] == documented
        assert (await take_over(store, "primary", ME)).tasks == ()
        found = await store.tasks(account_id=None, status=None, batch_id=None, before=None, limit=9)
        assert {made.task_id[5:]: (made.status, made.phase, made.reason) for made in found} == {
            "completed": ("completed", Phase.DONE, None),
            "dead_letter": ("dead_letter", Phase.DEAD, Reason.UNRESOLVED),
            "pending": ("dead_letter", Phase.DEAD, Reason.EXPIRED),
            "retrying": ("dead_letter", Phase.DEAD, Reason.UNRESOLVED),
            "running": ("dead_letter", Phase.DEAD, Reason.UNRESOLVED),
        }
        running = await store.task("task_running")
        assert running is not None
        assert running.may_be_at_broker
        assert "look at the broker" in (running.last_error or "")
        assert await commit(store, change(task(1))) == [Committed]


async def test_a_fresh_table_is_the_documents(place: PostgresPlace, postgres_url: str) -> None:
    """As if its own statements had made it, and starting again changes nothing."""
    async with place.open():
        ours = [place.execute(sql) for sql in (OF_THE_TABLE, OF_ITS_INDEXES)]
    async with place.open(seed=2):
        assert place.execute("SELECT COUNT(*) FROM installation") == [(1,)]
    place.execute("DROP TABLE order_tasks")
    for sql in (DOCUMENTED, *DOCUMENTED_INDEXES):
        place.execute(sql)
    assert [place.execute(sql) for sql in (OF_THE_TABLE, OF_ITS_INDEXES)] == ours


QUERIES = (
    """
    SELECT task_id, operation, status, attempts, created_at, last_error
    FROM order_tasks
    WHERE status IN ('pending', 'retrying')
    ORDER BY created_at;
    """,
    """
    SELECT task_id, operation, attempts, last_error, created_at
    FROM order_tasks
    WHERE status = 'dead_letter'
    ORDER BY updated_at DESC
    LIMIT 10;
    """,
    """
    SELECT
        status,
        COUNT(*) as count,
        AVG(attempts) as avg_attempts
    FROM order_tasks
    GROUP BY status;
    """,
)


async def test_the_documents_queries_run_in_psql(
    store: PostgresStore, place: PostgresPlace, postgres_server: Server
) -> None:
    """As written there, while the service runs."""
    dead = task(3, status=TaskStatus.DEAD_LETTER, phase=Phase.DEAD, attempts=3, last_error=UNICODE)
    waiting = task(2, status=TaskStatus.RETRYING, attempts=1, created_at=AT + SECOND)
    await commit(store, change(waiting, task(1), dead))
    psql: list[str | Path] = [
        postgres_server.programs / "psql",
        "-XAtq",
        "-d",
        place.url,
        "-f",
        "-",
    ]
    said = [
        subprocess.run(psql, input=query, capture_output=True, text=True, check=True, timeout=20)
        for query in ("SET TimeZone = 'UTC';" + text for text in QUERIES)
    ]
    assert [answer.stderr for answer in said] == ["", "", ""]
    pending, failed, statistics = (answer.stdout.rstrip("\n").split("\n") for answer in said)
    assert pending == [
        "task_1|place_order|pending|0|2025-11-20 04:00:00.123+00|",
        "task_2|place_order|retrying|1|2025-11-20 04:00:01.123+00|",
    ]
    assert failed == [f"task_3|place_order|3|{UNICODE}|2025-11-20 04:00:00.123+00"]
    assert sorted(line.split("|")[:2] for line in statistics) == [
        ["dead_letter", "1"],
        ["pending", "1"],
        ["retrying", "1"],
    ]


async def test_a_commit_is_on_the_disk_when_it_returns(store: PostgresStore) -> None:
    """Whatever the server's own default is."""
    wanted = {"synchronous_commit": "on", "transaction_isolation": "read committed"}
    for name, value in wanted.items():
        assert await store._link.call(store._writer.fetchval, f"SHOW {name}") == value


async def test_a_newer_versions_database_is_refused(place: PostgresPlace) -> None:
    """It may hold what this version does not understand."""
    async with place.open():
        pass
    place.execute("INSERT INTO schema_migrations VALUES (999)")
    with pytest.raises(StoreError, match=r"made by a newer version\.$"):
        async with place.open():
            pytest.fail("opened")


async def test_two_starts_at_once_make_the_tables_once(place: PostgresPlace) -> None:
    """The second waits for the first."""
    names = []

    async def start(seed: int) -> None:
        async with place.open(seed) as store:
            names.append(store.installation)

    async with trio.open_nursery() as nursery:
        for seed in range(3):
            nursery.start_soon(start, seed)
    assert len(names) == 3
    assert len(set(names)) == 1


async def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    """In one sentence that names the database."""
    name = "a_user_with_a_password"
    if (name,) not in execute(postgres_url, "SELECT rolname::text FROM pg_roles"):
        execute(postgres_url, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0 PASSWORD 'right'")
    address = replace(database.postgres(postgres_url), user=name, password="hunter2")
    with pytest.raises(StoreError) as info:
        async with PostgresStore.open(address, now=AT, chance=Random(1).getrandbits):
            pytest.fail("opened")
    message = str(info.value)
    assert message.startswith(f"The database postgresql://{name}@")
    assert message.endswith(".")
    assert "hunter2" not in message
