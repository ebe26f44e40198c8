"""What one step of the service writes, whole or not at all: the unit of a transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from ticker_actors.model.accounts import Standing
from ticker_actors.model.batches import Batch
from ticker_actors.model.events import Event, EventName
from ticker_actors.model.orders import OrderView
from ticker_actors.model.tasks import Operation, OrderTask

Owned = Literal["task", "batch"]


class Key(msgspec.Struct, frozen=True):
    """An idempotency key, and what was made under it. Unique per installation."""

    key: str
    request_hash: str
    """SHA-256 of the validated body as sent, before defaults were filled in."""
    kind: Owned
    id: str
    account_id: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One send of a task: written before it, completed after it."""

    task_id: str
    send: int
    account_id: str
    operation: Operation
    broker_tag: str
    epoch: int
    sent_at: datetime
    answered_at: datetime | None = None
    outcome: str | None = None
    detail: str | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription: where to post which events of one account."""

    webhook_id: str
    url: str
    account_id: str
    events: tuple[EventName, ...]
    secret: str | None
    """Sent in clear as `X-Webhook-Secret`; never returned, never logged."""
    active: bool = True
    deleted: bool = False
    created_at: datetime


DeliveryState = Literal["pending", "succeeded", "held", "failed"]


class DeliveryResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt at one delivery."""

    delivery_id: str
    attempt: int
    """1 for the first."""
    state: DeliveryState
    next_at: datetime | None
    started_at: datetime
    seconds: float
    status_code: int | None
    error: str | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to write and events to log, in one transaction. Rows are whole: they replace."""

    account_id: str
    key: Key | None = None
    tasks: tuple[OrderTask, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    orders: tuple[OrderView, ...] = ()
    batches: tuple[Batch, ...] = ()
    events: tuple[Event, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    deliveries: tuple[DeliveryResult, ...] = ()
    standing: Standing | None = None
    """The account's new state, if it changes."""


class Committed(msgspec.Struct, frozen=True):
    """The change is durable. Its events have their sequence numbers."""

    events: tuple[Event, ...]
    deliveries: int = 0
    """How many webhook deliveries it put in the outbox."""


class KeyTaken(msgspec.Struct, frozen=True):
    """Nothing was written: the key was used before, for this."""

    key: Key


class Unstorable(msgspec.Struct, frozen=True):
    """Nothing was written: the database will not take a row of the change."""

    message: str


CommitAnswer = Committed | KeyTaken | Unstorable


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What a new owner of an account finds: everything that is not finished, and today's orders."""

    account_id: str
    epoch: int
    head_sequence: int
    standing: Standing = Standing()
    modifications: Mapping[str, int] = {}
    """How often each order of today was modified."""
    taken_today: int = 0
    """Place tasks made on this trading day."""
    tasks: tuple[OrderTask, ...]
    """Unfinished ones, and every leg of an unfinished batch; oldest first."""
    batches: tuple[Batch, ...]
    orders: tuple[OrderView, ...]
    """Of today, and of any day those of an unfinished batch's legs."""
    attempts: tuple[Attempt, ...]
    """Sends of the last 24 hours: the broker has not forgotten them."""


class Installation(msgspec.Struct, frozen=True):
    """Made once with the database."""

    stream: str
    tag: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to one subscription: a row of the outbox, and where it goes."""

    delivery_id: str
    webhook_id: str
    account_id: str
    event_id: str
    event: EventName
    sequence: int
    attempts: int
    body: bytes
    url: str
    secret: str | None
    followed: bool
    """Whether more of its order wait behind it."""
