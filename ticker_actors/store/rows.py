"""Rows and structs: every table's row as a struct, whose fields are named like the columns.

A commit hands them to either database as JSON, which it takes apart itself, but for single rows,
which PostgreSQL is given as `parameters`; other single rows and parameters go to SQLite as plain
values (`of`, `column`). All are read back with `to`.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, TypeVar

import msgspec

from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import iso
from ticker_actors.model.changes import Attempt, DeliveryResult, DeliveryState, Webhook
from ticker_actors.model.events import Event
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask

S = TypeVar("S", bound=msgspec.Struct)
Row = Mapping[str, Any]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `broker_orders`."""

    account_id: str
    order_id: str
    trading_day: date
    status: str
    task_id: str | None
    tag: str | None
    version: int
    data: BrokerOrder
    updated_at: datetime


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A new row of `webhook_deliveries`."""

    delivery_id: str
    webhook_id: str
    account_id: str
    sequence: int
    event_id: str
    event: str
    order_key: str | None
    state: DeliveryState
    next_at: datetime
    created_at: datetime
    updated_at: datetime
    body: str
    """JSON, encoded once: what is stored is what is sent."""


class DeliveryUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt changes in a row of `webhook_deliveries`."""

    state: DeliveryState
    attempts: int
    next_at: datetime | None
    updated_at: datetime
    delivery_id: str


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """Ends what is pending of a webhook in `webhook_deliveries`."""

    webhook_id: str
    updated_at: datetime


TASK = OrderTask.__struct_fields__
ATTEMPT = Attempt.__struct_fields__
BATCH = Batch.__struct_fields__
EVENT = Event.__struct_fields__
ORDER = Order.__struct_fields__
WEBHOOK = Webhook.__struct_fields__
OUTBOX = OutboxRow.__struct_fields__
ATTEMPT_RESULT = ("delivery_id", "attempt", "started_at", "seconds", "status_code", "error")

TASK_FIXED = ("idempotency_key", "operation", "params", "created_at", "account_id", "intent")
"""A task's identity and its request: written once."""
ORDER_FIXED = ("trading_day",)
"""The day of first sight."""

JSON_COLUMNS = frozenset({"params", "result", "task_ids", "answer", "events", "data"})
"""Whose values are JSON themselves."""


_PLAIN = frozenset({str, int, float, bool, type(None)})
"""Most values are of these; a `match` would look through all its cases for them."""


def column(value: object) -> object:
    """A field's value as SQLite stores it."""
    if type(value) in _PLAIN:
        return value
    match value:
        case datetime():
            value = iso(value)
        case date():
            value = value.isoformat()
        case msgspec.Raw():
            value = bytes(value).decode()
        case dict() | tuple() | list() | msgspec.Struct():
            value = msgspec.json.encode(value).decode()
        case str():
            value = str(value)  # an enum's plain value
        case _:
            pass
    return value


def of(struct: msgspec.Struct, columns: Iterable[str] | None = None) -> tuple[Any, ...]:
    """The values of a struct's fields: of these columns, or of all."""
    return tuple(column(getattr(struct, name)) for name in columns or struct.__struct_fields__)


def parameters(struct: msgspec.Struct, columns: Iterable[str]) -> list[object]:
    """The values of these columns as PostgreSQL's client takes them; JSON is a text."""
    values: list[object] = []
    for name in columns:
        value = getattr(struct, name)
        if name in JSON_COLUMNS and value is not None:
            text = msgspec.json.encode(value).decode()
            value = None if text == "null" else text  # as it is in a row of JSON
        values.append(value)
    return values


def of_order(view: OrderView, now: datetime) -> Order:
    """The row of an order."""
    return Order(
        account_id=view.account_id,
        order_id=view.order.order_id,
        trading_day=view.trading_day,
        status=view.order.status,
        task_id=view.task_id,
        tag=view.tag,
        version=view.version,
        data=view.order,
        updated_at=now,
    )


def of_result(result: DeliveryResult, now: datetime) -> DeliveryUpdate:
    """What an attempt changes in its delivery."""
    return DeliveryUpdate(
        state=result.state,
        attempts=result.attempt,
        next_at=result.next_at,
        updated_at=now,
        delivery_id=result.delivery_id,
    )


def to(kind: type[S], row: Row) -> S:
    """The struct that a row of its columns holds."""
    fields = {
        name: msgspec.json.decode(value) if name in JSON_COLUMNS and value is not None else value
        for name, value in row.items()
        if name in kind.__struct_fields__
    }
    return msgspec.convert(fields, kind, strict=False)


def to_order(row: Row) -> OrderView:
    """The order that a row of `broker_orders` holds."""
    return to_view(to(Order, row))


def to_view(row: Order) -> OrderView:
    """The order that a row holds."""
    return OrderView(
        account_id=row.account_id,
        order=row.data,
        task_id=row.task_id or "",
        tag=row.tag,
        version=row.version,
        trading_day=row.trading_day,
    )


def to_event(row: Row) -> Event:
    """The event that a row of `order_events` holds."""
    fields = {name: row[name] for name in EVENT}
    fields["data"] = msgspec.Raw(row["data"].encode())
    fields["created_at"] = msgspec.convert(row["created_at"], datetime)
    return Event(**fields)
