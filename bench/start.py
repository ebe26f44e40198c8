"""How soon a start with 100 000 unfinished tasks acknowledges a new order, and its memory.

`python -m bench.start` runs for about two minutes and prints a table. For each case and store it
fills a fresh database, starts the service as a process of its own, and measures from there to the
first 202. The broker is a book in a file: the paper exchange would have work of its own with so
many orders. Of every two orders that were sent and are unknown, one is in the book.
"""

import http.client
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog
import trio

from bench.machine import machine
from bench.processes import free_port, memory, processor
from bench.sample import ORDER
from tests.postgres import Server
from ticker_actors.model import database, ids, tags
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.changes import Attempt, Change, Committed
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask, Phase, TaskStatus
from ticker_actors.settings import PRIMARY
from ticker_actors.store.postgres import PostgresStore
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.tables import Store

TASKS = 100_000
QUICK_TASKS = 10_000
UNKNOWN_OF = 10
"""Of so many tasks, one was sent and is unknown."""
PIECE = 1_000
"""Tasks in one transaction of the filling."""
CASES = ("none", "waiting", "resting")
"""What the others are: tasks that wait for their next try, or done with their orders open. And, for
comparison, a start with nothing to recover at all."""
AIM_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
"""For one start, up to the lookup of all unknown orders."""
BETWEEN_SECONDS = 0.1
"""Between two of the orders that are submitted until then."""


class Measured(NamedTuple):
    """Of one start."""

    seconds: float
    """From the start of the process to the first 202."""
    worked: float
    """Seconds of processor time that it had used by then: what a busy machine does not stretch."""
    megabytes: float
    """Resident, at that moment."""
    looked_up: float
    """Seconds from the start until all the unknown orders of the book had been found in it."""
    megabytes_then: float
    slowest: float
    """Seconds: the longest that an order submitted meanwhile waited for its 202."""


class Filling:
    """Makes the rows that a dead process left behind, and the book that goes with them."""

    def __init__(self, installation: str, now: datetime) -> None:
        self._installation = installation
        self._now = now
        self.book: list[BrokerOrder] = []

    def waiting(self) -> Change:
        """Tasks that were refused for now, to be tried again later today."""
        later = self._now + timedelta(hours=2)
        tasks = [
            self._task(Phase.WAITING, TaskStatus.RETRYING, next_attempt_at=later)
            for _ in range(PIECE)
        ]
        return Change(account_id=PRIMARY, tasks=tuple(tasks))

    def resting(self) -> Change:
        """Completed tasks whose orders rest at the exchange."""
        first = len(self.book)
        names = [f"R{first + number:09}" for number in range(PIECE)]
        tasks = [self._task(Phase.DONE, TaskStatus.COMPLETED, order_id=name) for name in names]
        rows = [_row(task, name) for task, name in zip(tasks, names, strict=True)]
        self.book += rows
        views = [
            OrderView(
                account_id=PRIMARY,
                order=row,
                task_id=task.task_id,
                tag=None,
                version=1,
                trading_day=trading_day(self._now),
            )
            for task, row in zip(tasks, rows, strict=True)
        ]
        return Change(account_id=PRIMARY, tasks=tuple(tasks), orders=tuple(views))

    def unknown(self) -> Change:
        """Tasks that were sent when the process died."""
        tasks = [self._task(Phase.SENT, TaskStatus.RUNNING) for _ in range(PIECE)]
        attempts = [
            Attempt(
                task_id=task.task_id,
                send=1,
                account_id=PRIMARY,
                operation=task.operation,
                broker_tag=task.broker_tag or "",
                epoch=1,
                sent_at=self._now,
            )
            for task in tasks
        ]
        first = len(self.book)
        self.book += [_row(task, f"U{first + n:09}") for n, task in enumerate(tasks[::2])]
        return Change(account_id=PRIMARY, tasks=tuple(tasks), attempts=tuple(attempts))

    def _task(self, phase: Phase, status: TaskStatus, **fields: Any) -> OrderTask:  # noqa: ANN401  # its fields
        task_id, intent = ids.task_id(self._now, secrets.randbits), ids.intent(secrets.randbits)
        return OrderTask(
            task_id=task_id,
            idempotency_key=f"~{task_id}",
            operation="place_order",
            params={**ORDER, "variety": "regular", "validity": "DAY"},
            status=status,
            attempts=1,
            created_at=self._now,
            updated_at=self._now,
            account_id=PRIMARY,
            phase=phase,
            intent=intent,
            sends=1,
            broker_tag=str(tags.Tag(self._installation, intent, 0)),
            queued_at=self._now,
            sent_at=self._now,
            trading_day=trading_day(self._now),
            epoch=1,
            expires_at=self._now + timedelta(hours=3),
            **fields,
        )


def _row(task: OrderTask, order_id: str) -> BrokerOrder:
    """A task's order as the book shows it: open."""
    return BrokerOrder(
        order_id=order_id,
        status="OPEN",
        exchange="NSE",
        tradingsymbol="INFY",
        transaction_type="BUY",
        quantity=1,
        product="CNC",
        order_type="LIMIT",
        price=1.0,
        pending_quantity=1,
        tag=task.broker_tag,
        tags=(task.broker_tag or "",),
    )


async def fill(
    opening: AbstractAsyncContextManager[Store], case: str, book: Path, tasks: int
) -> None:
    """Write a case's rows, and its book. Of ten tasks, one is unknown."""
    now = datetime.now(UTC) - timedelta(minutes=1)
    async with opening as store:
        await store.claim(PRIMARY, "a process that is gone")
        filling = Filling(store.installation.tag, now)
        others = filling.waiting if case == "waiting" else filling.resting
        for number in range(0, 0 if case == "none" else tasks, PIECE):
            change = filling.unknown() if number < tasks // UNKNOWN_OF else others()
            answers = await store.commit([change], now)
            if not all(isinstance(answer, Committed) for answer in answers):
                raise AssertionError(answers)
    await trio.Path(book).write_bytes(msgspec.json.encode(filling.book))


def measure(url: str, book: Path, unknown: int) -> Measured:
    """Start it and submit an order at once; go on until so many unknown orders are found."""
    port = free_port()
    variables = {"DATABASE_URL": url, "PORT": str(port), "LOG_LEVEL": "warning"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.book_service", str(book)], env={**os.environ, **variables}
    )
    try:
        submit(port)
        seconds = time.perf_counter() - began
        worked, megabytes, slowest = processor(process.pid), memory(process.pid), 0.0
        while looked_up(port) < unknown:
            slowest = max(slowest, submit(port))
            time.sleep(BETWEEN_SECONDS)
        until = time.perf_counter() - began
        return Measured(seconds, worked, megabytes, until, memory(process.pid), slowest)
    finally:
        process.kill()
        process.wait()


def submit(port: int) -> float:
    """Submit an order, as soon as the service listens: seconds until its 202."""
    began = time.perf_counter()
    while True:
        try:
            status, _ = ask(port, "POST", "/orders", msgspec.json.encode(ORDER))
        except ConnectionRefusedError:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise
            time.sleep(0.01)
        else:
            if status != http.client.ACCEPTED:
                raise AssertionError(status)
            return time.perf_counter() - began


def looked_up(port: int) -> int:
    """How many of the unknown orders were found."""
    _, text = ask(port, "GET", "/metrics")
    found = [
        float(line.rsplit(b" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(b"ticker_tasks_total{") and b'"completed"' in line
    ]
    return int(sum(found))


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request: the status and the body of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def main(*, quick: bool = False) -> None:
    """Fill, measure and print."""
    tasks, cases = (QUICK_TASKS, CASES[1:2]) if quick else (TASKS, CASES)
    unknown = tasks // UNKNOWN_OF
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    server, chance = Server(), secrets.randbits
    try:
        print(f"{machine(server)}; {tasks:,} tasks, {unknown:,} of them sent and unknown\n")
        print(
            "| the others | store | first 202 | processor time | memory | all looked up | memory "
            "| slowest 202 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for case in cases:
            for store in ("SQLite", "PostgreSQL"):
                with tempfile.TemporaryDirectory(dir=".") as folder:
                    book, now = Path(folder) / "book.json", datetime.now(UTC)
                    if store == "SQLite":
                        file = Path(folder).resolve() / "ticker.db"
                        url = f"sqlite:///{file}"
                        trio.run(
                            fill, SqliteStore.open(file, now=now, chance=chance), case, book, tasks
                        )
                    else:
                        server.execute(f"CREATE DATABASE {case}")
                        url = server.url(case)
                        address = database.postgres(url)
                        opening = PostgresStore.open(address, now=now, chance=chance)
                        trio.run(fill, opening, case, book, tasks)
                    found = measure(url, book, 0 if case == "none" else unknown // 2)
                print(
                    f"| {case} | {store} | {found.seconds:.1f} s | {found.worked:.1f} s "
                    f"| {found.megabytes:.0f} MB | "
                    f"{found.looked_up:.1f} s | {found.megabytes_then:.0f} MB | "
                    f"{found.slowest:.1f} s |",
                    flush=True,
                )
        print(f"\nThe aim is a first 202 within {AIM_SECONDS:.0f} s.")
    finally:
        server.close()


if __name__ == "__main__":
    main()
