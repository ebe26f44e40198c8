"""The event catalogue: what is told, in which words, on stream and webhook alike.

An event is written in the transaction that makes it true. Order inside one transaction:
`order_placed`, then what the view shows, then `task_status`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from ticker_actors.model.calendar import iso
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.tasks import OrderTask

EventName = Literal[
    "order_placed",
    "order_updated",
    "order_completed",
    "order_cancelled",
    "order_rejected",
    "order_failed",
    "order_unresolved",
    "order_incident",
    "task_status",
    "batch_status",
    "account_status",
]

WebhookEvent = Literal[
    "order_placed", "order_completed", "order_failed", "order_cancelled", "order_rejected"
]
"""The mission document's five."""

_ENDINGS: dict[str, EventName] = {
    "COMPLETE": "order_completed",
    "CANCELLED": "order_cancelled",
    "REJECTED": "order_rejected",
}

ENDINGS = frozenset(_ENDINGS.values())
"""Events after which an order changes no more."""
ORDER_EVENTS = frozenset({"order_placed", "order_updated", *ENDINGS})
"""Events that tell a whole order: a later one replaces those before it."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an account's event log. Its transaction gives it its `sequence`."""

    event_id: str
    account_id: str
    event: EventName
    order_id: str | None
    order_key: str | None
    """Orders deliveries: the task's intent, which is there before an order id is."""
    order_version: int | None
    data: msgspec.Raw
    """JSON without needless space, encoded once: every channel sends the same bytes."""
    created_at: datetime
    sequence: int = 0


class Scribe:
    """Makes events: gives each its id and its time."""

    def __init__(self, new_id: Callable[[datetime], str]) -> None:
        self._new_id = new_id

    def _event(  # noqa: PLR0913  # the columns of one row
        self,
        name: EventName,
        account_id: str,
        at: datetime,
        data: dict[str, Any],
        *,
        order_id: str | None = None,
        order_key: str | None = None,
        order_version: int | None = None,
    ) -> Event:
        return Event(
            event_id=self._new_id(at),
            account_id=account_id,
            event=name,
            order_id=order_id,
            order_key=order_key,
            order_version=order_version,
            data=msgspec.Raw(msgspec.json.encode(data)),
            created_at=at,
        )

    def order(self, name: EventName, view: OrderView, order_key: str | None, at: datetime) -> Event:
        """`order_placed`, `order_updated` or an ending: the order in Kite's fields."""
        return self._event(
            name,
            view.account_id,
            at,
            view.data(),
            order_id=view.order.order_id,
            order_key=order_key,
            order_version=view.version,
        )

    def task_status(self, task: OrderTask) -> Event:
        """A task completed, is retrying, died, or is being resolved."""
        data = {
            "event": "task_status",
            "task_id": task.task_id,
            "status": task.status,
            "result": task.result,
            "phase": task.phase,
            "operation": task.operation,
            "error": task.last_error,
            "reason": task.reason,
            "order_id": task.order_id,
            "batch_id": task.batch_id,
            "leg": task.leg,
        }
        return self._about("task_status", task, task.updated_at, data)

    def order_failed(self, task: OrderTask) -> Event:
        """A place task died and nothing of it is at the broker."""
        return self._about("order_failed", task, task.updated_at, _failure(task))

    def order_unresolved(self, task: OrderTask) -> Event:
        """A place task ended without proof: a person must look at the broker."""
        data = {**_failure(task), "may_be_at_broker": True}
        return self._about("order_unresolved", task, task.updated_at, data)

    def order_incident(
        self, task: OrderTask, message: str, order_id: str | None, at: datetime
    ) -> Event:
        """The broker contradicts what was told."""
        data = {
            "task_id": task.task_id,
            "order_id": order_id,
            "reason": "contradiction",
            "error": message,
            "broker_tag": task.broker_tag,
        }
        return self._about("order_incident", task, at, data)

    def batch_status(self, account_id: str, answer: dict[str, Any], at: datetime) -> Event:
        """A batch finished: its whole answer."""
        return self._event("batch_status", account_id, at, {"event": "batch_status", **answer})

    def account_status(self, account_id: str, state: str, message: str, at: datetime) -> Event:
        """The account's feed was lost or is back, or its book cannot be trusted."""
        data = {"event": "account_status", "state": state, "message": message}
        return self._event("account_status", account_id, at, data)

    def _about(self, name: EventName, task: OrderTask, at: datetime, data: dict[str, Any]) -> Event:
        return self._event(
            name,
            task.account_id,
            at,
            data,
            order_id=task.order_id,
            order_key=task.intent if task.operation == "place_order" else task.order_id,
        )


def _failure(task: OrderTask) -> dict[str, Any]:
    return {
        **task.params,
        "task_id": task.task_id,
        "reason": task.reason,
        "error": task.last_error,
        "broker_tag": task.broker_tag,
    }


def of_view(old: BrokerOrder | None, new: BrokerOrder) -> tuple[EventName, ...]:
    """What a change of the view tells. First sight is `order_placed`, whatever else it shows."""
    if old == new:
        return ()
    changed: EventName | None
    if new.terminal and (old is None or old.status != new.status):
        changed = _ENDINGS[new.status]
    else:
        changed = "order_updated" if old is not None else None
    placed: tuple[EventName, ...] = ("order_placed",) if old is None else ()
    return placed if changed is None else (*placed, changed)


def stream_message(event: Event, stream: str, *, replayed: bool = False) -> bytes:
    """The WebSocket text of an event: the mission document's keys first, then ours.

    `replayed`: it is told again, from the log.
    """
    message = {
        "type": "order_update",
        "account_id": event.account_id,
        "data": event.data,
        "timestamp": iso(event.created_at),
        "sequence": event.sequence,
        "stream": stream,
        "event_id": event.event_id,
        "event": event.event,
        "order_version": event.order_version,
    }
    if replayed:
        message["replayed"] = True
    return msgspec.json.encode(message)


def webhook_body(event: Event, stream: str) -> bytes:
    """The webhook body of an event: the mission document's keys first, then ours."""
    return msgspec.json.encode(
        {
            "event": event.event,
            "account_id": event.account_id,
            "data": event.data,
            "timestamp": iso(event.created_at),
            "id": event.event_id,
            "sequence": event.sequence,
            "order_id": event.order_id,
            "order_version": event.order_version,
            "stream": stream,
        }
    )
