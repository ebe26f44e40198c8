"""Batches: every outcome with and without rollback, the words of the answer, any history at all."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ticker_actors.model.batches import (
    LEG_TIME,
    STALL_TIME,
    Batch,
    Leg,
    Outcome,
    Step,
    answer,
    step,
)
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import NotSent, Placed, PlaceOutcome, Refused, Unknown
from ticker_actors.model.tasks import (
    AbsenceProved,
    Answered,
    CancelAsked,
    DayEnded,
    Phase,
    Queued,
    Seen,
    Sent,
    TaskEvent,
    advance,
    create,
)

AT = datetime(2025, 10, 31, 9, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)
REGISTERED = "PUT ORDER REQ RECEIVED"


def make_batch(legs: int, *, rollback: bool = True) -> Batch:
    """A batch just submitted."""
    return Batch(
        batch_id="550e8400-e29b-41d4-a716-446655440000",
        account_id="primary",
        idempotency_key="k",
        rollback_on_failure=rollback,
        task_ids=tuple(f"task_{number}" for number in range(legs)),
        created_at=AT,
        progress_at=AT,
    )


def planned(number: int) -> Leg:
    """A leg whose turn has not come."""
    return Leg(
        create(
            task_id=f"task_{number}",
            intent=f"{number:012d}",
            key=None,
            operation="place_order",
            params={},
            account_id="primary",
            at=AT,
            expires_at=None,
            max_attempts=3,
            phase=Phase.PLANNED,
            batch_id="b",
            leg=number,
        )
    )


def change(leg: Leg, *events: TaskEvent) -> Leg:
    """A leg to whose task these events have happened."""
    task = leg.task
    for event in events:
        task = advance(task, event)
    return Leg(task, leg.order)


def queued(number: int, at: datetime = AT) -> Leg:
    """A leg whose turn has come."""
    return change(planned(number), Queued(at, at + 300 * SECOND))


def sent(number: int) -> Leg:
    """A leg on the wire."""
    return change(queued(number), Sent(AT, f"1ABC{number:012d}0000", date(2025, 10, 31), 1))


def answered(number: int, outcome: PlaceOutcome) -> Leg:
    """A leg whose call has returned."""
    return change(sent(number), Answered(AT, outcome, AT + SECOND))


def refused(number: int, why: str = "Insufficient funds.") -> Leg:
    """A leg that the broker did not take."""
    return answered(number, Refused("MarginException", why))


def lost(number: int) -> Leg:
    """A leg of which nothing is known."""
    return answered(number, Unknown("The reply was lost."))


def placed(number: int, status: str, filled: int = 0, **more: Any) -> Leg:  # noqa: ANN401  # fields
    """A leg whose order is in the book."""
    known: dict[str, Any] = {
        "order_id": f"25103100000000{number}",
        "status": status,
        "exchange": "NFO",
        "tradingsymbol": "NIFTY25NOVFUT",
        "transaction_type": "BUY",
        "quantity": 50,
        "product": "NRML",
        "order_type": "LIMIT",
        "filled_quantity": filled,
        "average_price": 19500.25 if filled else 0.0,
    }
    order = BrokerOrder(**{**known, **more})
    return Leg(answered(number, Placed(order.order_id)).task, order)


def filled(number: int) -> Leg:
    """A leg that has filled."""
    return placed(number, "COMPLETE", 50)


def undone(number: int, quantity: int = 0) -> Leg:
    """A leg whose order was cancelled for its batch."""
    return change(placed(number, "CANCELLED", quantity), CancelAsked(AT, "why"))


def rolling(number: int, why: str, legs: int) -> Batch:
    """A batch that has decided to roll back."""
    return replace(make_batch(legs), state="rolling_back", cause=f"Order {number} failed: {why}.")


# What is known of a leg.


@pytest.mark.parametrize(
    "leg, outcome",
    [
        (planned(0), Outcome.PLANNED),
        (queued(0), Outcome.PENDING),
        (sent(0), Outcome.PENDING),
        (answered(0, NotSent("x")), Outcome.PENDING),
        (answered(0, Placed("o1")), Outcome.PENDING),
        (lost(0), Outcome.UNKNOWN),
        (change(lost(0), DayEnded(AT)), Outcome.UNKNOWN),
        (change(lost(0), AbsenceProved(AT)), Outcome.FAILED),
        (refused(0), Outcome.FAILED),
        (placed(0, REGISTERED), Outcome.PENDING),
        (placed(0, "OPEN PENDING"), Outcome.PENDING),
        (placed(0, "UPDATE"), Outcome.PENDING),
        (placed(0, "SOMETHING NEW"), Outcome.PENDING),
        (placed(0, "OPEN", 20), Outcome.OPEN),
        (placed(0, "TRIGGER PENDING"), Outcome.OPEN),
        (placed(0, "AMO REQ RECEIVED"), Outcome.OPEN),
        (placed(0, "MODIFY PENDING"), Outcome.OPEN),
        (placed(0, "CANCEL PENDING"), Outcome.OPEN),
        (filled(0), Outcome.FILLED),
        (placed(0, "CANCELLED", 20), Outcome.PARTLY_FILLED),
        (placed(0, "REJECTED", 20), Outcome.PARTLY_FILLED),
        (placed(0, "CANCELLED"), Outcome.CANCELLED),
        (placed(0, "REJECTED"), Outcome.FAILED),
    ],
)
def test_what_is_known_of_a_leg(leg: Leg, outcome: Outcome) -> None:
    """Its order tells, where there is one; a reply alone settles nothing."""
    assert leg.outcome is outcome


# One step at a time.


def test_legs_go_out_one_after_the_other() -> None:
    """The next leg's turn comes when the one before it is in the book, and not before."""
    batch = make_batch(2)
    first = step(batch, [planned(0), planned(1)], AT + SECOND)
    assert (first.queue, first.abandon) == (0, ())
    assert first.batch.progress_at == AT + SECOND
    assert first.wake_at == AT + SECOND + LEG_TIME
    for leg in (queued(0), sent(0), answered(0, Placed("o1")), placed(0, REGISTERED)):
        waiting = step(batch, [leg, planned(1)], AT + SECOND)
        assert (waiting.queue, waiting.wake_at, waiting.batch) == (None, AT + LEG_TIME, batch)
    for leg in (placed(0, "OPEN"), placed(0, "TRIGGER PENDING"), filled(0)):
        assert step(batch, [leg, planned(1)], AT + SECOND).queue == 1


FAILURES = [
    refused(1),
    lost(1),
    placed(1, "REJECTED"),
    placed(1, "CANCELLED"),
    placed(1, "CANCELLED", 20),
]


@pytest.mark.parametrize("failed", FAILURES)
def test_a_failed_leg_decides_the_rollback(failed: Leg) -> None:
    """Refused, rejected, cancelled below its quantity or unknown: nothing more is sent."""
    legs = [placed(0, "OPEN"), failed, planned(2)]
    decided = step(make_batch(3), legs, AT + SECOND)
    assert decided.batch.state == "rolling_back"
    assert decided.queue is None
    assert {0, 2} <= set(decided.abandon)
    assert (decided.batch.cause or "").startswith("Order 1 failed: ")


@pytest.mark.parametrize("failed", FAILURES)
def test_without_rollback_the_next_leg_follows(failed: Leg) -> None:
    """A failed leg stops nobody else, and nothing is cancelled."""
    legs = [placed(0, "OPEN"), failed, planned(2)]
    going_on = step(make_batch(3, rollback=False), legs, AT + SECOND)
    assert (going_on.queue, going_on.abandon) == (2, ())


LATE = [queued(0), answered(0, NotSent("x")), sent(0), placed(0, REGISTERED)]


@pytest.mark.parametrize("late", LATE)
def test_a_late_leg_is_a_failed_leg(late: Leg) -> None:
    """Five seconds from its turn: whatever the reason, with rollback the decision falls."""
    legs = [late, planned(1)]
    assert step(make_batch(2), legs, AT + LEG_TIME - SECOND).batch.state == "placing"
    decided = step(make_batch(2), legs, AT + LEG_TIME)
    assert decided.batch.state == "rolling_back"
    assert decided.batch.cause == "Order 0 failed: it was not in the order book within 5 s."
    assert set(decided.abandon) == {0, 1}


@pytest.mark.parametrize("late", LATE)
def test_without_rollback_a_late_leg_is_left_behind(late: Leg) -> None:
    """The next one follows; a late one that was not sent is not sent any more."""
    going_on = step(make_batch(2, rollback=False), [late, planned(1)], AT + LEG_TIME)
    assert going_on.queue == 1
    assert going_on.abandon == ((0,) if late.task.phase in {Phase.QUEUED, Phase.WAITING} else ())


def test_the_last_leg_can_be_late_too() -> None:
    """Without rollback it is given up, and then the batch ends."""
    batch = make_batch(1, rollback=False)
    given_up = step(batch, [queued(0)], AT + LEG_TIME)
    assert given_up.abandon == (0,)
    assert not given_up.batch.finished
    ended = step(batch, [change(queued(0), CancelAsked(AT, "It was late."))], AT + LEG_TIME)
    assert ended.batch.state == "failed"


@pytest.mark.parametrize("rollback", [True, False])
def test_a_batch_that_stood_still_sends_nothing_more(*, rollback: bool) -> None:
    """After 30 s, a restart included, the rest of it is dead."""
    batch = make_batch(3, rollback=rollback)
    legs = [placed(0, "OPEN"), planned(1), planned(2)]
    assert step(batch, legs, AT + STALL_TIME).queue == 1
    stopped = step(batch, legs, AT + STALL_TIME + SECOND)
    assert stopped.queue is None
    assert set(stopped.abandon) == ({0, 1, 2} if rollback else {1, 2})
    assert "stood still for 30 s" in (stopped.batch.cause or "")


def test_the_dead_are_abandoned_too() -> None:
    """An order of a refused or unresolved leg that appears after all is not wanted either."""
    legs = [change(lost(0), DayEnded(AT)), refused(1), filled(2), undone(3), planned(4)]
    assert step(make_batch(5), legs, AT).abandon == (0, 1, 4)


def test_an_unknown_leg_delays_the_finish_not_the_cancels() -> None:
    """The known ones are cancelled at once; the answer waits for the truth."""
    legs = [placed(0, "OPEN"), lost(1)]
    decided = step(make_batch(2), legs, AT)
    assert decided.abandon == (0, 1)
    legs[0] = undone(0)
    assert not step(decided.batch, legs, AT + 60 * SECOND).batch.finished
    legs[1] = change(lost(1), AbsenceProved(AT))
    assert step(decided.batch, legs, AT + 120 * SECOND).batch.state == "rolled_back"


def test_an_open_leg_delays_the_end_of_a_rollback() -> None:
    """A cancel that was asked for is no cancel yet."""
    batch = rolling(1, "x", 2)
    assert not step(batch, [placed(0, "CANCEL PENDING"), refused(1)], AT).batch.finished
    assert step(batch, [undone(0), refused(1)], AT).batch.finished


def test_a_decision_never_flips_back() -> None:
    """Even when every leg turns out to stand: that is told, and the state stays what it is."""
    result = end(rolling(1, "it was late", 2), [filled(0), filled(1)])
    assert (result["state"], result["success"]) == ("rolled_back_with_residual", True)
    assert result["error"].startswith("Order 1 failed: it was late. Rolled back 0 orders. Order 0")
    assert len(result["residual"]) == 2


def test_a_finished_batch_does_nothing() -> None:
    """Its answer is final, whatever happens to its legs later."""
    ended = step(make_batch(1), [filled(0)], AT).batch
    assert step(ended, [placed(0, "CANCELLED")], AT + 99 * SECOND) == Step(ended)
    assert answer(ended, [placed(0, "CANCELLED")])["success"]


# The words of the answer.


def end(batch: Batch, legs: Sequence[Leg]) -> dict[str, Any]:
    """The answer of a batch that finishes now."""
    ended = step(batch, legs, AT + 5 * SECOND).batch
    assert ended.finished
    assert ended.answer is not None
    return ended.answer


@pytest.mark.parametrize("rollback", [True, False])
def test_the_answer_of_a_success(*, rollback: bool) -> None:
    """The mission document's eight fields come first, in its words and shapes."""
    result = end(make_batch(2, rollback=rollback), [filled(0), placed(1, "OPEN")])
    assert list(result.items())[:8] == [
        ("batch_id", "550e8400-e29b-41d4-a716-446655440000"),
        ("success", True),
        ("total_orders", 2),
        ("succeeded", 2),
        ("failed", 0),
        ("created_at", "2025-10-31T09:15:00.000Z"),
        ("completed_at", "2025-10-31T09:15:05.000Z"),
        ("error", None),
    ]
    assert (result["state"], result["unknown"], result["residual"]) == ("succeeded", 0, [])
    assert result["orders"][0] == {
        "leg": 0,
        "task_id": "task_0",
        "order_id": "251031000000000",
        "status": "COMPLETE",
        "filled_quantity": 50,
        "average_price": 19500.25,
        "outcome": "filled",
        "error": None,
    }


REQUIRED = "Insufficient funds. Required margin is 5.00 but available margin is 1.00."
# ruff: noqa: ISC004  # long sentences in tables
WORDS: list[tuple[list[Leg], int, str, str]] = [
    (
        [undone(0), undone(1), refused(2, REQUIRED)],
        2,
        "rolled_back",
        "Order 2 failed: Insufficient funds. Required margin is 5.00 but available margin is 1.00. "
        "Rolled back 2 orders.",
    ),
    (
        [undone(0), undone(1), placed(2, "REJECTED", status_message="Insufficient funds")],
        2,
        "rolled_back",
        "Order 2 failed: Insufficient funds. Rolled back 2 orders.",
    ),
    ([undone(0), refused(1)], 1, "rolled_back", "Order 1 failed: x. Rolled back 1 order."),
    ([refused(0), planned(1)], 0, "failed", "Order 0 failed: x."),
    # An order that the exchange cancelled was not rolled back by us.
    (
        [undone(0), placed(1, "CANCELLED")],
        1,
        "rolled_back",
        "Order 1 failed: x. Rolled back 1 order.",
    ),
    ([placed(0, "CANCELLED")], 0, "failed", "Order 0 failed: x."),
    (
        [filled(0), refused(1)],
        1,
        "rolled_back_with_residual",
        "Order 1 failed: x. Rolled back 0 orders. Order 0 had filled and stands: BUY 50 "
        "NIFTY25NOVFUT at 19500.25 (order 251031000000000).",
    ),
    (
        [undone(0), undone(1, 20), refused(2)],
        2,
        "rolled_back_with_residual",
        "Order 2 failed: x. Rolled back 1 order. Order 1 had filled and stands: BUY 20 "
        "NIFTY25NOVFUT at 19500.25 (order 251031000000001).",
    ),
    (
        [undone(0), change(lost(1), DayEnded(AT))],
        1,
        "rolled_back_with_residual",
        "Order 1 failed: x. Rolled back 1 order. "
        "Order 1 may be at the broker: check the order book.",
    ),
]


@pytest.mark.parametrize("legs, failed, state, words", WORDS)
def test_the_words_of_a_rollback(legs: list[Leg], failed: int, state: str, words: str) -> None:
    """What failed, how many were undone, and what could not be."""
    why = "x"
    if ": x." not in words:
        why = words.split(": ", 1)[1].split(". Rolled", maxsplit=1)[0]
    legs = [
        change(leg, CancelAsked(AT, "why")) if leg.outcome is Outcome.PLANNED else leg
        for leg in legs
    ]
    result = end(rolling(failed, why, len(legs)), legs)
    assert (result["state"], result["error"], result["success"]) == (state, words, False)


def test_the_words_of_a_failed_leg_are_the_brokers() -> None:
    """From the failure to the answer of a full rollback: none stands, all failed."""
    legs = [placed(0, "OPEN"), placed(1, "OPEN"), refused(2, REQUIRED), planned(3)]
    decided = step(make_batch(4), legs, AT).batch
    cancel = CancelAsked(AT, decided.cause or "")
    legs = [undone(0), undone(1), refused(2, REQUIRED), change(planned(3), cancel)]
    result = end(decided, legs)
    assert result["error"] == f"Order 2 failed: {REQUIRED} Rolled back 2 orders."
    assert (result["total_orders"], result["succeeded"], result["failed"]) == (4, 0, 4)
    assert [leg["error"] for leg in result["orders"]] == [
        "rolled back",
        "rolled back",
        REQUIRED,
        f"Order 2 failed: {REQUIRED}",
    ]


def test_the_residual_is_named() -> None:
    """Leg, quantity and price of what has filled and could not be undone."""
    result = end(rolling(2, "x", 3), [filled(0), undone(1, 20), refused(2)])
    assert [(rest["leg"], rest["quantity"]) for rest in result["residual"]] == [(0, 50), (1, 20)]
    assert result["residual"][1] == {
        "leg": 1,
        "order_id": "251031000000001",
        "exchange": "NFO",
        "tradingsymbol": "NIFTY25NOVFUT",
        "transaction_type": "BUY",
        "quantity": 20,
        "average_price": 19500.25,
    }
    assert (result["succeeded"], result["failed"], result["unknown"]) == (2, 1, 0)


@pytest.mark.parametrize(
    "legs, state, counts, words",
    [
        (
            [filled(0), refused(1)],
            "partly_succeeded",
            (1, 1, 0),
            "Order 1 failed: Insufficient funds.",
        ),
        (
            [refused(0, "a"), refused(1, "b")],
            "failed",
            (0, 2, 0),
            "Order 0 failed: a. Order 1 failed: b.",
        ),
        (
            [filled(0), placed(1, "CANCELLED", 20)],
            "partly_succeeded",
            (2, 0, 0),
            "Order 1 failed: it ended with 20 of 50 filled.",
        ),
        (
            [filled(0), change(lost(1), DayEnded(AT))],
            "partly_succeeded",
            (1, 0, 1),
            "Order 1 may be at the broker: check the order book.",
        ),
        (
            [filled(0), change(lost(1), AbsenceProved(AT))],
            "partly_succeeded",
            (1, 1, 0),
            "Order 1 failed: The order book proves that it was not placed.",
        ),
    ],
)
def test_the_words_without_rollback(
    legs: list[Leg], state: str, counts: tuple[int, int, int], words: str
) -> None:
    """Each leg that does not stand is named; an unknown one is never called failed."""
    result = end(make_batch(2, rollback=False), legs)
    assert (result["succeeded"], result["failed"], result["unknown"]) == counts
    assert (result["state"], result["error"], result["success"]) == (state, words, False)
    assert result["residual"] == []


def test_the_words_of_a_batch_that_stood_still() -> None:
    """Each leg that was not sent is named once, with the one reason."""
    batch = make_batch(2, rollback=False)
    stopped = step(batch, [filled(0), planned(1)], AT + 40 * SECOND).batch
    unsent = change(planned(1), CancelAsked(AT, stopped.cause or ""))
    result = end(stopped, [filled(0), unsent])
    assert result["error"] == "Order 1 failed: sending stood still for 30 s."


def test_the_answer_while_it_runs() -> None:
    """Never a success, never completed, and it says where to ask again."""
    batch = make_batch(2)
    result = answer(batch, [filled(0), sent(1)])
    assert (result["success"], result["completed_at"], result["state"]) == (False, None, "placing")
    assert result["error"] == (
        "Batch still running: GET /advanced/batch-orders/550e8400-e29b-41d4-a716-446655440000"
    )
    assert (result["succeeded"], result["failed"], result["unknown"]) == (1, 0, 1)


# Any history.

OUTCOMES: tuple[PlaceOutcome, ...] = (
    Placed("o"),
    NotSent("x"),
    Refused("MarginException", "poor"),
    Refused("NetworkException", "slow down", retryable=True),
    Unknown("lost"),
)
STATUSES = (REGISTERED, "OPEN", "COMPLETE", "CANCELLED", "REJECTED", "UPDATE")


class World:
    """A batch and its legs, moved as the ledger moves them."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.legs = [planned(number) for number in range(len(batch.task_ids))]
        self.now = AT
        self.turns: list[int] = []

    def step(self) -> None:
        """Let the batch take its steps until it waits."""
        for _ in range(200):
            before = self.batch
            taken = step(before, self.legs, self.now)
            assert taken == step(before, self.legs, self.now)
            if before.state == "rolling_back" or before.cause is not None:
                assert taken.queue is None
                assert taken.batch.state != "placing" or before.state == "placing"
            self.batch = taken.batch
            if taken.queue is not None:
                assert all(leg.task.phase is not Phase.PLANNED for leg in self.legs[: taken.queue])
                self.turns.append(taken.queue)
                turn = Queued(self.now, self.now + 300 * SECOND)
                self.legs[taken.queue] = change(self.legs[taken.queue], turn)
            for number in taken.abandon:
                self.legs[number] = change(self.legs[number], CancelAsked(self.now, "why"))
            if taken.batch == before and taken.queue is None and not taken.abandon:
                break
        else:
            pytest.fail("The batch never waits.")

    def report(self, number: int, status: str, quantity: int) -> None:
        """The broker shows a leg's order."""
        leg = self.legs[number]
        if leg.task.sends == 0 or (leg.order is not None and leg.order.terminal):
            return
        seen = change(leg, Seen(self.now, f"o{number}", "book", leg.task.sends - 1))
        known = 0 if leg.order is None else leg.order.filled_quantity
        amount = 50 if status == "COMPLETE" else max(known, quantity)
        order = placed(number, status, amount, order_id=f"o{number}").order
        self.legs[number] = Leg(seen.task, order)

    def happen(self, number: int, chance: int, quantity: int) -> None:
        """Something happens to a leg, if it can."""
        leg = self.legs[number]
        outcome = OUTCOMES[chance % len(OUTCOMES)]
        match leg.task.phase:
            case Phase.QUEUED | Phase.WAITING:
                self.legs[number] = change(leg, Sent(self.now, "t", date(2025, 10, 31), 1))
            case Phase.SENT if isinstance(outcome, Placed):
                self.report(number, REGISTERED, 0)
            case Phase.SENT:
                self.legs[number] = change(leg, Answered(self.now, outcome, self.now))
            case Phase.RESOLVING if chance % 3 == 0:
                self.legs[number] = change(leg, AbsenceProved(self.now))
            case Phase.RESOLVING if chance % 3 == 1:
                self.legs[number] = change(leg, DayEnded(self.now))
            case Phase.RESOLVING | Phase.DONE:
                self.report(number, STATUSES[chance % len(STATUSES)], quantity)
            case _:
                pass

    def rest(self) -> None:
        """Everything that is under way comes to its end."""
        for number, leg in enumerate(self.legs):
            wanted = not leg.task.cancel_requested
            match leg.task.phase:
                case Phase.QUEUED | Phase.WAITING | Phase.SENT:
                    self.happen(number, 2, 0)
                case Phase.RESOLVING:
                    self.happen(number, 1, 0)
                case Phase.DONE:
                    self.report(number, "OPEN" if wanted else "CANCELLED", 0)
                case _:
                    pass


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.data())
def test_any_history_comes_to_a_true_end(
    legs: int,
    rollback: bool,  # noqa: FBT001  # drawn
    data: st.DataObject,
) -> None:
    """Whatever happens to its legs, a batch ends when they rest, and its answer adds up."""
    world = World(make_batch(legs, rollback=rollback))
    world.step()
    happening = st.tuples(
        st.integers(0, legs - 1), st.integers(0, 29), st.integers(0, 49), st.integers(0, 8)
    )
    for number, chance, quantity, seconds in data.draw(st.lists(happening, max_size=40)):
        world.now += seconds * SECOND
        world.happen(number, chance, quantity)
        world.step()
    for _ in range(8 * legs):
        if world.batch.finished:
            break
        world.now += SECOND
        world.rest()
        world.step()
    batch = world.batch
    assert batch.finished
    assert world.turns == sorted(set(world.turns))
    result = batch.answer or {}
    shown = [Outcome(leg["outcome"]) for leg in result["orders"]]
    assert result["succeeded"] + result["failed"] + result["unknown"] == legs
    assert result["unknown"] == shown.count(Outcome.UNKNOWN)
    assert result["success"] == (set(shown) <= {Outcome.OPEN, Outcome.FILLED})
    assert (result["error"] is None) == (batch.state == "succeeded")
    assert "None" not in (result["error"] or "")
    assert result["success"] or batch.state != "succeeded"
    assert not {Outcome.PLANNED, Outcome.PENDING} & {*shown}
    if rollback and not result["success"]:
        assert Outcome.OPEN not in shown
        assert batch.state in {"rolled_back", "rolled_back_with_residual", "failed"}
        stood = sum(leg["filled_quantity"] for leg in result["orders"])
        assert sum(rest["quantity"] for rest in result["residual"]) == stood
        unknown = Outcome.UNKNOWN in shown
        assert (batch.state == "rolled_back_with_residual") == (stood > 0 or unknown)
