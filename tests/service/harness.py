"""The real service as a process of its own: start it, talk to it, kill it, look into its files."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from tests.service.copies import Copy
from ticker_actors.settings import Settings

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
DOOMED = Path(__file__).with_name("doomed.py")
SERVE = (sys.executable, "-m", "ticker_actors", "serve")
BANNER = r"health +(http://\S+)/health"
START_SECONDS = 20.0
"""Until a started process serves: the machine can be busy."""
SOON = 10.0
"""Seconds within which what must happen does. Nothing here takes that long by itself."""

MARKET: Mapping[str, Any] = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 1,
    "product": "CNC",
    "order_type": "MARKET",
}
"""An order that fills at once."""
RESTING: Mapping[str, Any] = {**MARKET, "order_type": "LIMIT", "price": 1.0}
"""An order that rests: nobody sells so low."""


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with only these settings of the service in it."""
    names = {name.upper() for name in Settings.__struct_fields__}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PORT": "0",
        **{name: str(value) for name, value in settings.items()},
    }


def eventually(
    what: str, look: Callable[[], T | None], seconds: float = SOON, every: float = 0.02
) -> T:
    """What `look` finds, once it finds something; fails with `what` when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {seconds:.0f} s: {what}")
        time.sleep(every)


class Process:
    """A started process and the lines that it has written."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self._process.stdout)

    @property
    def text(self) -> str:
        """All that it has written."""
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, seconds: float = SOON) -> re.Match[str]:
        """The first match of `pattern` in what it writes; fails when it ends without."""

        def look() -> re.Match[str] | None:
            ended = self._process.poll() is not None
            if ended:
                self._reader.join(SOON)
            found = re.search(pattern, self.text)
            if ended and not found:
                code = self._process.returncode
                raise AssertionError(f"It ended ({code}) before {pattern!r}:\n{self.text}")
            return found

        return eventually(f"{pattern!r} in its output:\n{self.text}", look, seconds)

    def write(self, line: str) -> None:
        """Give it a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = SOON) -> int:
        """Its exit code, once it has ended."""
        code = self._process.wait(seconds)
        self._reader.join(SOON)
        return code

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._process.kill()
        self.wait()

    def close(self) -> None:
        """Kill it if it is there yet, and give back what it held."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Client:
    """What a test does with a running service, however it was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._client: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        """A client of the service."""
        if self._client is None:
            self._client = new_client(self.url)
        return self._client

    @property
    def stream_url(self) -> str:
        """The order stream's URL."""
        return self.url.replace("http", "ws", 1) + "/advanced/ws/orders/primary"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def hang_up(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            self._client.close()

    def place(self, order: Mapping[str, Any], wait: float = 10) -> dict[str, Any]:
        """The task of an order that was acknowledged, finished if `wait` sufficed."""
        answer = self.http.post("/orders", params={"wait": wait}, json=order)
        assert answer.status_code in {200, 202}, answer.text
        return decoded(answer)

    def task(self, task_id: str) -> dict[str, Any]:
        """A task as it is now."""
        answer = self.http.get(f"/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        return decoded(answer)

    def finished(self, task_id: str, seconds: float = SOON) -> dict[str, Any]:
        """A task once it has finished."""

        def look() -> dict[str, Any] | None:
            task = self.task(task_id)
            return task if task["status"] in {"completed", "dead_letter"} else None

        return eventually(f"task {task_id} has finished", look, seconds)

    def order(self, order_id: str) -> dict[str, Any]:
        """An order of the view, with its history."""
        answer = self.http.get(f"/orders/{order_id}")
        assert answer.status_code == 200, answer.text
        return decoded(answer)


class Service(Process, Client):
    """A service process of its own command line."""

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, object] | None = None,
        command: Sequence[str] = SERVE,
    ) -> None:
        Process.__init__(self, command, folder, environment(**(variables or {})))
        Client.__init__(self, folder)
        self.crash_expected = False

    def wait_until_ready(self) -> "Service":
        """Wait for the banner; from then on `http` works."""
        self.url = self.wait_for_line(BANNER, START_SECONDS)[1]
        return self

    def close(self) -> None:
        """Kill it if it is there yet, and give back what it held."""
        self.hang_up()
        super().close()


class Hatched(Client):
    """A service process that a `Nest` forked."""

    def __init__(self, folder: Path, pid: int, log: Path) -> None:
        super().__init__(folder)
        self._pid = pid
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def text(self) -> str:
        """All that it has written."""
        return self._log.read_text() if self._log.exists() else ""

    def wait_until_ready(self) -> "Hatched":
        """Wait for the banner; from then on `http` works."""

        def look() -> re.Match[str] | None:
            found = re.search(BANNER, self.text)
            assert found or not self.gone(), f"It ended before it served:\n{self.text}"
            return found

        self.url = eventually(f"a banner in {self._log}", look, START_SECONDS)[1]
        return self

    def gone(self) -> bool:
        """Whether the process has ended."""
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        return False

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid, number)

    def wait(self, seconds: float = SOON) -> int | None:
        """Its exit code, once it has ended; None when it was killed."""
        eventually("the process is gone", self.gone, seconds, every=0.002)
        code = re.search(r"^exit (\d+)$", self.text, re.MULTILINE)
        return int(code[1]) if code else None

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Kill it if it is there yet, and give back what it held."""
        self.hang_up()
        self.kill()


class Nest(Process):
    """Forks services from a process that has imported everything: many starts cost little."""

    def __init__(self, folder: Path) -> None:
        super().__init__((sys.executable, str(DOOMED), "nest"), folder, environment())
        self._folder = folder
        self.hatched: list[Hatched] = []

    def start(
        self,
        folder: Path,
        fault: str | None = None,
        copy: Copy | None = None,
        **settings: object,
    ) -> Hatched:
        """Fork a service, with a fault or sound. It serves after `wait_until_ready`."""
        number = len(self.hatched)
        log = self._folder / f"service-{number}.log"
        wanted = {
            "folder": str(folder),
            "log": str(log),
            "fault": fault,
            "copy": msgspec.to_builtins(copy or Copy()),
            "settings": {name: str(value) for name, value in settings.items()},
        }
        self.write(json.dumps(wanted))
        pids = eventually("the nest forks", lambda: self.lines[number:], START_SECONDS)
        service = Hatched(folder, int(pids[0]), log)
        self.hatched.append(service)
        return service

    def close(self) -> None:
        """End everything."""
        for service in self.hatched:
            service.close()
        super().close()


def new_client(url: str, timeout: float = 35.0) -> httpx.Client:
    """A client for a service; its time-out is longer than any wait it may ask for."""
    return httpx.Client(base_url=url, timeout=timeout, trust_env=False)


def decoded(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object in an answer."""
    value = json.loads(answer.content)
    assert isinstance(value, dict)
    return value


# The files, as anybody can read them while the service runs and after it has died.


def database(folder: Path) -> Path:
    """The service's tables."""
    return folder / "data" / "ticker.db"


def paper(folder: Path) -> Path:
    """The paper exchange's own file: what the broker really has."""
    return folder / "data" / "ticker.paper.db"


def select(file: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=SOON)) as connection:
        return connection.execute(sql, values).fetchall()


def tables(file: Path) -> Iterator[str]:
    """The names of a file's tables."""
    for (name,) in select(file, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        yield name


def counts(folder: Path) -> dict[str, int]:
    """How many rows every table has, the paper exchange's too."""
    return {
        f"{file.name}:{name}": select(file, f"SELECT COUNT(*) FROM {name}")[0][0]  # noqa: S608
        for file in (database(folder), paper(folder))
        for name in tables(file)
    }


def at_broker(folder: Path, tag: str | None) -> list[tuple[str, str]]:
    """Order id and status of every order in the paper book that carries a task's tag."""
    assert tag
    # Version, installation, intent; then a spare and the number of the send, which may be any.
    return select(
        paper(folder),
        "SELECT order_id, status FROM orders WHERE substr(tag, 1, 16) = ?",
        tag[:16],
    )


def tasks_in_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Every task row by its id, in the columns the checks need."""
    columns = "task_id, idempotency_key, operation, status, phase, reason, order_id, intent"
    rows = select(database(folder), f"SELECT {columns} FROM order_tasks")  # noqa: S608
    return {row[0]: dict(zip(columns.split(", "), row, strict=True)) for row in rows}


def events_of(folder: Path, event: str, order_id: str) -> int:
    """How often an event of an order is in the log."""
    sql = "SELECT COUNT(*) FROM order_events WHERE event = ? AND order_id = ?"
    return int(select(database(folder), sql, event, order_id)[0][0])


def assert_gapless(folder: Path) -> None:
    """The event log counts from 1 without a gap, and its head is its last number."""
    sequences = [
        number
        for (number,) in select(
            database(folder), "SELECT sequence FROM order_events ORDER BY sequence"
        )
    ]
    assert sequences == list(range(1, len(sequences) + 1))
    head = select(database(folder), "SELECT head_sequence FROM accounts")[0][0]
    assert head == len(sequences)
