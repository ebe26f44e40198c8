"""What both stores share: the questions they answer, the outbox's rule, and how they fail.

The SQL here is the part that SQLite and PostgreSQL understand alike. Its parameters are `$1`, `$2`;
a parameter is compared before it is asked whether it is NULL, which tells PostgreSQL its type.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from types import GenericAlias

import msgspec

from ticker_actors.model import events as catalogue
from ticker_actors.model import ids
from ticker_actors.model.accounts import AccountState, Standing
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import day_end, trading_day
from ticker_actors.model.changes import (
    Attempt,
    Change,
    CommitAnswer,
    Committed,
    Delivery,
    Installation,
    Key,
    Recovered,
    Webhook,
)
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderView
from ticker_actors.model.retention import Cutoffs, Table
from ticker_actors.model.tasks import OrderTask
from ticker_actors.store import rows

ORDERED_ATTEMPTS = 4
"""Later deliveries of an order wait until one has failed more often: through its 5 min pause."""


class StoreError(Exception):
    """The store cannot be opened. Its message is one sentence for the operator."""


class StaleEpochError(Exception):
    """Another process has taken the account over: this one must not write another word."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"Account {account_id} has another writer.")


class Store(ABC):
    """The tables of a running service. Reads have connections that never wait for a commit."""

    installation: Installation

    @property
    def away_seconds(self) -> float:
        """For how long the database has not answered; 0.0 while it does."""
        return 0.0

    def lease_seconds(self, account_id: str) -> float:  # noqa: ARG002  # for stores with leases
        """For how long nobody else can become the account's writer; by a clock that never stops."""
        return math.inf

    @abstractmethod
    async def claim(self, account_id: str, owner: str) -> None:
        """Become the account's writer: raise its epoch.

        Raises `StoreError` when another process is, unless the store was opened to be patient.
        """

    async def recover(self, account_id: str, now: datetime) -> Recovered:
        """What is not finished of an account that was claimed."""
        sql = "SELECT * FROM accounts WHERE account_id = $1"
        (account,) = await self._rows(sql, account_id)
        return await self._recover(account, now)

    @abstractmethod
    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        """Write all the changes in one transaction; the answers are theirs, in order.

        A used key keeps only its own change from being written. A row that the database will not
        take fails only its own change.
        """

    @abstractmethod
    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries whose time has come, oldest first, at most `each` of one subscription.

        For each order only its next one; only accounts that this process writes.
        """

    @abstractmethod
    async def prune(self, table: Table, old: Cutoffs) -> Mapping[str, int]:
        """Delete some of what is too old, in one short transaction beside the commits.

        How many rows of which table: a task or batch takes its key along. Empty when nothing is
        left. `retention.py` holds the rules. Raises `CannotPrune`.
        """

    @abstractmethod
    async def _rows(self, sql: str, *values: object) -> Sequence[rows.Row]:
        """Run a query on a reader's connection."""

    @abstractmethod
    def _as_json(self, table: str, columns: Sequence[str], where: str) -> str:
        """The query for a table's rows in the order in which they came, as JSON arrays `rows`.

        A row is an object with at least these columns.
        """

    async def _all(self, kind: type[rows.S], sql: str, *values: object) -> list[rows.S]:
        return [rows.to(kind, row) for row in await self._rows(sql, *values)]

    async def _many(
        self, kind: type[rows.S], table: str, where: str, *values: object
    ) -> list[rows.S]:
        """The rows of a table, in the order in which they came.

        For a hundred thousand: texts made by the database and decoded without a step in between
        take a third of the time of as many columns.
        """
        sql = self._as_json(table, kind.__struct_fields__, where)
        decoder = msgspec.json.Decoder(GenericAlias(list, (kind,)), strict=False)
        return [
            row for text in await self._rows(sql, *values) for row in decoder.decode(text["rows"])
        ]

    async def task(self, task_id: str) -> OrderTask | None:
        """One task, or None."""
        found = await self._all(OrderTask, "SELECT * FROM order_tasks WHERE task_id = $1", task_id)
        return found[0] if found else None

    async def key(self, key: str) -> Key | None:
        """An idempotency key, and what was made under it, or None."""
        found = await self._all(Key, "SELECT * FROM idempotency_keys WHERE key = $1", key)
        return found[0] if found else None

    async def task_by_intent(self, intent: str) -> OrderTask | None:
        """The task whose orders carry this intent in their tag, or None."""
        found = await self._all(OrderTask, "SELECT * FROM order_tasks WHERE intent = $1", intent)
        return found[0] if found else None

    async def attempts(self, task_id: str) -> list[Attempt]:
        """The sends of a task, in order."""
        return await self._all(
            Attempt, "SELECT * FROM task_attempts WHERE task_id = $1 ORDER BY send", task_id
        )

    async def tasks(
        self,
        *,
        account_id: str | None,
        status: str | None,
        batch_id: str | None,
        before: str | None,
        limit: int,
    ) -> list[OrderTask]:
        """Tasks, newest first, before the id `before` (ids sort by time)."""
        return await self._all(
            OrderTask,
            "SELECT * FROM order_tasks WHERE (account_id = $1 OR $1 IS NULL) "
            "AND (status = $2 OR $2 IS NULL) AND (batch_id = $3 OR $3 IS NULL) "
            "AND (task_id < $4 OR $4 IS NULL) ORDER BY task_id DESC LIMIT $5",
            account_id,
            status,
            batch_id,
            before,
            limit,
        )

    async def task_statistics(self) -> list[tuple[str, int, float]]:
        """Status, count and average attempts."""
        found = await self._rows(
            "SELECT status, COUNT(*) AS count, AVG(attempts) AS average "
            "FROM order_tasks GROUP BY status"
        )
        return [(row["status"], row["count"], float(row["average"])) for row in found]

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch, or None."""
        found = await self._all(Batch, "SELECT * FROM batches WHERE batch_id = $1", batch_id)
        return found[0] if found else None

    async def orders(self, account_id: str, day: date) -> list[OrderView]:
        """The account's orders first seen on an IST day, oldest first."""
        sql = (
            "SELECT * FROM broker_orders WHERE account_id = $1 AND trading_day = $2 ORDER BY rowid"
        )
        return [rows.to_order(row) for row in await self._rows(sql, account_id, day)]

    async def order(self, account_id: str, order_id: str) -> OrderView | None:
        """One order of any day, or None."""
        sql = "SELECT * FROM broker_orders WHERE account_id = $1 AND order_id = $2"
        found = await self._rows(sql, account_id, order_id)
        return rows.to_order(found[0]) if found else None

    async def order_events(self, account_id: str, order_id: str) -> list[Event]:
        """What was told of one order, in order."""
        sql = "SELECT * FROM order_events WHERE account_id = $1 AND order_id = $2 ORDER BY sequence"
        return [rows.to_event(row) for row in await self._rows(sql, account_id, order_id)]

    async def events(self, account_id: str, since: int, limit: int) -> list[Event]:
        """The account's events after a sequence, in order, at most `limit`.

        Retention deletes the oldest: the first one found need not be the next one.
        """
        sql = (
            "SELECT * FROM order_events WHERE account_id = $1 AND sequence > $2 "
            "ORDER BY sequence LIMIT $3"
        )
        return [rows.to_event(row) for row in await self._rows(sql, account_id, since, limit)]

    async def oldest_event(self, account_id: str) -> int | None:
        """The first sequence of the account that is still kept, or None."""
        sql = "SELECT MIN(sequence) AS oldest FROM order_events WHERE account_id = $1"
        (row,) = await self._rows(sql, account_id)
        return None if row["oldest"] is None else int(row["oldest"])

    async def webhooks(self, account_id: str | None) -> list[Webhook]:
        """Subscriptions that are not deleted, oldest first."""
        return await self._all(
            Webhook,
            "SELECT * FROM webhooks WHERE NOT deleted AND (account_id = $1 OR $1 IS NULL) "
            "ORDER BY created_at, webhook_id",
            account_id,
        )

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One subscription that is not deleted, or None."""
        found = await self._all(
            Webhook, "SELECT * FROM webhooks WHERE webhook_id = $1 AND NOT deleted", webhook_id
        )
        return found[0] if found else None

    async def next_delivery_at(self, after: datetime) -> datetime | None:
        """When the first delivery that is not due yet will be, or None."""
        found = await self._rows(
            "SELECT MIN((SELECT MIN(d.next_at) FROM webhook_deliveries d WHERE "
            "d.webhook_id = w.webhook_id AND d.state = 'pending' AND d.next_at > $1)) AS at "
            "FROM webhooks w WHERE NOT w.deleted",
            after,
        )
        return msgspec.convert(found[0]["at"], datetime | None)

    async def _recover(self, account: rows.Row, now: datetime) -> Recovered:
        """What a new owner needs. It has the epoch already, so nobody else changes these rows."""
        account_id, today = account["account_id"], trading_day(now)
        since = ids.first_task_id(day_end(now) - timedelta(days=1))
        modifications = await self._rows(
            "SELECT order_id, SUM(attempts) AS attempts FROM order_tasks WHERE account_id = $1 "
            "AND operation = 'modify_order' AND task_id >= $2 GROUP BY order_id",
            account_id,
            since,
        )
        (taken,) = await self._rows(
            "SELECT COUNT(*) AS count FROM order_tasks WHERE account_id = $1 "
            "AND operation = 'place_order' AND task_id >= $2",
            account_id,
            since,
        )
        # Two questions, for each has its index: the finished tasks of a year are in neither.
        unfinished = await self._many(
            OrderTask,
            "order_tasks",
            "account_id = $1 AND phase NOT IN ('done', 'dead') "
            # Not what the library saved since the claim: that is still its own to change.
            "AND (sends > 0 OR epoch IS NULL OR epoch < $2)",
            account_id,
            account["epoch"],
        )
        legs = await self._many(
            OrderTask,
            "order_tasks",
            "batch_id IN (SELECT batch_id FROM batches WHERE account_id = $1 "
            "AND completed_at IS NULL) AND phase IN ('done', 'dead')",
            account_id,
        )
        batches = await self._all(
            Batch,
            "SELECT * FROM batches WHERE account_id = $1 AND completed_at IS NULL",
            account_id,
        )
        orders = await self._many(
            rows.Order,
            "broker_orders",
            "account_id = $1 AND (trading_day = $2 OR task_id IN "
            "(SELECT task_id FROM order_tasks WHERE batch_id IN (SELECT batch_id FROM batches "
            "WHERE account_id = $1 AND completed_at IS NULL)))",
            account_id,
            today,
        )
        attempts = await self._all(
            Attempt,
            "SELECT * FROM task_attempts WHERE account_id = $1 AND sent_at > $2 ORDER BY sent_at",
            account_id,
            now - timedelta(days=1),
        )
        return Recovered(
            account_id=account_id,
            epoch=account["epoch"],
            head_sequence=account["head_sequence"],
            standing=Standing(
                AccountState(account["state"]),
                account["state_reason"],
                tuple(msgspec.json.decode(account["accepted_missing"])),
            ),
            modifications={row["order_id"]: int(row["attempts"]) for row in modifications},
            taken_today=taken["count"],
            tasks=tuple(sorted((*unfinished, *legs), key=lambda task: task.created_at)),
            batches=tuple(batches),
            orders=tuple(map(rows.to_view, orders)),
            attempts=tuple(attempts),
        )


class Subscriptions:
    """Every webhook that is not deleted: which deliveries an event puts in the outbox."""

    def __init__(self, webhooks: Sequence[Webhook], stream: str) -> None:
        self._stream = stream
        self._known: dict[str, dict[str, Webhook]] = {}
        self.add(webhooks)

    def add(self, webhooks: Sequence[Webhook]) -> None:
        """Take up webhooks that were found."""
        for webhook in webhooks:
            self._note(webhook)

    def note(self, changes: Sequence[Change], answers: Sequence[CommitAnswer]) -> None:
        """Take up the webhooks of what was committed."""
        for change, answer in zip(changes, answers, strict=True):
            if isinstance(answer, Committed):
                for webhook in change.webhooks:
                    self._note(webhook)

    def _note(self, webhook: Webhook) -> None:
        known = self._known.setdefault(webhook.account_id, {})
        if webhook.deleted:
            known.pop(webhook.webhook_id, None)
        else:
            known[webhook.webhook_id] = webhook

    def deliveries(self, event: Event) -> Iterator[rows.OutboxRow]:
        """The event's rows in the outbox, one for each subscription that wants it."""
        wanted = [
            webhook
            for webhook in self._known.get(event.account_id, {}).values()
            if webhook.active and event.event in webhook.events
        ]
        body = catalogue.webhook_body(event, self._stream).decode() if wanted else ""
        for webhook in wanted:
            yield rows.OutboxRow(
                delivery_id=f"dlv_{event.event_id.removeprefix('evt_')}_{webhook.webhook_id}",
                webhook_id=webhook.webhook_id,
                account_id=event.account_id,
                sequence=event.sequence,
                event_id=event.event_id,
                event=event.event,
                order_key=event.order_key or event.order_id,
                state="pending",
                next_at=event.created_at,
                created_at=event.created_at,
                updated_at=event.created_at,
                body=body,
            )


def numbered(events: Sequence[Event], head: int) -> tuple[Event, ...]:
    """The events with the sequence numbers that follow `head`."""
    return tuple(
        msgspec.structs.replace(event, sequence=number)
        for number, event in enumerate(events, start=head + 1)
    )


def new_installation(chance: ids.Chance) -> Installation:
    """The names of a database that is just being made."""
    return Installation(stream=ids.stream(chance), tag=ids.base36(chance(16), 3))
