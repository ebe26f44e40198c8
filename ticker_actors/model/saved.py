"""Tasks that another program saves, through the library: how they become rows of ours.

Its words are the mission document's five. A row says no more than they prove: what another program
has sent carries no tag of ours, so no order book can tell what became of it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ticker_actors.model import risk
from ticker_actors.model.calendar import day_end
from ticker_actors.model.orders import (
    MARKET_EXPIRY_SECONDS,
    FieldProblem,
    Label,
    OrderChanges,
    PlaceOrder,
    conflicts,
)
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.tasks import (
    Invalid,
    Operation,
    OrderTask,
    Phase,
    Reason,
    TaskStatus,
    Untraceable,
)
from ticker_actors.model.validation import problems

MOST_ATTEMPTS = 2**31 - 1
"""What the documented column, an INTEGER, holds."""


class NotSaved(Exception):
    """The task was not saved, and nothing has changed. Its message is a sentence that says why."""


class SavedTask(msgspec.Struct, frozen=True, kw_only=True):
    """The mission document's columns as a program wants them saved."""

    task_id: Label
    idempotency_key: Label
    operation: Operation
    params: dict[str, Any]
    status: TaskStatus
    attempts: Annotated[int, Meta(ge=0, le=MOST_ATTEMPTS)]
    max_attempts: Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)]
    created_at: datetime
    last_error: str | None
    result: dict[str, Any] | None
    account_id: Label


IDENTITY = ("idempotency_key", "operation", "params", "account_id")
"""What is written once."""
PROGRESS = ("attempts", "max_attempts", "last_error", "result")

MAY_BECOME: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset(
        {TaskStatus.RUNNING, TaskStatus.COMPLETED, TaskStatus.DEAD_LETTER}
    ),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.RETRYING, TaskStatus.COMPLETED, TaskStatus.DEAD_LETTER}
    ),
    TaskStatus.RETRYING: frozenset(
        {TaskStatus.RUNNING, TaskStatus.COMPLETED, TaskStatus.DEAD_LETTER}
    ),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.DEAD_LETTER: frozenset({TaskStatus.COMPLETED}),
}
"""The table of `model.tasks` in the document's words."""

_PHASE: Mapping[TaskStatus, Phase] = {
    TaskStatus.PENDING: Phase.QUEUED,
    TaskStatus.RUNNING: Phase.RESOLVING,  # never as if it had not been sent
    TaskStatus.RETRYING: Phase.WAITING,
    TaskStatus.COMPLETED: Phase.DONE,
    TaskStatus.DEAD_LETTER: Phase.DEAD,
}


def checked(fields: Mapping[str, Any]) -> SavedTask:
    """A program's task, judged. Raises `NotSaved`."""
    name = fields.get("task_id")
    try:
        task = msgspec.convert(fields, SavedTask)
        plain = _is_plain(task.params) and _is_plain(task.result)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotSaved(f"Task {name!r} cannot be saved: {str(error).rstrip('.')}.") from None
    if not plain:
        raise NotSaved(f"Task {name!r} cannot be saved: params and result must be plain JSON.")
    if task.created_at.tzinfo is None:
        raise NotSaved(f"Task {name!r} cannot be saved: created_at has no time zone.")
    return task


def _is_plain(value: object) -> bool:
    """Whether it comes back from JSON as it is."""
    return bool(msgspec.json.decode(msgspec.json.encode(value)) == value)


def first(task: SavedTask, *, intent: str, epoch: int, now: datetime) -> OrderTask:
    """The new row of a task. It expires as if it had been submitted when it was made."""
    if task.idempotency_key.startswith("~"):
        raise NotSaved(f"Key {task.idempotency_key!r} starts with ~, as only internal keys do.")
    row = OrderTask(
        task_id=task.task_id,
        idempotency_key=task.idempotency_key,
        operation=task.operation,
        params=task.params,
        status=task.status,
        created_at=task.created_at,
        updated_at=now,
        account_id=task.account_id,
        phase=_PHASE[task.status],
        intent=intent,
        epoch=epoch,
        queued_at=task.created_at if task.status is TaskStatus.PENDING else None,
        expires_at=_expiry(task, min(task.created_at, now)),
    )
    return _told(row, task, tried=False)


def following(row: OrderTask, task: SavedTask, *, epoch: int, now: datetime) -> OrderTask:
    """The row after the task is saved again; the same object when it says all that already.

    `epoch`: the account's now. Raises `NotSaved`.
    """
    for name in IDENTITY:
        if getattr(row, name) != getattr(task, name):
            raise NotSaved(f"Task {row.task_id!r} is there already, with another {name}.")
    if row.status is task.status and all(
        getattr(row, name) == getattr(task, name) for name in PROGRESS
    ):
        return row
    if row.sends or row.epoch != epoch:
        raise NotSaved(
            f"Task {row.task_id!r} is {row.status}, and a service has taken it up: "
            "only that may change it."
        )
    # What runs may go on running, with more to tell of it.
    if task.status not in MAY_BECOME[row.status] and not (
        task.status is row.status is TaskStatus.RUNNING
    ):
        raise NotSaved(f"Task {row.task_id!r} is {row.status} and cannot become {task.status}.")
    tried = row.attempts > 0 or row.phase is not Phase.QUEUED
    changed = msgspec.structs.replace(row, status=task.status, updated_at=now)
    return _told(changed, task, tried=tried)


def is_strange(task: OrderTask) -> bool:
    """Whether another program has saved a task, and the service has not sent it since.

    Such a row carries the account's epoch, or tells of tries. One of the service's own has neither
    before it is sent.
    """
    if task.sends or task.finished:
        return False
    own = task.phase in {Phase.PLANNED, Phase.QUEUED} and not task.attempts
    return task.epoch is not None or not own


def obstacle(task: OrderTask, limits: RiskLimits, at: datetime) -> Invalid | Untraceable | None:
    """Why a service that starts cannot go on with a task that it finds, or None.

    Tasks of its own making have been judged before they were stored, and `sends` counts their
    tries: only another program's can have been tried and never sent.
    """
    if not is_strange(task):
        return None
    if task.attempts or task.phase is not Phase.QUEUED:
        return Untraceable(at)
    wrong = _wrong(task, limits)
    return None if wrong is None else Invalid(at, f"It cannot be sent: {wrong}.")


def _told(row: OrderTask, task: SavedTask, *, tried: bool) -> OrderTask:
    """What the program tells of its progress; no more is believed than that."""
    reason = None
    if task.status is TaskStatus.DEAD_LETTER:
        # Who never tried it has only changed its mind. Of a try, there is no evidence of ours.
        reason = Reason.UNRESOLVED if tried or task.attempts else Reason.CANCELLED
    holder = task.params if task.operation != "place_order" else task.result or {}
    order_id = holder.get("order_id")
    return msgspec.structs.replace(
        row,
        phase=_PHASE[task.status],
        reason=reason,
        order_id=order_id if isinstance(order_id, str) else None,
        **{name: getattr(task, name) for name in PROGRESS},
    )


def _expiry(task: SavedTask, since: datetime) -> datetime:
    if task.operation != "place_order":
        return day_end(since)
    try:
        seconds = msgspec.convert(task.params, PlaceOrder).expiry_seconds()
    except msgspec.ValidationError:
        seconds = MARKET_EXPIRY_SECONDS  # never sent, however soon
    return since + timedelta(seconds=seconds)


class _Change(msgspec.Struct, frozen=True):
    """The params of a modify or cancel task."""

    order_id: Label
    variety: Label
    changes: OrderChanges | None = None


def _wrong(task: OrderTask, limits: RiskLimits) -> str | None:
    """The first thing that is wrong with what a task asks for."""
    place = task.operation == "place_order"
    found = next(problems(task.params, PlaceOrder if place else _Change), None)
    if found is None and place:
        found = _denied(msgspec.convert(task.params, PlaceOrder), limits)
    elif found is None and task.operation == "modify_order":
        changes = msgspec.convert(task.params, _Change).changes
        if changes is None or not changes.named():
            found = ("changes", "names nothing")
        else:
            found = _denied(changes, limits)
    return None if found is None else " ".join(found)


def _denied(order: PlaceOrder | OrderChanges, limits: RiskLimits) -> FieldProblem | None:
    """Our own checks too, as far as they need no price: nobody else has made them."""
    if isinstance(order, PlaceOrder):
        denied = risk.denial(order, limits, last_price=None, placed_today=0)
    else:
        denied = risk.quantity_denial(order.quantity or 0, limits)
    found = None if denied is None else (denied.field, denied.message)
    return next(conflicts(order), None) or found
