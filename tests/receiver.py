"""A webhook receiver on loopback: a raw socket, so that a test sees bytes and decides on bytes."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext

import trio

Handler = Callable[[trio.abc.Stream], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """An answer on the wire."""
    lines = (f"HTTP/1.1 {status} As It Is", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Received:
    """One request."""

    line: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


@dataclass
class Receiver:
    """Reads whole requests and answers them from a list; the last answer is given ever after."""

    answers: list[bytes] = field(default_factory=lambda: [OK])
    requests: list[Received] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.requests.append(await read_request(stream))
        self._news.set()
        self._news = trio.Event()
        await stream.send_all(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    async def received(self, count: int) -> list[Received]:
        """All requests, once there are so many."""
        while len(self.requests) < count:
            await self._news.wait()
        return self.requests


@dataclass
class Dribbler:
    """Reads the request, then sends its answer byte by byte, each soon enough for any one read."""

    text: bytes
    ended: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await read_request(stream)
        try:
            for byte in self._bytes():
                await stream.send_all(byte)
                await trio.sleep(0.02)
        except trio.BrokenResourceError:
            self.ended.set()

    def _bytes(self) -> Iterator[bytes]:
        for number in self.text:
            yield bytes([number])
        while True:
            yield b"x"


@dataclass
class Mute:
    """Takes what comes and never says a word."""

    connections: int = 0
    ended: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        while await stream.receive_some():
            pass
        self.ended.set()


async def read_request(stream: trio.abc.Stream) -> Received:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (entry.partition(": ") for entry in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await _some(stream)
    return Received(line, headers, body)


async def _some(stream: trio.abc.Stream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise trio.BrokenResourceError
    return data


@asynccontextmanager
async def listening(handler: Handler, tls: SSLContext | None = None) -> AsyncGenerator[int]:
    """Serve the handler on a port of loopback, which is given."""

    async def serve(stream: trio.SocketStream) -> None:
        outer = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
        async with stream:
            with suppress(trio.BrokenResourceError):  # the client left
                await handler(outer)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def soon(event: trio.Event) -> None:
    """Wait for what must happen within moments."""
    with trio.fail_after(2):
        await event.wait()
