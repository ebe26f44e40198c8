"""The HTTP server: Hypercorn 0.18 on Trio, hardened. Only `intake` touches its insides too.

As shipped, one client can kill Hypercorn's Trio server with one byte or stop it with silence. A few
small classes mend that by inheritance, without patching a module, and each says what it mends. They
lean on internals, so the versions are pinned and checked at the start; `tests/test_server.py` runs
every behaviour against the server as shipped too, and fails when upstream mends one.

HTTP/1.1 and WebSocket only: HTTP/2 and TLS belong to a proxy in front.
"""

import errno
import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from inspect import isawaitable
from os import write
from time import time
from typing import Any, cast
from wsgiref.handlers import format_date_time

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Data, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGISendCallable, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr
from quart import Request, Websocket
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionState as Handshaken
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection
from wsproto.events import Event as FrameEvent
from wsproto.frame_protocol import CloseReason

from ticker_actors.web.entrance import Entrance, connections_that_fit
from ticker_actors.web.express import Express
from ticker_actors.web.intake import HTTPConnection, Tasks
from ticker_actors.web.plain import PlainRequest

PINNED = {"hypercorn": "0.18.0", "quart-trio": "0.12.0", "wsproto": "1.3.2"}
LOOPBACK = ("127.0.0.1", "::1")
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
WEBSOCKET_BYTES_PER_SECOND = 40 * 1024
"""That a client's WebSocket is read at: ten of the longest texts. More waits in the network."""
WEBSOCKET_READ_BYTES = 1024
"""At once: some 4 ms of work if it is all frames without a message."""
OPEN = Handshaken.OPEN
"""Of an enum, whose members are found slowly."""
HTTP_VERSIONS = {b"1.0", b"1.1"}
BODY_SECONDS = 0.2
"""How long a body that follows its head may take to be express: many clients send it separately."""
MOST_PIECES = 32
"""In which it may come."""
CLIENT_SILENT = 4002
"""Our close code for a client that answered no ping."""

Sendable = h11.Data | h11.EndOfMessage | h11.InformationalResponse | h11.Response
"""What h11 makes bytes of."""

logger = structlog.get_logger()


class UnsupportedVersionError(Exception):
    """A library is not of the version that this module was written against."""


class ServerConfig(Config):
    """Hypercorn's settings as we want them, and our own. Times in seconds, sizes in bytes."""

    backlog = 1024
    errorlog = logging.getLogger("hypercorn.error")  # the application's own handlers
    include_server_header = False
    keep_alive_max_requests = sys.maxsize  # Hypercorn hangs up on a busy client after 1 000
    keep_alive_timeout = 75.0  # more than proxies keep theirs, so that they hang up first
    websocket_max_message_size = 4096
    websocket_ping_interval = 20.0

    most_connections: int | None = None
    """Open at once; more are turned away with 503. None: as many as the limit on files allows."""
    first_request_timeout = 10.0
    """How long a new connection may take to send the whole head of its first request."""
    silence_timeout = 45.0
    """A WebSocket client that sends nothing, not even pongs, for this long is closed."""
    send_timeout = 3.0
    """A client that takes no byte for this long is cut."""
    receive_timeout = 10.0
    """A WebSocket whose handler takes no message for this long is closed: it would miss its end."""
    linger_timeout = 1.0
    """How long a client may take to hang up after we did."""
    stop_timeout = 2.0
    """How long requests may still run when the server stops."""
    farewell_timeout = 1.0
    """How long a WebSocket's client may then take to read its 1012, and to hang up."""
    lifespan_timeout = 1.0
    """How long `after_serving` may then take: never save anything there."""
    send_buffer = 64 * 1024
    """In the kernel, a client; with the default it takes over 1 MB until a slow one shows."""
    user_timeout = 15.0
    """TCP gives up on a peer that acknowledges nothing; below 10 s a mere pause would be cut."""


class Connection(TCPServer):
    """One client's connection, which can neither stop the server nor hold up anyone else.

    - An exception ends its own connection; in Hypercorn it ended the server
      (https://github.com/pgjones/hypercorn/issues/225).
    - Nothing is sent in a shielded scope; in Hypercorn a client that does not read blocked the
      handler, time-outs and shutdown for ever. What the kernel does not take at once is sent by a
      task of the connection, so a caller can be cancelled and no frame is ever cut in half.
    - The idle clock runs from the start, faster: Hypercorn's gives a new connection as long to send
      its first request as one that has sent many. And it is a deadline of the read, where Hypercorn
      starts and ends a task for every request.
    - Hanging up is a half-close and a short wait, so that TCP does not reset the answer away.

    And what an order needs goes past the rest, see `express`.
    """

    config: ServerConfig
    stream: trio.SocketStream  # type: ignore[assignment]  # Hypercorn's own note leaves out plain TCP

    def __init__(  # noqa: PLR0913, PLR0917  # Hypercorn's, and `express`
        self,
        app: ASGIWrapper,
        config: ServerConfig,
        context: WorkerContext,
        state: LifespanState,
        express: Express | None,
        stream: trio.SocketStream,
    ) -> None:
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]  # as above
        self.did_not_read = False
        """Whether it was cut because the client took no byte in time."""
        self.patience = config.send_timeout
        """A client that takes no byte for this many seconds is cut."""
        self._scope = trio.CancelScope()
        self._open = True
        self._descriptor = stream.socket.fileno()
        self._websocket: FrameConnection | None = None
        self._unsent = bytearray()
        self._sent = trio.Event()
        self._sent.set()
        self._idle_until = trio.current_time() + config.first_request_timeout
        """Infinite while there is a request, or a WebSocket."""
        self._reading = trio.CancelScope()
        self._express = express
        self._express_answer = trio.CancelScope()
        """Of the request under way, if it may wait; cancelled when the client leaves."""
        self._express_ended = trio.Event()
        self._express_ended.set()
        self._client: tuple[str, int] | None = None

    async def run(self) -> None:
        """Serve the client until either side hangs up."""
        try:
            with self._scope:
                self._client = parse_socket_addr(
                    self.stream.socket.family, self.stream.socket.getpeername()
                )
                async with Tasks() as self._task_group:
                    self._http = HTTP11(
                        self.app,
                        self.config,
                        self.context,
                        self._task_group,
                        ConnectionState({**self.state, "connection": self}),
                        ssl=False,
                        client=self._client,
                        server=parse_socket_addr(
                            self.stream.socket.family, self.stream.socket.getsockname()
                        ),
                        send=self.protocol_send,
                    )
                    self.protocol = self._http  # type: ignore[assignment]  # unwrapped: no HTTP/2
                    self._task_group.spawn(self._end_at_stop)
                    await self._read_data()
                    self.kill()
        except* OSError:
            pass  # the client had gone before we could ask who it was
        except* Exception:
            if not self._scope.cancel_called:  # else it stumbled over the end that we made
                logger.exception("connection_failed", client=self._client)
        finally:
            self.kill()

    def push(self, data: bytes) -> int:
        """Send without waiting, in order with all else; the bytes that still wait in memory.

        The caller decides how many are too many. When the connection is closed this does nothing.
        """
        if data and self._open and not self._unsent:
            data = data[self._write(data) :]
        if self._open and data:
            self._unsent += data
            if self._sent.is_set():
                self._sent = trio.Event()
                self._task_group.spawn(self._flush)
        return len(self._unsent)

    def push_frames(self, frames: bytes) -> int:
        """Push ready-made frames, unless the WebSocket is closing: its close frame is the last."""
        websocket = self._websocket or self._find_websocket()
        # Its property `state` would be a call, for each client of each event.
        if websocket is None or websocket._state is not OPEN:  # noqa: SLF001  # pinned, see `Frames`
            return 0
        if self._unsent or not self._open:
            return self.push(frames)
        # As `push` does, without its calls: this is done for every client of an account.
        try:
            sent = write(self._descriptor, frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.kill()
            return 0
        return 0 if sent == len(frames) else self.push(frames[sent:])

    def _find_websocket(self) -> FrameConnection | None:
        if self._http.websocket is not None:
            self._websocket = self._http.websocket.connection
        return self._websocket

    @property
    def unsent(self) -> int:
        """The bytes that still wait in memory."""
        return len(self._unsent)

    async def wait_sent(self) -> None:
        """Wait until no byte waits in memory, or the connection has ended."""
        await self._sent.wait()

    def end_within(self, seconds: float) -> None:
        """End the connection after so many seconds at most, read or not."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    def kill(self) -> None:
        """End the connection now, with whatever runs in it."""
        self._open = False
        self._unsent.clear()
        self._sent.set()
        self._scope.cancel()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks: send, hang up, start or stop the idle clock."""
        if isinstance(event, RawData):
            if self.push(event.data):  # else it is not worth a turn of the scheduler
                await self._sent.wait()
        elif isinstance(event, Updated):
            seconds = self.config.keep_alive_timeout if event.idle else math.inf
            self._idle_until = self._reading.deadline = trio.current_time() + seconds
        else:
            await super().protocol_send(event)

    def _write(self, data: bytes | bytearray) -> int:
        """How much the kernel took. Trio itself has no send that does not wait."""
        try:
            return write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.kill()
            return 0

    async def _flush(self) -> None:
        while self._unsent:
            with trio.move_on_after(self.patience) as waiting:
                await trio.lowlevel.wait_writable(self.stream.socket)
            if waiting.cancelled_caught:
                self.did_not_read = True
                self.kill()
            else:
                del self._unsent[: self._write(self._unsent)]
        self._sent.set()

    async def _read_data(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._receive():
                if self._open:  # else we have hung up and only wait for the client to do so
                    data = await self._by_express(data)
                if self._open and data:
                    await self.protocol.handle(RawData(data))
                if self._http.websocket:
                    # Frames without a message (pongs, empty pieces) are parsed in one go, and six
                    # bytes make one: without a pause a client could keep the event loop to itself.
                    await trio.sleep(len(data) / WEBSOCKET_BYTES_PER_SECOND)
        self._express_answer.cancel()
        await self.protocol.handle(Closed())

    async def _by_express(self, data: bytes) -> bytes:
        """Have it answered by `express`, if that takes it. What is left for h11, if not."""
        if not self._express_ended.is_set():  # the client does not wait for one answer
            await self._express_ended.wait()
        if self._express is None or not self._open or not self._http.at_rest:
            return data
        taken = self._express.read(data, self._client)
        if taken is None:
            return data
        if len(data) < taken.end:
            data = await self._rest(data, taken.end)
            if len(data) < taken.end:
                return data
        await self.protocol_send(Updated(idle=False))
        body = data[taken.begin :]
        if taken.waits:  # meanwhile the client may leave
            self._express_ended, self._express_answer = trio.Event(), trio.CancelScope()
            self._task_group.spawn(self._answer_watched, self._express, taken.request, body)
        else:
            await self._answer(self._express, taken.request, body)
        return b""

    async def _rest(self, data: bytes, end: int) -> bytes:
        """What has come of a request, and what of its body soon follows."""
        with trio.move_on_after(BODY_SECONDS):
            for _ in range(MOST_PIECES):
                more = bytes(await self.stream.receive_some(end - len(data)))
                data += more
                if not more or len(data) == end:
                    break
        return data

    async def _answer_watched(self, express: Express, asked: PlainRequest, body: bytes) -> None:
        """Answer, unless the client leaves."""
        with self._express_answer:
            await self._answer(express, asked, body)
        self._express_ended.set()

    async def _answer(self, express: Express, asked: PlainRequest, body: bytes) -> None:
        answer = await express.answer(asked, body)
        await self.protocol_send(RawData(answer.raw(format_date_time(time()))))
        if self.context.terminated.is_set():
            await self.protocol_send(Closed())
        else:
            await self.protocol_send(Updated(idle=True))

    async def _receive(self) -> bytes:
        """Wait for bytes; none is the end. Hypercorn sends pings but does not miss the pongs."""
        most, deadline = None, self._idle_until
        if self._http.websocket:
            most = WEBSOCKET_READ_BYTES
            deadline = trio.current_time() + self.config.silence_timeout
        with trio.move_on_at(deadline) as self._reading:
            return bytes(await self.stream.receive_some(most))
        if self._http.websocket:
            await self._http.websocket.app_send(
                {"type": "websocket.close", "code": CLIENT_SILENT, "reason": "silent"}
            )
        return b""

    async def _close(self) -> None:
        if self._open:
            self._open = False
            await self._sent.wait()
            with suppress(trio.BrokenResourceError, trio.BusyResourceError):
                await self.stream.send_eof()
            self.end_within(self.config.linger_timeout)

    async def _end_at_stop(self) -> None:
        await self.context.terminated.wait()
        if self._idle_until < math.inf:
            self.kill()  # there is nothing that could be lost; a request ends it after its answer


class HTTP11(H11Protocol):
    """HTTP/1.1 and the upgrade to WebSocket.

    - HTTP/2 without TLS, which would go past everything here, is refused.
    - So is a request with two lengths, Content-Length and Transfer-Encoding: a proxy in front may
      have believed the other one, and what it took for a body would be a request here (RFC 9112,
      6.3).
    - Bytes sent together with a WebSocket handshake wait (64 KiB at most) until it is answered;
      in Hypercorn they killed the server (https://github.com/pgjones/hypercorn/issues/225).
    - No permessage-deflate: Hypercorn inflates a message before it looks at its size.
    - Too big a message ends the connection; in Hypercorn the client could go on sending.
    - A handler that receives nothing, or has ended early, holds its connection no longer than
      `receive_timeout` once its queue is full; in Hypercorn that was never read or closed again.
    - The head of an answer waits for the first bytes of its body, and they are one segment, where
      Hypercorn sends two.
    - A finished request is not cancelled; in Hypercorn the end of a response is told to Quart-Trio
      as a disconnect, which cancelled what was left to do: to hang up, or to start the idle clock.
    """

    config: ServerConfig
    _answered: trio.Event  # of the present request: its handshake is answered, or it is over
    _head = b""  # of the present answer, until its body comes

    @property
    def at_rest(self) -> bool:
        """Whether the next byte is the first of a request."""
        connection = self.connection
        return (
            self.stream is None
            and isinstance(connection, h11.Connection)
            and connection.our_state is connection.their_state is h11.IDLE
            and not connection.trailing_data[0]
        )

    @property
    def websocket(self) -> WSStream | None:
        """The WebSocket, if the connection is one."""
        return self.stream if isinstance(self.stream, WSStream) else None

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what the application, or Hypercorn for it, has to say."""
        websocket = self.websocket
        upgraded = (
            isinstance(event, Response) and event.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        )
        if upgraded and websocket is not None:
            websocket.connection = Frames(ConnectionType.SERVER)
        if isinstance(event, StreamClosed) and self._head:  # of an answer that failed before a byte
            head, self._head = self._head, b""
            await self.send(RawData(head))
        await super().stream_send(event)
        if isinstance(event, Data):
            if (
                websocket is not None
                and websocket.connection.state is Handshaken.LOCAL_CLOSING
                and websocket.state is ASGIWebsocketState.CONNECTED
            ):
                await self.send(Closed())  # closed by Hypercorn itself: the message was too big
        elif isinstance(event, StreamClosed) or upgraded:
            self._answered.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Never change over to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in HTTP_VERSIONS:
            await self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return
        if {name for name, _ in request.headers} >= {b"content-length", b"transfer-encoding"}:
            await self._refuse(HTTPStatus.BAD_REQUEST)
            return
        headers = [item for item in request.headers if item[0] != b"sec-websocket-extensions"]
        if len(headers) != len(request.headers):
            request = h11.Request(
                method=request.method,
                target=request.target,
                http_version=request.http_version,
                headers=headers,
            )
        self._answered = trio.Event()
        await super()._create_stream(request)
        websocket = self.websocket
        if websocket is not None:
            if websocket.app_put is None:  # not a proper handshake: Hypercorn has answered 400
                await self.send(Closed())
            else:
                websocket.app_put = partial(self._put, websocket, websocket.app_put)
                await self._answered.wait()

    async def _put(
        self,
        websocket: WSStream,
        put: Callable[[Mapping[str, object]], Awaitable[None]],
        message: Mapping[str, object],
    ) -> None:
        """Hand the handler what its client sent, or end the connection."""
        with trio.move_on_after(self.config.receive_timeout) as waiting:
            await put(message)
        if waiting.cancelled_caught:
            if websocket.state is ASGIWebsocketState.CONNECTED:  # else the handler has ended
                logger.error("messages_not_received", path=websocket.scope["path"])
                await websocket.app_send(
                    {"type": "websocket.close", "code": CloseReason.INTERNAL_ERROR, "reason": None}
                )
            await self.send(Closed())

    async def _refuse(self, status: HTTPStatus) -> None:
        await self._send_error_response(status)
        await self.send(Closed())

    async def _send_h11_event(self, event: Sendable) -> None:
        try:
            data = self._head + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
        elif data:
            self._head = b""
            await self.send(RawData(data))

    async def _close_stream(self) -> None:
        stream = self.stream
        if isinstance(stream, HTTPStream) and stream.state is ASGIHTTPState.CLOSED:
            stream.closed, self.stream = True, None
        else:
            await super()._close_stream()


class Frames(FrameConnection):
    """A WebSocket's frames. A broken one is answered: 1007 if it is not UTF-8, else 1002.

    wsproto tells of one as of a close of the client's, but not in the state in which Hypercorn
    answers a close: the client saw the connection end without a word.
    """

    def events(self) -> Generator[FrameEvent, None, None]:
        """What the client has sent."""
        for event in super().events():
            if isinstance(event, CloseConnection) and self.state is Handshaken.OPEN:
                self._state = Handshaken.REMOTE_CLOSING
            yield event


class WebSocketConnection(TrioASGIWebsocketConnection):
    """Close codes that tell the truth: 1011 after our error (Quart says 1000), 1012 at a stop.

    And every send is a checkpoint: in Hypercorn a send after the end returns at once, so that a
    handler which only sends would never hear of the end, nor let any other task run.
    """

    async def handle_websocket(  # type: ignore[override]  # as Quart-Trio does
        self, nursery: trio.Nursery, websocket: Websocket, send: ASGISendCallable
    ) -> None:
        """Run the handler; then close, or answer the handshake if that is still open."""
        response: ResponseTypes | None = None
        with trio.CancelScope() as handler:
            nursery.start_soon(self._cancel_at_stop, handler)
            response = await self.app.handle_websocket(websocket)
        if self._accepted and not self._closed:
            code = CloseReason.NORMAL_CLOSURE if response is None else CloseReason.INTERNAL_ERROR
            if handler.cancelled_caught:
                code = CloseReason.SERVICE_RESTART
            await self.close_connection(send, code, "")
        elif not self._accepted and handler.cancelled_caught:
            await self._refuse(self.app.response_class(status=HTTPStatus.SERVICE_UNAVAILABLE), send)
        elif not self._accepted and response is not None:
            await self._refuse(response, send)
        nursery.cancel_scope.cancel()

    async def send_data(self, send: ASGISendCallable, data: str | bytes) -> None:
        """Send one message."""
        await trio.lowlevel.checkpoint()
        await super().send_data(send, data)

    async def _cancel_at_stop(self, handler: trio.CancelScope) -> None:
        connection = self.scope.get("state", {}).get("connection")
        if isinstance(connection, Connection):  # else the application is in a test client
            await connection.context.terminated.wait()
            connection.end_within(connection.config.farewell_timeout)
            handler.cancel()

    async def _refuse(self, response: ResponseTypes, send: ASGISendCallable) -> None:
        body: Any = response.get_data(as_text=False)
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        await send(
            {
                "type": "websocket.http.response.body",
                "body": await body if isawaitable(body) else body,
                "more_body": False,
            }
        )


def connection_of(client: Request | Websocket) -> Connection:
    """Find the connection under a WebSocket or request, to `push` ready-made frames or `kill` it.

    Only the handler of a WebSocket may push, and only after the handshake.
    """
    return cast("Connection", client.scope["state"]["connection"])


def did_not_read(websocket: Websocket) -> bool:
    """Whether we have cut the connection under a WebSocket because its client did not read."""
    connection = websocket.scope.get("state", {}).get("connection")
    return isinstance(connection, Connection) and connection.did_not_read


def harden(app: QuartTrio) -> None:
    """Give `app` the truthful close codes, and answers in one piece. `serve_app` does it itself."""
    app.asgi_http_class = HTTPConnection
    app.asgi_websocket_class = WebSocketConnection


async def open_listeners(
    host: str, port: int, config: ServerConfig | None = None
) -> list[trio.SocketListener]:
    """Listen on `host`; `localhost` is both loopback addresses where the machine has them.

    Port 0 lets the system choose. Raises `OSError` when the address cannot be had.
    """
    config = config or ServerConfig()
    listeners: list[trio.SocketListener] = []
    for address in LOOPBACK if host == "localhost" else (host,):
        try:
            opened = await trio.open_tcp_listeners(port, host=address, backlog=config.backlog)
        except OSError as error:
            if listeners and error.errno in NO_SUCH_ADDRESS:
                continue
            raise
        listeners += opened
        port = listeners[0].socket.getsockname()[1]
    for listener in listeners:  # what is set here, each connection inherits
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, config.send_buffer)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            milliseconds = int(config.user_timeout * 1000)
            listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listeners


async def serve_app(
    app: QuartTrio,
    listeners: Sequence[trio.SocketListener],
    *,
    stopping: trio.Event,
    config: ServerConfig | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `stopping` is set, then end within 3 s, whatever the clients do.

    Stopping closes the listeners (which are ours from now on) and idle connections, closes each
    WebSocket with 1012, lets running requests finish for `stop_timeout` and cancels what is left.
    """
    check_versions()
    harden(app)
    config = config or ServerConfig()
    context = WorkerContext(max_requests=None)
    entrance = Entrance(config.most_connections or connections_that_fit(), stopping)
    state: LifespanState = {}
    wrapped = ASGIWrapper(cast("ASGIFramework", app))
    lifespan = Lifespan(wrapped, config, state)
    async with trio.open_nursery() as lifespans:
        await lifespans.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
            express = getattr(app, "extensions", {}).get("express")  # a bare ASGI function has none
            handler = partial(Connection, wrapped, config, context, state, express)
            for listener in listeners:
                accepting.start_soon(entrance.accept, listener, connections, handler)
            task_status.started()
            await stopping.wait()
            accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + config.stop_timeout
        with trio.move_on_after(config.lifespan_timeout):
            await lifespan.wait_for_shutdown()
        lifespans.cancel_scope.cancel()


def check_versions() -> None:
    """Raise `UnsupportedVersionError` unless the pinned versions are installed."""
    for name, pinned in PINNED.items():
        if (found := version(name)) != pinned:
            message = f"{name} must be {pinned}, not {found}: the server leans on internals."
            raise UnsupportedVersionError(message)
