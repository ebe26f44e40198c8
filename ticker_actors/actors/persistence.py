"""The PersistenceActor: the only writer of the tables, and the only source of what is told.

Natural group commit: whatever waits when a transaction returns becomes the next one. There is no
timer, so a lone change is not delayed, and a hundred waiting ones cost one fsync. After the commit,
in this order: the stream hub is given the events, the webhook dispatcher is woken, and only then is
the asker answered. Nothing is told that is not durable.
"""

from collections.abc import Sequence
from contextlib import ExitStack
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

_log = structlog.get_logger(__name__)


class Writer(Protocol):
    """What this actor needs of a store."""

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one durable transaction."""
        ...


class Wakeup:
    """Tells a sleeper that there is work. Ringing twice before it wakes is ringing once."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the sleeper."""
        self._event.set()

    async def wait(self) -> None:
        """Sleep until it rings, or has rung since the last time."""
        await self._event.wait()
        self._event = trio.Event()


@dataclass(frozen=True, slots=True)
class Commit(Request[CommitAnswer]):
    """Write this change."""

    change: Change
    asked_at: float


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

    async def commit(self, change: Change) -> CommitAnswer:
        """Write a change, waiting for room. Changes commit in the order of these calls."""
        return await self._mailbox.ask(Commit(change, trio.current_time()))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes until the mailbox is closed and empty."""
        task_status.started()
        async for first in self._mailbox:
            group = [first]
            while len(group) < MOST_CHANGES and (more := self._mailbox.take_nowait()):
                group.append(more)
            with ExitStack() as replies:  # after a crash too, nobody waits in vain
                for _, reply in group:
                    replies.enter_context(reply)
                await self._commit(group)

    async def _commit(self, group: list[tuple[Commit, Reply[CommitAnswer]]]) -> None:
        began = self._began = trio.current_time()
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
                self._metrics.events.labels(event.event).inc()
            await self._hub.publish(tuple(events))
        if deliveries:
            self._outbox.ring()
        for (message, reply), answer in zip(group, answers, strict=True):
            self._metrics.stage.labels("commit").observe(ended - message.asked_at)
            reply(answer)
