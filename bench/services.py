"""Starts and stops what is measured: a service, with a broker and a database of its own."""

import contextlib
import http.client
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from bench.broker import Seen
from bench.processes import free_port, processor
from tests.postgres import Server

START_SECONDS = 20.0
"""A service that does not answer by then does not start."""
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.1
"""Between two looks at what the broker has seen."""
ROOT = Path(__file__).parents[1]

UNLIMITED = {
    "ORDERS_PER_SECOND": "0",
    "ORDERS_PER_MINUTE": "0",
    "ORDERS_PER_DAY": "0",
    "STREAM_CONNECTIONS_PER_ACCOUNT": "0",
    "STREAM_CONNECTIONS_PER_ADDRESS": "0",
    "STREAM_HANDSHAKES_PER_SECOND": "0",
}
"""The settings that take the limits away: Kite's on orders, which only a broker on loopback may be
spared, and those on streams. Nothing else is changed but the log's level, as at the peer."""

Name = Literal["ours-postgresql", "ours-sqlite", "fastapi", "floor", "target"]
TITLES: dict[Name, str] = {
    "ours-postgresql": "ours, PostgreSQL",
    "ours-sqlite": "ours, SQLite",
    "fastapi": "FastAPI, PostgreSQL",
    "floor": "fsync and broker call",
    "target": "the target",
}
_databases = itertools.count()


@dataclass(frozen=True, slots=True)
class Running:
    """A service that serves, and its broker."""

    name: Name
    url: str
    broker: str
    """URL of its broker."""
    pid: int | None
    """None of a target that others started."""
    log: Path | None = None
    """What it has said, while it runs."""

    def stream(self, account_id: str = "primary") -> str:
        """URL of an account's order stream."""
        return f"{self.url.replace('http', 'ws', 1)}/advanced/ws/orders/{account_id}"

    def seen(self) -> Seen:
        """What its broker has seen."""
        _, text = ask(self.broker, "GET", "/_seen")
        return msgspec.json.decode(text, type=Seen)

    def wait_seen(self, first: int, orders: int, patience: float, *, webhooks: bool) -> None:
        """Wait until these orders, and their webhooks, are with the broker.

        Or until nothing has come for so many seconds, or for three times as long in all.
        """
        numbers, had, until = range(first, first + orders), -1, 0.0
        end = time.monotonic() + 3 * patience
        while had < orders * (1 + webhooks) and time.monotonic() < end:
            seen = self.seen()
            came = sum(number in seen.orders for number in numbers)
            if webhooks:
                came += sum(number in seen.webhooks for number in numbers)
            now = time.monotonic()
            if came > had:
                had, until = came, now + patience
            elif now > until:
                return
            time.sleep(LOOK_SECONDS)

    def wait_posts(self, posts: int, patience: float) -> None:
        """Wait until so many webhooks have come, or until none has for so many seconds."""
        had, until = -1, 0.0
        while had < posts:
            came, now = len(self.seen().posts), time.monotonic()
            if came > had:
                had, until = came, now + patience
            elif now > until:
                return
            time.sleep(LOOK_SECONDS)

    def subscribe(
        self, *events: str, receiver: str | None = None, account_id: str = "primary"
    ) -> None:
        """Have webhooks sent to the broker's process, or to another receiver's URL."""
        url = f"{receiver or self.broker}/webhook"
        hook = {"url": url, "account_id": account_id, "events": events}
        status, text = ask(self.url, "POST", "/advanced/webhooks", hook)
        if status not in {http.client.OK, http.client.CREATED}:
            raise AssertionError(text)

    def cpu(self) -> float:
        """Seconds of processor time that it has used; 0.0 where that cannot be seen."""
        return 0.0 if self.pid is None else processor(self.pid)

    def metrics(self) -> dict[str, float]:
        """Its Prometheus samples, by name and labels; empty where it has none."""
        status, text = ask(self.url, "GET", "/metrics")
        if status != http.client.OK or not text.startswith(b"#"):
            return {}
        lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}


def ask(url: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """One request: the status and the body of its answer."""
    address = urlsplit(url)
    text = None if body is None else msgspec.json.encode(body)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=START_SECONDS
    )
    with contextlib.closing(connection):
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def started(
    command: list[str], port: int, path: str, environment: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from when it answers that path well until the end of the block."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=file,
            stderr=file,
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command} does not start: {log.read_text()}")
            time.sleep(LOOK_SECONDS)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int, path: str) -> bool:
    """Whether a server is there, and well."""
    try:
        status, text = ask(f"http://127.0.0.1:{port}", "GET", path)
    except OSError:
        return False
    return status == http.client.OK and b'"degraded"' not in text


@contextlib.contextmanager
def broker(port: int | None = None) -> Iterator[str]:
    """The bare broker, in a process of its own: its URL."""
    with brokers([port or free_port()]) as (url,):
        yield url


@contextlib.contextmanager
def brokers(ports: list[int]) -> Iterator[list[str]]:
    """The same on several ports: their URLs."""
    command = ["-m", "bench.broker", *map(str, ports)]
    with (
        tempfile.TemporaryDirectory() as folder,
        started(command, ports[0], "/_seen", {}, Path(folder)),
    ):
        yield [f"http://127.0.0.1:{port}" for port in ports]


@contextlib.contextmanager
def serving(name: Name, server: Server, accounts: Sequence[str] = ()) -> Iterator[Running]:
    """A service of that name, with a new broker and a new database.

    `accounts`: ours trades for these, within Kite's limits on each; else for one, without limits.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT)))
        port, root = free_port(), stack.enter_context(broker())
        environment = {"KITE_ROOT_URL": root}
        if name == "ours-sqlite":
            environment["DATABASE_URL"] = f"sqlite:///{folder}/ticker.db"
        else:
            database = f"bench_{next(_databases)}"
            server.execute(f"CREATE DATABASE {database}")
            environment["DATABASE_URL"] = server.url(database)
        match name:
            case "ours-postgresql" | "ours-sqlite":
                environment |= _several(accounts, folder) if accounts else UNLIMITED
                environment |= {
                    "PORT": str(port),
                    "BROKER": "kite",
                    "KITE_API_KEY": "key",
                    "KITE_ACCESS_TOKEN": "token",
                    "KITE_TICKER_URL": root.replace("http", "ws", 1),
                    "LOG_LEVEL": "warning",
                }
                command = ["-m", "ticker_actors", "serve"]
            case "fastapi":
                command = ["-m", "uvicorn", "--app-dir", str(ROOT / "bench" / "peers")]
                command += ["fastapi_service:app", "--port", str(port), "--loop", "uvloop"]
                command += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
            case _:
                command = [str(ROOT / "bench" / "peers" / "floor.py"), str(port)]
        process = stack.enter_context(started(command, port, "/health", environment, folder))
        yield Running(name, f"http://127.0.0.1:{port}", root, process.pid, folder / "log")


def _several(accounts: Sequence[str], folder: Path) -> dict[str, str]:
    """The settings that name several accounts, and let a stream listen to each."""
    file = folder / "accounts.toml"
    tables = [
        f'[{name}]\nbroker = "kite"\napi_key_env = "KEY_{number}"\n'
        f'access_token_env = "TOKEN"\ntoken_file = "{folder}/{name}.token"\n'
        for number, name in enumerate(accounts)
    ]
    file.write_text("\n".join(tables))
    keys = {f"KEY_{number}": name for number, name in enumerate(accounts)}
    return {"ACCOUNTS_FILE": str(file), "TOKEN": "token", **keys}


@contextlib.contextmanager
def targeting(url: str, broker_port: int) -> Iterator[Running]:
    """A service that somebody else started, on a broker at this port."""
    with broker(broker_port) as root:
        yield Running("target", url.rstrip("/"), root, None)
