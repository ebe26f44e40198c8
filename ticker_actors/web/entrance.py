"""Who gets a connection: as many clients as the process has files for, and no more.

It accepts and counts; what is said on a connection is the matter of `server`.
"""

import errno
import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio

NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""What `accept` fails with when the process or the system can have no more files."""
ENOUGH_FILES = 65_536
FILES_FOR_THE_REST = 160
"""Files that are not clients' connections: 64 webhooks, 64 kept for the next, the store's."""
MOST_CONNECTIONS = 10_000
"""However many files there may be: a connection takes memory too."""
TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)

_log = structlog.get_logger(__name__)


class Entrance:
    """Lets clients in while there is room; the others are told 503 and closed at once.

    Without this, clients that only connect take every file that the process may open, and the store
    is left without. A place is free again when its socket is closed.
    """

    def __init__(self, most: int, stopping: trio.Event) -> None:
        """`most`: connections at once. `stopping`: the server takes no more."""
        self._most = most
        self._stopping = stopping
        self._inside = 0
        self._turned_away = 0

    async def accept(
        self,
        listener: trio.SocketListener,
        nursery: trio.Nursery,
        serve: Callable[[trio.SocketStream], Awaitable[object]],
    ) -> None:
        """Accept connections for ever, and serve them in the nursery."""
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in NO_FILES:
                        raise
                    _log.error("no_connection_accepted", error=str(error))  # no trace
                    await trio.sleep(1)
                    continue
                if self._inside < self._most:
                    self._inside += 1
                    nursery.start_soon(self._serve, stream, serve)
                else:
                    self._turn_away(stream)
                    self._turned_away += 1
                    if self._turned_away == 1:
                        nursery.start_soon(self._report)

    async def _serve(
        self, stream: trio.SocketStream, serve: Callable[[trio.SocketStream], Awaitable[object]]
    ) -> None:
        try:
            await serve(stream)
        finally:
            stream.socket.close()
            self._inside -= 1

    def _turn_away(self, stream: trio.SocketStream) -> None:
        with suppress(OSError):
            os.write(stream.socket.fileno(), TURNED_AWAY)
            os.read(stream.socket.fileno(), 65_536)  # else closing resets the answer away
        stream.socket.close()

    async def _report(self) -> None:
        """Write one line for all of a second."""
        with trio.move_on_after(1):
            await self._stopping.wait()
        _log.warning("connections_turned_away", count=self._turned_away, most=self._most)
        self._turned_away = 0


def connections_that_fit() -> int:
    """Raise the limit on open files as far as we may; how many of them clients can have."""
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    wanted = ENOUGH_FILES if highest == resource.RLIM_INFINITY else min(highest, ENOUGH_FILES)
    if limit < wanted:
        with suppress(OSError, ValueError):  # some systems have one more limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, highest))
            limit = wanted
    return min(MOST_CONNECTIONS, max(limit - FILES_FOR_THE_REST, limit // 4))
