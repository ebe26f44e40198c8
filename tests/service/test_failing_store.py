"""What clients and operators are told when the database file does not take what it is given."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import Start
from tests.service.harness import (
    MARKET,
    SERVE,
    Service,
    database,
    decoded,
    eventually,
    new_client,
    select,
)

ANSWER_SECONDS = 20.0
"""The service answers after 10 s at the latest; the machine can be busy."""
STOP_SECONDS = 30.0
"""The executor may drain for 8 s and persistence for 3."""
FILE_BLOCKS = 2_000
"""Of 512 bytes: what each file may have before the disk counts as full."""


@contextmanager
def locked(service: Service) -> Iterator[None]:
    """Hold the database's write lock, as a person in a SQLite shell does."""
    with closing(sqlite3.connect(database(service.folder), isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield


def post(service: Service) -> httpx.Response:
    """Post one order on a connection of its own."""
    with new_client(service.url) as client:
        return client.post("/orders", json=MARKET, timeout=ANSWER_SECONDS)


@pytest.mark.slow
def test_locked_database_is_told(start: Start) -> None:
    """While another program holds the lock: 503 with the task's id, and health says why."""
    service = start()

    def worried() -> bool:
        return bool(decoded(service.http.get("/health"))["status"] == "degraded")

    with ThreadPoolExecutor() as pool:
        with locked(service):
            waiting = pool.submit(post, service)
            eventually("health is degraded", worried)
            answer = waiting.result()
        problem = decoded(answer)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["task_id"] in problem["detail"]
    task = eventually("the task is there after all", lambda: found(service, problem["task_id"]))
    assert task["task_id"] == problem["task_id"]
    assert decoded(service.http.get("/health"))["status"] == "ok"


def found(service: Service, task_id: str) -> dict[str, Any] | None:
    """A task, or None while there is none."""
    answer = service.http.get(f"/tasks/{task_id}")
    return decoded(answer) if answer.status_code == 200 else None


@pytest.mark.slow
def test_locked_database_does_not_keep_it_from_stopping(start: Start) -> None:
    """SIGTERM ends the service though its last transaction cannot begin; nothing was promised."""
    service = start()
    with ThreadPoolExecutor() as pool, locked(service):
        waiting = pool.submit(post, service)
        eventually("it waits for the lock", lambda: "locked by another" in service.text)
        service.signal(signal.SIGTERM)
        service.wait(STOP_SECONDS)
        assert waiting.exception() or waiting.result().status_code == 503
    assert select(database(service.folder), "SELECT COUNT(*) FROM order_tasks") == [(0,)]


@pytest.mark.slow
def test_full_disk_stops_it_and_nobody_is_left_without_a_word(start: Start, tmp_path: Path) -> None:
    """Who waits when the disk is full gets an answer; the process says why and exits 1."""
    small = f'trap \'\' XFSZ; ulimit -f {FILE_BLOCKS}; exec "$0" "$@"'
    service = start(
        command=("/bin/sh", "-c", small, *SERVE),
        LOG_FORMAT="json",
        ORDERS_PER_SECOND=0,
        ORDERS_PER_MINUTE=0,
        ORDERS_PER_DAY=0,
    )
    service.crash_expected = True
    acknowledged: list[str] = []
    refused: list[httpx.Response] = []

    def fill(_: int) -> None:
        with new_client(service.url) as client:
            try:
                for _ in range(200):
                    answer = client.post("/orders", json=MARKET, timeout=ANSWER_SECONDS)
                    if answer.status_code != 202:
                        refused.append(answer)
                        return
                    acknowledged.append(decoded(answer)["task_id"])
            except httpx.TransportError:
                return  # it has gone

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(8)))
    assert service.wait(STOP_SECONDS) == 1
    for answer in refused:  # whose order it may have stored is told its id
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert "task_id" in decoded(answer) or "is stopping" in decoded(answer)["detail"]
    crashed = [json.loads(line) for line in service.lines if '"event": "crashed"' in line]
    assert len(crashed) == 1
    assert "disk" in crashed[0]["error"]
    again = start(folder=tmp_path)
    assert acknowledged
    assert all(found(again, task_id) for task_id in acknowledged)
