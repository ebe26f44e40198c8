"""Many WebSocket clients in one process, on bare sockets: they count the frames that come.

What they cost is not the server's: it is measured in its own process. A frame is counted by its
header alone, compressed or not.
"""

import base64
import os
import selectors
import socket
import time
from collections.abc import Callable

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
"""What browsers, and the clients of most libraries, offer."""
TEXT, BYTES, PING, PONG = 0x1, 0x2, 0x9, 0xA
READ_BYTES = 65_536
FINAL, MASKED = 0x80, 0x80
"""Of a frame's first and second byte (RFC 6455, section 5.2)."""
SHORT_HEAD = 2
"""Bytes of the head of a short frame."""
MEDIUM, LARGE = 126, 127
"""Sizes that say: the size follows in 2, or in 8 bytes."""
PATIENCE_SECONDS = 30.0


class Client:
    """One connection: what it has received."""

    def __init__(
        self, port: int, path: str, *, deflate: bool = False, buffer: int | None = None
    ) -> None:
        """Connect, and wait for the end of the handshake. `buffer`: bytes that its kernel takes."""
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        more = DEFLATE if deflate else ""
        self.socket.sendall(HANDSHAKE.format(path=path, key=key, more=more).encode())
        self.frames = 0
        """Texts that have come whole."""
        self._data = bytearray()
        while b"\r\n\r\n" not in self._data:
            self._data += self._received()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(bytes(head))
        self.compressed = b"permessage-deflate" in head.lower()
        self.socket.setblocking(False)  # noqa: FBT003  # of the standard library
        self._count()

    def read(self) -> int:
        """Take what has come: how many more texts are whole."""
        before = self.frames
        self._data += self._received()
        self._count()
        return self.frames - before

    def take(self) -> bytes:
        """The bytes that have come."""
        return self.socket.recv(READ_BYTES)

    def _received(self) -> bytes:
        if received := self.take():
            return received
        raise ConnectionError("The server has hung up.")

    def _count(self) -> None:
        data, at = self._data, 0
        while len(data) - at >= SHORT_HEAD:
            size, head = data[at + 1] & 0x7F, SHORT_HEAD
            if size == MEDIUM:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == LARGE:
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if len(data) - at < head + size:
                break
            kind = data[at] & 0x0F
            self.frames += kind in {TEXT, BYTES}
            if kind == PING:  # short, and with a mask of zeros the payload is as it was
                payload = bytes(data[at + head : at + head + size])
                self.socket.send(bytes((FINAL | PONG, MASKED | size, 0, 0, 0, 0)) + payload)
            at += head + size
        del data[:at]


class Crowd:
    """The clients of one server."""

    def __init__(self, count: int, client: Callable[[], Client]) -> None:
        """Connect so many."""
        self._selector = selectors.EpollSelector()
        self.clients: list[Client] = []
        for _ in range(count):
            self.add(client())

    def add(self, client: Client) -> None:
        """One more."""
        self.clients.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def remove(self, client: Client) -> None:
        """Hang up for one."""
        self.clients.remove(client)
        self._selector.unregister(client.socket)
        client.socket.close()

    def settle(self, quiet: float = 0.2) -> None:
        """Read until nothing has come for so many seconds."""
        while ready := self._selector.select(quiet):
            for key, _ in ready:
                key.data.read()

    def receive(self, count: int) -> int:
        """Read until so many texts have come to all of them together; how many came in time."""
        received, until = 0, time.monotonic() + PATIENCE_SECONDS
        while received < count and time.monotonic() < until:
            for key, _ in self._selector.select(1.0):
                received += key.data.read()
        return received

    def close(self) -> None:
        """Hang up."""
        for client in self.clients:
            client.socket.close()
        self._selector.close()
