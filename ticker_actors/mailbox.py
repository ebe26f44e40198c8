"""Bounded mailboxes with one-shot answers, and the lifetime of an actor.

An actor owns a `Mailbox` and reads it in `run`; others call typed methods on the actor, which
`ask` (an answer is wanted) or `tell` (it is not). Both wait for room; `ask_nowait` and
`tell_nowait` raise `Busy` instead; all raise `Stopped` once the actor takes no more. An answer goes
back over a channel of size 1, so answering never blocks the actor.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import structlog
import trio

_log = structlog.get_logger(__name__)

A = TypeVar("A")
M = TypeVar("M")
ActorT = TypeVar("ActorT", bound="Actor")


_Channel = tuple[trio.MemorySendChannel[Any], trio.MemoryReceiveChannel[Any]]

SPARE_CHANNELS = 16
"""That wait for their next answer, of a mailbox: as many as callers usually wait at once."""


class Busy(Exception):
    """The mailbox is full: shed the load instead of waiting."""


class Stopped(Exception):
    """The actor is stopping or gone. Whether it still handled the message is not known."""


class Request(Generic[A]):
    """Base of messages that are answered with an A."""

    __slots__ = ()


class Reply(Generic[A]):
    """The write end of one answer. Closing it unanswered tells the caller `Stopped`."""

    __slots__ = ("_send",)

    def __init__(self, send: trio.MemorySendChannel[A] | None) -> None:
        self._send = send

    def __call__(self, answer: A) -> None:
        """Answer. Never blocks; a caller that has left is no error. The first answer counts."""
        send, self._send = self._send, None
        if send is not None:
            with suppress(trio.BrokenResourceError):
                send.send_nowait(answer)

    def close(self) -> None:
        """No answer will come (any more)."""
        send, self._send = self._send, None
        if send is not None:
            send.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class Mailbox(Generic[M]):
    """Many tasks put, one task takes. Closing it means: drain what is here, then stop."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._send, self._receive = trio.open_memory_channel[tuple[M, Reply[Any]]](size)
        self._spare: list[_Channel] = []
        """For the next answers: to open one takes twice as long as all else about a message."""

    async def tell(self, message: M) -> None:
        """Put, waiting for room: only from a task whose own producer may be slowed.

        Where there is room this is no checkpoint.
        """
        await self._put(message, Reply(None))

    def tell_nowait(self, message: M) -> None:
        """Put without waiting."""
        self._put_nowait(message, Reply(None))

    async def ask(self, request: Request[A]) -> A:
        """Put a request, waiting for room, and wait for its answer."""
        channel = self._channel()
        try:
            await self._put(request, Reply(channel[0]))  # type: ignore[arg-type]  # M is a union of requests
        except Stopped:
            self._keep(channel)
            raise
        answer: A = await self._answer(channel)
        return answer

    async def ask_nowait(self, request: Request[A]) -> A:
        """Put a request only if there is room, and wait for its answer."""
        channel = self._channel()
        try:
            self._put_nowait(request, Reply(channel[0]))  # type: ignore[arg-type]  # as above
        except (Busy, Stopped):
            self._keep(channel)
            raise
        answer: A = await self._answer(channel)
        return answer

    def _channel(self) -> _Channel:
        return self._spare.pop() if self._spare else trio.open_memory_channel[Any](1)

    async def _answer(self, channel: _Channel) -> Any:  # noqa: ANN401  # of the request's type
        _, receive = channel
        try:
            answer = await receive.receive()
        except trio.EndOfChannel:
            raise Stopped from None
        except BaseException:  # the caller was cancelled: what is answered now is for nobody
            receive.close()
            raise
        self._keep(channel)
        return answer

    def _keep(self, channel: _Channel) -> None:
        """Nothing is in it, and nobody will put anything in."""
        if len(self._spare) < SPARE_CHANNELS:
            self._spare.append(channel)

    async def _put(self, message: M, reply: Reply[Any]) -> None:
        try:
            try:  # a turn of the scheduler costs more than all else about a message
                self._send.send_nowait((message, reply))
            except trio.WouldBlock:
                await self._send.send((message, reply))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Stopped from None

    def _put_nowait(self, message: M, reply: Reply[Any]) -> None:
        try:
            self._send.send_nowait((message, reply))
        except trio.WouldBlock:
            raise Busy from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Stopped from None

    def __aiter__(self) -> AsyncIterator[tuple[M, Reply[Any]]]:
        return self._receive.__aiter__()

    def take_nowait(self) -> tuple[M, Reply[Any]] | None:
        """The next message if one is waiting: for an actor that works in batches."""
        try:
            return self._receive.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return None

    def close(self) -> None:
        """Accept no more; the reader sees the end after what is already here."""
        self._send.close()

    def abandon(self) -> None:
        """Accept no more and refuse what is left, so that no caller waits in vain."""
        self._send.close()
        with self._receive, suppress(trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                _, reply = self._receive.receive_nowait()
                reply.close()

    def __len__(self) -> int:
        return self._receive.statistics().current_buffer_used

    def __repr__(self) -> str:
        return f"<Mailbox {len(self)}/{self.size}>"


class Actor(Protocol):
    """What `running` needs of an actor."""

    @property
    def mailboxes(self) -> tuple[Mailbox[Any], ...]:
        """All of its mailboxes, so that they can be closed, abandoned and measured."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Call `started` when it truly serves; serve until every mailbox is closed and empty."""
        ...


@asynccontextmanager
async def running(actor: ActorT, *, drain: float) -> AsyncGenerator[ActorT, None]:
    """Run an actor for the length of the block; then let it drain, at most `drain` seconds."""
    scope = trio.CancelScope()
    stopped = trio.Event()

    async def host(task_status: trio.TaskStatus[None]) -> None:
        try:
            with scope:
                await actor.run(task_status=task_status)
        finally:
            for mailbox in actor.mailboxes:
                mailbox.abandon()
            stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(host)
        # A start can be cancelled, with all that was begun in it; from here on it drains.
        await trio.lowlevel.checkpoint_if_cancelled()
        scope.shield = True
        try:
            yield actor
        finally:
            for mailbox in actor.mailboxes:
                mailbox.close()
            scope.deadline = trio.current_time() + drain
            with trio.CancelScope(shield=True):
                await stopped.wait()
            if scope.cancelled_caught:
                _log.error("actor cut short", actor=type(actor).__name__, drain_seconds=drain)
