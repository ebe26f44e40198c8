"""Rows and structs: how each model is laid in columns. The columns are named like the fields."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, TypeVar

import msgspec

from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import iso
from ticker_actors.model.changes import Attempt, DeliveryResult, Webhook
from ticker_actors.model.events import Event
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask

S = TypeVar("S", bound=msgspec.Struct)
Row = tuple[Any, ...]

TASK = OrderTask.__struct_fields__
ATTEMPT = Attempt.__struct_fields__
BATCH = Batch.__struct_fields__
EVENT = (
    "account_id",
    "sequence",
    "event_id",
    "event",
    "order_id",
    "order_key",
    "order_version",
    "data",
    "created_at",
)
ORDER = (
    "account_id",
    "order_id",
    "trading_day",
    "status",
    "task_id",
    "tag",
    "version",
    "data",
    "updated_at",
)
WEBHOOK = Webhook.__struct_fields__

_JSON_COLUMNS = frozenset({"params", "result", "task_ids", "answer", "events", "data"})


def insert(table: str, columns: Iterable[str]) -> str:
    """`INSERT INTO table (columns) VALUES (…)`."""
    names = tuple(columns)
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  # our names


def upsert(table: str, columns: Iterable[str], key: str, fixed: Iterable[str] = ()) -> str:
    """An insert that replaces the row of the same key, all but its `fixed` columns."""
    names = tuple(columns)
    kept = {*fixed, *(part.strip() for part in key.split(","))}
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in kept)
    return f"{insert(table, names)} ON CONFLICT ({key}) DO UPDATE SET {changes}"


def column(value: object) -> object:
    """A field's value as SQLite stores it."""
    match value:
        case datetime():
            return iso(value)
        case date():
            return value.isoformat()
        case dict() | tuple() | list():
            return msgspec.json.encode(value).decode()
        case str():
            return str(value)  # an enum's plain value
        case _:
            return value


def of(struct: msgspec.Struct) -> Row:
    """A struct whose fields are columns."""
    return tuple(column(getattr(struct, name)) for name in struct.__struct_fields__)


def of_event(event: Event) -> Row:
    """A row of `order_events`."""
    return (
        event.account_id,
        event.sequence,
        event.event_id,
        event.event,
        event.order_id,
        event.order_key,
        event.order_version,
        bytes(event.data).decode(),
        iso(event.created_at),
    )


def of_order(view: OrderView, now: datetime) -> Row:
    """A row of `broker_orders`."""
    return (
        view.account_id,
        view.order.order_id,
        view.trading_day.isoformat(),
        view.order.status,
        view.task_id,
        view.tag,
        view.version,
        msgspec.json.encode(view.order).decode(),
        iso(now),
    )


def of_attempt_result(result: DeliveryResult) -> Row:
    """A row of `webhook_attempts`."""
    return (
        result.delivery_id,
        result.attempt,
        iso(result.started_at),
        result.seconds,
        result.status_code,
        result.error,
    )


def to(kind: type[S], row: Mapping[str, Any]) -> S:
    """The struct that a row of its columns holds."""
    fields = {
        name: msgspec.json.decode(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
        if name in kind.__struct_fields__
    }
    return msgspec.convert(fields, kind, strict=False)


def to_order(row: Mapping[str, Any]) -> OrderView:
    """The order that a row of `broker_orders` holds."""
    return OrderView(
        account_id=row["account_id"],
        order=msgspec.json.decode(row["data"], type=BrokerOrder),
        task_id=row["task_id"],
        tag=row["tag"],
        version=row["version"],
        trading_day=date.fromisoformat(row["trading_day"]),
    )


def to_event(row: Mapping[str, Any]) -> Event:
    """The event that a row of `order_events` holds."""
    fields = {**row, "data": msgspec.Raw(row["data"].encode())}
    fields["created_at"] = datetime.fromisoformat(row["created_at"])
    return Event(**fields)
