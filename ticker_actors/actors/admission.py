"""Whether a request may go to the broker now: limits, the gate, the session, faults, the state.

Synchronous, a part of the ledger. What holds a task back spends none of its attempts: it waits
until its expiry.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ticker_actors.model.accounts import AccountState, Standing
from ticker_actors.model.calendar import Moment
from ticker_actors.model.limits import BROKER, Budget, Limits, Window
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    NotSent,
    PlaceOutcome,
    Refused,
    Trouble,
    Unknown,
)
from ticker_actors.model.tasks import Operation, OrderTask

BREAKER_FAULTS = 5
"""Calls in a row that came to nothing; then only reads of the book probe the way."""
RATE_PAUSE_SECONDS = 1.0
"""After a 429 that does not say how long: Kite's narrowest window."""
MOST_PAUSE_SECONDS = 60.0
"""However long a 429 asks for: then one order finds out. Cancels have a pause of their own."""


@dataclass(slots=True)
class Admission:
    """What stands between a task and the broker."""

    limits: Limits
    standing: Standing = field(default_factory=Standing)
    gate_open: bool = False
    """No order is sent before one valid read of the book; cancels may pass."""
    login_required: bool = False
    """The access token is dead: every call would be refused."""
    stopping: bool = False
    _reducing: set[str] = field(default_factory=set)
    """Place tasks that were found to shrink a position."""
    _faults: int = 0
    _paused_until: float = 0.0
    _wire: Window = field(default_factory=lambda: Window(1.0))
    """What has been handed to the broker in the last second."""
    _budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self._budget = Budget(self.limits)

    @property
    def breaker_open(self) -> bool:
        """Whether too many calls in a row came to nothing."""
        return self._faults >= BREAKER_FAULTS

    def wait(self, task: OrderTask, now: Moment) -> float:
        """Seconds until a task may be sent; infinite while that does not depend on the clock."""
        urgent = task.operation == "cancel_order"
        if self.stopping or self.login_required:
            return math.inf
        if not urgent and (not self.gate_open or self.breaker_open):
            return math.inf
        if self.forbids(task):
            return math.inf
        pause = 0.0 if urgent else max(0.0, self._paused_until - now.mono)
        placing = task.operation == "place_order"
        return max(pause, self._budget.wait(now, placing=placing, urgent=urgent))

    def forbids(self, task: OrderTask) -> bool:
        """Whether the account's state keeps a task from being sent."""
        match self.standing.state:
            case AccountState.ACTIVE:
                return False
            case AccountState.REDUCING:
                return task.operation != "cancel_order" and task.task_id not in self._reducing
            case AccountState.HALTED:
                return task.operation != "cancel_order"

    def stand(self, standing: Standing) -> None:
        """A new state. What was let pass in an earlier one was judged by other positions."""
        self.standing = standing
        self._reducing.clear()

    def let_pass(self, task_id: str) -> None:
        """A place task was judged by the account's state as it is: `REDUCING` lets it through."""
        if self.standing.state is AccountState.REDUCING:
            self._reducing.add(task_id)

    def forget(self, task_id: str) -> None:
        """A task has finished."""
        self._reducing.discard(task_id)

    def take(self, operation: Operation, then: Moment) -> None:
        """Count a request."""
        self._budget.take(then, placing=operation == "place_order")

    def give_back(self, operation: Operation, then: Moment) -> None:
        """A counted request was not made after all."""
        self._budget.give_back(then, placing=operation == "place_order")

    def left_today(self, now: Moment) -> int | None:
        """How many orders may still be placed on this trading day; None without a limit."""
        return self._budget.left_today(now)

    def note(self, outcome: PlaceOutcome | ChangeOutcome, now: Moment) -> None:
        """Whether a call came to something, and whether the broker wants a pause."""
        match outcome:
            case NotSent(spent=True) | Unknown():
                self._faults += 1
            case NotSent():
                pass
            case _:
                self._faults = 0
        if isinstance(outcome, Refused) and outcome.retryable and outcome.trouble is None:
            asked = RATE_PAUSE_SECONDS if outcome.retry_after is None else outcome.retry_after
            self._paused_until = max(self._paused_until, now.mono + min(asked, MOST_PAUSE_SECONDS))

    def note_trouble(self, trouble: Trouble | None) -> Trouble | None:
        """Take up what is wrong with the account; None when it was known."""
        if trouble == "login_required" and not self.login_required:
            self.login_required = True
            return trouble
        if trouble == "not_permitted" and self.standing.state is not AccountState.HALTED:
            return trouble
        return None

    def note_session(self) -> bool:
        """The broker answers to our token. True when that is news."""
        was, self.login_required = self.login_required, False
        return was

    def note_read(self) -> bool:
        """A valid read of the book: orders may go. True when the gate was closed."""
        was, self.gate_open = self.gate_open, True
        self._faults = 0
        return not was

    def close_gate(self) -> None:
        """The book cannot be read for too long: nobody would see what becomes of an order."""
        self.gate_open = False

    def crowded(self, now: Moment) -> float:
        """Seconds that a request must wait after all; 0.0 when it goes now, and is counted.

        The budget counts requests as they are decided. A stalled database lets go of many at once.
        """
        if not self.limits.per_second:
            return 0.0
        most = max(BROKER.per_second, self.limits.per_second)
        wait = self._wire.wait(now.mono, most)
        if wait <= 0:
            self._wire.take(now.mono)
        return wait

    def worries(self, now: Moment) -> Iterator[str]:
        """What keeps orders back, for people."""
        if self._paused_until > now.mono:
            seconds = self._paused_until - now.mono
            yield f"the broker wants fewer requests: no order for {seconds:.0f} s"
        if self.login_required:
            yield "the broker wants a new login (ticker-actors login): nothing is sent before"
        if self.standing.state is not AccountState.ACTIVE:
            reason = f" ({self.standing.reason})" if self.standing.reason else ""
            yield f"the account is {self.standing.state}{reason}"
        if self.breaker_open:
            yield f"{self._faults} calls in a row came to nothing: no order is sent before a read"
