"""Sockets of stream clients, without a network: what the hub's clients send through in tests."""

from typing import Any

import msgspec
import trio

from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.actors.stream_requests import Full
from ticker_actors.actors.subscription import Subscription


def unframed(data: bytes) -> list[dict[str, Any]]:
    """The messages in whole text frames of a server (RFC 6455, section 5.2)."""
    found = []
    while data:
        assert data[0] == 0x81, data[:20]
        start, size = 2, data[1]
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        found.append(msgspec.json.decode(data[start : start + size]))
        assert len(data) >= start + size
        data = data[start + size :]
    return found


class OpenSocket:
    """Takes everything at once."""

    unsent = 0

    def __init__(self) -> None:
        self.data = b""
        self.pushes = 0

    def push_frames(self, frames: bytes) -> int:
        self.pushes += 1
        self.data += frames
        return 0

    async def wait_sent(self) -> None:
        await trio.lowlevel.checkpoint()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What has come."""
        return unframed(self.data)

    @property
    def sequences(self) -> list[int]:
        """Which events have come."""
        return [message["sequence"] for message in self.messages]


class NarrowSocket(OpenSocket):
    """Takes only as much as the client has made room for; one frame more it keeps."""

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self._room = room
        self._kept = b""
        self._empty = trio.Event()

    @property
    def unsent(self) -> int:  # type: ignore[override]  # as the real one has it
        return len(self._kept)

    def push_frames(self, frames: bytes) -> int:
        self._kept += frames
        self.read(0)
        return len(self._kept)

    def read(self, size: int) -> None:
        """The client reads so many bytes."""
        self._room += size
        taken = min(self._room, len(self._kept))
        self.data, self._kept = self.data + self._kept[:taken], self._kept[taken:]
        self._room -= taken
        if not self._kept:
            self._empty.set()

    async def wait_sent(self) -> None:
        self._empty = trio.Event()
        if self._kept:
            await self._empty.wait()


async def live(hub: StreamHub, client: Subscription) -> int:
    """Have a client told all from here on; the head that it starts from."""
    head = await hub.join(client)
    assert not isinstance(head, Full)
    client.cursor = head
    while (ahead := await hub.go_live(client)) is not None:
        client.cursor = ahead
    return client.cursor
