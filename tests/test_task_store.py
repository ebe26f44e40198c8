"""The library: the mission document's TaskStore, on both databases, alone and beside a service."""

import itertools
import re
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.stores import (
    AT,
    SECOND,
    UNICODE,
    Place,
    PostgresPlace,
    SqlitePlace,
    change,
    commit,
    take_over,
)
from tests.stores import task as service_task
from tests.test_tasks import OPERATIONS, OUTSIDE_EVENTS, OWN, in_phase
from ticker_actors import NotSaved, OrderTask, StoreError, TaskStatus, TaskStore
from ticker_actors.actors.draft import Draft
from ticker_actors.actors.ledger import Ledger
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import Moment
from ticker_actors.model.changes import Committed, Key, KeyTaken
from ticker_actors.model.limits import Limits
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.saved import MAY_BECOME
from ticker_actors.model.tasks import IllegalTransition, Phase, Reason, advance
from ticker_actors.store import (
    postgres_link,
    retention,
    sqlite_file,
    tables,
    task_sqlite,
)

DAY = timedelta(days=1)
LIMIT: dict[str, Any] = {
    "exchange": "NFO",
    "tradingsymbol": "NIFTY25NOVFUT",
    "transaction_type": "BUY",
    "quantity": 50,
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 19500.05,
}


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store of each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "ticker.db")
    return PostgresPlace(request.getfixturevalue("postgres_url"))


class Clock:
    """The wall clock of a TaskStore."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> Any:  # noqa: ANN401  # a datetime
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock to set."""
    return Clock()


@pytest.fixture
async def store(place: Place, clock: Clock) -> TaskStore:
    """A store that is ready."""
    store = TaskStore(place.url, now=clock)
    await store.initialize()
    return store


def task(number: int = 1, status: TaskStatus = TaskStatus.PENDING, **fields: Any) -> OrderTask:  # noqa: ANN401  # fields
    """A task as the document makes it."""
    known: dict[str, Any] = {
        "task_id": f"task_{number}",
        "idempotency_key": f"key-{number}",
        "operation": "place_order",
        "params": LIMIT,
        "status": status,
        "account_id": "primary",
        "created_at": AT,
    }
    return OrderTask(**{**known, **fields})


USAGE = """
import sys, trio
from ticker_actors import OrderTask, TaskStatus, TaskStore

async def main(url):
    task_store = TaskStore(connection_string=url)
    await task_store.initialize()
    task = OrderTask(
        task_id="task_123",
        idempotency_key="idempotency_123",
        operation="place_order",
        params={"exchange": "NFO", "tradingsymbol": "NIFTY25NOVFUT"},
        status=TaskStatus.PENDING,
        account_id="primary"
    )
    await task_store.save(task)
    pending_tasks = await task_store.load_pending()
    for task in pending_tasks:
        print(f"Resuming task: {task.task_id} - {task.operation}")
    task = await task_store.get("task_123")
    if task:
        print(f"Task status: {task.status.value}")
    deleted_count = await task_store.delete_old_completed(days=7)
    print(f"Deleted {deleted_count} old tasks")

trio.run(main, sys.argv[1])
"""


def test_the_document_s_own_usage_runs_without_a_warning(place: Place) -> None:
    """Under a plain `trio.run`, closing nothing; it ends, and every warning would be an error."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", USAGE, place.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    slow = re.compile("Executing <.* took .* seconds")  # asyncio tells so, of a slow machine
    assert [line for line in done.stderr.splitlines() if not slow.fullmatch(line)] == []
    assert done.stdout.splitlines() == [
        "Resuming task: task_123 - place_order",
        "Task status: pending",
        "Deleted 0 old tasks",
    ]


@pytest.mark.parametrize(
    "line, absent",
    [
        ("import ticker_actors", "trio,msgspec,asyncpg"),
        ("from ticker_actors import TaskStatus", "trio,asyncpg"),
        ("from ticker_actors import TaskStore; TaskStore('sqlite:///a.db')", "asyncpg,quart,httpx"),
    ],
)
def test_importing_it_costs_little(line: str, absent: str) -> None:
    """What is not asked for is not imported."""
    code = f"{line}; import sys; print({{*{absent.split(',')}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_package_has_no_other_names() -> None:
    """A wrong import says so as any module does."""
    import ticker_actors  # noqa: PLC0415  # what is tested

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ticker_actors.Nothing  # noqa: B018  # just this


@pytest.mark.parametrize(
    "saved",
    [
        task(),
        task(params={"x": UNICODE, "big": 2**70, "none": None, "deep": {"a": [1, "x", 0.1]}}),
        task(status=TaskStatus.RETRYING, attempts=2, max_attempts=7, last_error=UNICODE),
        task(status=TaskStatus.COMPLETED, attempts=1, result={"order_id": "o1", "none": None}),
        task(operation="cancel_order", params={"order_id": "o1", "variety": "regular"}),
    ],
    ids=["new", "params", "retrying", "completed", "cancel"],
)
async def test_get_returns_what_was_saved(store: TaskStore, saved: OrderTask) -> None:
    """Every documented column, to the millisecond."""
    await store.save(saved)
    assert await store.get("task_1") == saved


async def test_get_tells_what_the_tables_know(store: TaskStore) -> None:
    """Where inside its status a task is, and whether an order may be at the broker."""
    for number, status in enumerate(TaskStatus):
        await store.save(task(number, status, attempts=1))
    told = [await store.get(f"task_{number}") for number in range(5)]
    assert [
        (each.status, each.phase, each.reason, each.may_be_at_broker) for each in told if each
    ] == [
        (TaskStatus.PENDING, Phase.QUEUED, None, False),
        (TaskStatus.RUNNING, Phase.RESOLVING, None, True),
        (TaskStatus.COMPLETED, Phase.DONE, None, True),
        (TaskStatus.RETRYING, Phase.WAITING, None, False),
        (TaskStatus.DEAD_LETTER, Phase.DEAD, Reason.UNRESOLVED, True),
    ]


@pytest.mark.parametrize("name", ["task_9", "", "a\0b", "\ud800", "x" * 100_000])
async def test_an_unknown_task_is_none(store: TaskStore, name: str) -> None:
    """Also one whose name no row could have."""
    assert await store.get(name) is None


async def test_saving_the_same_again_does_nothing(
    store: TaskStore, place: Place, clock: Clock
) -> None:
    """Not even later, and not by an object made anew."""
    await store.save(task())
    before = place.execute("SELECT * FROM order_tasks")
    clock.now += SECOND
    await store.save(task(created_at=AT + SECOND))
    assert place.execute("SELECT * FROM order_tasks") == before


async def test_only_the_table_s_steps_are_taken(store: TaskStore) -> None:
    """Any other raises, names both words, and changes nothing."""
    for number, (old, new) in enumerate(itertools.permutations(TaskStatus, 2)):
        await store.save(task(number, old))
        if new in MAY_BECOME[old]:
            await store.save(task(number, new))
            assert await store.get(f"task_{number}") == task(number, new)
        else:
            with pytest.raises(NotSaved, match=f"'task_{number}' is {old} and cannot become {new}"):
                await store.save(task(number, new))
            assert await store.get(f"task_{number}") == task(number, old)


def test_the_steps_are_those_of_the_transition_table() -> None:
    """The document's words allow just what `advance` does, between different words."""
    found: dict[TaskStatus, set[TaskStatus]] = {status: set() for status in TaskStatus}
    for phase, operation in itertools.product(Phase, OPERATIONS):
        for event in (*OWN.values(), *OUTSIDE_EVENTS):
            before = in_phase(phase, operation)
            try:
                after = advance(before, event)
            except IllegalTransition:
                continue
            if after.status is not before.status:
                found[before.status].add(after.status)
    assert found == MAY_BECOME


async def test_a_whole_life_is_saved_step_by_step(store: TaskStore, clock: Clock) -> None:
    """As the document's executor does it: change the task, save it."""
    one = task()
    await store.save(one)
    for status, fields in (
        (TaskStatus.RUNNING, {"attempts": 1}),
        (TaskStatus.RETRYING, {"last_error": "refused"}),
        (TaskStatus.RUNNING, {"attempts": 2}),
        (TaskStatus.RUNNING, {"last_error": "slow"}),
        (TaskStatus.COMPLETED, {"result": {"order_id": "o1"}, "last_error": None}),
    ):
        clock.now += SECOND
        one.status = status
        for name, value in fields.items():
            setattr(one, name, value)
        await store.save(one)
        found = await store.get("task_1")
        assert found == one
        assert found.updated_at == clock.now


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"operation": "buy"}, "Invalid enum value 'buy' - at `$.operation`"),
    ({"status": "done"}, "Invalid enum value 'done' - at `$.status`"),
    ({"task_id": ""}, "length >= 1"),
    ({"task_id": "a\0b"}, "matching regex"),
    ({"idempotency_key": "x" * 65}, "length <= 64"),
    ({"idempotency_key": "~key"}, "starts with ~"),
    ({"account_id": 1}, "Expected `str`, got `int`"),
    ({"attempts": -1}, ">= 0"),
    ({"max_attempts": 2**31}, "<= 2147483647"),
    ({"params": [1]}, "Expected `object`, got `array`"),
    ({"params": {"at": AT}}, "plain JSON"),
    ({"params": {1: 2}}, "cannot be saved"),
    ({"params": {"x": float("nan")}}, "plain JSON"),
    ({"params": {"x": object()}}, "cannot be saved"),
    ({"result": {"x": (1, 2)}}, "plain JSON"),
    ({"created_at": AT.replace(tzinfo=None)}, "no time zone"),
]


async def test_what_is_no_task_is_refused(store: TaskStore, place: Place) -> None:
    """In one sentence that names the task and what is wrong; nothing is written."""
    for fields, says in WRONG:
        with pytest.raises(NotSaved) as refused:
            await store.save(task(**fields))
        assert says in str(refused.value)
    assert place.execute("SELECT * FROM order_tasks") == []
    assert place.execute("SELECT * FROM idempotency_keys") == []


async def test_text_that_a_database_cannot_hold_is_refused_by_name(
    store: TaskStore, place: Place
) -> None:
    """PostgreSQL has no NUL in JSON; SQLite takes it and gives it back."""
    odd = task(params={"x": "a\0b"})
    if isinstance(place, SqlitePlace):
        await store.save(odd)
        assert await store.get("task_1") == odd
    else:
        with pytest.raises(NotSaved, match="will not take task 'task_1'"):
            await store.save(odd)
    await store.save(task(2))
    assert await store.get("task_2") == task(2)


# Keys.


async def test_a_key_belongs_to_one_task(store: TaskStore, place: Place) -> None:
    """Another task under it raises, and leaves nothing behind."""
    await store.save(task(1))
    with pytest.raises(NotSaved, match="'key-1' was used before, for task 'task_1'"):
        await store.save(task(2, idempotency_key="key-1"))
    assert await store.get("task_2") is None
    assert place.execute("SELECT id FROM idempotency_keys") == [("task_1",)]


@pytest.mark.parametrize("name", ["idempotency_key", "operation", "params", "account_id"])
async def test_what_is_written_once_does_not_change(store: TaskStore, name: str) -> None:
    """The same id with another request is another task."""
    others: dict[str, Any] = {"operation": "cancel_order", "params": {}}
    other = others.get(name, "other")
    await store.save(task())
    with pytest.raises(NotSaved, match=f"there already, with another {name}"):
        await store.save(task(1, TaskStatus.PENDING, **{name: other}))
    assert await store.get("task_1") == task()


async def test_keys_are_the_service_s_own(store: TaskStore, place: Place) -> None:
    """What a service used the library may not use, and the other way round."""
    async with place.open() as service:
        await take_over(service, "primary", "me")
        used = Key("used", "hash", "task", "task_8", "primary")
        assert await commit(service, change(service_task(8, idempotency_key="used"), key=used)) == [
            Committed
        ]
        with pytest.raises(NotSaved, match="'used' was used before, for task 'task_8'"):
            await store.save(task(idempotency_key="used"))
        await store.save(task(2))
        wanted = Key("key-2", "hash", "task", "task_9", "primary")
        assert await commit(
            service, change(service_task(9, idempotency_key="key-2"), key=wanted)
        ) == [KeyTaken]


# Reading.


async def test_load_pending_is_what_waits(store: TaskStore) -> None:
    """Pending and retrying, oldest first, whatever order they were saved in; never running."""
    for number, status in enumerate(TaskStatus):
        await store.save(task(number, status, created_at=AT - number * SECOND))
    await store.save(task(7, created_at=AT - DAY))
    found = await store.load_pending()
    assert [(each.task_id, each.status) for each in found] == [
        ("task_7", TaskStatus.PENDING),
        ("task_3", TaskStatus.RETRYING),
        ("task_0", TaskStatus.PENDING),
    ]


# What a service makes of it.


def ledger() -> Ledger:
    """The ledger of a service that starts."""
    limits = Limits(per_second=0, per_minute=0, per_day=0)
    risk = RiskLimits(max_quantity=1_000)
    return Ledger("primary", "ABC", 120.0, limits, Random(1).getrandbits, risk)


CANCEL = {"order_id": "o1", "variety": "regular"}


INVALID = (Phase.DEAD, Reason.INVALID)
TRIED = (Phase.DEAD, Reason.UNRESOLVED)
FOUND: list[tuple[dict[str, Any], tuple[Phase, Reason | None], str]] = [
    ({}, (Phase.QUEUED, None), ""),
    ({"params": {}}, INVALID, "exchange is required"),
    ({"params": {**LIMIT, "quantity": "5"}}, INVALID, "quantity must be a whole number"),
    ({"params": {**LIMIT, "order_type": "SL"}}, INVALID, "trigger_price is required"),
    ({"params": {**LIMIT, "quantity": 1_001}}, INVALID, "MAX_ORDER_QUANTITY=1000"),
    ({"attempts": 1}, TRIED, "look at the broker"),
    ({"status": TaskStatus.RUNNING}, TRIED, "look at the broker"),
    ({"status": TaskStatus.RETRYING, "last_error": "slow."}, TRIED, "slow. Another program"),
    ({"operation": "cancel_order", "params": CANCEL}, (Phase.QUEUED, None), ""),
    ({"operation": "cancel_order", "params": {}}, INVALID, "order_id is required"),
    ({"operation": "modify_order", "params": CANCEL}, INVALID, "changes names nothing"),
    (
        {"operation": "modify_order", "params": {**CANCEL, "changes": {"price": 5.0}}},
        (Phase.QUEUED, None),
        "",
    ),
    (
        {"operation": "modify_order", "params": {**CANCEL, "changes": {"quantity": 1_001}}},
        INVALID,
        "MAX_ORDER_QUANTITY=1000",
    ),
]


async def test_a_service_that_starts_takes_the_rows_up(store: TaskStore, place: Place) -> None:
    """What can be sent waits for that, with an expiry; the rest ends, and says why."""
    for number, (fields, _, _) in enumerate(FOUND):
        await store.save(task(number, **fields))
    draft, books = Draft(), ledger()
    async with place.open() as service:
        found = await take_over(service, "primary", "me")
        assert len(found.tasks) == len(FOUND)
        books.recover(found, Moment(AT, 0.0))
        assert books.resume(draft, Moment(AT, 0.0))
        assert await commit(service, draft.change("primary")) == [Committed]
        for number, (_, end, says) in enumerate(FOUND):
            row = await service.task(f"task_{number}")
            assert row is not None
            assert (row.phase, row.reason) == end
            assert says in (row.last_error or "")
            assert row.expires_at is not None
    assert books.unsent() == 1


@pytest.mark.parametrize(
    "fields, seconds",
    [
        ({}, 300),
        ({"expires_in": 20}, 20),
        ({"order_type": "MARKET", "price": None}, 10),
        ({"validity": "IOC"}, 10),
    ],
)
async def test_it_expires_as_if_it_had_been_submitted_when_it_was_made(
    store: TaskStore, place: Place, clock: Clock, fields: dict[str, Any], seconds: int
) -> None:
    """So it is not fresh again for being saved late, nor for a date in the future."""
    params = {name: value for name, value in {**LIMIT, **fields}.items() if value is not None}
    clock.now = AT + DAY
    await store.save(task(1, params=params))
    await store.save(task(2, params=params, created_at=AT + 2 * DAY))
    async with place.open() as service:
        rows = [await service.task("task_1"), await service.task("task_2")]
    expiries = [row.expires_at for row in rows if row]
    assert expiries == [AT + seconds * SECOND, clock.now + seconds * SECOND]


async def test_an_expired_row_ends_as_expired(store: TaskStore, place: Place) -> None:
    """The service that finds it sends nothing."""
    await store.save(task())
    draft, books, late = Draft(), ledger(), Moment(AT + 301 * SECOND, 0.0)
    async with place.open() as service:
        books.recover(await take_over(service, "primary", "me"), late)
        assert books.resume(draft, late)
    books.admission.gate_open = True
    books.turn(draft, late)
    assert (draft.tasks["task_1"].reason, draft.calls) == (Reason.EXPIRED, [])


async def test_a_service_s_own_rows_are_refused(store: TaskStore, place: Place) -> None:
    """What a service has made or found at its start only a service may change."""
    await store.save(task(1))
    async with place.open() as service:
        await take_over(service, "primary", "me")
        await commit(service, change(service_task(2, params=LIMIT)))
        for number in (1, 2):
            with pytest.raises(NotSaved, match="pending, and a service has taken it up"):
                await store.save(task(number, TaskStatus.RUNNING))
            await store.save(task(number))  # nothing new: does nothing
    with pytest.raises(NotSaved, match="a service has taken it up"):
        await store.save(task(1, TaskStatus.DEAD_LETTER))  # nor once it has gone


async def test_beside_a_service_new_rows_are_the_program_s_own(
    store: TaskStore, place: Place
) -> None:
    """The service does not see them, goes on undisturbed, and takes them up at its next start."""
    async with place.open() as service:
        await take_over(service, "primary", "me")
        await store.save(task(1))
        await store.save(task(1, TaskStatus.RUNNING))
        await store.save(task(2))
        assert await commit(service, change(service_task(3))) == [Committed]
    async with place.open() as service:
        found = await take_over(service, "primary", "me")
        assert [each.task_id for each in found.tasks] == ["task_1", "task_2", "task_3"]
        assert found.epoch == 2


async def test_what_is_saved_while_a_service_starts_is_the_program_s_own(
    store: TaskStore, place: Place
) -> None:
    """After its claim and before it reads: were it read, both might place the order."""
    async with place.open() as service:
        await service.claim("primary", "me")
        await store.save(task())
        assert (await service.recover("primary", AT)).tasks == ()
        await store.save(task(1, TaskStatus.RUNNING))


async def test_it_takes_no_lease_and_writes_no_events(store: TaskStore, place: Place) -> None:
    """The account's row is there, without an owner; the first service has epoch 1."""
    await store.save(task())
    rows = place.execute("SELECT owner, epoch, lease_until, head_sequence FROM accounts")
    assert rows == [(None, 0, None, 0)]
    assert place.execute("SELECT * FROM order_events") == []
    async with place.open() as service:
        assert (await take_over(service, "primary", "me")).epoch == 1


# Many at once.


async def test_many_save_at_once(store: TaskStore) -> None:
    """Each its own task; all are there."""
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(store.save, task(number))
    assert len(await store.load_pending()) == 60


async def test_of_those_who_save_the_same_all_succeed(store: TaskStore) -> None:
    """One row, whoever wrote it."""
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.save, task())
    assert await store.load_pending() == [task()]


async def test_of_those_who_want_one_key_one_gets_it(store: TaskStore) -> None:
    """All others are told whose it is."""
    refused: list[NotSaved] = []

    async def save(number: int) -> None:
        try:
            await store.save(task(number, idempotency_key="key"))
        except NotSaved as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(save, number)
    (only,) = await store.load_pending()
    assert len(refused) == 19
    assert all(only.task_id in str(error) for error in refused)


async def test_a_cancelled_caller_does_not_break_the_store(store: TaskStore) -> None:
    """Its task is saved whole or not at all, and others go on."""
    for number in range(30):
        with trio.move_on_after(number * 0.0005):
            await store.save(task(number))
    await store.save(task(99))
    found = await store.load_pending()
    assert found[-1] == task(99)
    for number in range(30):
        await store.save(task(number))  # with its key, or this would be refused
    assert len(await store.load_pending()) == 31


# Opening.


async def test_initialize_twice_is_fine(store: TaskStore) -> None:
    """Also at once."""
    await store.save(task())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.initialize)
    assert await store.get("task_1") == task()


async def test_a_cancelled_initialize_can_be_repeated(place: Place) -> None:
    """It leaves nothing behind."""
    store = TaskStore(place.url)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.initialize()
    with trio.move_on_after(0.005):
        await store.initialize()
    await store.initialize()
    assert await store.get("task_1") is None


def test_each_run_has_its_own_connections(place: Place) -> None:
    """One store serves several runs, each of which initializes it."""
    store = TaskStore(place.url)

    async def run(number: int) -> int:
        await store.initialize()
        await store.save(task(number))
        return len(await store.load_pending())

    assert [trio.run(run, number) for number in range(3)] == [1, 2, 3]


async def test_before_initialize_it_says_what_to_do(place: Place) -> None:
    """A bug of the caller's, not an empty answer."""
    store = TaskStore(place.url)
    with pytest.raises(RuntimeError, match=r"initialize\(\)"):
        await store.get("task_1")


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("mysql://host/db", "The connection string must be sqlite:///file.db or postgresql://"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///a.db?mode=ro", "takes no parameters"),
        ("postgresql://host/db?pool=3", "has the parameter pool"),
    ],
)
def test_a_wrong_connection_string_is_refused_at_once(wrong: str, says: str) -> None:
    """By a sentence that says what is wrong with it."""
    with pytest.raises(ValueError, match="The connection string") as refused:
        TaskStore(wrong)
    assert says in str(refused.value)


async def test_a_database_that_cannot_be_used_is_told_in_a_sentence(
    place: Place, tmp_path: Path
) -> None:
    """Without its password."""
    if isinstance(place, PostgresPlace):
        store = TaskStore(place.url.replace("tester@/test", "tester:hunter2@/nowhere"))
    else:
        (tmp_path / "text.db").write_text("This is no database at all. " * 100)
        store = TaskStore(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(StoreError, match=r"cannot be used: .*\.$") as refused:
        await store.initialize()
    assert "hunter2" not in str(refused.value)


async def test_a_lost_connection_is_replaced(store: TaskStore, place: Place) -> None:
    """The caller does not notice."""
    await store.save(task(1))
    if isinstance(place, PostgresPlace):
        place.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await store.save(task(2))
    assert len(await store.load_pending()) == 2


async def test_a_locked_file_is_waited_for_and_then_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another program's lock is waited for, but not for ever."""
    monkeypatch.setattr(task_sqlite, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.02)
    place = SqlitePlace(tmp_path / "ticker.db")
    store = TaskStore(place.url)
    await store.initialize()
    with closing(sqlite_file.connect(place.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked by another program"):
            await store.save(task())
    await store.save(task())
    assert await store.get("task_1") == task()


async def test_a_file_in_use_is_not_migrated(tmp_path: Path) -> None:
    """A service that holds the lock of an older schema must be stopped first."""
    path = tmp_path / "ticker.db"
    with sqlite_file.locked(path), pytest.raises(tables.StoreError, match="is in use"):
        await TaskStore(f"sqlite:///{path}").initialize()


async def test_a_database_in_use_is_not_migrated(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str, tmp_path: Path
) -> None:
    """The same, with a lease for the lock; without one, it is."""
    place = PostgresPlace(postgres_url)
    async with place.open() as service:
        await take_over(service, "primary", "me")
        folder = tmp_path / "migrations" / "postgres"
        folder.mkdir(parents=True)
        known = sorted(postgres_link.migrations())
        for number in known:
            (folder / f"{number:04d}_known.sql").write_text("not run again")
        more = known[-1] + 1
        (folder / f"{more:04d}_more.sql").write_text("CREATE TABLE more (x INTEGER)")
        monkeypatch.setattr("ticker_actors.store.postgres_link.resources.files", lambda _: tmp_path)
        with pytest.raises(StoreError, match="a service is running on its older schema"):
            await TaskStore(place.url).initialize()
    await TaskStore(place.url).initialize()
    assert place.execute("SELECT number FROM schema_migrations ORDER BY 1") == [
        (number,) for number in (*known, more)
    ]


# Deleting.


async def test_old_ends_are_deleted(store: TaskStore, place: Place, clock: Clock) -> None:
    """Completed and settled ones of before; never what waits, runs, is unresolved or young."""
    for number, status in enumerate(TaskStatus):
        await store.save(task(number, status))
    await store.save(task(5, TaskStatus.DEAD_LETTER, attempts=1))
    clock.now += 7 * DAY
    await store.save(task(6, TaskStatus.COMPLETED))
    assert await store.delete_old_completed(days=7) == 0
    clock.now += SECOND
    assert await store.delete_old_completed(days=7) == 2
    left = place.execute("SELECT task_id FROM order_tasks ORDER BY task_id")
    assert left == [("task_0",), ("task_1",), ("task_3",), ("task_5",), ("task_6",)]
    keys = place.execute("SELECT id FROM idempotency_keys ORDER BY id")
    assert keys == left
    assert await store.delete_old_completed() == 0


async def test_a_key_lives_for_a_week(store: TaskStore, clock: Clock) -> None:
    """And with it what it gives: until then it makes no second task; afterwards it is free."""
    await store.save(task(1, TaskStatus.COMPLETED))
    clock.now += 2 * DAY
    assert await store.delete_old_completed(days=1) == 0
    assert await store.get("task_1") is not None
    with pytest.raises(NotSaved, match="'key-1' was used before, for task 'task_1'"):
        await store.save(task(2, idempotency_key="key-1"))
    clock.now += 6 * DAY
    assert await store.delete_old_completed(days=1) == 1
    await store.save(task(2, idempotency_key="key-1"))


async def test_legs_of_a_batch_under_way_stay(store: TaskStore, place: Place, clock: Clock) -> None:
    """Its end is judged by them."""
    batch = Batch(
        batch_id="batch",
        account_id="primary",
        idempotency_key="~batch",
        rollback_on_failure=True,
        task_ids=("task_1",),
        created_at=AT,
        progress_at=AT,
    )
    leg = service_task(1, batch_id="batch", leg=0, status=TaskStatus.COMPLETED, phase=Phase.DONE)
    async with place.open() as service:
        await take_over(service, "primary", "me")
        await commit(service, change(leg, batches=(batch,)))
    clock.now += 8 * DAY
    assert await store.delete_old_completed() == 0
    place.execute("UPDATE batches SET completed_at = created_at")
    assert await store.delete_old_completed() == 1


async def test_it_deletes_in_parts(
    monkeypatch: pytest.MonkeyPatch, store: TaskStore, clock: Clock
) -> None:
    """No transaction is long, and the count is of all."""
    monkeypatch.setattr(retention, "MOST_ROWS", 4)
    for number in range(5):
        await store.save(task(number, TaskStatus.COMPLETED))
    clock.now += 8 * DAY
    assert await store.delete_old_completed() == 5


@pytest.mark.parametrize("days", [0, -1])
async def test_today_s_tasks_cannot_be_deleted(store: TaskStore, days: int) -> None:
    """The order book of the day may still show what they made."""
    with pytest.raises(ValueError, match="1 or more"):
        await store.delete_old_completed(days=days)
