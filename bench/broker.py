"""A bare broker: just enough of Kite Connect to take orders at once and write down when they came.

`python -m bench.broker PORT…`. It fills every order, shows it in the book and pushes it on the
ticker, as Kite does; it judges nothing. It also takes webhooks at `/webhook`. All ports lead to the
same books, one for each API key. When each order's request and its first webhook had come is at
`GET /_seen`, in nanoseconds of the monotonic clock, which all processes of a machine share. An
order is known by its quantity, which is unique: its id is built from it.
"""

import asyncio
import base64
import gc
import hashlib
import re
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import cast
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httptools
import msgspec
import uvloop

FIRST_ORDER_ID = 10**14
"""Kite's ids have 15 digits; an order's is this plus its quantity."""
HEARTBEAT_SECONDS = 1.0
"""As often as Kite says something on the ticker."""
HEARTBEAT = b"\x82\x01\x00"
"""A binary frame of one byte."""
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
SHORT_FRAME, LONG_FRAME = 126, 65_536
"""Bytes from which a frame's length takes two more bytes, and eight more."""

_IST = ZoneInfo("Asia/Kolkata")
_ORDER_ID = re.compile(rb'"order_id":\s*"(\d{15})"')

Json = dict[str, object]


def number_in(text: bytes) -> int | None:
    """The number of the order that a JSON text speaks of, by the order id in it."""
    found = _ORDER_ID.search(text)
    return None if found is None else int(found[1]) - FIRST_ORDER_ID


class Seen(msgspec.Struct):
    """When what came first, by the order's number: nanoseconds of the monotonic clock."""

    orders: dict[int, int] = {}
    webhooks: dict[int, int] = {}
    posts: list[int] = []
    """When each webhook came: an order's first, and all others."""


class Book:
    """An account's orders of the day, and who hears of them."""

    def __init__(self) -> None:
        self.tickers: set[asyncio.WriteTransport] = set()
        self._rows: dict[str, bytes] = {}

    def place(self, variety: str, form: dict[str, str]) -> tuple[Json, bytes]:
        """Fill an order: the answer to its request, and its update."""
        number = int(form["quantity"])
        order_id = str(FIRST_ORDER_ID + number)
        price, now = float(form.get("price") or 0), f"{datetime.now(_IST):%Y-%m-%d %H:%M:%S}"
        row = {
            **form,
            "order_id": order_id,
            "exchange_order_id": order_id,
            "status": "COMPLETE",
            "status_message": None,
            "variety": variety,
            "quantity": number,
            "filled_quantity": number,
            "pending_quantity": 0,
            "cancelled_quantity": 0,
            "price": price,
            "average_price": price,
            "order_timestamp": now,
            "exchange_timestamp": now,
            "tags": [form["tag"]] if "tag" in form else [],
        }
        self._rows[order_id] = text = msgspec.json.encode(row)
        return {"order_id": order_id}, b'{"type":"order","data":%s}' % text

    def orders(self) -> bytes:
        """All of them, in Kite's envelope."""
        return b'{"status":"success","data":[%s]}' % b",".join(self._rows.values())

    def push(self, update: bytes) -> None:
        """Tell everybody on the ticker."""
        for ticker in self.tickers:
            ticker.write(frame(update))


class Books:
    """The book of every API key, and what all of them have seen."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._books: dict[str, Book] = {}

    def of(self, api_key: str) -> Book:
        """An account's book."""
        return self._books.setdefault(api_key, Book())

    async def beat(self) -> None:
        """Show that the tickers live."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for book in self._books.values():
                for ticker in book.tickers:
                    ticker.write(HEARTBEAT)


def frame(text: bytes) -> bytes:
    """A server's WebSocket frame of a text (RFC 6455, 5.2)."""
    size = len(text)
    if size < SHORT_FRAME:
        return bytes((0x81, size)) + text
    if size < LONG_FRAME:
        return b"\x81\x7e" + size.to_bytes(2) + text
    return b"\x81\x7f" + size.to_bytes(8) + text


class Connection(asyncio.Protocol):
    """One HTTP connection, or the ticker's once it is upgraded. httptools calls `on_…`."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._book: Book | None = None
        """Whose ticker it is, once it is one."""
        self._api_key = ""
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport
        self._target = ""
        self._body = b""
        self._key: bytes | None = None
        self._came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's do not say so

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # of the protocol
        """Called by the loop."""
        if self._book is not None:
            self._book.tickers.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop. A request's time is when its last byte is here."""
        self._came = time.monotonic_ns()
        if self._book is not None:
            return  # nothing that a client says there matters
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """Its target."""
        self._target = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"sec-websocket-key":
            self._key = value
        elif name.lower() == b"authorization":  # token KEY:TOKEN
            self._api_key = value.removeprefix(b"token ").partition(b":")[0].decode()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is whole."""
        if self._key is not None:
            return
        path = self._target.partition("?")[0]
        match self._parser.get_method(), path.split("/")[1:]:
            case b"POST", ["orders", variety]:
                form = dict(parse_qsl(self._body.decode()))
                self._books.seen.orders.setdefault(int(form["quantity"]), self._came)
                book = self._books.of(self._api_key)
                answer, update = book.place(variety, form)
                self._succeed(answer)
                book.push(update)
            case b"POST", ["webhook"]:
                self._books.seen.posts.append(self._came)
                if (number := number_in(self._body)) is not None:
                    self._books.seen.webhooks.setdefault(number, self._came)
                self._answer(b"{}")
            case b"GET", ["orders"]:
                self._answer(self._books.of(self._api_key).orders())
            case b"GET", ["_seen"]:
                self._answer(msgspec.json.encode(self._books.seen))
            case b"DELETE" | b"PUT", ["orders", _, order_id]:
                self._succeed({"order_id": order_id})
            case _:
                self._succeed({})

    def _succeed(self, data: Json) -> None:
        self._answer(msgspec.json.encode({"status": "success", "data": data}))

    def _answer(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )

    def _upgrade(self) -> None:
        digest = hashlib.sha1((self._key or b"") + WEBSOCKET_GUID).digest()  # noqa: S324  # RFC 6455
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % base64.b64encode(digest)
        )
        query = dict(parse_qsl(self._target.partition("?")[2]))
        self._book = self._books.of(query.get("api_key", ""))
        self._book.tickers.add(self._transport)


async def serve(ports: list[int]) -> None:
    """Until SIGTERM."""
    loop, books, ended = asyncio.get_running_loop(), Books(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    make: Callable[[], Connection] = lambda: Connection(books)  # noqa: E731  # two lines for no name
    servers = [await loop.create_server(make, "127.0.0.1", port, backlog=1024) for port in ports]
    beat = loop.create_task(books.beat())
    gc.disable()  # everything here is kept, and a pause would be counted as somebody's latency
    await ended.wait()
    beat.cancel()
    for server in servers:
        server.close()


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))
