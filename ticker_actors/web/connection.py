"""One client's connection: its bytes, and its end. Hypercorn's, hardened, see `server`."""

import math
from contextlib import suppress
from os import write
from time import time
from typing import cast
from wsgiref.handlers import format_date_time

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr
from quart import Request, Websocket
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionState as Handshaken

from ticker_actors.web.express import Express
from ticker_actors.web.intake import Tasks
from ticker_actors.web.plain import PlainRequest
from ticker_actors.web.protocol import HTTP11
from ticker_actors.web.server_config import ServerConfig

WEBSOCKET_BYTES_PER_SECOND = 40 * 1024
"""That a client's WebSocket is read at: ten of the longest texts. More waits in the network."""
WEBSOCKET_READ_BYTES = 1024
"""At once: some 4 ms of work if it is all frames without a message."""
OPEN = Handshaken.OPEN
"""Of an enum, whose members are found slowly."""
BODY_SECONDS = 0.2
"""How long a body that follows its head may take to be express: many clients send it separately."""
MOST_PIECES = 32
"""In which it may come."""
CLIENT_SILENT = 4002
"""Our close code for a client that answered no ping."""

_log = structlog.get_logger(__name__)


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
        except* Exception:  # noqa: BLE001  # logged; it ends no other connection
            if not self._scope.cancel_called:  # else it stumbled over the end that we made
                _log.exception("connection_failed", client=self._client)
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


def connection_of(client: Request | Websocket) -> Connection:
    """Find the connection under a WebSocket or request, to `push` ready-made frames or `kill` it.

    Only the handler of a WebSocket may push, and only after the handshake.
    """
    return cast("Connection", client.scope["state"]["connection"])


def did_not_read(websocket: Websocket) -> bool:
    """Whether we have cut the connection under a WebSocket because its client did not read."""
    connection = websocket.scope.get("state", {}).get("connection")
    return isinstance(connection, Connection) and connection.did_not_read
