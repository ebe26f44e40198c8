"""Tasks and their life. Everything that affects a task's state lives in this file.

A task is one thing a client wants done at the broker. `status` is the word that the mission
document gives its state; `phase` says where inside, `reason` why a dead letter is dead:

    planned ─▶ queued ─▶ sent ─▶ done            status: pending   planned, queued
                 │  ▲     │  ╲                            retrying  waiting
                 │  └ waiting  resolving ─▶ done          running   sent, resolving
                 ▼                ╲                       completed done
                dead ◀─────────────┘                      dead_letter dead

`advance(task, event)` is the only way from one state to the next. What comes from outside (an
answer, a sighting, a cancel request) has a row in every phase; only an event of our own making can
be illegal, and that is a bug.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec

from ticker_actors.model.outcomes import (
    Accepted,
    ChangeOutcome,
    NotSent,
    Placed,
    PlaceOutcome,
    Refused,
    Unknown,
)
from ticker_actors.model.tags import parse


class TaskStatus(StrEnum):
    """The mission document's five words."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    RETRYING = "retrying"
    DEAD_LETTER = "dead_letter"


class Phase(StrEnum):
    """Where inside its status a task is."""

    PLANNED = "planned"
    """A batch's leg whose turn has not come."""
    QUEUED = "queued"
    WAITING = "waiting"
    """Between two sends, until `next_attempt_at`."""
    SENT = "sent"
    """Durable before the first byte: from here on the order may be at the broker."""
    RESOLVING = "resolving"
    """Sent, and what became of it is not known yet: only the order book can tell."""
    DONE = "done"
    DEAD = "dead"


class Reason(StrEnum):
    """Why a dead letter is dead."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    EXHAUSTED = "exhausted"
    NOT_PLACED_PROVED = "not_placed_proved"
    UNRESOLVED = "unresolved"
    TOO_LATE = "too_late"
    SUPERSEDED = "superseded"
    INVALID = "invalid"


Operation = Literal["place_order", "modify_order", "cancel_order"]
FoundBy = Literal["reply", "feed", "book"]

_STATUS: Mapping[Phase, TaskStatus] = {
    Phase.PLANNED: TaskStatus.PENDING,
    Phase.QUEUED: TaskStatus.PENDING,
    Phase.WAITING: TaskStatus.RETRYING,
    Phase.SENT: TaskStatus.RUNNING,
    Phase.RESOLVING: TaskStatus.RUNNING,
    Phase.DONE: TaskStatus.COMPLETED,
    Phase.DEAD: TaskStatus.DEAD_LETTER,
}


class OrderTask(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be done at the broker, and how far it is. A row of `order_tasks`."""

    task_id: str
    idempotency_key: str
    operation: Operation
    params: dict[str, Any]
    """The validated request: an order's fields, or `order_id`, `variety` and the changes."""
    status: TaskStatus
    attempts: int = 0
    """Sends that are spent. One that a check of ours stopped, or a dead token, is not."""
    max_attempts: int = 5
    created_at: datetime
    updated_at: datetime
    last_error: str | None = None
    result: dict[str, Any] | None = None
    account_id: str

    phase: Phase
    reason: Reason | None = None
    order_id: str | None = None
    """The broker's order: the one placed, or the one to be changed."""
    batch_id: str | None = None
    leg: int | None = None
    intent: str
    sends: int = 0
    """Requests that may have been on the wire; the tag's suffix."""
    broker_tag: str | None = None
    queued_at: datetime | None = None
    """When it became free to be sent; a leg's turn."""
    sent_at: datetime | None = None
    trading_day: date | None = None
    """The IST date of the last send: whose order book would show it."""
    epoch: int | None = None
    """The account's epoch at the last send; of a row of the library's, when it was saved."""
    next_attempt_at: datetime | None = None
    expires_at: datetime | None = None
    cancel_requested: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more will be done for it."""
        return self.phase in FINISHED

    @property
    def may_be_at_broker(self) -> bool:
        """Whether its order is, or may come to be, at the broker."""
        if self.operation != "place_order":
            return False
        if self.phase is Phase.DEAD:
            return self.reason is Reason.UNRESOLVED
        return self.phase in {Phase.SENT, Phase.RESOLVING, Phase.DONE}


def create(  # noqa: PLR0913  # all by name
    *,
    task_id: str,
    intent: str,
    key: str | None,
    operation: Operation,
    params: dict[str, Any],
    account_id: str,
    at: datetime,
    expires_at: datetime | None,
    max_attempts: int,
    phase: Literal[Phase.QUEUED, Phase.PLANNED] = Phase.QUEUED,
    order_id: str | None = None,
    batch_id: str | None = None,
    leg: int | None = None,
) -> OrderTask:
    """A new task. Without a key of the client's it has an internal one, which starts with `~`."""
    return OrderTask(
        task_id=task_id,
        idempotency_key=key if key is not None else f"~{task_id}",
        operation=operation,
        params=params,
        status=_STATUS[phase],
        max_attempts=max_attempts,
        created_at=at,
        updated_at=at,
        account_id=account_id,
        phase=phase,
        order_id=order_id,
        batch_id=batch_id,
        leg=leg,
        intent=intent,
        queued_at=at if phase is Phase.QUEUED else None,
        expires_at=expires_at,
    )


FINISHED = frozenset({Phase.DONE, Phase.DEAD})
UNSENT = frozenset({Phase.PLANNED, Phase.QUEUED, Phase.WAITING})


# Events of our own making: illegal where the table has no row.


@dataclass(frozen=True, slots=True)
class Queued:
    """A planned leg's turn has come."""

    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Sent:
    """It is about to be sent, under this tag."""

    at: datetime
    broker_tag: str
    trading_day: date
    epoch: int


@dataclass(frozen=True, slots=True)
class Expired:
    """It waited too long to be sent at all."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later modification of the same order replaces it."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Overmodified:
    """The broker was sent as many modifications as it takes of one order."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Invalid:
    """Another program saved it, and what it asks for is nothing that can be sent."""

    at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Another program tried it, without our tag: no order book can tell what became of it."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The process that sent it died: a new one found it `running`. It is never sent as if new."""

    at: datetime


@dataclass(frozen=True, slots=True)
class AbsenceProved:
    """The order book has shown, by the rule of `model.absence`, that no order came of it."""

    at: datetime


@dataclass(frozen=True, slots=True)
class DayEnded:
    """The trading day of its send is over, and its order book with it."""

    at: datetime


@dataclass(frozen=True, slots=True)
class GoalReached:
    """The order shows what a cancel or modify task wanted."""

    at: datetime
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GoalMissed:
    """The order ended in another way than a cancel or modify task wanted."""

    at: datetime
    result: dict[str, Any]
    message: str


@dataclass(frozen=True, slots=True)
class GoalOpen:
    """The order still does not show what a cancel or modify task wants: ask again."""

    at: datetime


# Events from outside: a row in every phase.


@dataclass(frozen=True, slots=True)
class Answered:
    """The broker call returned."""

    at: datetime
    outcome: PlaceOutcome | ChangeOutcome
    next_attempt_at: datetime
    """When to try again, should the outcome allow it; for a goal, when to look again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An order with this task's intent in its tag was seen."""

    at: datetime
    order_id: str
    found_by: FoundBy
    send: int
    """Which send of the task made it, by the tag's suffix."""
    sliced: bool = False
    """Whether the order is one of several that the broker makes of one request."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Its owner, or its batch, does not want it any more."""

    at: datetime
    why: str


TaskEvent = (
    Queued
    | Sent
    | Expired
    | Superseded
    | Overmodified
    | Invalid
    | Untraceable
    | Interrupted
    | AbsenceProved
    | DayEnded
    | GoalReached
    | GoalMissed
    | GoalOpen
    | Answered
    | Seen
    | CancelAsked
)
OUTSIDE = (Answered, Seen, CancelAsked)


class IllegalTransition(Exception):
    """An event of our own making in a phase where it cannot happen: a bug of this service."""


def advance(task: OrderTask, event: TaskEvent) -> OrderTask:
    """The task after the event. The same object when nothing changed."""
    rule = _TABLE[type(event)].get(task.phase)
    if rule is None or task.operation not in _CONCERNS.get(type(event), (task.operation,)):
        message = f"{type(event).__name__} in phase {task.phase} of {task.operation} {task.task_id}"
        raise IllegalTransition(message)
    return rule(task, event)


def contradiction(task: OrderTask, event: TaskEvent) -> str | None:  # noqa: PLR0911  # a table
    """What the event says against what was already told of the task, or None.

    The state does not change by it (or changes by the table): its owner must be alarmed.
    """
    match event:
        case Seen() if task.phase is Phase.DONE:
            if event.order_id == task.order_id or (event.sliced and event.send == _last(task)):
                return None
            return f"A second order {event.order_id} appeared beside {task.order_id}."
        case Seen() if task.phase is Phase.DEAD:
            return f"Order {event.order_id} appeared after the task had died ({task.reason})."
        case Answered(outcome=Placed(order_id=order_id)) if task.phase is Phase.DEAD:
            return f"Order {order_id} was placed after the task had died ({task.reason})."
        case Answered(outcome=Placed(order_id=order_id)) if task.phase is Phase.DONE:
            if order_id == task.order_id:
                return None
            return f"The reply names order {order_id}, but {task.order_id} was seen."
        case Answered(outcome=Refused(message=message)) if task.phase is Phase.DONE:
            return f"The broker refused a request whose order {task.order_id} exists: {message}"
        case _:
            return None


def _last(task: OrderTask) -> int | None:
    """The suffix of the last tag it was sent under: slices of one request carry the same."""
    tag = parse(task.broker_tag or "")
    return None if tag is None else tag.send


def _to(task: OrderTask, phase: Phase, at: datetime, **changes: Any) -> OrderTask:  # noqa: ANN401  # fields
    return msgspec.structs.replace(
        task, phase=phase, status=_STATUS[phase], updated_at=at, **changes
    )


def _die(task: OrderTask, at: datetime, reason: Reason, error: str) -> OrderTask:
    return _to(task, Phase.DEAD, at, reason=reason, last_error=error, next_attempt_at=None)


def _queue(task: OrderTask, event: Queued) -> OrderTask:
    return _to(task, Phase.QUEUED, event.at, queued_at=event.at, expires_at=event.expires_at)


def _send(task: OrderTask, event: Sent) -> OrderTask:
    return _to(
        task,
        Phase.SENT,
        event.at,
        sends=task.sends + 1,
        attempts=task.attempts + 1,
        broker_tag=event.broker_tag,
        sent_at=event.at,
        trading_day=event.trading_day,
        epoch=event.epoch,
        next_attempt_at=None,
    )


def _expire(task: OrderTask, event: Expired) -> OrderTask:
    again = " again" if task.sends else ""
    return _die(task, event.at, Reason.EXPIRED, f"It was not sent{again} in time and has expired.")


def _supersede(task: OrderTask, event: Superseded) -> OrderTask:
    return _die(task, event.at, Reason.SUPERSEDED, "A later modification took its place.")


def _give_up(task: OrderTask, event: Overmodified) -> OrderTask:
    error = "The broker takes no more modifications of this order."
    told = f"{task.last_error} {error}" if task.last_error else error
    return _die(task, event.at, Reason.EXHAUSTED, told)


def _invalidate(task: OrderTask, event: Invalid) -> OrderTask:
    return _die(task, event.at, Reason.INVALID, event.message)


def _lose_track(task: OrderTask, event: Untraceable) -> OrderTask:
    error = "Another program tried it, without our tag: look at the broker."
    told = f"{task.last_error} {error}" if task.last_error else error
    return _die(task, event.at, Reason.UNRESOLVED, told)


def _interrupt(task: OrderTask, event: Interrupted) -> OrderTask:
    error = "The service stopped after it had been sent; the order book will tell."
    return _to(task, Phase.RESOLVING, event.at, last_error=error, next_attempt_at=event.at)


def _prove_absent(task: OrderTask, event: AbsenceProved) -> OrderTask:
    error = "The order book proves that it was not placed."
    return _die(task, event.at, Reason.NOT_PLACED_PROVED, error)


def _end_day(task: OrderTask, event: DayEnded) -> OrderTask:
    error = "Its trading day ended before the order book could tell what became of it."
    return _die(task, event.at, Reason.UNRESOLVED, error)


def _reach(task: OrderTask, event: GoalReached) -> OrderTask:
    return _to(
        task,
        Phase.DONE,
        event.at,
        result=event.result,
        last_error=None,
        next_attempt_at=None,
        cancel_requested=False,  # too late to stop it, and no wish to cancel the order
    )


def _miss(task: OrderTask, event: GoalMissed) -> OrderTask:
    dead = _die(task, event.at, Reason.TOO_LATE, event.message)
    return msgspec.structs.replace(dead, result=event.result)


def _ask_again(task: OrderTask, event: GoalOpen) -> OrderTask:
    if task.cancel_requested:
        return _die(task, event.at, Reason.CANCELLED, "It was cancelled, so it is not tried again.")
    if task.operation == "modify_order" and task.attempts >= task.max_attempts:
        error = task.last_error or "The order does not show the change."
        return _die(task, event.at, Reason.EXHAUSTED, error)
    return _to(task, Phase.WAITING, event.at, next_attempt_at=event.at)


def _complete(task: OrderTask, at: datetime, order_id: str, found_by: FoundBy) -> OrderTask:
    return _to(
        task,
        Phase.DONE,
        at,
        order_id=order_id,
        result={"order_id": order_id, "found_by": found_by},
        reason=None,
        last_error=None,
        next_attempt_at=None,
    )


def _answer(task: OrderTask, event: Answered) -> OrderTask:  # noqa: PLR0911  # a table
    """What a call proves, while the task waits for just that."""
    outcome, at, goal = event.outcome, event.at, task.operation != "place_order"
    match outcome:
        case Placed(order_id=order_id):
            return _complete(task, at, order_id, "reply")
        case Accepted():
            return _to(task, Phase.RESOLVING, at, next_attempt_at=event.next_attempt_at)
        case Unknown(message=message):
            return _resolve(task, event, message)
        case NotSent(message=message, spent=spent):
            return _retry(task, event, message, spent=spent)
        case Refused(message=message, retryable=True, error_type=error_type):
            return _retry(task, event, message, spent=error_type != "TokenException")
        case Refused(message=message) if goal and task.operation == "cancel_order":
            # "Being processed" and "does not exist" say nothing final: the order itself decides.
            return _resolve(task, event, message)
        case Refused(message=message):
            return _die(task, at, Reason.REFUSED, message)


def _resolve(task: OrderTask, event: Answered, message: str) -> OrderTask:
    return _to(
        task,
        Phase.RESOLVING,
        event.at,
        last_error=message,
        next_attempt_at=event.next_attempt_at,
    )


def _retry(task: OrderTask, event: Answered, message: str, *, spent: bool) -> OrderTask:
    attempts = task.attempts if spent else task.attempts - 1
    if task.cancel_requested:
        dead = _die(task, event.at, Reason.CANCELLED, "Cancelled before it was sent.")
        return msgspec.structs.replace(dead, attempts=attempts)
    if attempts >= task.max_attempts and task.operation != "cancel_order":
        return _die(task, event.at, Reason.EXHAUSTED, message)
    return _to(
        task,
        Phase.WAITING,
        event.at,
        attempts=attempts,
        last_error=message,
        next_attempt_at=event.next_attempt_at,
    )


def _answer_out_of_turn(task: OrderTask, event: Answered) -> OrderTask:
    """An answer nobody waits for proves an order all the same, and nothing else."""
    if isinstance(event.outcome, Placed):
        return _complete(task, event.at, event.outcome.order_id, "reply")
    return task


def _see(task: OrderTask, event: Seen) -> OrderTask:
    if task.operation != "place_order":
        return task  # its order is the one it changes, and no order carries its intent
    return _complete(task, event.at, event.order_id, event.found_by)


def _cancel_unsent(task: OrderTask, event: CancelAsked) -> OrderTask:
    dead = _die(task, event.at, Reason.CANCELLED, event.why)
    return msgspec.structs.replace(dead, cancel_requested=True)


def _remember_cancel(task: OrderTask, event: CancelAsked) -> OrderTask:
    """An order is cancelled once it is known, however late; a change only stops being retried."""
    if task.cancel_requested or (task.finished and task.operation != "place_order"):
        return task
    return _to(task, task.phase, event.at, cancel_requested=True)


def _unchanged(task: OrderTask, event: TaskEvent) -> OrderTask:
    del event
    return task


_Rules = Mapping[Phase, Callable[[OrderTask, Any], OrderTask]]

_TABLE: Mapping[type, _Rules] = {
    Queued: {Phase.PLANNED: _queue},
    Sent: {Phase.QUEUED: _send, Phase.WAITING: _send},
    Expired: {Phase.QUEUED: _expire, Phase.WAITING: _expire},
    Superseded: {Phase.QUEUED: _supersede, Phase.WAITING: _supersede, Phase.RESOLVING: _supersede},
    Overmodified: {Phase.QUEUED: _give_up, Phase.WAITING: _give_up},
    Invalid: {Phase.QUEUED: _invalidate},
    Untraceable: dict.fromkeys((Phase.QUEUED, Phase.WAITING, Phase.RESOLVING), _lose_track),
    Interrupted: {Phase.SENT: _interrupt, Phase.RESOLVING: _interrupt},
    AbsenceProved: {Phase.RESOLVING: _prove_absent},
    DayEnded: {Phase.RESOLVING: _end_day},
    GoalReached: dict.fromkeys((Phase.QUEUED, Phase.WAITING, Phase.SENT, Phase.RESOLVING), _reach),
    GoalMissed: dict.fromkeys((Phase.QUEUED, Phase.WAITING, Phase.SENT, Phase.RESOLVING), _miss),
    GoalOpen: {Phase.RESOLVING: _ask_again},
    Answered: {
        **dict.fromkeys(Phase, _answer_out_of_turn),
        Phase.SENT: _answer,
        Phase.DONE: _unchanged,
    },
    Seen: {**dict.fromkeys(Phase, _see), Phase.DONE: _unchanged},
    CancelAsked: {
        **dict.fromkeys(UNSENT, _cancel_unsent),
        Phase.SENT: _remember_cancel,
        Phase.RESOLVING: _remember_cancel,
        Phase.DONE: _remember_cancel,
        Phase.DEAD: _remember_cancel,
    },
}

_CHANGES: tuple[Operation, ...] = ("modify_order", "cancel_order")
_CONCERNS: Mapping[type, tuple[Operation, ...]] = {
    Superseded: ("modify_order",),
    Overmodified: ("modify_order",),
    AbsenceProved: ("place_order",),
    GoalReached: _CHANGES,
    GoalMissed: _CHANGES,
    GoalOpen: _CHANGES,  # an unknown place is never sent again by it
}
"""Operations of which an event can tell; the others can be of all."""
