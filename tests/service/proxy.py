"""A stretch of network between a service and its database that can go black."""

import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import trio


class Way:
    """What some connections share: whether anything passes."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.open.set()

    def close(self) -> None:
        """Nothing passes until it is opened again."""
        self.open = trio.Event()

    def let_go(self) -> None:
        """Everything passes."""
        self.open.set()


class Proxy:
    """Passes bytes from a port of loopback to a Unix socket, both ways, or keeps them.

    What is kept is not lost: as a network sends again what was not confirmed, it arrives late.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._thread = threading.Thread(target=partial(trio.run, self._run))
        self._started = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._scope = trio.CancelScope()
        self._way = Way()
        self.port = 0
        self.connections = 0
        """That were ever made."""
        self.kept = 0
        """Chunks that it did not pass on at once."""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    def go_black(self) -> None:
        """From now on nothing passes, and nothing is closed."""
        self._token.run_sync_soon(self._way.close)

    def let_go(self) -> None:
        """Pass on what was kept, and all that comes."""
        self._token.run_sync_soon(self._way.let_go)

    def forget(self) -> None:
        """Let new connections pass; those that are there stay black without end."""
        self._way = Way()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        with self._scope:
            self._started.set()
            await trio.serve_listeners(self._join, listeners)

    async def _join(self, near: trio.SocketStream) -> None:
        self.connections += 1
        way = self._way
        async with near:
            await way.open.wait()
            async with await trio.open_unix_socket(self._target) as far, trio.open_nursery() as two:
                two.start_soon(self._pass, near, far, way)
                two.start_soon(self._pass, far, near, way)

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream, way: Way) -> None:
        try:
            async for data in source:
                self.kept += not way.open.is_set()
                await way.open.wait()
                await sink.send_all(data)
            await way.open.wait()
            await sink.send_eof()
        except trio.BrokenResourceError:  # a reset is passed on as an end
            await way.open.wait()
            await sink.aclose()
