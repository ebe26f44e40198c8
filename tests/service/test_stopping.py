"""How a service ends: asked to, by a crash, or before it has begun; what the next start finds."""

import contextlib
import json
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.service.conftest import Fork, Start
from tests.service.harness import (
    DOOMED,
    MARKET,
    RESTING,
    SOON,
    START_SECONDS,
    Hatched,
    Service,
    at_broker,
    database,
    eventually,
    new_client,
    select,
)

STOP_SECONDS = 5.0
"""A platform that asks a process to stop kills it some 10 s later."""
SLOW_ORDER = {**MARKET, "tradingsymbol": "DOOMED"}


def close_code(stream: ClientConnection) -> int | None:
    """The code with which the server closes, after whatever it still sends."""
    try:
        while True:
            stream.recv(SOON)
    except ConnectionClosed as ended:
        return None if ended.rcvd is None else ended.rcvd.code


def test_stop_with_all_kinds_of_clients(start: Start, fork: Fork) -> None:
    """SIGTERM ends it in 5 s, whoever is connected, and each client is told what it must know."""
    service = start(ORDERS_PER_MINUTE=1)
    service.place(RESTING)
    idle = new_client(service.url)
    idle.get("/health")
    deaf = socket.create_connection(("127.0.0.1", service.port), SOON)
    deaf.sendall(
        b"GET /advanced/ws/orders/primary HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with (
        closing(deaf),
        closing(idle),
        connect(service.stream_url) as stream,
        ThreadPoolExecutor(1) as pool,
    ):
        stream.recv(SOON)
        waiting = pool.submit(service.place, RESTING, wait=30)
        rows = "SELECT COUNT(*) FROM order_tasks WHERE phase = 'queued'"
        eventually("it waits", lambda: select(database(service.folder), rows) == [(1,)])
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        task = waiting.result(STOP_SECONDS)
        assert task["status"] == "pending"  # 202: stored, and the next start goes on with it
        assert close_code(stream) == 1012
        assert service.wait() == 0
        assert time.monotonic() - began < STOP_SECONDS
    assert '"event": "stopped"' in service.text  # in its own time, and was not cut short
    with pytest.raises(httpx.ConnectError):
        service.http.get("/health")
    assert fork().finished(task["task_id"])["status"] == "completed"


def test_requests_while_draining(fork: Fork) -> None:
    """At a stop, who waits is answered, what has half come is taken wholly or not, none is new."""
    service = fork("HangsWhenPlacing")
    body = json.dumps(MARKET).encode()
    half = (
        b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body[:-1]
    with (
        new_client(service.url) as idle,
        ThreadPoolExecutor(1) as pool,
        socket.create_connection(("127.0.0.1", service.port), SOON) as late,
    ):
        idle.get("/health")
        waiting = pool.submit(service.http.post, "/orders?wait=30", json=SLOW_ORDER)
        rows = "SELECT COUNT(*) FROM order_tasks WHERE phase = 'sent'"
        eventually("it is sent", lambda: select(database(service.folder), rows) == [(1,)])
        late.sendall(half)  # read before the stop or not: that is a race
        service.signal(signal.SIGTERM)
        assert waiting.result(STOP_SECONDS).status_code == 202
        answer = b""
        with contextlib.suppress(ConnectionError):
            late.sendall(body[-1:])
            answer = late.recv(4096)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 202", b"HTTP/1.1 503"))
        if answer.startswith(b"HTTP/1.1 503"):
            assert b"retry-after" in answer.lower()
        with pytest.raises(httpx.TransportError):
            idle.get("/health")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), SOON)
    service.kill()
    stored = select(database(service.folder), "SELECT COUNT(*) FROM order_tasks")
    assert stored == [(1 + answer.startswith(b"HTTP/1.1 202"),)]


def test_crash_exits_with_1_and_recovers(start: Start, fork: Fork) -> None:
    """A bug in a broker ends the process with exit code 1; the next start settles what it left."""
    service = start(command=(sys.executable, str(DOOMED), "HasABug"))
    service.crash_expected = True
    task = service.place(SLOW_ORDER, wait=0)
    (service.folder / "acknowledged").touch()
    assert service.wait() == 1
    assert "ZeroDivisionError" in service.text
    after = fork().finished(task["task_id"])
    assert after["status"] == "completed"
    assert at_broker(service.folder, after["broker_tag"]) == [(after["order_id"], "COMPLETE")]


def complaint(service: Service | Hatched, code: int) -> str:
    """The one sentence with which a service refused to start."""
    assert service.wait(START_SECONDS) == code
    text = service.text.removesuffix(f"exit {code}\n").rstrip("\n")
    assert text.startswith("ticker-actors: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_second_copy_is_refused(fork: Fork, tmp_path: Path) -> None:
    """A second copy on the same database, paper file or port says so in a sentence and exits 1."""
    service = fork()
    other = tmp_path / "other"
    other.mkdir()
    book = tmp_path / "data" / "ticker.paper.db"
    assert "data/ticker.db" in complaint(fork(ready=False), 1)
    assert "ticker.paper.db" in complaint(fork(folder=other, ready=False, PAPER_FILE=book), 1)
    same_port = complaint(fork(folder=other, ready=False, PORT=service.port), 1)
    assert f"127.0.0.1:{service.port}" in same_port
    assert service.place(MARKET)["status"] == "completed"


WRONG = [
    ({"HOST": "0.0.0.0"}, "API_KEY"),  # noqa: S104  # that is the point
    ({"API_KEY": "short"}, "API_KEY"),
    ({"PORT": "eighty"}, "PORT"),
    ({"ORDERS_PER_SECOND": "-1"}, "ORDERS_PER_SECOND"),
    ({"DATABASE_URL": "mysql://user:swordfish@host/db"}, "DATABASE_URL"),
    ({"BROKER": "zerodha"}, "BROKER"),
    ({"ABSENCE_HORIZON_SECONDS": "nan"}, "ABSENCE_HORIZON_SECONDS"),
    ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
]


@pytest.mark.parametrize("wrong, name", WRONG, ids=[name for _, name in WRONG])
def test_wrong_setting_is_refused(
    fork: Fork, tmp_path: Path, wrong: dict[str, Any], name: str
) -> None:
    """A wrong setting is named in one sentence, exit code 2, before anything is touched."""
    text = complaint(fork(ready=False, **wrong), 2)
    assert name in text
    assert "swordfish" not in text
    assert "'short'" not in text
    assert list(tmp_path.iterdir()) == []


def test_open_door_is_refused(start: Start) -> None:
    """The command itself, given a host that others reach and no key, refuses with exit code 2."""
    text = complaint(start("--host", "0.0.0.0", ready=False), 2)  # noqa: S104  # the point
    assert "API_KEY" in text
