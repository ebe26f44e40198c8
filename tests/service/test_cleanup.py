"""`ticker-actors cleanup` as a process of its own: beside a running service, and without one."""

import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests import postgres
from tests.service.conftest import Start
from tests.service.harness import MARKET, RESTING, SOON, database, decoded, eventually

pytestmark = pytest.mark.slow

CLEANUP = (sys.executable, "-m", "ticker_actors", "cleanup")
LONG_AGO = "2020-01-01T00:00:00.000Z"
AGED = (
    f"UPDATE order_tasks SET updated_at = '{LONG_AGO}'",  # noqa: S608  # our own text
    f"UPDATE task_attempts SET sent_at = '{LONG_AGO}'",  # noqa: S608
    f"UPDATE order_events SET created_at = '{LONG_AGO}'",  # noqa: S608
)
"""What makes every row old, as time would."""

Execute = Callable[[str], Sequence[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Execute]:
    """Settings of a database, and a way to run statements there."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return {"DATABASE_URL": url}, lambda sql: postgres.execute(url, sql)

    def execute(sql: str) -> list[tuple[Any, ...]]:
        with closing(
            sqlite3.connect(database(tmp_path), isolation_level=None, timeout=SOON)
        ) as connection:
            return connection.execute(sql).fetchall()

    return {}, execute


def test_it_tidies_up_beside_a_running_service(
    start: Start, tables: tuple[dict[str, Any], Execute]
) -> None:
    """What had ended goes, what has not stays, and the service places orders as before."""
    settings, execute = tables
    service = start(**settings)
    done = [service.place(MARKET) for _ in range(3)]
    resting = service.place(RESTING)
    for sql in AGED:
        execute(sql)
    answer = service.http.post("/orders", json=MARKET, headers={"Idempotency-Key": "a"})
    young = service.finished(decoded(answer)["task_id"])

    cleanup = start(command=CLEANUP, ready=False, **settings)
    assert cleanup.wait(30) == 0
    assert "rows deleted that were older than 7 days" in cleanup.text
    assert [line.split() for line in cleanup.lines if line.endswith("tasks")] == [
        ["4", "order_tasks"]
    ]
    for task in [*done, resting]:
        assert service.http.get(f"/tasks/{task['task_id']}").status_code == 404
    assert service.task(young["task_id"])["status"] == "completed"
    sequences = [n for (n,) in execute("SELECT sequence FROM order_events ORDER BY sequence")]
    ((head,),) = execute("SELECT head_sequence FROM accounts")
    assert sequences == list(range(sequences[0], head + 1))
    assert sequences[0] > 1

    cancelled = service.http.delete(f"/orders/{resting['order_id']}", params={"wait": 10})
    assert decoded(cancelled)["status"] == "completed"  # the day's orders are all in view
    assert service.place(MARKET)["status"] == "completed"
    again = service.http.post("/orders", json=MARKET, headers={"Idempotency-Key": "a"})
    assert decoded(again)["task_id"] == young["task_id"]


def test_it_needs_no_service(start: Start, tables: tuple[dict[str, Any], Execute]) -> None:
    """And what it left is what the next start finds."""
    settings, execute = tables
    service = start(**settings)
    done, young = service.place(MARKET), service.place(MARKET)
    execute(
        f"UPDATE order_tasks SET updated_at = '{LONG_AGO}' "  # noqa: S608  # our own text
        f"WHERE task_id = '{done['task_id']}'"
    )
    service.kill()
    options = ("--days", "1000", "--events", "0")
    for said in (["1 rows deleted that were older than 1000 days", "1  order_tasks"], None):
        cleanup = start(*options, command=CLEANUP, ready=False, **settings)
        assert cleanup.wait(30) == 0
        lines = [line.strip() for line in cleanup.lines]
        assert lines == (said or ["0 rows deleted that were older than 1000 days"])
    again = start(**settings)
    assert again.http.get(f"/tasks/{done['task_id']}").status_code == 404
    assert again.task(young["task_id"])["status"] == "completed"


def test_it_keeps_the_newest_events(start: Start, tables: tuple[dict[str, Any], Execute]) -> None:
    """Whoever lacks one that went is told 410, or that there is a gap, as for age."""
    settings, execute = tables
    service = start(EVENT_RETENTION_COUNT="2", **settings)
    service.place(MARKET)
    eventually("all is told", lambda: execute("SELECT MAX(sequence) FROM order_events") == [(3,)])
    cleanup = start(command=CLEANUP, ready=False, EVENT_RETENTION_COUNT="2", **settings)
    assert cleanup.wait(30) == 0
    assert [line.strip() for line in cleanup.lines] == [
        "1 rows deleted that were older than 7 days, or beyond the newest 2 events of an account",
        "1  order_events",
    ]
    for since, status, resumed in ((0, 410, "gap"), (1, 200, "resumed")):
        query = {"since": since}
        found = service.http.get("/advanced/orders/primary/events", params=query)
        assert found.status_code == status
        with connect(f"{service.stream_url}?since={since}") as stream:
            welcome = httpx.Response(200, content=stream.recv(SOON)).json()
            assert welcome["resume"]["status"] == resumed


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (("--database-url", "sqlite:///nowhere.db"), 1, "There is no database file nowhere.db."),
        (("--database-url", "postgresql://u@127.0.0.1:1/db"), 1, "cannot be used"),
        (("--days", "0"), 2, "TASK_RETENTION_DAYS"),
        (("--events", "-1"), 2, "EVENT_RETENTION_COUNT"),
    ],
)
def test_it_says_what_is_wrong(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """In one sentence, and it makes no file."""
    cleanup = start(*arguments, command=CLEANUP, ready=False)
    assert cleanup.wait(30) == code
    (said,) = cleanup.lines
    assert said.startswith("ticker-actors: ")
    assert said.endswith(".")
    assert says in said
    assert list(tmp_path.iterdir()) == []
