"""A client of the order stream on a bare TCP socket: it sees every byte that the server sends."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.events import Ping as PingFrame

SOON = 5.0
"""Seconds within which what must happen does."""


class Ended(Exception):  # it is what happened
    """The server has closed the stream. Its code is None when it sent no close frame."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"closed with {code}: {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The server has not opened the stream."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"refused with {status}")
        self.status = status
        self.retry_after = retry_after


class StreamClient:
    """Read its messages with `message`. `open_stream` makes it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.tcp = stream
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self.last: dict[str, Any] = {}
        """The newest message."""
        self._text = ""
        self._events: list[Event] = []

    async def message(self) -> dict[str, Any]:
        """The next message; raises `Ended`."""
        while True:
            match await self._event():
                case TextMessage(data=data, message_finished=finished):
                    self._text += data
                    if finished:
                        text, self._text = self._text, ""
                        self.last = msgspec.json.decode(text)
                        return self.last
                case CloseConnection(code=code, reason=reason):
                    raise Ended(code, reason)
                case PingFrame():
                    pass  # no test is so long that it must be answered
                case other:
                    raise AssertionError(other)

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """The next messages."""
        return [await self.message() for _ in range(count)]

    async def ended(self) -> Ended:
        """How it ends, after whatever is still sent."""
        while True:
            try:
                await self.message()
            except Ended as ended:
                return ended

    async def say(self, text: str) -> None:
        """Send a text."""
        await self.tcp.send_all(self._websocket.send(TextMessage(data=text)))

    async def say_bytes(self, data: bytes) -> None:
        """Send what is no text."""
        await self.tcp.send_all(self._websocket.send(BytesMessage(data=data)))

    async def handshake(self, target: str) -> None:
        """Open the stream; raises `Refused`."""
        request = Request(host="127.0.0.1", target=target)
        await self.tcp.send_all(self._websocket.send(request))
        match await self._event():
            case AcceptConnection():
                pass
            case RejectConnection(status_code=status, headers=headers):
                raise Refused(status, dict(headers).get(b"retry-after", b"").decode() or None)
            case other:
                raise AssertionError(other)

    async def _event(self) -> Event:
        while not self._events:
            with trio.fail_after(SOON):
                try:
                    data = await self.tcp.receive_some()
                except trio.BrokenResourceError:
                    data = b""
            if not data:
                raise Ended(None, None)
            self._websocket.receive_data(data)
            self._events = list(self._websocket.events())
        return self._events.pop(0)


@asynccontextmanager
async def open_stream(
    port: int, query: str = "", account: str = "primary"
) -> AsyncGenerator[StreamClient]:
    """A client whose stream is open; its welcome is its first message."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
        client = StreamClient(tcp)
        await client.handshake(f"/advanced/ws/orders/{account}{query}")
        yield client
