"""The HTTP server: Hypercorn 0.18 on Trio, hardened.

As shipped, one client can kill Hypercorn's Trio server with one byte or stop it with silence. A few
small classes mend that by inheritance, without patching a module, and each says what it mends: in
`connection` (bytes), `protocol` (what they mean), `websocket` and `intake` (Quart's side). They
lean on internals, so the versions are pinned and checked at the start; `tests/test_server.py` runs
every behaviour against the server as shipped too, and fails when upstream mends one.

HTTP/1.1 and WebSocket only: HTTP/2 and TLS belong to a proxy in front.
"""

import errno
import socket
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState
from quart_trio import QuartTrio

from ticker_actors.web.connection import Connection
from ticker_actors.web.entrance import Entrance, connections_that_fit
from ticker_actors.web.intake import HTTPConnection
from ticker_actors.web.server_config import ServerConfig
from ticker_actors.web.websocket import WebSocketConnection

PINNED = {"hypercorn": "0.18.0", "quart-trio": "0.12.0", "wsproto": "1.3.2"}
LOOPBACK = ("127.0.0.1", "::1")
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class UnsupportedVersionError(Exception):
    """A library is not of the version that the server was written against."""


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
