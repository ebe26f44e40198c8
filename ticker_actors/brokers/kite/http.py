"""One HTTP/1.1 client for one origin, on h11 and Trio's streams.

It does one thing: send a request at most once, and say honestly what came of it. It never repeats,
follows no redirect, and looks at no proxy, netrc or environment. A connection is used again only
while it is fresh and seen to be open, because a request on a dying one is an unknown order.
"""

import socket
import zlib
from collections.abc import Iterable
from ssl import SSLContext, create_default_context

import certifi
import h11
import trio

from ticker_actors.brokers.kite.reply import HttpResult, Lost, Reply, Unsent
from ticker_actors.brokers.kite.root import Root
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
"""Threads that wait for DNS. A look-up cannot be cancelled, so they are counted apart: a dead name
server must not use up the threads of the store."""
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of an answer, also after unpacking: six times the book of a day with 5 000 orders."""
READ_BYTES = 64 * 1024

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
        self._idle: list[_Connection] = []
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
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline = trio.current_time() + self._deadline
        connection = self._fresh(idle) or await self._open(deadline)
        if isinstance(connection, Unsent):
            return connection
        host = ("Host", self._root.authority)
        request = h11.Request(method=method, target=target, headers=[host, *headers])
        with trio.CancelScope(shield=True):
            result = await connection.exchange(request, body, deadline, self._deadline)
        if connection.reusable():
            self._keep(connection)
        else:
            connection.close()
        return result

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _fresh(self, idle: float) -> "_Connection | None":
        """The connection that was used last, if it will do. Then none of the others would."""
        oldest = trio.current_time() - idle
        while self._idle and self._idle[-1].idle_since >= oldest:
            connection = self._idle.pop()
            if connection.silent():
                return connection
            connection.close()
        return None

    def _keep(self, connection: "_Connection") -> None:
        now = connection.idle_since = trio.current_time()
        self._idle.append(connection)
        oldest = now - READ_IDLE_SECONDS
        while len(self._idle) > IDLE_CONNECTIONS or self._idle[0].idle_since < oldest:
            self._idle.pop(0).close()

    async def _open(self, deadline: float) -> "_Connection | Unsent":
        where = f"{self._root.host} port {self._root.port}"
        with trio.move_on_at(min(deadline, trio.current_time() + CONNECT_SECONDS)):
            try:
                return await self._connected()
            except (OSError, UnicodeError, trio.BrokenResourceError) as error:
                return Unsent(f"There is no connection to {where}: {_cause(error)}.")
        return Unsent(f"There is no connection to {where}: it took too long.")

    async def _connected(self) -> "_Connection":
        plain = await self._tcp()
        if self._ssl is None:
            return _Connection(plain, plain.socket)
        secure = trio.SSLStream(
            plain, self._ssl, server_hostname=self._root.host, https_compatible=True
        )
        try:
            await secure.do_handshake()
        except BaseException:  # cancelled or not, it is raised again
            plain.socket.close()
            raise
        return _Connection(secure, plain.socket)

    async def _tcp(self) -> trio.SocketStream:
        """A connection to the first address that answers."""
        host, port = self._root.host, self._root.port
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=self._lookups,
        )
        failure: OSError = TimeoutError("no address answered in time")
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            with trio.move_on_after(ADDRESS_SECONDS):
                try:
                    return await trio.open_tcp_stream(
                        address, port, local_address=self._local_address
                    )
                except OSError as error:
                    failure = error
        raise failure


class _Connection:
    """One connection, which takes one request after another."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self.idle_since = 0.0
        self._stream = stream
        self._socket = socket
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def exchange(
        self, request: h11.Request, body: bytes, deadline: float, seconds: float
    ) -> Reply | Lost:
        """Send a request, all of it in one piece, and read its answer."""
        data = b"".join(
            self._http.send(event) or b""
            for event in (request, h11.Data(data=body), h11.EndOfMessage())
        )
        with trio.move_on_at(deadline):
            try:
                await self._stream.send_all(data)
                return await self._answer()
            except (OSError, trio.BrokenResourceError) as error:
                return Lost(f"The connection broke before the whole answer came: {_cause(error)}.")
            except h11.RemoteProtocolError:
                return Lost("The connection ended before the whole answer came, or it is not HTTP.")
        return Lost(f"No whole answer came within {seconds:g} s.")

    async def _answer(self) -> Reply | Lost:
        head: h11.Response | None = None
        body = bytearray()
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
                case h11.InformationalResponse():
                    pass  # 1xx: the answer itself follows
                case h11.Response() as response:
                    head = response
                case h11.Data(data=data):
                    body += data
                    if len(body) > MAX_BODY_BYTES:
                        return Lost("The answer is too large.")
                case h11.EndOfMessage() if head is not None:
                    return _reply(head, bytes(body))
                case _:
                    return Lost("The connection ended before an answer came.")

    def reusable(self) -> bool:
        """Whether the last exchange ended cleanly. If so, the connection is ready for the next."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        if http.trailing_data != (b"", False):
            return False  # an answer that nobody asked for
        http.start_next_cycle()
        return True

    def silent(self) -> bool:
        """Whether nothing came since the last answer: neither bytes nor the end."""
        return not self._socket.is_readable()

    def close(self) -> None:
        """At once, without a last word: no checkpoint may stand between an answer and its use."""
        self._socket.close()


def _reply(head: h11.Response, body: bytes) -> Reply | Lost:
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    if headers.get("content-encoding", "").lower() in {"gzip", "x-gzip", "deflate"}:
        unpacked = _unpacked(body)
        if unpacked is None:
            return Lost("The answer cannot be unpacked, or is too large.")
        body = unpacked
    return Reply(head.status_code, headers, body)


def _unpacked(body: bytes) -> bytes | None:
    """The content of a whole gzip or zlib stream."""
    unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # 32: either kind, by its head
    try:
        content = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return None
    return content if unpacker.eof else None


def _cause(error: BaseException) -> str:
    """The system's or TLS's own words, from the error at the bottom."""
    while True:
        match error:
            case BaseExceptionGroup(exceptions=(error, *_)):
                pass
            case BaseException(__cause__=BaseException() as error):
                pass
            case _:
                return getattr(error, "strerror", None) or str(error) or type(error).__name__
