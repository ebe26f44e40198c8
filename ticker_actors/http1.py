"""One HTTP/1.1 connection from the client's side: a request at a time, on Trio's streams.

Answers are read by httptools, which is the parser of Node.js.

It sends a request once and says honestly what came of it. It follows no redirect, and looks at no
proxy, netrc or environment. Whom to connect to, and which connection to use again, is for its
callers: the Kite adapter must never repeat a request, webhooks may.
"""

import os
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from ssl import SSLContext

import trio
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

READ_BYTES = 64 * 1024
MOST_AROUND_BYTES = 64 * 1024
MOST_A_BYTE = 8
"""How much may come in all: a head, and the chunks of a body, were they of a single byte each."""
BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})

_TARGET = re.compile(r"[!-~]+")
_VALUE = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
"""Latin-1 without control characters but tabs, and no blank at either end (RFC 9110, 5.5)."""


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
        self._reusable = False

    async def exchange(
        self, request: bytes, deadline: float, *, most_bytes: int, shield: bool = False
    ) -> Reply | Lost:
        """Send a request, all of it in one piece, and read its answer, by Trio's clock.

        Of an answer's body no more is read once it has more than `most_bytes`; it is given as far
        as it came. The connection is `reusable` only after a whole one. `shield`: nothing but the
        deadline cuts it short.
        """
        self.answering = self._reusable = False
        answer = _Answer()
        seconds = deadline - trio.current_time()
        with trio.CancelScope(deadline=deadline, shield=shield):
            try:
                await self._send(request)
                while not answer.whole and len(answer.body) <= most_bytes:
                    data = bytes(await self._stream.receive_some(READ_BYTES))
                    self.answering = self.answering or bool(data)
                    answer.take(data)
                self._reusable = answer.another_may_follow
                return Reply(answer.status, answer.headers, bytes(answer.body))
            except (OSError, trio.BrokenResourceError) as error:
                return Lost(f"The connection broke before the whole answer came: {cause(error)}.")
            except (HttpParserError, HttpParserUpgrade):
                return Lost("The connection ended before the whole answer came, or it is not HTTP.")
            finally:
                answer.let_go()
        return Lost(f"No whole answer came within {seconds:.1f} s.")

    async def _send(self, data: bytes) -> None:
        """Send it all; what the kernel takes at once waits for no turn of the scheduler."""
        await trio.lowlevel.checkpoint_if_cancelled()  # the deadline may have passed unnoticed
        if isinstance(self._stream, trio.SocketStream):
            with suppress(BlockingIOError):
                data = data[os.write(self._socket.fileno(), data) :]
        if data:
            await self._stream.send_all(data)

    def reusable(self) -> bool:
        """Whether the last exchange ended cleanly. If so, the connection is ready for the next."""
        return self._reusable

    def silent(self) -> bool:
        """Whether nothing came since the last answer: neither bytes nor the end.

        As far as the socket shows: what came together with that answer, TLS may hold.
        """
        return not self._socket.is_readable()

    def close(self) -> None:
        """At once, without a last word: no checkpoint may stand between an answer and its use."""
        self._socket.close()


class _Answer:
    """An answer, as far as it has come. httptools calls `on_…`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False
        self.another_may_follow = False
        """Whether the connection is as it was before, and stays open."""
        self._parser = HttpResponseParser(self)
        # As small servers write them; a request of somebody else's cannot hide in an answer to us.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self._head = True
        """Whether its head is still to come, or an informational answer's (1xx) before it."""
        self._to_the_end = False
        """Whether its body ends with the connection."""
        self._came = 0
        self._strange = False

    def take(self, data: bytes) -> None:
        """What came next; nothing is the end. Raises `HttpParserError` if that is no answer."""
        if not data:
            if not self._to_the_end:
                raise HttpParserError("The connection ended.")
            self.whole = True
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self.whole:
                raise
            self.another_may_follow = False  # what follows is something that nobody asked for
        self._came += len(data)
        most = MOST_AROUND_BYTES + MOST_A_BYTE * len(self.body)
        if self._strange or (self._came > most and not self.whole):
            raise HttpParserError("It is not HTTP/1.1, or has no end.")

    def let_go(self) -> None:
        """Nothing more is read of it. It and its parser hold each other until somebody collects."""
        del self._parser

    def on_message_begin(self) -> None:
        """An answer begins."""
        self.another_may_follow = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body they are of no interest."""
        if self._head:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self.whole:
            return
        self.status = self._parser.get_status_code()
        if self.status < HTTPStatus.OK:
            self._strange = self._strange or self.status < HTTPStatus.CONTINUE
            self.headers.clear()
            return
        self._head = False
        coding = self.headers.get("transfer-encoding", "").lower()
        self._strange = self._strange or coding not in {"", "chunked"}
        sized = coding or "content-length" in self.headers
        self._to_the_end = not sized and self.status not in BODILESS

    def on_body(self, data: bytes) -> None:
        """Some of the body; an informational answer has none."""
        self._strange = self._strange or self._head
        if not self.whole:
            self.body += data

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self._head and not self.whole:
            self.whole = True
            self.another_may_follow = self._parser.should_keep_alive()


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


def request(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """A request as it is sent. Raises `ValueError` for what no line of it can carry."""
    lines = [f"{method} {target} HTTP/1.1"]
    fits = _TARGET.fullmatch(target) is not None
    for name, value in headers:
        lines.append(f"{name}: {value}")
        fits = fits and _VALUE.fullmatch(value) is not None
    if not fits:
        message = "A request cannot hold that."  # which may be a secret
        raise ValueError(message)
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


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
