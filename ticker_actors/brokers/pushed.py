"""Pushed updates on their way to one reader: bounded, and honest about what was left out."""

from typing import Self

import trio

from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import FeedBack, FeedItem, FeedLost

TOO_FAST = "Order updates came faster than they were read."


class Pushed:
    """What `Broker.updates` gives. It never waits for its reader, and never grows beyond `size`.

    Without room, everything is dropped until the reader has taken what is there. It then hears of
    the gap, in its place, and of the channel's state as it is by then.
    """

    def __init__(self, size: int) -> None:
        self._in, self._out = trio.open_memory_channel[FeedItem](size)
        self._up = False
        self._gap = False
        self._back_is_due = False

    @property
    def up(self) -> bool:
        """Whether the last word on the channel's state was `FeedBack`."""
        return self._up

    def push(self, item: FeedItem) -> None:
        """Hand an item over, or drop it."""
        if not isinstance(item, BrokerOrder):
            self._up = isinstance(item, FeedBack)
        if self._gap:
            return
        try:
            self._in.send_nowait(item)
        except trio.WouldBlock:
            self._gap = True
        except trio.BrokenResourceError:
            pass  # the reader has gone

    def close(self) -> None:
        """Nothing follows: the reader ends when it has read what is there."""
        self._in.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        if self._back_is_due:
            self._back_is_due = False
            if self._up:
                await trio.lowlevel.checkpoint()
                return FeedBack()
        if self._gap and not self._out.statistics().current_buffer_used:
            self._gap = False
            self._back_is_due = True
            await trio.lowlevel.checkpoint()
            return FeedLost(TOO_FAST)
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def take_nowait(self) -> FeedItem | None:
        """The next item if it is there already."""
        if self._back_is_due:
            return None
        try:
            return self._out.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return None
