"""The whole sandbox on one page: every part, in the order in which it lives; it dies in reverse."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from ticker_actors.exchange.file import PaperFile
from ticker_actors.sandbox.app import create_app
from ticker_actors.sandbox.desk import Desk
from ticker_actors.sandbox.mischief import Mischief
from ticker_actors.sandbox.options import SandboxOptions
from ticker_actors.sandbox.postbacks import Postbacks
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.server_config import ServerConfig
from ticker_actors.web.signals import stop_on_signal

MOST_CONNECTIONS = 1_000
MAX_MESSAGE_BYTES = 64 * 1024
"""Of a ticker's client: 3 000 tokens are 35 KB."""
MAX_HEAD_BYTES = 64 * 1024
"""Of a request: the names of 1 000 instruments are 27 KB."""

_log = structlog.get_logger(__name__)


class SandboxError(Exception):
    """The sandbox cannot start. Its message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """Where Kite's clients find the sandbox: their `root`."""

    rest: str
    ticker: str


async def serve_sandbox(
    options: SandboxOptions,
    *,
    task_status: trio.TaskStatus[SandboxAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the sandbox until SIGTERM or SIGINT, or until it is cancelled.

    Raises `SandboxError` or `exchange.file.PaperFileUnusable` when it cannot start.
    """
    config = ServerConfig()
    config.most_connections = MOST_CONNECTIONS
    config.websocket_max_message_size = MAX_MESSAGE_BYTES
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    stopping = trio.Event()
    try:
        listeners = await open_listeners(options.host, options.port, config)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise SandboxError(f"Cannot listen on {where}: {error.strerror or error}.") from error
    with closing_all(listeners):
        # A small file, read before anyone is served.
        file = None if options.file is None else PaperFile(options.file)
        with nullcontext() if file is None else closing(file):
            desk = Desk(funds=options.funds, seed=options.seed, now=present, file=file)
            async with trio.open_nursery() as nursery:
                mischief = Mischief(options.faults, options.fault_delay, nursery)
                app = create_app(desk, options, mischief)
                if options.postback_url is not None:
                    postbacks = Postbacks(options.postback_url)
                    desk.listeners.append(postbacks.offer)
                    nursery.start_soon(postbacks.run)
                nursery.start_soon(desk.run)
                nursery.start_soon(stop_on_signal, stopping)
                async with trio.open_nursery() as server:
                    serve = partial(serve_app, app, listeners, stopping=stopping, config=config)
                    await server.start(serve)
                    task_status.started(_address(options, listeners[0]))
                nursery.cancel_scope.cancel()
    _log.info("sandbox stopped")


def present() -> datetime:
    """The machine's wall clock, in UTC."""
    return datetime.now(UTC)


@contextmanager
def closing_all(listeners: list[trio.SocketListener]) -> Iterator[None]:
    """The server closes them too, once it is there."""
    try:
        yield
    finally:
        for listener in listeners:
            listener.socket.close()


def _address(options: SandboxOptions, listener: trio.SocketListener) -> SandboxAddress:
    port = listener.socket.getsockname()[1]
    host = "127.0.0.1" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104  # compared
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return SandboxAddress(f"http://{where}{options.prefix}", f"ws://{where}{options.prefix}")
