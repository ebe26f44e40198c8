"""What the bytes of a client mean: Hypercorn's HTTP/1.1 and WebSocket, hardened, see `server`."""

from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from http import HTTPStatus

import h11
import structlog
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Data, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionState as Handshaken
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection
from wsproto.events import Event as FrameEvent
from wsproto.frame_protocol import CloseReason

from ticker_actors.web.server_config import ServerConfig

HTTP_VERSIONS = {b"1.0", b"1.1"}

Sendable = h11.Data | h11.EndOfMessage | h11.InformationalResponse | h11.Response
"""What h11 makes bytes of."""

_log = structlog.get_logger(__name__)


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
                _log.error("messages_not_received", path=websocket.scope["path"])
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
