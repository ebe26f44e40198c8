"""One HTTP/1.1 connection from the client's side: a request at a time, on h11 and Trio's streams.

It sends a request once and says honestly what came of it. It follows no redirect, and looks at no
proxy, netrc or environment. Whom to connect to, and which connection to use again, is for its
callers: the Kite adapter must never repeat a request, webhooks may.
"""

import itertools
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ssl import SSLContext

import h11
import trio

MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
EVENTS_A_TURN = 32
"""Pieces of an answer that are looked at without a pause: one may be as short as a byte."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of whoever is at the other end."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; of headers that repeat, the last."""
    body: bytes = field(repr=False)
    """Out of the representation, like the headers: a login's answer holds a token."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Not one byte of the request was handed to a connection."""

    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Some of the request may have arrived, and no whole answer came back."""

    message: str


HttpResult = Reply | Unsent | Lost
"""What came of one request. The difference between the last two is what the order protocol stands
on."""


class Connection:
    """A connection, which takes one request after another."""

    def __init__(self, stream: trio.abc.Stream, below: trio.socket.SocketType) -> None:
        """`below` is the socket under `stream`."""
        self.made_at = self.idle_since = trio.current_time()
        self.answering = False
        """Whether any of the last request's answer has come."""
        self._stream = stream
        self._socket = below
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def exchange(
        self, request: h11.Request, body: bytes, deadline: float, *, most_bytes: int
    ) -> Reply | Lost:
        """Send a request, all of it in one piece, and read its answer, by Trio's clock.

        Of an answer's body no more is read once it has more than `most_bytes`; it is given as far
        as it came, and the connection is not `reusable`.
        """
        data = b"".join(
            self._http.send(event) or b""
            for event in (request, h11.Data(data=body), h11.EndOfMessage())
        )
        self.answering = False
        seconds = deadline - trio.current_time()
        with trio.move_on_at(deadline):
            try:
                await self._stream.send_all(data)
                return await self._answer(most_bytes)
            except (OSError, trio.BrokenResourceError) as error:
                return Lost(f"The connection broke before the whole answer came: {cause(error)}.")
            except h11.RemoteProtocolError:
                return Lost("The connection ended before the whole answer came, or it is not HTTP.")
        return Lost(f"No whole answer came within {seconds:.1f} s.")

    async def _answer(self, most_bytes: int) -> Reply | Lost:
        head: h11.Response | None = None
        body = bytearray()
        for number in itertools.count(1):
            if number % EVENTS_A_TURN == 0:
                await trio.lowlevel.checkpoint()
            match self._http.next_event():
                case h11.NEED_DATA:
                    data = bytes(await self._stream.receive_some(READ_BYTES))
                    self.answering = self.answering or bool(data)
                    self._http.receive_data(data)
                case h11.InformationalResponse():
                    pass  # 1xx: the answer itself follows
                case h11.Response() as response:
                    head = response
                case h11.Data(data=data) if head is not None:
                    body += data
                    if len(body) > most_bytes:
                        return _reply(head, body)
                case h11.EndOfMessage() if head is not None:
                    return _reply(head, body)
                case _:
                    break
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


class Pool:
    """Connections to one origin that wait for their next request."""

    def __init__(self, most: int, seconds: float) -> None:
        """It keeps so many, none for longer than so many seconds."""
        self._most = most
        self._seconds = seconds
        self._connections: list[Connection] = []

    def __len__(self) -> int:
        return len(self._connections)

    def take(self, seconds: float) -> Connection | None:
        """The one that was used last, if it was within `seconds`, and seems to be open.

        If that one was not, none of the others was.
        """
        oldest = trio.current_time() - seconds
        while self._connections and self._connections[-1].idle_since >= oldest:
            connection = self._connections.pop()
            if connection.silent():
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection after an exchange, if another can follow on it."""
        if not connection.reusable():
            connection.close()
            return
        connection.idle_since = trio.current_time()
        self._connections.append(connection)
        self.tidy()

    def tidy(self) -> None:
        """Close what is too old, or too many."""
        oldest = trio.current_time() - self._seconds
        waiting = self._connections
        while waiting and (len(waiting) > self._most or waiting[0].idle_since < oldest):
            waiting.pop(0).close()

    def close(self) -> None:
        """Close them all."""
        while self._connections:
            self._connections.pop().close()


async def look_up(host: str, port: int, limiter: trio.CapacityLimiter) -> tuple[str, ...]:
    """A host's addresses in the system's order of preference. Raises `OSError` or UnicodeError.

    A look-up cannot be cancelled, so its threads are counted by a limiter of their own: a dead name
    server must not use up those of others.
    """
    found = await trio.to_thread.run_sync(
        lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        abandon_on_cancel=True,
        limiter=limiter,
    )
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


async def connect(
    addresses: Iterable[str], port: int, each: float, *, local_address: str | None = None
) -> trio.SocketStream:
    """A stream to the first address that answers; each has `each` seconds. Raises `OSError`."""
    failure: OSError = TimeoutError("no address answered in time")
    for address in addresses:
        with trio.move_on_after(each):
            try:
                return await trio.open_tcp_stream(address, port, local_address=local_address)
            except OSError as error:
                failure = error
    raise failure


async def encrypt(plain: trio.SocketStream, context: SSLContext, host: str) -> trio.abc.Stream:
    """TLS over a stream, with a certificate of that host; closes it if there is none.

    Raises `trio.BrokenResourceError`.
    """
    secure = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:  # cancelled or not, it is raised again
        plain.socket.close()
        raise
    return secure


def _reply(head: h11.Response, body: bytearray) -> Reply:
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Reply(head.status_code, headers, bytes(body))


def cause(error: BaseException) -> str:
    """The system's or TLS's own words, from the error at the bottom."""
    while True:
        match error:
            case trio.TooSlowError():
                return "it took too long"
            case BaseExceptionGroup(exceptions=(error, *_)):
                pass
            case BaseException(__cause__=BaseException() as error):
                pass
            case _:
                return getattr(error, "strerror", None) or str(error) or type(error).__name__
