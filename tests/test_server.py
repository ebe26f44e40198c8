"""The HTTP server against clients that behave badly, beside Hypercorn as shipped.

Where a test runs on both, the bad behaviour of the plain server is asserted too: when such a test
fails, upstream has mended something and what `ticker_actors/web/server.py` names can shrink.

What Hypercorn 0.18 does on Trio, and the tests that say so:

1. A byte sent with the handshake ends the server: `test_early_bytes_do_not_end_the_server`,
   `test_exception_ends_its_own_connection`.
2. A client that does not read blocks its handler, time-outs and the stop:
   `test_client_that_does_not_read_is_cut`, `test_time_out_round_a_send_fires_and_cuts_no_frame`,
   `test_client_that_does_not_read_cannot_hold_up_the_stop`.
3. No close frame at a stop: `test_stop_closes_websockets_with_1012`.
4. The size of a message has no limit: `test_message_too_big_ends_the_connection`,
   `test_no_compression_is_agreed`, `test_small_message_stays_small`.
5. A handler that never receives misses the close: `test_handler_that_never_receives_is_ended`,
   `test_handler_that_ends_before_its_messages_hangs_up`.
6. A ping needs no answer: `test_silent_client_is_closed`.
7. A handler's exception closes with 1000: `test_failed_handler_closes_with_1011`.
8. `after_serving` is cut: `test_after_serving_is_cut`, here too, so nothing is saved there.
9. A connection ends after 1 000 requests: `test_busy_connection_is_kept`.
10. The rest of a finished request is cancelled: `test_connection_close_closes`,
    `test_idle_connection_is_closed`, `test_idle_connections_do_not_delay_the_stop`.
11. HTTP/2 goes past all of that: `test_http2_is_refused`, `test_upgrade_to_http2_is_ignored`.

Besides: `test_broken_frame_is_answered`, `test_first_request_must_come_soon`,
`test_first_request_must_come_whole`, `test_two_lengths_are_refused`,
`test_improper_handshake_is_answered_and_closed`.
"""

import errno
import resource
import socket
import sys
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIReceiveCallable, Scope
from quart import Response, request, websocket
from quart_trio import QuartTrio
from structlog.testing import capture_logs

from ticker_actors.web import server as server_module
from ticker_actors.web.connection import (
    WEBSOCKET_BYTES_PER_SECOND,
    connection_of,
    did_not_read,
)
from ticker_actors.web.entrance import connections_that_fit
from ticker_actors.web.server import UnsupportedVersionError, open_listeners, serve_app
from ticker_actors.web.server_config import ServerConfig

pytestmark = pytest.mark.trio

SOON = 2.0
"""Seconds within which what must happen does."""
WHILE = 0.4
"""Seconds for which the plain server is seen not to do what it should."""
MIB = 1024 * 1024
NARROW = 4096
MASK = bytes(4)
"""Of a client's frame (RFC 6455, section 5.3): zeros change nothing."""
CHUNK = 65_536
CHUNK_FRAME = b"\x81\x7f" + CHUNK.to_bytes(8, "big") + b"x" * CHUNK
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BOTH = pytest.mark.parametrize("plain", [False, True], ids=["ours", "plain"])


# The application


class Desk:
    """Handlers that answer, wait, flood and fail, and the events of their lives."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.left = trio.Event()
        self.release = trio.Event()
        self.timed_out = trio.Event()
        self.cut: bool | None = None

    def app(self) -> QuartTrio:
        """Make an application of the handlers."""
        app = QuartTrio(__name__)
        app.config["MAX_CONTENT_LENGTH"] = MIB
        for handler in (self.hello, self.wait):
            app.get("/" + handler.__name__)(handler)
        app.post("/body")(self.body)
        for socket_handler in (
            self.echo,
            self.refuse,
            self.ponder,
            self.fail,
            self.flood,
            self.doze,
            self.listen_late,
            self.listen_once,
            self.babble,
            self.patient,
            self.push,
        ):
            app.websocket("/" + socket_handler.__name__)(socket_handler)
        return app

    async def hello(self) -> str:
        """Answer."""
        return "hello"

    async def body(self) -> str:
        """Read the whole body."""
        return str(len(await request.get_data()))

    async def wait(self) -> str:
        """Answer when released."""
        self.entered.set()
        try:
            await self.release.wait()
        finally:
            self.left.set()
        return "released"

    async def echo(self) -> None:
        """Say everything back."""
        await websocket.accept()
        while True:
            await websocket.send(await websocket.receive())

    async def refuse(self) -> tuple[str, int]:
        """Answer the handshake without accepting it."""
        return "who are you?", 401

    async def ponder(self) -> None:
        """Never answer the handshake."""
        self.entered.set()
        await trio.sleep_forever()

    async def fail(self) -> None:
        """Raise after the handshake."""
        await websocket.accept()
        message = "our bug"
        raise RuntimeError(message)

    async def flood(self) -> None:
        """Send for ever."""
        try:
            while True:
                await websocket.send("x" * CHUNK)
                await trio.lowlevel.checkpoint()  # else the plain server stops the test itself
        finally:
            self.cut = did_not_read(websocket)
            self.left.set()

    async def doze(self) -> None:
        """Wait for ever."""
        await websocket.accept()
        try:
            await trio.sleep_forever()
        finally:
            self.cut = did_not_read(websocket)
            self.left.set()

    async def listen_late(self) -> None:
        """Take no message before it is released, then all."""
        await websocket.accept()
        await self.release.wait()
        while True:
            await websocket.send(await websocket.receive())

    async def listen_once(self) -> None:
        """Take one message, some time after more have come."""
        await websocket.receive()
        await self.release.wait()

    async def babble(self) -> None:
        """Send for ever, and nothing else."""
        try:
            while True:
                await websocket.send("again")
        finally:
            self.left.set()

    async def patient(self) -> None:
        """Send for a fifth of a second, then say how much."""
        sent = 0
        with trio.move_on_after(0.2):
            while True:
                sent += 1
                await websocket.send("x" * CHUNK)
                await trio.lowlevel.checkpoint()
        self.timed_out.set()
        await websocket.send(f"sent {sent}!")
        await websocket.receive()

    async def push(self) -> None:
        """Push ready-made frames between ordinary ones, until some have to wait."""
        await websocket.send("first")
        connection = connection_of(websocket)
        assert connection.push(b"\x81\x06second") == 0
        while connection.push(CHUNK_FRAME) == 0:
            pass
        assert connection.push(b"\x81\x05third") > 0
        await websocket.send("fourth")


async def terse(
    scope: Scope, receive: ASGIReceiveCallable, send: Callable[[Any], Awaitable[None]]
) -> None:
    """An application without Quart, for many requests: it says hello."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello", "more_body": False})


# Servers and clients


@dataclass
class Running:
    """A server under test. `error` is what ended it, if anything did."""

    stopping: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    error: BaseException | None = None
    port: int = 0

    async def connect(self) -> trio.SocketStream:
        """Open a raw connection with little room for what is not read."""
        client = trio.socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        try:
            await client.connect(("127.0.0.1", self.port))
        except OSError:
            client.close()
            raise
        return trio.SocketStream(client)


async def _run(
    running: Running,
    app: QuartTrio,
    settings: dict[str, float | None],
    *,
    plain: bool,
    task_status: trio.TaskStatus[None],
) -> None:
    config = Config() if plain else ServerConfig()
    config.graceful_timeout = WHILE / 2
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        if plain:
            config.bind = ["127.0.0.1:0"]
            async with trio.open_nursery() as nursery:
                start = partial(serve, app, config, shutdown_trigger=running.stopping.wait)
                (bind,) = await nursery.start(start)
                running.port = int(bind.rsplit(":", 1)[1])
                task_status.started()
        else:
            assert isinstance(config, ServerConfig)
            listeners = await open_listeners("127.0.0.1", 0, config)
            running.port = listeners[0].socket.getsockname()[1]
            await serve_app(
                app, listeners, stopping=running.stopping, config=config, task_status=task_status
            )
    except Exception as error:  # noqa: BLE001  # the test looks at it
        running.error = error
    finally:
        running.ended.set()


@asynccontextmanager
async def serving(
    app: QuartTrio, *, plain: bool = False, **settings: float | None
) -> AsyncGenerator[Running]:
    """Serve `app` while the test runs."""
    running = Running()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(_run, running, app, settings, plain=plain))
        yield running
        running.stopping.set()
        with trio.move_on_after(SOON):
            await running.ended.wait()
        nursery.cancel_scope.cancel()


def text_frame(text: str) -> bytes:
    """Make a client's frame, masked with zeros."""
    return bytes((0x81, 0x80 | len(text))) + MASK + text.encode()


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """Read up to `end`, or to the end of the stream."""
    data = b""
    with trio.fail_after(SOON):
        while end not in data and (chunk := await stream.receive_some()):
            data += chunk
    return data


async def read_all(stream: trio.SocketStream) -> bytes:
    """Read to the end of the stream, which must come soon."""
    data = bytearray()
    with trio.fail_after(SOON):
        async for chunk in stream:
            data += chunk
    return bytes(data)


async def stays_open(stream: trio.SocketStream) -> bool:
    """Whether nothing, not even the end, comes for a while."""
    with trio.move_on_after(WHILE) as waiting:
        await stream.receive_some()
    return waiting.cancelled_caught


async def happens(event: trio.Event, within: float = SOON) -> bool:
    """Whether the event comes in time."""
    with trio.move_on_after(within):
        await event.wait()
    return event.is_set()


async def handshake(
    running: Running, path: bytes, more: bytes = b"", headers: bytes = b""
) -> trio.SocketStream:
    """Open a connection and send a WebSocket handshake, with more bytes right behind it."""
    stream = await running.connect()
    await stream.send_all(HANDSHAKE % path + headers + b"\r\n" + more)
    return stream


def closed(code: int) -> bytes:
    """Make the server's close frame."""
    return b"\x88\x02" + code.to_bytes(2, "big")


async def told(logs: Sequence[Mapping[str, object]], event: str) -> Mapping[str, object]:
    """Wait for a line of the log; return it."""
    with trio.fail_after(SOON):
        while True:
            for line in logs:
                if line["event"] == event:
                    return line
            await trio.sleep(0.01)


async def hello(running: Running) -> bytes:
    """Ask for /hello on a connection of its own."""
    async with await running.connect() as stream:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
        return await read_until(stream, b"hello")


# One connection's trouble is its own


@BOTH
@pytest.mark.parametrize("early", [b"\x81", text_frame("early")], ids=["a byte", "a frame"])
async def test_early_bytes_do_not_end_the_server(early: bytes, *, plain: bool) -> None:
    """Bytes sent together with a WebSocket handshake wait for the answer (they kill Hypercorn)."""
    async with (
        serving(Desk().app(), plain=plain) as running,
        await handshake(running, b"/echo", early) as stream,
    ):
        if plain:
            assert await happens(running.ended)
            assert "LocalProtocolError" in repr(running.error)
            return
        assert b" 101 " in await read_until(stream, b"\r\n\r\n")
        await stream.send_all(text_frame("early")[len(early) :])
        assert b"early" in await read_until(stream, b"early")
        assert b"200" in await hello(running)


async def test_early_bytes_of_a_refused_handshake_are_dropped() -> None:
    """A handshake that is refused gets the handler's answer although bytes came with it."""
    async with (
        serving(Desk().app()) as running,
        await handshake(running, b"/refuse", text_frame("early")) as stream,
    ):
        answer = await read_all(stream)
        assert b" 401 " in answer
        assert answer.endswith(b"who are you?")
        assert not running.ended.is_set()


@BOTH
async def test_improper_handshake_is_answered_and_closed(*, plain: bool) -> None:
    """A handshake of another version gets 400 and the end (Hypercorn keeps the connection)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        await stream.send_all(HANDSHAKE.replace(b"13", b"12") % b"/echo" + b"\r\n")
        assert b" 400 " in await read_until(stream, b"\r\n\r\n")
        assert await stays_open(stream) is plain


@BOTH
async def test_exception_ends_its_own_connection(*, plain: bool) -> None:
    """An exception in one connection is logged and ends that one (in Hypercorn the server)."""
    not_ascii = b"Sec-WebSocket-Protocol: \xff\r\n"
    with capture_logs() as logs:
        async with serving(Desk().app(), plain=plain) as running:
            async with await handshake(running, b"/echo", headers=not_ascii) as stream:
                if plain:
                    assert await happens(running.ended)
                    assert "UnicodeDecodeError" in repr(running.error)
                    return
                assert await read_all(stream) == b""
            assert b"200" in await hello(running)
    assert [line["event"] for line in logs] == ["connection_failed"]


# Clients that take up room


async def test_connections_beyond_the_most_are_turned_away() -> None:
    """Who finds no room is told 503 and logged once a second; a place is free when one leaves."""
    with capture_logs() as logs:
        async with serving(Desk().app(), most_connections=2) as running:
            async with await running.connect() as first:
                await first.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
                assert b"hello" in await read_until(first, b"hello")
                async with await handshake(running, b"/echo") as second:
                    await read_until(second, b"\r\n\r\n")
                    for _ in range(3):
                        async with await running.connect() as surplus:
                            assert (await read_all(surplus)).startswith(b"HTTP/1.1 503 ")
                    await second.send_all(text_frame("still here"))
                    assert b"still here" in await read_until(second, b"still here")
                assert (await told(logs, "connections_turned_away"))["count"] == 3
                assert b"200" in await hello(running)
            assert running.error is None
    assert [line["event"] for line in logs] == ["connections_turned_away"]


async def test_who_has_asked_already_is_told_too() -> None:
    """A request that came before the client was turned away does not reset the 503 away."""
    async with serving(Desk().app(), most_connections=1) as running, await running.connect():
        await trio.testing.wait_all_tasks_blocked()
        eager = socket.create_connection(("127.0.0.1", running.port))
        eager.setblocking(False)  # noqa: FBT003
        eager.send(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")  # the server cannot run yet
        async with trio.SocketStream(trio.socket.from_stdlib_socket(eager)) as stream:
            assert (await read_all(stream)).startswith(b"HTTP/1.1 503 ")


async def test_turned_away_clients_do_not_delay_the_stop() -> None:
    """What is to be logged about clients turned away is logged at a stop, without the wait."""
    with capture_logs() as logs:
        async with serving(Desk().app(), most_connections=1) as running:
            async with await running.connect(), await running.connect() as surplus:
                await read_all(surplus)
            running.stopping.set()
            assert await happens(running.ended, 0.5)
    assert [line["event"] for line in logs] == ["connections_turned_away"]


async def test_accepting_survives_a_lack_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no file is left for a connection, that is one line, and the next try comes later."""
    accept = trio.SocketListener.accept
    errors = [OSError(errno.EMFILE, "Too many open files")]

    async def fail_once(self: trio.SocketListener) -> trio.SocketStream:
        if errors:
            raise errors.pop()
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", fail_once)
    with capture_logs() as logs:
        async with serving(Desk().app()) as running:
            assert b"200" in await hello(running)
    assert [line["event"] for line in logs] == ["no_connection_accepted"]
    assert "exc_info" not in logs[0]


async def test_other_failures_of_accept_end_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that cannot work at all is not tried for ever."""

    async def fail(self: trio.SocketListener) -> trio.SocketStream:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(trio.SocketListener, "accept", fail)
    async with serving(Desk().app()) as running:
        assert await happens(running.ended)
        assert "Bad file descriptor" in repr(running.error)


@pytest.mark.parametrize(
    "limit, highest, raised, most",
    [
        (1024, 1024, None, 864),
        (1024, 4096, 4096, 3936),
        (256, 1_048_576, 65_536, 10_000),
        (256, resource.RLIM_INFINITY, 65_536, 10_000),
        (100_000, 1_048_576, None, 10_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 10_000),
        (64, 64, None, 16),
    ],
)
async def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, limit: int, highest: int, raised: int | None, most: int
) -> None:
    """The limit on files is raised as far as it goes, and clients never get the last ones."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, highest))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert connections_that_fit() == most
    assert limits == ([] if raised is None else [(raised, highest)])


async def test_a_limit_that_cannot_be_raised_is_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that refuses a higher limit on files gets fewer connections."""

    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert connections_that_fit() == 96


@BOTH
async def test_first_request_must_come_soon(*, plain: bool) -> None:
    """A connection that sends nothing is closed early, one that has asked is not."""
    async with (
        serving(Desk().app(), plain=plain, first_request_timeout=WHILE / 2) as running,
        await running.connect() as asking,
        await running.connect() as silent,
    ):
        await asking.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
        assert b"hello" in await read_until(asking, b"hello")
        assert await stays_open(silent) is plain
        assert await stays_open(asking)


@BOTH
async def test_first_request_must_come_whole(*, plain: bool) -> None:
    """A head that comes byte by byte does not keep its connection (in Hypercorn for a minute)."""
    async with (
        serving(
            Desk().app(), plain=plain, first_request_timeout=WHILE / 4, keep_alive_timeout=SOON
        ) as running,
        await running.connect() as stream,
    ):
        await stream.send_all(b"GET /hello HTTP/1.1\r\nX-Drip: ")
        with trio.move_on_after(WHILE) as dripping, suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.01)
        assert dripping.cancelled_caught is plain


@BOTH
async def test_two_lengths_are_refused(*, plain: bool) -> None:
    """Content-Length beside Transfer-Encoding gets 400 and the end (Hypercorn picks one)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        await stream.send_all(
            b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: test\r\n\r\n"
        )
        if plain:
            assert b"hello" in await read_until(stream, b"hello")
        else:
            answer = await read_all(stream)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.count(b"HTTP/1.1") == 1


# Clients that do not read


@BOTH
async def test_client_that_does_not_read_is_cut(*, plain: bool) -> None:
    """A handler whose client reads nothing is freed in time (in Hypercorn it is stuck for ever)."""
    desk = Desk()
    async with (
        serving(desk.app(), plain=plain, send_timeout=0.1) as running,
        await handshake(running, b"/flood"),
    ):
        assert await happens(desk.left, SOON / 2) is not plain
        assert b"200" in await hello(running)
        assert desk.cut is (None if plain else True)


async def test_client_that_leaves_was_not_cut() -> None:
    """Only a client that we have cut for not reading counts as one."""
    desk = Desk()
    async with serving(desk.app()) as running:
        async with await handshake(running, b"/doze") as stream:
            await read_until(stream, b"\r\n\r\n")
        assert await happens(desk.left)
    assert desk.cut is False


@BOTH
async def test_client_that_does_not_read_cannot_hold_up_the_stop(*, plain: bool) -> None:
    """The server stops in time with a blocked send under way (Hypercorn does not stop)."""
    async with (
        serving(Desk().app(), plain=plain, stop_timeout=0.2) as running,
        await handshake(running, b"/flood"),
    ):
        await trio.testing.wait_all_tasks_blocked(0.1)
        running.stopping.set()
        assert await happens(running.ended, 1.0) is not plain


async def test_websocket_that_does_not_read_its_farewell_is_cut_before_requests_are() -> None:
    """The stop waits longer for an answer that is being made than for a client that is gone."""
    async with (
        serving(Desk().app(), stop_timeout=30.0, farewell_timeout=0.2) as running,
        await handshake(running, b"/flood"),
    ):
        await trio.testing.wait_all_tasks_blocked(0.1)
        running.stopping.set()
        assert await happens(running.ended, 1.0)


@BOTH
async def test_time_out_round_a_send_fires_and_cuts_no_frame(*, plain: bool) -> None:
    """A send that is cancelled still arrives whole (in Hypercorn it cannot be cancelled)."""
    desk = Desk()
    async with (
        serving(desk.app(), plain=plain, websocket_ping_interval=None) as running,
        await handshake(running, b"/patient") as stream,
    ):
        assert await happens(desk.timed_out, SOON / 2) is not plain
        if plain:
            return
        _, _, frames = (await read_until(stream, b"!")).partition(b"\r\n\r\n")
        count = frames.count(CHUNK_FRAME)
        last = b"sent %d!" % count
        assert frames == CHUNK_FRAME * count + bytes((0x81, len(last))) + last


async def test_pushed_bytes_keep_their_order() -> None:
    """Ready-made frames and those of Hypercorn go out in order, whatever the kernel takes."""
    async with (
        serving(Desk().app(), websocket_ping_interval=None) as running,
        await handshake(running, b"/push") as stream,
    ):
        _, _, frames = (await read_all(stream)).partition(b"\r\n\r\n")
    small = frames.replace(CHUNK_FRAME, b"")
    assert small == b"\x81\x05first\x81\x06second\x81\x05third\x81\x06fourth" + closed(1000)


# The life of a connection


@BOTH
async def test_an_answer_is_one_segment(*, plain: bool) -> None:
    """Its head and its body go out together (Hypercorn: one after the other)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await read_until(stream, b"hello")).startswith(b"HTTP/1.1 200 ")
        known = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156)
        segments = int.from_bytes(known[152:], sys.byteorder)  # tcpi_data_segs_in
        assert segments == (2 if plain else 1)


async def test_an_answer_that_fails_before_its_first_byte_shows_its_head() -> None:
    """Else it would look like a connection that had been idle for too long, and be asked again."""
    app = QuartTrio(__name__)

    async def failing() -> AsyncGenerator[bytes]:
        yield b""  # which nobody sends
        raise RuntimeError

    @app.get("/broken")
    async def broken() -> Response:
        return Response(failing())

    async with serving(app) as running, await running.connect() as stream:
        await stream.send_all(b"GET /broken HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200 ")


@BOTH
async def test_connection_close_closes(*, plain: bool) -> None:
    """`Connection: close` closes (under Quart-Trio Hypercorn is cancelled before it does)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert b"hello" in await read_until(stream, b"hello")
        assert await stays_open(stream) is plain


@BOTH
async def test_idle_connection_is_closed(*, plain: bool) -> None:
    """A connection idle for `keep_alive_timeout` is closed (in Hypercorn not after a request)."""
    async with (
        serving(Desk().app(), plain=plain, keep_alive_timeout=0.1) as running,
        await running.connect() as stream,
    ):
        for _ in range(2):
            await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
            assert b"hello" in await read_until(stream, b"hello")
        assert await stays_open(stream) is plain


@BOTH
@pytest.mark.slow  # a second and more of requests, on a machine that has nothing else to do
async def test_busy_connection_is_kept(*, plain: bool) -> None:
    """More than a thousand requests may come on one connection (Hypercorn hangs up on them)."""
    most, answered, answer = 1100, 0, b""
    app = cast("QuartTrio", terse)
    async with serving(app, plain=plain) as running, await running.connect() as stream:
        while answered < most and b"connection: close" not in answer.lower():
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = await read_until(stream, b"hello")
            assert answer.startswith(b"HTTP/1.1 200 ")
            answered += 1
    assert (b"connection: close" in answer.lower()) is plain
    assert (answered < most) is plain


@BOTH
async def test_disconnect_cancels_the_handler(*, plain: bool) -> None:
    """A client that leaves in the middle of a request cancels its handler."""
    desk = Desk()
    async with serving(desk.app(), plain=plain) as running:
        async with await running.connect() as stream:
            await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
            assert await happens(desk.entered)
        assert await happens(desk.left)


@pytest.mark.parametrize("sent", [0, 5 * MIB, 10 * MIB])
async def test_body_too_large_is_refused_at_once(sent: int) -> None:
    """A body announced as too large is answered 413, however much of it has been sent."""
    async with serving(Desk().app()) as running, await running.connect() as stream:
        head = b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (10 * MIB)
        await stream.send_all(head + bytes(sent))
        assert b" 413 " in await read_all(stream)


# WebSocket rules


async def test_handler_that_only_sends_ends_with_its_client() -> None:
    """A loop of sends ends when the client closes (in Hypercorn it stops the whole process)."""
    desk = Desk()
    async with (
        serving(desk.app()) as running,
        await handshake(running, b"/babble") as stream,
    ):
        await stream.send_all(b"\x88\x80" + bytes(4))
        await read_all(stream)
        assert await happens(desk.left)


@BOTH
async def test_no_compression_is_agreed(*, plain: bool) -> None:
    """permessage-deflate is not taken up: a small message could unpack to hundreds of MB."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    async with (
        serving(Desk().app(), plain=plain) as running,
        await handshake(running, b"/echo", headers=offer) as stream,
    ):
        answer = await read_until(stream, b"\r\n\r\n")
        assert b" 101 " in answer
        assert (b"permessage-deflate" in answer) is plain


@BOTH
async def test_small_message_stays_small(*, plain: bool) -> None:
    """16 KiB that would unpack to 16 MiB are refused unread (Hypercorn unpacks, then measures)."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = b"\xc1\xfe" + len(packed).to_bytes(2, "big") + bytes(4) + packed
    async with (
        serving(Desk().app(), plain=plain, websocket_max_message_size=4096) as running,
        await handshake(running, b"/echo", headers=offer) as stream,
    ):
        await read_until(stream, b"\r\n\r\n")
        tracemalloc.start()
        try:
            await stream.send_all(bomb)
            answer = await read_until(stream, closed(1009)) if plain else await read_all(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (peak > 16 * MIB) is plain
        assert (closed(1009) in answer) is plain


@BOTH
async def test_message_too_big_ends_the_connection(*, plain: bool) -> None:
    """Too big a message is answered 1009 and the end (Hypercorn lets the client go on)."""
    async with (
        serving(
            Desk().app(), plain=plain, websocket_max_message_size=4096, linger_timeout=0.1
        ) as running,
        await handshake(running, b"/echo") as stream,
    ):
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"\x81\xff" + (2**40).to_bytes(8, "big") + bytes(4) + b"x" * 5000)
        assert closed(1009) in await read_until(stream, closed(1009))
        with trio.move_on_after(WHILE) as pouring, suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x" * CHUNK)
        assert pouring.cancelled_caught is plain


BROKEN = {
    "not UTF-8": (b"\x81\x81" + bytes(4) + b"\xff", 1007),
    "half a character": (b"\x81\x81" + bytes(4) + b"\xc3", 1007),
    "not UTF-8 in a close": (b"\x88\x83" + bytes(4) + b"\x03\xe8\xff", 1007),
    "unmasked": (b"\x81\x05hello", 1002),
    "reserved bit": (b"\xc1\x80" + bytes(4), 1002),
    "unknown opcode": (b"\x83\x80" + bytes(4), 1002),
    "ping in pieces": (b"\x09\x80" + bytes(4), 1002),
    "long ping": (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
    "nothing to go on with": (b"\x80\x80" + bytes(4), 1002),
    "a message in another": ((b"\x01\x80" + bytes(4)) * 2, 1002),
    "length spelt long": (b"\x81\xfe\x00\x01" + bytes(5), 1002),
    "close code 1005": (b"\x88\x82" + bytes(4) + b"\x03\xed", 1002),
    "close of a byte": (b"\x88\x81" + bytes(5), 1002),
}
"""What a client must not send (RFC 6455, sections 5 to 8), and the code that says so."""


@BOTH
@pytest.mark.parametrize("frame, code", BROKEN.values(), ids=BROKEN)
async def test_broken_frame_is_answered(frame: bytes, code: int, *, plain: bool) -> None:
    """It ends its own connection with the RFC's code, and is no error of ours (Hypercorn: mute)."""
    with capture_logs() as logs:
        async with (
            serving(Desk().app(), plain=plain, websocket_ping_interval=None) as running,
            await handshake(running, b"/echo") as other,
            await handshake(running, b"/echo") as stream,
        ):
            await read_until(other, b"\r\n\r\n")
            await read_until(stream, b"\r\n\r\n")
            await stream.send_all(frame + text_frame("too late"))
            answer = await read_all(stream)
            if plain:
                assert answer == b""
            else:  # one close frame, which says in words what is wrong
                assert (answer[0], answer[1]) == (0x88, len(answer) - 2)
                assert answer[2:4] == code.to_bytes(2, "big")
            await other.send_all(text_frame("still here"))
            assert b"still here" in await read_until(other, b"still here")
    assert logs == []


@BOTH
async def test_handler_that_never_receives_is_ended(*, plain: bool) -> None:
    """When its queue stays full it ends with 1011 (in Hypercorn it misses even the close)."""
    desk = Desk()
    with capture_logs() as logs:
        async with (
            serving(desk.app(), plain=plain, receive_timeout=0.1, linger_timeout=0.1) as running,
            await handshake(running, b"/doze") as stream,
        ):
            await read_until(stream, b"\r\n\r\n")
            await stream.send_all(text_frame("hear me") * 40 + b"\x88\x80" + bytes(4))
            assert await happens(desk.left, WHILE if plain else SOON) is not plain
            if not plain:
                assert closed(1011) in await read_all(stream)
    assert [line["event"] for line in logs] == ([] if plain else ["messages_not_received"])


@BOTH
async def test_handler_that_ends_before_its_messages_hangs_up(*, plain: bool) -> None:
    """What its client has sent too much does not keep the connection (in Hypercorn it does)."""
    desk = Desk()
    with capture_logs() as logs:
        async with (
            serving(desk.app(), plain=plain, receive_timeout=0.1, linger_timeout=0.1) as running,
            await handshake(running, b"/listen_once") as stream,
        ):
            await read_until(stream, b"\r\n\r\n")
            await stream.send_all(text_frame("too much") * 40)
            await trio.testing.wait_all_tasks_blocked(0.05)
            desk.release.set()
            assert closed(1000) in await read_until(stream, closed(1000))
            assert await stays_open(stream) is plain
    assert logs == []


async def test_handler_that_receives_late_misses_nothing() -> None:
    """A full queue only holds the client up, for as long as `receive_timeout` allows."""
    desk = Desk()
    async with (
        serving(desk.app(), receive_timeout=SOON) as running,
        await handshake(running, b"/listen_late") as stream,
    ):
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(text_frame("again") * 60 + text_frame("the last"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        desk.release.set()
        assert (await read_until(stream, b"the last")).count(b"again") == 60


async def test_frames_without_a_message_are_read_bit_by_bit() -> None:
    """Six bytes make a pong: a client that sends nothing else does not keep the others waiting."""
    pongs = (b"\x8a\x80" + bytes(4)) * (WEBSOCKET_BYTES_PER_SECOND // 4)  # 1.5 seconds of them
    echoed = trio.Event()
    async with (
        serving(Desk().app()) as running,
        await handshake(running, b"/echo") as stream,
        trio.open_nursery() as nursery,
    ):
        await read_until(stream, b"\r\n\r\n")

        @nursery.start_soon
        async def flood() -> None:
            await stream.send_all(pongs + text_frame("behind them"))
            async for data in stream:
                if b"behind them" in data:
                    echoed.set()
                    return

        for _ in range(3):
            assert b"200" in await hello(running)
        assert not echoed.is_set()
        with trio.fail_after(5 * SOON):
            await echoed.wait()


@BOTH
async def test_failed_handler_closes_with_1011(*, plain: bool) -> None:
    """A handler's exception closes with 1011, our error (Quart says 1000, all is well)."""
    async with (
        serving(Desk().app(), plain=plain) as running,
        await handshake(running, b"/fail") as stream,
    ):
        assert (await read_all(stream)).endswith(closed(1000 if plain else 1011))


@BOTH
async def test_silent_client_is_closed(*, plain: bool) -> None:
    """A client that answers no ping is closed with 4002, others stay (Hypercorn keeps all)."""
    pong = b"\x8a\x80" + bytes(4)
    silent_end = b"\x88\x08" + (4002).to_bytes(2, "big") + b"silent"
    async with (
        serving(
            Desk().app(), plain=plain, websocket_ping_interval=0.1, silence_timeout=0.3
        ) as running,
        await handshake(running, b"/echo") as silent,
        await handshake(running, b"/echo") as lively,
    ):

        async def answer() -> None:
            async for data in lively:
                if b"\x89\x00" in data:
                    await lively.send_all(pong)

        heard = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with trio.move_on_after(SOON if not plain else 2 * WHILE) as waiting:
                async for data in silent:
                    heard += data
            await trio.sleep(0.2)  # past the other's time, had it not answered
            nursery.cancel_scope.cancel()
        assert waiting.cancelled_caught is plain
        assert heard.endswith(silent_end) is not plain
        await lively.send_all(text_frame("still here"))
        assert b"still here" in await read_until(lively, b"still here")


# HTTP/2


@BOTH
async def test_http2_is_refused(*, plain: bool) -> None:
    """HTTP/2 without TLS is answered 505 and the end (Hypercorn speaks it)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        settings = 4
        await stream.send_all(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, settings, 0, 0, 0, 0, 0))
        )
        if plain:
            assert (await stream.receive_some())[3] == settings
        else:
            assert (await read_all(stream)).startswith(b"HTTP/1.1 505 ")


@BOTH
async def test_upgrade_to_http2_is_ignored(*, plain: bool) -> None:
    """`Upgrade: h2c` is answered as the HTTP/1.1 request it is (Hypercorn changes over)."""
    async with serving(Desk().app(), plain=plain) as running, await running.connect() as stream:
        await stream.send_all(
            b"GET /hello HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        answer = await read_until(stream, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 " if plain else b"HTTP/1.1 200 ")


# Stop


@BOTH
async def test_stop_closes_websockets_with_1012(*, plain: bool) -> None:
    """An idle WebSocket client is told 1012, and the server ends (Hypercorn: not a word)."""
    async with serving(Desk().app(), plain=plain) as running:
        async with await handshake(running, b"/echo") as stream:
            await read_until(stream, b"\r\n\r\n")
            running.stopping.set()
            assert (await read_all(stream)).endswith(closed(1012)) is not plain
        assert await happens(running.ended, 0.5)


async def test_stop_refuses_an_open_handshake() -> None:
    """A handshake that is not answered when the server stops is refused with 503."""
    desk = Desk()
    async with (
        serving(desk.app()) as running,
        await handshake(running, b"/ponder") as stream,
    ):
        assert await happens(desk.entered)
        running.stopping.set()
        assert (await read_all(stream)).startswith(b"HTTP/1.1 503 ")


@BOTH
async def test_idle_connections_do_not_delay_the_stop(*, plain: bool) -> None:
    """A kept-alive connection uses up none of the grace (in Hypercorn, after a request, all)."""
    grace = 1.0
    async with (
        serving(Desk().app(), plain=plain, stop_timeout=grace, graceful_timeout=grace) as running,
        await running.connect() as stream,
    ):
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
        assert b"hello" in await read_until(stream, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        running.stopping.set()
        assert await happens(running.ended, grace / 2) is not plain


async def test_running_request_may_finish() -> None:
    """A request that runs when the server stops is answered, but nobody new is let in."""
    desk = Desk()
    async with serving(desk.app()) as running:
        async with await running.connect() as stream:
            await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
            assert await happens(desk.entered)
            running.stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionRefusedError):
                await hello(running)
            desk.release.set()
            assert b"released" in await read_all(stream)
        assert await happens(running.ended, 0.5)


@BOTH
async def test_after_serving_is_cut(*, plain: bool) -> None:
    """A shutdown function that takes its time is cut without a word, on either server."""
    app, begun, saved = Desk().app(), trio.Event(), trio.Event()
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0.2  # 5 s unless it is set

    @app.after_serving
    async def save() -> None:
        begun.set()
        await trio.sleep(SOON)
        saved.set()

    async with serving(app, plain=plain, lifespan_timeout=0.2) as running:
        running.stopping.set()
        assert await happens(running.ended, SOON / 2)
    assert begun.is_set()
    assert not saved.is_set()
    assert running.error is None


async def test_stuck_request_and_shutdown_function_are_cut() -> None:
    """Neither a request nor an `after_serving` function that never ends holds up the stop."""
    desk = Desk()
    app = desk.app()
    app.after_serving(trio.sleep_forever)
    async with (
        serving(app, stop_timeout=0.2, lifespan_timeout=0.2) as running,
        await running.connect() as stream,
    ):
        await stream.send_all(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        assert await happens(desk.entered)
        running.stopping.set()
        assert await happens(running.ended, 1.0)
    assert desk.left.is_set()
    assert running.error is None


# Start


async def test_localhost_listens_on_both_loopbacks() -> None:
    """`localhost` is served on 127.0.0.1 and ::1 at the same port, where the machine has both."""
    listeners = await open_listeners("localhost", 0)
    addresses = [listener.socket.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        await listener.aclose()
    port = addresses[0][1]
    assert addresses in ([("127.0.0.1", port)], [("127.0.0.1", port), ("::1", port)])


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_connections_inherit_the_limits_of_the_kernel() -> None:
    """An accepted connection gives up on a dead peer after 15 s and keeps little in the kernel."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener, await trio.open_tcp_stream(*listener.socket.getsockname()):
        accepted = await listener.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 128 * 1024
        await accepted.aclose()


async def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another version of Hypercorn the start fails, and says so in one sentence."""
    monkeypatch.setitem(server_module.PINNED, "hypercorn", "0.17.3")
    with pytest.raises(
        UnsupportedVersionError, match=r"^hypercorn must be 0\.17\.3, not 0\.18\.0: "
    ):
        await serve_app(Desk().app(), [], stopping=trio.Event())


async def test_test_client_works_without_a_connection() -> None:
    """The hardened application can still be driven by Quart's own test client."""
    app = Desk().app()
    server_module.harden(app)
    async with app.test_client().websocket("/echo") as client:
        await client.send("hello")
        assert await client.receive() == "hello"
