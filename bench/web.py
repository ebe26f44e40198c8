"""What a `POST /orders` costs in the HTTP server and the web layer, and nothing behind them.

`python -m bench.web` runs for about half a minute: the service's application on an executor that
takes every order at once; beside it the least that Quart and Starlette can do, which check nothing
and send the same text. Each is a process of its own, and they take turns.
"""

import random
import re
import socket
import statistics
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import cast

import hypercorn.trio
import msgspec
import trio
import uvicorn
from hypercorn.config import Config
from quart import Response, request
from quart_trio import QuartTrio
from starlette import requests as starlette_requests
from starlette import responses as starlette_responses
from starlette.applications import Starlette
from starlette.routing import Route

from bench.machine import conditions, keep, sentence
from bench.processes import Child
from bench.sample import ORDER
from ticker_actors.actors.requests import Accepted
from ticker_actors.metrics import Metrics
from ticker_actors.model.tasks import OrderTask, Phase, TaskStatus
from ticker_actors.settings import PRIMARY, Settings
from ticker_actors.web.app import create_app
from ticker_actors.web.parts import Parts
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.tasks import task_json

SERVERS: dict[str, str] = {
    "ours": "the service: checks, decode, answer, metrics",
    "as shipped": "bare Quart-Trio on Hypercorn",
    "starlette": "bare Starlette on uvicorn",
}
ROUNDS, QUICK_ROUNDS = 7, 1
DATA_SEGMENTS_IN = slice(152, 156)
"""Where Linux has `tcpi_data_segs_in` in its `tcp_info`."""
REQUESTS = 500
"""In a turn, one after the other on one connection."""
NOW = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
TASK = OrderTask(
    task_id="task_01KAGD9G000000000000000000",
    idempotency_key="~task_01KAGD9G000000000000000000",
    operation="place_order",
    params={**ORDER, "variety": "regular", "validity": "DAY"},
    status=TaskStatus.PENDING,
    created_at=NOW,
    updated_at=NOW,
    account_id=PRIMARY,
    phase=Phase.QUEUED,
    intent="0123456789",
)
ANSWER = msgspec.json.encode(task_json(TASK))
PATIENCE_SECONDS = 10.0
BODY = msgspec.json.encode(ORDER)
REQUEST = (
    b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


def application() -> QuartTrio:
    """The service's, with nothing behind it."""

    async def submit_order(*_: object) -> Accepted:
        await trio.lowlevel.checkpoint()
        return Accepted(TASK)

    parts = SimpleNamespace(
        settings=Settings(),
        executor=SimpleNamespace(accounts={PRIMARY: None}, submit_order=submit_order),
        hub=None,
        tables=SimpleNamespace(away_seconds=0.0),
        metrics=Metrics(),
        stopping=trio.Event(),
        account=lambda name: name,
    )
    return create_app(cast("Parts", parts))


async def ours(port: int) -> None:
    """The service's application on its server."""
    listeners = await open_listeners("127.0.0.1", port)
    print("ready", flush=True)
    await serve_app(application(), listeners, stopping=trio.Event())


async def as_shipped(port: int) -> None:
    """The least that Quart can do, on Hypercorn: it reads the body and answers."""
    app = QuartTrio(__name__)

    @app.post("/orders")
    async def place() -> Response:
        await request.get_data(as_text=False)
        return Response(ANSWER, HTTPStatus.ACCEPTED.value, content_type="application/json")

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_max_requests = sys.maxsize
    config.loglevel = "ERROR"
    print("ready", flush=True)
    await hypercorn.trio.serve(app, config)


def starlette(port: int) -> None:
    """The least that Starlette can do, on uvicorn with uvloop and httptools."""

    async def place(asked: starlette_requests.Request) -> starlette_responses.Response:
        await asked.body()
        return starlette_responses.Response(
            ANSWER, HTTPStatus.ACCEPTED.value, media_type="application/json"
        )

    app = Starlette(routes=[Route("/orders", place, methods=["POST"])])
    print("ready", flush=True)
    uvicorn.run(app, port=port, log_level="error", loop="uvloop", http="httptools")


class Server(Child):
    """One of the servers."""

    def __init__(self, name: str) -> None:
        super().__init__("bench.web", name)

    def _connected(self) -> socket.socket:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def turn(self) -> tuple[float, float]:
        """Requests, one after the other: µs of processor time, and TCP segments, for each."""
        with self._connected() as client:
            before = self.processor()
            for _ in range(REQUESTS):
                client.sendall(REQUEST)
                check(client)
            used = self.processor() - before
            known = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_IN.stop)
            segments = int.from_bytes(known[DATA_SEGMENTS_IN], sys.byteorder)
        return used / 1000 / REQUESTS, segments / REQUESTS


def check(client: socket.socket) -> None:
    """Read one answer, to its last byte."""
    data = received(client)
    while b"\r\n\r\n" not in data:
        data += received(client)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 202"):
        raise RuntimeError(head.decode())
    (size,) = re.findall(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(size):
        body += received(client)


def received(client: socket.socket) -> bytes:
    """Some bytes more."""
    if found := client.recv(65_536):
        return found
    raise RuntimeError("The server has hung up.")


def main(*, quick: bool = False) -> None:
    """Measure and print."""
    found = conditions(None)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Server(name)) for name in SERVERS}
        for server in servers.values():
            server.turn()  # not counted: caches fill, code is specialised
        for number in range(rounds):
            for name in random.Random(number).sample(list(SERVERS), len(SERVERS)):
                turns[name].append(servers[name].turn())
    print(
        f"{sentence(found)}; medians of {rounds} rounds in alternation, {REQUESTS} requests each\n"
    )
    print("| | processor time a request | in parts of Starlette's | segments an answer |")
    print("|---|---|---|---|")
    rows = []
    for name, words in SERVERS.items():
        cost, segments = (statistics.median(column) for column in zip(*turns[name], strict=True))
        ratio = statistics.median(
            mine[0] / its[0] for mine, its in zip(turns[name], turns["starlette"], strict=True)
        )
        rows.append({"server": name, "cpu_us": cost, "to_starlette": ratio, "segments": segments})
        print(f"| {words} | {cost:.0f} µs | {ratio:.2f} | {segments:.1f} |", flush=True)
    keep("web", {"conditions": found, "rows": rows})


def serve(name: str, port: int) -> None:
    """What a started process runs."""
    match name:
        case "ours":
            trio.run(ours, port)
        case "as shipped":
            trio.run(as_shipped, port)
        case _:
            starlette(port)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in SERVERS:
        serve(sys.argv[1], int(sys.argv[2]))
    else:
        main(quick="--quick" in sys.argv[1:])
