"""The PersistenceActor: the only writer of the tables, and the only source of what is told.

Natural group commit: whatever waits when a transaction returns becomes the next one, so a hundred
waiting ones cost one fsync. A lone change is not delayed, but for news, for which nobody waits:
they go with the next change, or after a few milliseconds. After the commit, in this order: the
stream hub is given the events, the webhook dispatcher is woken, and only then is the asker
answered. Nothing is told that is not durable.
"""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
import trio

from ticker_actors.actors.ports import Clock
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.mailbox import Mailbox, Reply, Request
from ticker_actors.metrics import Metrics
from ticker_actors.model.changes import Change, CommitAnswer, Committed
from ticker_actors.model.events import Event

MAILBOX_SIZE = 1000
"""Changes that may wait; a sender beyond that waits for room, which slows the intake."""
MOST_CHANGES = 100
"""In one transaction: beyond that each costs as much as in a group of its own, and the first ones
would wait for the last, while a smaller group is written as the next one gathers."""

NEWS_SECONDS = 0.005
"""For which news may wait to share a transaction: an order's next step follows its last by 2 to
4 ms, and a transaction of their own would stand in its way, on the disk as on the processor."""

_log = structlog.get_logger(__name__)


class Writer(Protocol):
    """What this actor needs of a store."""

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one durable transaction."""
        ...


class Wakeup:
    """Tells a sleeper that there is work. Ringing twice before it is heeded is ringing once."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._stirred_at = -math.inf

    def rings(self) -> bool:
        """Whether it has rung since it was heeded."""
        return self._event.is_set()

    def ring(self) -> None:
        """Wake the sleeper."""
        self._event.set()

    def stir(self) -> None:
        """Something goes on, and more may follow."""
        self._stirred_at = trio.current_time()

    def heed(self) -> None:
        """Whatever it has rung for is seen to now."""
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self) -> None:
        """Sleep until it rings, or has rung since it was heeded."""
        await self._event.wait()

    async def quiet(self, seconds: float, end: float) -> None:
        """Sleep until nothing has stirred for so many seconds, but no longer than until `end`."""
        while trio.current_time() < (until := min(self._stirred_at + seconds, end)):  # noqa: ASYNC110  # an event would be set and made anew by each transaction
            await trio.sleep_until(until)


@dataclass(frozen=True, slots=True)
class Commit(Request[CommitAnswer]):
    """Write this change."""

    change: Change
    asked_at: float
    news: bool
    """Nobody waits for it."""


_Asked = tuple[Commit, Reply[CommitAnswer]]


class PersistenceActor:
    """Commits changes in the order in which they come."""

    def __init__(
        self, store: Writer, hub: StreamHub, outbox: Wakeup, clock: Clock, metrics: Metrics
    ) -> None:
        self._store = store
        self._hub = hub
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._mailbox = Mailbox[Commit](MAILBOX_SIZE)
        self._began: float | None = None

    @property
    def mailboxes(self) -> tuple[Mailbox[Commit], ...]:
        """Its one mailbox."""
        return (self._mailbox,)

    def stalled_seconds(self) -> float:
        """How long the transaction under way has been waited for; 0.0 when there is none."""
        return 0.0 if self._began is None else trio.current_time() - self._began

    async def commit(self, change: Change, *, news: bool = False) -> CommitAnswer:
        """Write a change, waiting for room. Changes commit in the order of these calls.

        `news`: nobody waits for it, so that it may wait for others.
        """
        return await self._mailbox.ask(Commit(change, trio.current_time(), news))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes until the mailbox is closed and empty."""
        task_status.started()
        messages = aiter(self._mailbox)
        async for first in messages:
            group = [first]
            try:
                await self._gather(group, messages)
                await self._commit(group)
            finally:  # after a crash too, nobody waits in vain
                for _, reply in group:
                    reply.close()

    async def _gather(self, group: list[_Asked], messages: AsyncIterator[_Asked]) -> None:
        """Add what waits; and while all of it is news, what comes within `NEWS_SECONDS`."""
        until = group[0][0].asked_at + NEWS_SECONDS
        while len(group) < MOST_CHANGES:
            more = self._mailbox.take_nowait()
            if more is None and all(message.news for message, _ in group):
                with trio.move_on_at(until):
                    more = await anext(messages, None)
            if more is None:
                return
            group.append(more)

    async def _commit(self, group: list[_Asked]) -> None:
        began = self._began = trio.current_time()
        stirs = any(_is_a_step(message) for message, _ in group)
        if stirs:
            self._outbox.stir()
        answers = await self._store.commit(
            [message.change for message, _ in group], self._clock.now()
        )
        ended, self._began = trio.current_time(), None
        self._metrics.commit_changes.observe(len(group))
        self._metrics.commit_seconds.observe(ended - began)
        events: list[Event] = []
        deliveries = 0
        for answer in answers:
            if isinstance(answer, Committed):
                events.extend(answer.events)
                deliveries += answer.deliveries
        if events:
            for event in events:
                self._metrics.events(event.event).inc()
            await self._hub.publish(tuple(events))
        if stirs:
            self._outbox.stir()
        if deliveries:
            self._outbox.ring()
        for (message, reply), answer in zip(group, answers, strict=True):
            self._metrics.stage("commit").observe(ended - message.asked_at)
            reply(answer)


def _is_a_step(message: Commit) -> bool:
    """Whether more may follow soon: news are the end of something, and so are webhooks' results."""
    return not message.news and not message.change.deliveries
