"""A client of the order stream on a bare TCP socket: it sees every byte that the server sends."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

SOON = 5.0
"""Seconds within which what must happen does."""
HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n"
)
TEXT, BYTES, CLOSE, PING = 0x81, 0x82, 0x88, 0x89
"""The first byte of a frame (RFC 6455, section 5.2)."""


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

    def __init__(self, stream: trio.SocketStream, patience: float = SOON) -> None:
        """`patience`: how many seconds nothing may come."""
        self.tcp = stream
        self.last: dict[str, Any] = {}
        """The newest message."""
        self._patience = patience
        self._data = bytearray()

    async def handshake(self, target: str, headers: str = "") -> None:
        """Open the stream; raises `Refused`."""
        await self.tcp.send_all(HANDSHAKE.format(target, headers).encode("latin-1"))
        while b"\r\n\r\n" not in self._data:
            await self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status = int(head[9:12])
        if status != 101:
            retry = re.search(rb"\r\nretry-after: (\d+)", bytes(head).lower())
            raise Refused(status, retry and retry[1].decode())

    async def message(self) -> dict[str, Any]:
        """The next message; raises `Ended`. Pings are not answered: no test is so long."""
        while True:
            kind, payload = await self._frame()
            if kind == TEXT:
                self.last = msgspec.json.decode(payload)
                return self.last
            if kind == CLOSE:
                raise Ended(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            assert kind == PING, payload

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
        await self._send(TEXT, text.encode())

    async def say_bytes(self, data: bytes) -> None:
        """Send what is no text."""
        await self._send(BYTES, data)

    async def _send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        await self.tcp.send_all(bytes((kind,)) + length + bytes(4) + payload)  # a mask of zeros

    async def _frame(self) -> tuple[int, bytes]:
        await self._have(2)
        kind, size, start = self._data[0], self._data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            await self._have(start)
            size = int.from_bytes(self._data[2:start], "big")
        await self._have(start + size)
        payload = bytes(self._data[start : start + size])
        del self._data[: start + size]
        return kind, payload

    async def _have(self, size: int) -> None:
        while len(self._data) < size:
            await self._more()

    async def _more(self) -> None:
        with trio.fail_after(self._patience):
            try:
                data = await self.tcp.receive_some()
            except trio.BrokenResourceError:
                data = b""
        if not data:
            raise Ended(None, None)
        self._data += data


@asynccontextmanager
async def open_stream(
    port: int, query: str = "", account: str = "primary", headers: str = ""
) -> AsyncGenerator[StreamClient]:
    """A client whose stream is open; its welcome is its first message."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
        client = StreamClient(tcp)
        await client.handshake(f"/advanced/ws/orders/{account}{query}", headers)
        yield client
