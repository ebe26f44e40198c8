"""One HTTP/1.1 client for one origin.

It does one thing: send a request at most once, and say honestly what came of it. It never repeats,
follows no redirect, and looks at no proxy, netrc or environment. A connection is used again only
while it is fresh and seen to be open, because a request on a dying one is an unknown order.
"""

import zlib
from collections.abc import Iterable
from dataclasses import replace
from ssl import SSLContext, create_default_context

import certifi
import trio

from ticker_actors.brokers.kite.root import Root
from ticker_actors.http1 import (
    Connection,
    HttpResult,
    Lost,
    Pool,
    Reply,
    Unsent,
    cause,
    connect,
    encrypt,
    look_up,
    request,
)
from ticker_actors.model.outcomes import CALL_SECONDS

CONNECT_SECONDS = 3.0
"""Looking up, connecting and TLS: short enough that what is left is plenty for the answer."""
ADDRESS_SECONDS = 1.5
"""For one address of several: one lost SYN (repeated after 1 s)."""
ORDER_IDLE_SECONDS = 2.0
"""How long a connection may have been idle for an order call. Servers and the boxes between close
idle ones after 5 s and more, without a word that reaches us in time."""
READ_IDLE_SECONDS = 20.0
"""The same for a read: if it is lost, nothing is lost but the read."""
IDLE_CONNECTIONS = 10
"""Connections that are kept: as many calls as Kite takes in a second."""
LOOKUPS = 8
"""Threads that wait for DNS."""
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of an answer, also after unpacking: six times the book of a day with 5 000 orders."""
PACKED = frozenset({"gzip", "x-gzip", "deflate"})

Headers = Iterable[tuple[str, str]]


class HttpClient:
    """Requests to one origin. `close` it when done; it has no task of its own."""

    def __init__(
        self,
        root: Root,
        *,
        ssl_context: SSLContext | None = None,
        deadline: float = CALL_SECONDS,
        local_address: str | None = None,
    ) -> None:
        """`deadline` is in seconds. `local_address` is the source address of its connections.

        Certificates are judged by certifi's authorities: the same on every machine.
        """
        self._root = root
        self._deadline = deadline
        self._local_address = local_address
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._idle = Pool(IDLE_CONNECTIONS, READ_IDLE_SECONDS)
        self._ssl: SSLContext | None = None
        if root.tls:
            self._ssl = ssl_context or create_default_context(cafile=certifi.where())
            self._ssl.set_alpn_protocols(["http/1.1"])

    def __repr__(self) -> str:
        return f"<HttpClient {self._root.host}:{self._root.port}, {len(self._idle)} idle>"

    async def request(
        self, method: str, target: str, headers: Headers, body: bytes = b"", *, idle: float
    ) -> HttpResult:
        """Send one request, on a connection that was idle for at most `idle` seconds or a new one.

        Cancelling it works until the first byte is handed over; then it is shielded until its
        deadline, because the answer is worth more than the few seconds.
        """
        host = ("Host", self._root.authority)
        data = request(method, target, (host, *headers), body)
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline = trio.current_time() + self._deadline
        connection = self._idle.take(idle) or await self._open(deadline)
        if isinstance(connection, Unsent):
            return connection
        result = await connection.exchange(data, deadline, most_bytes=MAX_BODY_BYTES, shield=True)
        self._idle.keep(connection)
        return _plain(result)

    def close(self) -> None:
        """Close what is idle."""
        self._idle.close()

    async def _open(self, deadline: float) -> Connection | Unsent:
        where = f"{self._root.host} port {self._root.port}"
        with trio.move_on_at(min(deadline, trio.current_time() + CONNECT_SECONDS)):
            try:
                return await self._connected()
            except (OSError, UnicodeError, trio.BrokenResourceError) as error:
                return Unsent(f"There is no connection to {where}: {cause(error)}.")
        return Unsent(f"There is no connection to {where}: it took too long.")

    async def _connected(self) -> Connection:
        host, port = self._root.host, self._root.port
        addresses = await look_up(host, port, self._lookups)
        plain = await connect(addresses, port, ADDRESS_SECONDS, local_address=self._local_address)
        stream = plain if self._ssl is None else await encrypt(plain, self._ssl, host)
        return Connection(stream, plain.socket)


def _plain(result: Reply | Lost) -> Reply | Lost:
    """The reply with its body unpacked, if it is not too large."""
    if isinstance(result, Lost):
        return result
    if len(result.body) > MAX_BODY_BYTES:
        return Lost("The answer is too large.")
    if result.headers.get("content-encoding", "").lower() not in PACKED:
        return result
    unpacked = _unpacked(result.body)
    if unpacked is None:
        return Lost("The answer cannot be unpacked, or is too large.")
    return replace(result, body=unpacked)


def _unpacked(body: bytes) -> bytes | None:
    """The content of a whole gzip or zlib stream."""
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # 32: either kind, by its head
    try:
        content = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return None
    return content if unpacker.eof else None
