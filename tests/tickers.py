"""Fake tickers, each named for its fault, on any stream: a real socket's or one in memory."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar, cast
from urllib.parse import parse_qs, urlsplit

import trio
from trio.testing import memory_stream_pair
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)
from wsproto.events import TextMessage

from ticker_actors.brokers.kite.dial import Dial
from ticker_actors.brokers.kite.root import TickerUrl
from ticker_actors.exchange.packets import HEARTBEAT

API_KEY = "kitekey"
TOKEN = "s3cret token/+"
"""With characters that are not the same in a URL."""
NEW_TOKEN = "tomorrows"


def pushed(order_id: str = "1", **fields: object) -> str:
    """An order message with what every order has."""
    row = {
        "order_id": order_id,
        "status": "COMPLETE",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": 1,
        "product": "CNC",
        "order_type": "LIMIT",
        **fields,
    }
    return json.dumps({"type": "order", "id": "", "data": row})


@dataclass(kw_only=True)
class Ticker(ABC):
    """Notes who connects, and when, and what they asked for."""

    targets: list[str] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ended: int = 0
    """Connections that their client has left."""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            self.targets.append(request.path)
            self.headers.append(dict(request.headers))
            self.times.append(trio.current_time())
            try:
                await self.answer(request, stream)
            except (ConnectionClosed, trio.BrokenResourceError):
                self.ended += 1
            nursery.cancel_scope.cancel()

    async def answer(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        del stream
        await self.talk(await request.accept())

    @abstractmethod
    async def talk(self, socket: WebSocketConnection) -> None:
        """Until it returns or the client leaves."""

    @property
    def tokens(self) -> list[str]:
        """The token of each connection."""
        return [parse_qs(urlsplit(target).query)["access_token"][0] for target in self.targets]


@dataclass
class HealthyTicker(Ticker):
    """Sends what it has, then a heartbeat every second."""

    messages: list[str | bytes] = field(default_factory=list)
    pause: float = 1.0
    connections: list[WebSocketConnection] = field(default_factory=list)

    async def talk(self, socket: WebSocketConnection) -> None:
        self.connections.append(socket)
        for message in self.messages:
            await socket.send_message(message)
        await self.beat(socket)

    async def beat(self, socket: WebSocketConnection) -> None:
        while True:
            await socket.send_message(HEARTBEAT)
            await trio.sleep(self.pause)


@dataclass
class SilentTicker(HealthyTicker):
    """Goes silent for ever after its messages, but answers pings and closes."""

    async def talk(self, socket: WebSocketConnection) -> None:
        for message in self.messages:
            await socket.send_message(message)
        await socket.get_message()


@dataclass
class PingsOnly(Ticker):
    """Is alive by the protocol; says nothing but `first`, and again every `then` seconds."""

    first: bytes | None = None
    then: float = inf

    async def talk(self, socket: WebSocketConnection) -> None:
        due = trio.current_time()
        while True:
            if self.first is not None and trio.current_time() >= due:
                due += self.then
                await socket.send_message(self.first)
            await socket.ping()
            await trio.sleep(1)


@dataclass
class SlowTicker(Ticker):
    """Sends a heartbeat, then an order's update in fragments, one every `PAUSE` seconds."""

    PAUSE: ClassVar = 4.0

    async def talk(self, socket: WebSocketConnection) -> None:
        await socket.send_message(HEARTBEAT)
        text = pushed()
        size = -(-len(text) // 3)
        for number in range(3):
            await trio.sleep(self.PAUSE)
            part = text[number * size : (number + 1) * size]
            # trio-websocket has no public way to send a fragment.
            await socket._send(TextMessage(part, message_finished=number == 2))
        await trio.sleep_forever()


@dataclass
class RefusesToken(HealthyTicker):
    """Answers 403 to all but the new token."""

    good: str = NEW_TOKEN

    async def answer(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        if self.tokens[-1] == self.good:
            await super().answer(request, stream)
        else:
            await request.reject(403, body=f"{self.tokens[-1]} is dead".encode())


@dataclass
class RefusesAll(Ticker):
    """Answers every upgrade with a status, and a body that repeats what it was asked."""

    status: int

    async def answer(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        del stream
        await request.reject(self.status, body=self.targets[-1].encode())

    async def talk(self, socket: WebSocketConnection) -> None:
        raise NotImplementedError


@dataclass
class DropsAfter(HealthyTicker):
    """Cuts the connection after so many seconds of good service, without a word."""

    seconds: float = 0.0

    async def answer(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        await super().answer(request, stream)
        await trio.aclose_forcefully(stream)

    async def beat(self, socket: WebSocketConnection) -> None:
        await socket.send_message(HEARTBEAT)
        with trio.move_on_after(self.seconds):
            await trio.sleep(self.pause)
            await super().beat(socket)


@dataclass
class GarbageTicker(Ticker):
    """Sends these bytes where frames are due, then hangs or ends."""

    garbage: bytes
    ends: bool = False

    async def answer(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        await request.accept()
        await stream.send_all(self.garbage)
        if not self.ends:
            await trio.sleep_forever()
        await trio.aclose_forcefully(stream)

    async def talk(self, socket: WebSocketConnection) -> None:
        raise NotImplementedError


@dataclass
class NotATicker:
    """Answers an upgrade with these bytes, then hangs or ends."""

    reply: bytes
    ends: bool = False
    connections: int = 0

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(self.reply)
            if not self.ends:
                await trio.sleep_forever()


@dataclass
class TalksTooMuch(HealthyTicker):
    """Pushes updates as fast as the connection takes them."""

    updates: int = 5_000
    done: trio.Event = field(default_factory=trio.Event)

    async def talk(self, socket: WebSocketConnection) -> None:
        for number in range(1, self.updates + 1):
            await socket.send_message(pushed(str(number)))
        self.done.set()
        await super().talk(socket)


Server = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def in_memory(server: Server) -> AsyncGenerator[Dial]:
    """Dials that reach the server without a socket, so that the clock may be a mocked one."""
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.abc.Stream) -> None:
            with suppress(trio.BrokenResourceError):
                await server(stream)
            await trio.aclose_forcefully(stream)

        async def dial(url: TickerUrl) -> trio.abc.Stream:
            del url
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return cast("trio.abc.Stream", ours)

        yield dial
        nursery.cancel_scope.cancel()
