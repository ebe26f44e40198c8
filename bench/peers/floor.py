"""The floor: one fsync and one bare broker call, and nothing that makes a service useful.

`python bench/peers/floor.py PORT`, with KITE_ROOT_URL. It writes an order's text to a file and
syncs it, calls the broker on a kept connection, and answers: 202 between the two, or 200 after both
with `?wait`. Nothing that is durable can be much quicker.
"""

import asyncio
import os
import sys
from typing import cast
from urllib.parse import urlencode, urlsplit

import httptools
import msgspec
import uvloop


class Call(asyncio.Protocol):
    """A connection to the broker, for one request after another."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes]
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self.answer.set_result(self._body)
        self._body = b""


class Floor:
    """The file, and the connections to the broker."""

    def __init__(self) -> None:
        root = urlsplit(os.environ["KITE_ROOT_URL"])
        self._host, self._port = root.hostname or "", root.port or 80
        self._file = os.open("floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._idle: list[tuple[asyncio.Transport, Call]] = []

    def keep(self, order: bytes) -> None:
        """Make an order durable."""
        os.write(self._file, order)
        os.fdatasync(self._file)

    async def place(self, order: bytes) -> bytes:
        """Call the broker."""
        form = urlencode(msgspec.json.decode(order)).encode()
        loop = asyncio.get_running_loop()
        if self._idle:
            transport, call = self._idle.pop()
        else:
            transport, call = await loop.create_connection(Call, self._host, self._port)
        call.answer = loop.create_future()
        transport.write(
            b"POST /orders/regular HTTP/1.1\r\nHost: broker\r\nContent-Length: %d\r\n\r\n%s"
            % (len(form), form)
        )
        answer = await call.answer
        self._idle.append((transport, call))
        return answer


class Connection(asyncio.Protocol):
    """A client. httptools calls the `on_` methods."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport
        self._wait = False
        self._body = b""
        self._calls = set[asyncio.Task[None]]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's do not say so

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """The request's target."""
        self._wait = b"wait=" in url
        self._body = b""

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is whole."""
        if not self._body:  # somebody asks whether it lives
            self._answer(200, b"{}")
            return
        self._floor.keep(self._body)
        if not self._wait:
            self._answer(202, b"{}")
        call = asyncio.get_running_loop().create_task(self._call(self._body, answer=self._wait))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, order: bytes, *, answer: bool) -> None:
        said = await self._floor.place(order)
        if answer:
            self._answer(200, said)

    def _answer(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def serve(port: int) -> None:
    """Until it is killed."""
    floor = Floor()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(floor), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
