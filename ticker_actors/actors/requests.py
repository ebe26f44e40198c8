"""What the ExecutorActor can be asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticker_actors.actors.lane import LaneState
from ticker_actors.mailbox import Request
from ticker_actors.model.accounts import AccountState
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.tasks import OrderTask


@dataclass(frozen=True, slots=True)
class Accepted:
    """The task is durable. `replayed`: it was before, under the same key."""

    task: OrderTask
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """The batch is durable; this is what is true of it now."""

    batch_id: str
    answer: Mapping[str, Any]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """Our own checks refuse it; nothing was stored."""

    code: str
    """For programs."""
    field: str
    message: str
    leg: int | None = None


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """The idempotency key was used for something else; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """Too much waits already; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The broker did not say in time what our checks need; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer came in time, so it is not known yet whether it is stored: ask, do not repeat."""

    name: str
    """The task's or the batch's id, should it exist."""


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no such order, task or batch."""


Submitted = Accepted | Denied | KeyConflict | Overloaded | NotFound | Unanswered | Unchecked
SubmittedBatch = AcceptedBatch | Denied | KeyConflict | Overloaded | Unanswered | Unchecked


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The `Idempotency-Key` of a request, and the hash of its body as sent."""

    key: str
    request_hash: str


@dataclass(frozen=True, slots=True)
class SubmitOrder(Request[Submitted]):
    """Place this order."""

    task_id: str
    account_id: str
    order: PlaceOrder
    key: ClientKey | None = None


@dataclass(frozen=True, slots=True)
class ModifyOrder(Request[Submitted]):
    """Give an order these values."""

    task_id: str
    account_id: str
    order_id: str
    changes: OrderChanges
    key: ClientKey | None = None


@dataclass(frozen=True, slots=True)
class CancelOrder(Request[Submitted]):
    """Cancel an order."""

    task_id: str
    account_id: str
    order_id: str
    key: ClientKey | None = None


@dataclass(frozen=True, slots=True)
class CancelTask(Request[Submitted]):
    """The task's owner does not want it any more."""

    task_id: str


@dataclass(frozen=True, slots=True)
class SubmitBatch(Request[SubmittedBatch]):
    """Place these orders, one after the other."""

    batch_id: str
    account_id: str
    orders: tuple[PlaceOrder, ...]
    rollback_on_failure: bool
    key: ClientKey | None = None


@dataclass(frozen=True, slots=True)
class AwaitTask(Request[OrderTask | None]):
    """The task when it has finished; None when it is not under way."""

    task_id: str


@dataclass(frozen=True, slots=True)
class AwaitBatch(Request[Mapping[str, Any] | None]):
    """The batch's answer when it has finished; None when it is not under way."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class GetBatch(Request[Mapping[str, Any] | None]):
    """What is true now of a batch under way, or None."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class GetLanes(Request[tuple[LaneState, ...]]):
    """How every account stands."""


@dataclass(frozen=True, slots=True)
class SetState(Request[LaneState | Denied]):
    """The operator's word on what an account may do."""

    account_id: str
    state: AccountState
    reason: str | None
    accept_missing: tuple[str, ...]
    """Orders that the book need not show any more."""


@dataclass(frozen=True, slots=True)
class NoteLogin(Request[LaneState]):
    """The account's broker was given a new access token."""

    account_id: str


@dataclass(frozen=True, slots=True)
class NotePostback(Request[None]):
    """The broker says that something happened: read the book."""

    account_id: str


Urgent = CancelOrder | CancelTask | SetState | NoteLogin
Ordinary = (
    SubmitOrder
    | ModifyOrder
    | SubmitBatch
    | AwaitTask
    | AwaitBatch
    | GetBatch
    | GetLanes
    | NotePostback
)
