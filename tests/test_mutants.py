"""The simulation has teeth: each of these planted bugs breaks a promise, and is caught."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any

import msgspec
import pytest

from tests.simulation import plan, simulate
from ticker_actors.actors.draft import Draft
from ticker_actors.actors.lane import Lane
from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.order_view import OrderViews
from ticker_actors.model import tasks
from ticker_actors.model.absence import AbsenceWatch
from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.outcomes import OrderBook
from ticker_actors.model.tasks import CancelAsked, Interrupted, OrderTask, Phase, Sent

SEEDS = 80
"""Within so many simulated days a planted bug must be caught; most are in the first."""
LATE_SECONDS = (200.0, 400.0)
"""How late an order may appear: mostly within what the bugs hide, or long after the horizon."""


def send_before_commit(patch: pytest.MonkeyPatch) -> None:
    """The broker is called while the transaction is still under way."""
    carry_out = Lane.carry_out

    async def hasty(self: Lane, draft: Draft, *, news: bool = False) -> None:
        for task_id in draft.calls:
            self._nursery.start_soon(self.call, self.ledger.tasks[task_id])
        draft.calls.clear()
        await carry_out(self, draft, news=news)

    patch.setattr(Lane, "carry_out", hasty)


def running_is_queued_again(patch: pytest.MonkeyPatch) -> None:
    """After a restart what was running starts over."""

    def start_over(task: OrderTask, event: Interrupted) -> OrderTask:
        return tasks._to(task, Phase.QUEUED, event.at)

    patch.setitem(rules(Interrupted), Phase.SENT, start_over)


def absent_after_one_read(patch: pytest.MonkeyPatch) -> None:
    """One read of the book that does not show the order is taken for proof."""

    def believe(self: AbsenceWatch, **read: object) -> bool:
        del self, read
        return True

    patch.setattr(AbsenceWatch, "observe", believe)


def any_book_is_valid(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the book has the orders that it must have."""

    def nothing(self: OrderViews, day: date, began: float, present: object) -> tuple[str, ...]:
        del self, day, began, present
        return ()

    patch.setattr(OrderViews, "missing", nothing)


def unknown_is_retried(patch: pytest.MonkeyPatch) -> None:
    """A lost reply is taken for a request that was not sent."""

    def retry(task: OrderTask, event: tasks.Answered, message: str) -> OrderTask:
        return tasks._retry(task, event, message, spent=True)

    patch.setattr(tasks, "_resolve", retry)


def late_order_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Orders of tasks that have ended are not looked at."""

    def nobody(self: Ledger, rows: object) -> dict[str, str]:
        del self, rows
        return {}

    patch.setattr(Ledger, "strangers", nobody)


def cancel_request_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A cancel request for a task under way is acknowledged, and that is all."""
    for phase in (Phase.SENT, Phase.RESOLVING):
        patch.setitem(rules(CancelAsked), phase, lambda task, _: task)


def tag_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    """The tag is made for the call, but the row does not have it."""
    send = rules(Sent)[Phase.QUEUED]

    def forget(task: OrderTask, event: Sent) -> OrderTask:
        return msgspec.structs.replace(send(task, event), broker_tag=None)

    for phase in (Phase.QUEUED, Phase.WAITING):
        patch.setitem(rules(Sent), phase, forget)


def counted_rows_are_not_there(patch: pytest.MonkeyPatch) -> None:
    """Of a book, only the rows that it gives whole are present."""

    def given(self: OrderBook) -> Keys:
        return Keys(order_key(row.order_id) for row in self.orders)

    patch.setattr(OrderBook, "present", property(given))


def done_orders_stay_as_they_were(patch: pytest.MonkeyPatch) -> None:
    """An order that was let go is not taken back when its row has changed."""
    patch.setattr(OrderViews, "wanted", lambda *_: [])


def rules(event: type) -> dict[Phase, Callable[[OrderTask, Any], OrderTask]]:
    """The row of the transition table, to be changed."""
    found = tasks._TABLE[event]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "plant, promise",
    [
        (send_before_commit, "call: "),
        (running_is_queued_again, "2: "),
        (absent_after_one_read, "4: "),
        (any_book_is_valid, "4: "),
        (unknown_is_retried, "2: "),
        (late_order_is_ignored, "3, 4: "),
        (cancel_request_is_forgotten, "13: "),
        (tag_is_not_stored, "call: "),
        (counted_rows_are_not_there, "15: "),
        (done_orders_stay_as_they_were, "view: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day is found soon that shows the broken promise which this bug must break."""
    plant(monkeypatch)
    for seed in range(SEEDS):
        day = replace(plan(seed), late_max=LATE_SECONDS[seed % 2], overnight=False)
        if plant is any_book_is_valid:  # it takes a book that is empty for a while
            day = replace(day, blind_at=Random(seed).uniform(1, 20))
        _, faults = simulate(day)
        if any(fault.startswith(promise) for fault in faults):
            return
    pytest.fail(f"not caught by {SEEDS} seeds")
