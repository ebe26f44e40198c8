"""Three servers of one message for all: ours, `websockets.broadcast()`, and Starlette on uvicorn.

`python -m bench.stream_servers ours PORT` (or `websockets`, `uvicorn`) serves `PATH`. For each line
`COUNT PAUSE` on its standard input it sends COUNT messages to every client, PAUSE seconds apart.
Each does what its users would write, encodes a message once, and keeps its own default settings but
for the limits and the logs.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import cast

import msgspec
import trio
import uvicorn
import uvloop
import websockets.asyncio.server
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.connection import broadcast

from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.metrics import Metrics
from ticker_actors.model.events import Event, stream_message
from ticker_actors.settings import PRIMARY, Settings
from ticker_actors.web import stream
from ticker_actors.web.app import answer_errors
from ticker_actors.web.parts import Parts
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.tickets import Tickets

PATH = f"/advanced/ws/orders/{PRIMARY}"
STREAM = "st_0123456789abcdef"
NOW = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
UNLIMITED = Settings(
    stream_connections_per_account=0,
    stream_connections_per_address=0,
    stream_handshakes_per_second=0,
)
DATA = msgspec.Raw(
    b'{"order_id":"251120000000042","status":"OPEN","exchange":"NSE","tradingsymbol":"INFY",'
    b'"transaction_type":"BUY","quantity":50,"filled_quantity":25,"average_price":1500.25}'
)


def event(number: int) -> Event:
    """An order's update, as the service makes it."""
    return Event(
        account_id=PRIMARY,
        event_id=f"evt_01KAGD9G00000000000{number:07}",
        event="order_updated",
        order_id="251120000000042",
        order_key="251120000000042",
        order_version=number,
        data=DATA,
        created_at=NOW,
        sequence=number,
    )


def text(number: int) -> str:
    """The same message for the others: the same bytes, encoded at the same cost."""
    return stream_message(event(number), STREAM).decode()


async def ours(port: int) -> None:
    """The hub, its route and its server: all that an event meets after it was committed."""
    hub = StreamHub(STREAM, Metrics(), UNLIMITED.stream_limits)
    parts = SimpleNamespace(
        hub=hub,
        executor=SimpleNamespace(accounts={PRIMARY: None}),
        clock=SimpleNamespace(now=lambda: NOW),
        chance=Random(1).getrandbits,
        settings=UNLIMITED,
    )
    app = QuartTrio(__name__)
    app.register_blueprint(stream.blueprint(cast("Parts", parts), Tickets()))
    answer_errors(app)
    listeners = await open_listeners("127.0.0.1", port)
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(0)) as orders:
        await nursery.start(hub.run)
        await hub.start_from(PRIMARY, 0)
        await nursery.start(partial(serve_app, app, listeners, stopping=trio.Event()))
        print("ready", flush=True)
        number = 0
        async for line in orders:  # short ones come whole
            count, pause = order(line)
            for _ in range(count):
                number += 1
                await hub.publish((event(number),))
                await trio.sleep(pause)
        nursery.cancel_scope.cancel()


async def with_websockets(port: int) -> None:
    """As in https://websockets.readthedocs.io/en/stable/topics/broadcast.html."""

    async def handler(client: websockets.asyncio.server.ServerConnection) -> None:
        await client.wait_closed()

    async with websockets.asyncio.server.serve(handler, "127.0.0.1", port) as server:
        print("ready", flush=True)
        number = 0
        async for count, pause in commands():
            for _ in range(count):
                number += 1
                broadcast(server.connections, text(number))
                await asyncio.sleep(pause)


async def with_uvicorn(port: int) -> None:
    """As in the documentation of FastAPI: a loop over the account's sockets."""
    clients: set[WebSocket] = set()

    async def endpoint(client: WebSocket) -> None:
        await client.accept()
        clients.add(client)
        try:
            while True:
                await client.receive_text()
        except WebSocketDisconnect:
            clients.discard(client)

    app = Starlette(routes=[WebSocketRoute(PATH, endpoint)])
    config = uvicorn.Config(
        app, port=port, log_level="warning", loop="uvloop", http="httptools", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # it has no event for it
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    number = 0
    async for count, pause in commands():
        for _ in range(count):
            number += 1
            message = text(number)
            for client in tuple(clients):
                await client.send_text(message)
            await asyncio.sleep(pause)
    server.should_exit = True
    await serving


async def commands() -> AsyncIterator[tuple[int, float]]:
    """What comes on standard input, on asyncio."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield order(line)


def order(line: bytes | bytearray) -> tuple[int, float]:
    """A line's count and pause (seconds)."""
    count, pause = line.split()
    return int(count), float(pause)


def main(server: str, port: int) -> None:
    """Serve until the end of standard input."""
    match server:
        case "ours":
            trio.run(ours, port)
        case "websockets":
            asyncio.run(with_websockets(port))
        case "uvicorn":
            uvloop.run(with_uvicorn(port))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
