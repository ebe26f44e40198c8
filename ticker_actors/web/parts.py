"""What the handlers are given, and how they wait."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol, TypeVar

import trio

from ticker_actors.actors.executor import ExecutorActor
from ticker_actors.actors.persistence import PersistenceActor
from ticker_actors.actors.ports import Broker, Clock
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.metrics import Metrics
from ticker_actors.model.batches import Batch
from ticker_actors.model.changes import Attempt, Webhook
from ticker_actors.model.events import Event
from ticker_actors.model.ids import Chance
from ticker_actors.model.orders import OrderView
from ticker_actors.model.tasks import OrderTask
from ticker_actors.settings import Settings
from ticker_actors.waits import Waits
from ticker_actors.web.problems import bad_fields

T = TypeVar("T")


class Tables(Protocol):
    """What the handlers read, on connections that never wait for a commit."""

    @property
    def away_seconds(self) -> float:
        """For how long the database has not answered; 0.0 while it does."""
        ...

    async def task(self, task_id: str) -> OrderTask | None:
        """One task, or None."""
        ...

    async def attempts(self, task_id: str) -> list[Attempt]:
        """The sends of a task, in order."""
        ...

    async def tasks(
        self,
        *,
        account_id: str | None,
        status: str | None,
        batch_id: str | None,
        before: str | None,
        limit: int,
    ) -> list[OrderTask]:
        """Tasks, newest first, before the id `before`."""
        ...

    async def task_statistics(self) -> list[tuple[str, int, float]]:
        """Status, count and average attempts."""
        ...

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        ...

    async def orders(self, account_id: str, day: date) -> list[OrderView]:
        """The account's orders first seen on an IST day."""
        ...

    async def order(self, account_id: str, order_id: str) -> OrderView | None:
        """One order of any day, or None."""
        ...

    async def order_events(self, account_id: str, order_id: str) -> list[Event]:
        """What was told of one order, in order."""
        ...

    async def events(self, account_id: str, since: int, limit: int) -> list[Event]:
        """The account's events after a sequence, in order; the oldest may have been deleted."""
        ...

    async def oldest_event(self, account_id: str) -> int | None:
        """The first sequence of the account that is still kept, or None."""
        ...

    async def webhooks(self, account_id: str | None) -> list[Webhook]:
        """Subscriptions that are not deleted."""
        ...

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One subscription that is not deleted, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The running service, as its handlers see it."""

    settings: Settings
    executor: ExecutorActor
    persistence: PersistenceActor
    hub: StreamHub
    tables: Tables
    webhook_refusal: Callable[[str], Awaitable[str | None]]
    """Why no webhook may go where a URL leads, or None."""
    clock: Clock
    chance: Chance
    metrics: Metrics
    brokers: Mapping[str, Broker]
    """By account, for what is asked of it directly."""
    genuine: Callable[[str, bytes], bool]
    """Whether a postback for an account is signed by its broker."""
    stopping: trio.Event
    mailboxes: Callable[[], Mapping[str, int]]
    """How many messages wait, by mailbox."""
    commit_age: Callable[[], float]
    """Seconds that the durable transaction under way has been waited for."""
    loop_lag: Callable[[], float]
    """Seconds by which the event loop lately ran behind."""
    waits: Waits = field(default_factory=Waits)
    """Those of the handlers."""

    def account(self, account_id: str) -> str:
        """The account's id again, or the `Problem` that there is no such account."""
        if account_id not in self.executor.accounts:
            known = ", ".join(self.executor.accounts)
            raise bad_fields([("account_id", f"is not an account of this service: {known}")])
        return account_id

    async def within(self, seconds: float, wait: Awaitable[T]) -> T | None:
        """What is waited for, or None when time is up or the service is stopping."""
        result: T | None = None
        with self.waits.wait(seconds):
            result = await wait
        return result  # noqa: RET504  # None when it was cut short

    async def end_waits(self) -> None:
        """End all that is waited for when the service stops, or falls. Runs beside the server."""
        try:
            await self.stopping.wait()
        finally:
            self.waits.end()
