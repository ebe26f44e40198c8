"""One client of the order stream: what it has been told, and what waits for it.

A frame goes straight to the socket. What the kernel does not take at once waits here, in a bounded
queue; a client that lets it overflow, or takes nothing for long, is told to come again and loses
nothing, for the log keeps what it has missed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import trio

from ticker_actors.model.stream_messages import CloseCode, ResumeStatus

MOST_BYTES = 256 * 1024
"""That may wait for one client: some 500 messages of 500 bytes, or seconds of a bad connection."""
MOST_FRAMES = 1000
"""That may wait: small ones cost more memory than their bytes."""
STALL_SECONDS = 10.0
"""A client that takes not one byte for this long is as good as gone."""


class Socket(Protocol):
    """A client's connection: sends without waiting, and keeps what the kernel does not take."""

    @property
    def unsent(self) -> int:
        """Bytes that it keeps."""
        ...

    def push_frames(self, frames: bytes) -> int:
        """Send; the bytes that it keeps then. Nothing happens once the connection is closing."""
        ...

    async def wait_sent(self) -> None:
        """Wait until it keeps nothing."""
        ...


class Told(NamedTuple):
    """An event, ready to be sent."""

    sequence: int
    frame: bytes
    order_id: str | None
    """If a later event of that order may take its place while it waits."""


class News:
    """Events that follow each other: who has all that was before takes them in one piece."""

    def __init__(self, events: Sequence[Told]) -> None:
        """`events`: at least one."""
        self.events = events
        self.before = events[0].sequence - 1
        self.last = events[-1].sequence
        self.frames = b"".join(event.frame for event in events)


class Subscription:
    """A client's place at the hub. The hub tells it events; its handler runs `pump` beside."""

    def __init__(
        self, account_id: str, socket: Socket, *, address: str = "", conflating: bool = False
    ) -> None:
        """`conflating`: of the updates of one order that wait, only the newest is sent."""
        self.account_id = account_id
        self.address = address
        self.cursor = 0
        """The last sequence that it was told: the hub passes over what is not after it."""
        self.sent = 0
        """The last sequence that its socket has taken."""
        self.status: ResumeStatus = "fresh"
        self.replayed = 0
        """Events that it was sent from the log."""
        self.code: CloseCode | None = None
        """With which it is to be closed."""
        self.reason = ""
        self.ended = trio.Event()
        self._socket = socket
        self._push_frames = socket.push_frames
        self._idle = True
        """Nothing waits, neither here nor at the socket: what is told next goes there at once."""
        self._conflating = conflating
        self._queue: OrderedDict[object, Told] = OrderedDict()
        self._queued = 0
        self._wake = trio.Event()

    def tell(self, news: News) -> bool:
        """Send or queue events. False when it has ended, be it now."""
        if self._idle and self.cursor == news.before:  # all but always
            self.cursor = self.sent = news.last
            if self._push_frames(news.frames):
                self._wait()
            return True
        return all(self._tell(event) for event in news.events)

    def say(self, frame: bytes) -> bool:
        """Send or queue a message that is no event. False when it has ended."""
        return self._offer(Told(0, frame, None))

    async def send(self, frames: bytes, sequence: int) -> None:
        """Send events up to `sequence`, waiting for the client: not while the hub tells it any."""
        if self.code is None:
            self._push_frames(frames)
            self.cursor = self.sent = sequence
            await self._sent()

    def end(self, code: CloseCode, reason: str) -> None:
        """Send no more, but the rest of a frame that is half sent; the first reason counts."""
        if self.code is None:
            self.code, self.reason, self._idle = code, reason, False
            self._queue.clear()
            self._queued = 0
            self.ended.set()

    async def pump(self) -> None:
        """Send what waits, as fast as the client takes it."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.code is None and (self._queue or self._socket.unsent):
                await self._sent()
                while self._queue and not self._socket.unsent:
                    _, event = self._queue.popitem(last=False)
                    self._queued -= len(event.frame)
                    self.sent = event.sequence or self.sent
                    self._push_frames(event.frame)
            self._idle = self.code is None

    def _tell(self, event: Told) -> bool:
        if event.sequence <= self.cursor:
            return True
        self.cursor = event.sequence
        return self._offer(event)

    def _offer(self, event: Told) -> bool:
        if not self._idle:
            return self._queue_up(event)
        self.sent = event.sequence or self.sent
        if self._push_frames(event.frame):
            self._wait()
        return True

    def _wait(self) -> None:
        self._idle = False
        self._wake.set()

    def _queue_up(self, event: Told) -> bool:
        if self.code is not None:
            return False
        key: object = event.order_id if self._conflating else None
        if key is None:
            key = object()
        elif key in self._queue:
            self._queued -= len(self._queue.pop(key).frame)
        self._queue[key] = event
        self._queued += len(event.frame)
        if self._queued > MOST_BYTES or len(self._queue) > MOST_FRAMES:
            self._end_slow()
        return self.code is None

    async def _sent(self) -> None:
        """Wait until the socket has sent what it keeps, as long as it makes progress."""
        while left := self._socket.unsent:
            with trio.move_on_after(STALL_SECONDS):
                await self._socket.wait_sent()
            if self._socket.unsent >= left:
                self._end_slow()
                return
        await trio.lowlevel.checkpoint()

    def _end_slow(self) -> None:
        self.end(CloseCode.SLOW, f"Too slow: resume from {self.sent}.")

    def __repr__(self) -> str:
        state = "live" if self.code is None else self.code.name
        return f"<Subscription {self.account_id} {state} at {self.cursor}, {len(self._queue)} wait>"
