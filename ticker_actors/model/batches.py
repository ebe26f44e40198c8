"""Batches: a saga over orders, decided by one pure function.

Legs go out in order, each settled before the next. When a leg fails and `rollback_on_failure` is
set, the batch *decides* to roll back: that decision is durable, covers every leg at once, and never
flips. What has filled cannot be undone by cancelling; it is named as residual, never hidden.

`step(batch, legs, now)` says what to do next from what is known now, so a restart between any two
steps goes on where the last one stood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

import msgspec

from ticker_actors.model.calendar import iso
from ticker_actors.model.orders import AT_EXCHANGE, SETTLED, BrokerOrder
from ticker_actors.model.tasks import UNSENT, OrderTask, Phase, Reason

LEG_TIME = timedelta(seconds=5)
"""From its turn, a leg must be in the book by then: later, the spread's price has moved."""
STALL_TIME = timedelta(seconds=30)
"""A batch that stood still this long (a restart included) sends no further leg."""
MAX_LEGS = 50

BatchState = Literal[
    "placing",
    "rolling_back",
    "succeeded",
    "partly_succeeded",
    "failed",
    "rolled_back",
    "rolled_back_with_residual",
]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch and how far it is. Its legs are tasks, in the order of `task_ids`."""

    batch_id: str
    account_id: str
    idempotency_key: str
    rollback_on_failure: bool
    task_ids: tuple[str, ...]
    state: BatchState = "placing"
    cause: str | None = None
    """Why sending stopped: with rollback `Order 2 failed: …`, else why the rest was not sent."""
    created_at: datetime
    progress_at: datetime
    """When a leg last had its turn."""
    completed_at: datetime | None = None
    answer: dict[str, Any] | None = None
    """What was answered when it finished."""

    @property
    def finished(self) -> bool:
        """Whether its answer is final."""
        return self.completed_at is not None


class Outcome(StrEnum):
    """What is known of one leg."""

    PLANNED = "planned"
    PENDING = "pending"
    """Under way: not refused, not yet seen in the book."""
    OPEN = "open"
    FILLED = "filled"
    PARTLY_FILLED = "partly_filled"
    """Ended below its quantity, but not at zero."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


_STANDS = frozenset({Outcome.OPEN, Outcome.FILLED, Outcome.PARTLY_FILLED})
_GONE = frozenset({Outcome.FAILED, Outcome.CANCELLED})
_SOUND = frozenset({Outcome.OPEN, Outcome.FILLED})
_FINAL = _GONE | {Outcome.FILLED, Outcome.PARTLY_FILLED}


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg's task and, once seen, its order."""

    task: OrderTask
    order: BrokerOrder | None = None
    day_over: bool = False
    """Whether the book of its order's day is gone: what is not known will not be known any more."""

    @property
    def outcome(self) -> Outcome:  # noqa: PLR0911  # a table, read top to bottom
        """What is known of it."""
        task, order = self.task, self.order
        if self.day_over and (order is None or not order.terminal):
            return Outcome.UNKNOWN
        if order is None or task.phase is not Phase.DONE:
            if task.phase is Phase.PLANNED:
                return Outcome.PLANNED
            if task.phase is Phase.RESOLVING:
                return Outcome.UNKNOWN
            if task.phase is Phase.DEAD:
                known = task.reason is not Reason.UNRESOLVED
                return Outcome.FAILED if known else Outcome.UNKNOWN
            return Outcome.PENDING
        if order.status == "COMPLETE":
            return Outcome.FILLED
        if order.terminal:
            if order.filled_quantity:
                return Outcome.PARTLY_FILLED
            return Outcome.CANCELLED if order.status == "CANCELLED" else Outcome.FAILED
        return Outcome.OPEN if order.status in SETTLED | AT_EXCHANGE else Outcome.PENDING

    @property
    def error(self) -> str | None:
        """Why it does not stand, in the broker's words where there are any."""
        match self.outcome:
            case Outcome.UNKNOWN:
                return "it is not known whether the order is at the broker"
            case Outcome.PARTLY_FILLED if self.order is not None:
                filled, asked = self.order.filled_quantity, self.order.quantity
                return f"it ended with {filled} of {asked} filled"
            case Outcome.FAILED | Outcome.CANCELLED:
                if self.order is None:
                    return self.task.last_error
                return self.order.status_message or f"the order was {self.order.status}"
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now, all in one transaction."""

    batch: Batch
    queue: int | None = None
    """The leg whose turn has come."""
    abandon: tuple[int, ...] = ()
    """Legs that are no longer wanted: never sent, or cancelled at the broker."""
    wake_at: datetime | None = None
    """When to look again though nothing was heard."""


def step(batch: Batch, legs: Sequence[Leg], now: datetime) -> Step:
    """The next step of a batch, given all that is known of its legs."""
    if batch.finished:
        return Step(batch)
    if batch.state == "placing":
        going_on = _place(batch, legs, now)
        if going_on is not None:
            return going_on
    return _finish(batch, legs, now)


def _place(batch: Batch, legs: Sequence[Leg], now: datetime) -> Step | None:
    """The next leg, a wait or a decision; None when every leg has had its turn."""
    late: list[int] = []
    for number, leg in enumerate(legs):
        if leg.outcome in _SOUND:
            continue
        if leg.outcome is Outcome.PLANNED:
            if now - batch.progress_at > STALL_TIME:
                return _stop(batch, legs, number, f"sending stood still for {STALL_TIME.seconds} s")
            turn = msgspec.structs.replace(batch, progress_at=now)
            return Step(turn, queue=number, abandon=tuple(late), wake_at=now + LEG_TIME)
        deadline = (leg.task.queued_at or now) + LEG_TIME
        if leg.outcome is Outcome.PENDING and now < deadline:
            return Step(batch, abandon=tuple(late), wake_at=deadline)
        why = leg.error or f"it was not in the order book within {LEG_TIME.seconds} s"
        if batch.rollback_on_failure:
            return _stop(batch, legs, number, why)
        if leg.task.phase in UNSENT:
            late.append(number)
    return Step(batch, abandon=tuple(late)) if late else None


def _stop(batch: Batch, legs: Sequence[Leg], number: int, why: str) -> Step:
    """The decision: nothing more is sent, and with rollback nothing is left standing."""
    if batch.rollback_on_failure:
        cause = f"Order {number} failed: {why.rstrip('.')}."
        decided = msgspec.structs.replace(batch, state="rolling_back", cause=cause)
        # The dead too: an order of theirs that appears after all is not wanted either.
        live = (i for i, leg in enumerate(legs) if leg.order is None or not leg.order.terminal)
        return Step(decided, abandon=tuple(live))
    unsent = tuple(i for i, leg in enumerate(legs) if leg.task.phase in UNSENT)
    return Step(msgspec.structs.replace(batch, cause=f"{why}."), abandon=unsent)


def _finish(batch: Batch, legs: Sequence[Leg], now: datetime) -> Step:
    """The end, if everything that must be known is."""
    if not all(_at_rest(batch, leg) for leg in legs):
        return Step(batch)
    stands = [leg for leg in legs if leg.outcome in _STANDS]
    state: BatchState
    if batch.state == "rolling_back":
        if any(leg.outcome is Outcome.UNKNOWN for leg in legs) or stands:
            state = "rolled_back_with_residual"
        else:
            state = "rolled_back" if any(map(_was_undone, legs)) else "failed"
    elif all(leg.outcome in _SOUND for leg in legs):
        state = "succeeded"
    else:
        state = "partly_succeeded" if stands else "failed"
    done = msgspec.structs.replace(batch, state=state, completed_at=now)
    return Step(msgspec.structs.replace(done, answer=answer(done, legs)))


def _at_rest(batch: Batch, leg: Leg) -> bool:
    """Whether nothing more will come of a leg by itself that the answer depends on."""
    if leg.outcome is Outcome.UNKNOWN:
        return leg.task.phase is Phase.DEAD or leg.day_over
    if batch.state == "rolling_back":
        return leg.outcome in _FINAL
    return leg.outcome in _FINAL or leg.outcome is Outcome.OPEN


def answer(batch: Batch, legs: Sequence[Leg]) -> dict[str, Any]:
    """What is true of the batch now: the mission document's eight fields, then ours."""
    if batch.answer is not None:
        return batch.answer
    outcomes = [leg.outcome for leg in legs]
    succeeded = sum(outcome in _STANDS for outcome in outcomes)
    failed = sum(outcome in _GONE for outcome in outcomes)
    residual = _residual(legs) if batch.state.startswith("rol") else []
    return {
        "batch_id": batch.batch_id,
        "success": batch.finished and all(outcome in _SOUND for outcome in outcomes),
        "total_orders": len(legs),
        "succeeded": succeeded,
        "failed": failed,
        "created_at": iso(batch.created_at),
        "completed_at": None if batch.completed_at is None else iso(batch.completed_at),
        "error": _error(batch, legs),
        "unknown": len(legs) - succeeded - failed,
        "state": batch.state,
        "account_id": batch.account_id,
        "rollback_on_failure": batch.rollback_on_failure,
        "residual": residual,
        "orders": [_leg_answer(batch, number, leg) for number, leg in enumerate(legs)],
    }


def _leg_answer(batch: Batch, number: int, leg: Leg) -> dict[str, Any]:
    order = leg.order
    undone = batch.state.startswith("roll") and _was_undone(leg)
    return {
        "leg": number,
        "task_id": leg.task.task_id,
        "order_id": leg.task.order_id,
        "status": None if order is None else order.status,
        "filled_quantity": 0 if order is None else order.filled_quantity,
        "average_price": 0.0 if order is None else order.average_price,
        "outcome": leg.outcome,
        "error": "rolled back" if undone else leg.error,
    }


def _residual(legs: Sequence[Leg]) -> list[dict[str, Any]]:
    """What a rollback could not undo: positions that exist."""
    return [
        {
            "leg": number,
            "order_id": leg.order.order_id,
            "exchange": leg.order.exchange,
            "tradingsymbol": leg.order.tradingsymbol,
            "transaction_type": leg.order.transaction_type,
            "quantity": leg.order.filled_quantity,
            "average_price": leg.order.average_price,
        }
        for number, leg in enumerate(legs)
        if leg.order is not None and leg.order.filled_quantity
    ]


def _error(batch: Batch, legs: Sequence[Leg]) -> str | None:
    if not batch.finished:
        return f"Batch still running: GET /advanced/batch-orders/{batch.batch_id}"
    if batch.state == "succeeded":
        return None
    if batch.state in {"partly_succeeded", "failed"} and not batch.rollback_on_failure:
        return " ".join(
            _unknown(number)
            if leg.outcome is Outcome.UNKNOWN
            else f"Order {number} failed: {leg.error.rstrip('.')}."
            for number, leg in enumerate(legs)
            if leg.error is not None
        )
    words = [batch.cause or ""]
    undone = sum(_was_undone(leg) for leg in legs)
    if undone or batch.state != "failed":
        words.append(f"Rolled back {undone} order{'' if undone == 1 else 's'}.")
    words += [
        f"Order {rest['leg']} had filled and stands: {rest['transaction_type']} {rest['quantity']} "
        f"{rest['tradingsymbol']} at {rest['average_price']:.2f} (order {rest['order_id']})."
        for rest in _residual(legs)
    ]
    words += [_unknown(number) for number, leg in enumerate(legs) if leg.outcome is Outcome.UNKNOWN]
    return " ".join(words)


def _unknown(number: int) -> str:
    return f"Order {number} may be at the broker: check the order book."


def _was_undone(leg: Leg) -> bool:
    """Whether an order of the leg stood at the broker until we had it cancelled."""
    return leg.outcome is Outcome.CANCELLED and leg.task.cancel_requested
