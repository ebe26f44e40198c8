"""The transition table of tasks: section 3 of the order protocol, row by row, then any order."""

from datetime import UTC, date, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ticker_actors.model.outcomes import (
    Accepted,
    ChangeOutcome,
    NotSent,
    Placed,
    PlaceOutcome,
    Refused,
    Unknown,
)
from ticker_actors.model.tasks import (
    OUTSIDE,
    AbsenceProved,
    Answered,
    CancelAsked,
    DayEnded,
    Expired,
    GoalMissed,
    GoalOpen,
    GoalReached,
    IllegalTransition,
    Interrupted,
    Invalid,
    Operation,
    OrderTask,
    Overmodified,
    Phase,
    Queued,
    Reason,
    Seen,
    Sent,
    Superseded,
    TaskEvent,
    TaskStatus,
    Untraceable,
    advance,
    contradiction,
    create,
)

AT = datetime(2025, 11, 20, 4, 0, tzinfo=UTC)
LATER = AT + timedelta(seconds=9)
DAY = date(2025, 11, 20)
INTENT = "0123456789AB"
LIMIT = Refused("NetworkException", "Too many requests", retryable=True)
TOKEN = Refused("TokenException", "Incorrect api_key or access_token", retryable=True)
POOR = Refused("MarginException", "Insufficient funds")
LOST = Unknown("The reply was lost.")

STATUS = {
    Phase.PLANNED: "pending",
    Phase.QUEUED: "pending",
    Phase.WAITING: "retrying",
    Phase.SENT: "running",
    Phase.RESOLVING: "running",
    Phase.DONE: "completed",
    Phase.DEAD: "dead_letter",
}


def tag(send: int) -> str:
    """The broker tag of a send."""
    return f"1ABC{INTENT}00{send:02d}"


def answered(outcome: PlaceOutcome | ChangeOutcome, at: datetime = AT) -> Answered:
    """The broker call returned."""
    return Answered(at, outcome, LATER)


def sent(task: OrderTask) -> Sent:
    """The next send of a task."""
    return Sent(AT, tag(task.sends), DAY, epoch=4)


def seen(order_id: str = "o1", send: int = 0, *, sliced: bool = False) -> Seen:
    """An order of ours in the book."""
    return Seen(AT, order_id, "book", send, sliced)


def fresh(
    operation: Operation = "place_order",
    max_attempts: int = 3,
    phase: Literal[Phase.QUEUED, Phase.PLANNED] = Phase.QUEUED,
) -> OrderTask:
    """A task just submitted."""
    return create(
        task_id="task_1",
        intent=INTENT,
        key="k",
        operation=operation,
        params={"quantity": 1},
        account_id="primary",
        at=AT,
        expires_at=LATER,
        max_attempts=max_attempts,
        order_id=None if operation == "place_order" else "o1",
        phase=phase,
    )


def after(
    *events: TaskEvent, operation: Operation = "place_order", max_attempts: int = 3
) -> OrderTask:
    """A task that these events have happened to."""
    task = fresh(operation, max_attempts)
    for event in events:
        task = advance(task, event)
    return task


def in_phase(phase: Phase, operation: Operation = "place_order") -> OrderTask:
    """A task in a phase, brought there as in life."""
    send = Sent(AT, tag(0), DAY, 4)
    ways: dict[Phase, tuple[TaskEvent, ...]] = {
        Phase.PLANNED: (),
        Phase.QUEUED: (),
        Phase.WAITING: (send, answered(NotSent("refused"))),
        Phase.SENT: (send,),
        Phase.RESOLVING: (send, answered(LOST)),
        Phase.DONE: (send, answered(Placed("o1")))
        if operation == "place_order"
        else (GoalReached(AT, {"order_id": "o1"}),),
        Phase.DEAD: (Expired(AT),),
    }
    if phase is Phase.PLANNED:
        return fresh(operation, phase=Phase.PLANNED)
    return after(*ways[phase], operation=operation)


OWN: dict[type, TaskEvent] = {
    type(event): event
    for event in (
        Queued(AT, LATER),
        Sent(AT, tag(1), DAY, 4),
        Expired(AT),
        Superseded(AT),
        Overmodified(AT),
        Invalid(AT, "no order"),
        Untraceable(AT),
        Interrupted(AT),
        AbsenceProved(AT),
        DayEnded(AT),
        GoalReached(AT, {}),
        GoalMissed(AT, {}, "too late"),
        GoalOpen(AT),
    )
}
UNSENT = {Phase.QUEUED, Phase.WAITING}
UNFINISHED = UNSENT | {Phase.SENT, Phase.RESOLVING}
PLACE_ROWS: dict[type, set[Phase]] = {
    Queued: {Phase.PLANNED},
    Sent: UNSENT,
    Expired: UNSENT,
    Superseded: set(),
    Overmodified: set(),
    Invalid: {Phase.QUEUED},
    Untraceable: {Phase.QUEUED, Phase.WAITING, Phase.RESOLVING},
    Interrupted: {Phase.SENT, Phase.RESOLVING},
    AbsenceProved: {Phase.RESOLVING},
    DayEnded: {Phase.RESOLVING},
    GoalReached: set(),
    GoalMissed: set(),
    GoalOpen: set(),
}
CHANGE_ROWS: dict[type, set[Phase]] = PLACE_ROWS | {
    AbsenceProved: set(),
    GoalReached: UNFINISHED,
    GoalMissed: UNFINISHED,
    GoalOpen: {Phase.RESOLVING},
}
ROWS: dict[Operation, dict[type, set[Phase]]] = {
    "place_order": PLACE_ROWS,
    "cancel_order": CHANGE_ROWS,
    "modify_order": CHANGE_ROWS | {Superseded: UNSENT | {Phase.RESOLVING}, Overmodified: UNSENT},
}
OPERATIONS: tuple[Operation, ...] = ("place_order", "modify_order", "cancel_order")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", OWN)
def test_an_event_of_our_own_is_legal_just_where_the_table_says(
    kind: type, phase: Phase, operation: Operation
) -> None:
    """Elsewhere it raises, names itself and the task, and changes nothing."""
    task = in_phase(phase, operation)
    before = repr(task)
    if phase in ROWS[operation][kind]:
        assert advance(task, OWN[kind]) is not task
    else:
        with pytest.raises(IllegalTransition, match=f"{kind.__name__}.*{phase}.*task_1"):
            advance(task, OWN[kind])
    assert repr(task) == before


OUTCOMES: tuple[PlaceOutcome | ChangeOutcome, ...] = (
    Placed("o9"),
    Accepted(),
    NotSent("x"),
    LIMIT,
    TOKEN,
    POOR,
    LOST,
)
OUTSIDE_EVENTS: tuple[TaskEvent, ...] = (
    *(answered(outcome) for outcome in OUTCOMES),
    seen("o9"),
    CancelAsked(AT, "why"),
)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", OUTSIDE_EVENTS, ids=repr)
def test_what_comes_from_outside_has_a_row_in_every_phase(
    event: TaskEvent, phase: Phase, operation: Operation
) -> None:
    """It never raises, and status always says what phase says."""
    assert isinstance(event, OUTSIDE)
    task = advance(in_phase(phase, operation), event)
    assert task.status == STATUS[task.phase]
    contradiction(in_phase(phase, operation), event)


def test_every_kind_of_event_is_covered_here() -> None:
    """A new event needs a row in these tests."""
    assert set(OWN) | set(OUTSIDE) == set(TaskEvent.__args__)


# Section 3, one row after the other.


def test_a_new_task_is_queued_and_free_to_be_sent() -> None:
    """Submit, new key: pending/queued."""
    task = fresh()
    assert (task.status, task.phase) == (TaskStatus.PENDING, Phase.QUEUED)
    assert (task.attempts, task.sends, task.queued_at) == (0, 0, AT)
    assert not task.may_be_at_broker
    assert not task.finished


def test_a_task_without_a_key_gets_an_internal_one() -> None:
    """It starts with `~`, which clients may not use."""
    task = create(
        task_id="task_1",
        intent=INTENT,
        key=None,
        operation="place_order",
        params={},
        account_id="primary",
        at=AT,
        expires_at=None,
        max_attempts=1,
    )
    assert task.idempotency_key == "~task_1"


def test_a_leg_is_planned_until_its_batch_queues_it() -> None:
    """Its turn and its expiry count from then."""
    leg = fresh(phase=Phase.PLANNED)
    assert (leg.status, leg.queued_at) == (TaskStatus.PENDING, None)
    queued = advance(leg, Queued(LATER, LATER + timedelta(seconds=10)))
    assert (queued.phase, queued.queued_at) == (Phase.QUEUED, LATER)
    assert queued.expires_at == LATER + timedelta(seconds=10)


def test_a_send_is_written_down_whole() -> None:
    """running/sent holds tag, time, trading day and epoch, and counts."""
    task = after(Sent(LATER, tag(0), DAY, 4))
    assert (task.status, task.phase) == (TaskStatus.RUNNING, Phase.SENT)
    assert (task.broker_tag, task.sent_at, task.trading_day, task.epoch) == (tag(0), LATER, DAY, 4)
    assert (task.attempts, task.sends, task.next_attempt_at) == (1, 1, None)
    assert task.may_be_at_broker


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.WAITING])
def test_an_expired_task_is_never_sent(phase: Phase) -> None:
    """Pending or retrying, expired: dead_letter(expired)."""
    task = advance(in_phase(phase), Expired(LATER))
    assert (task.status, task.reason) == (TaskStatus.DEAD_LETTER, Reason.EXPIRED)
    assert not task.may_be_at_broker
    assert task.next_attempt_at is None
    assert task.last_error


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.QUEUED, Phase.WAITING])
def test_a_cancel_before_the_send_kills_the_task(phase: Phase) -> None:
    """Pending or retrying, cancel: dead_letter(cancelled), with the reason it was given."""
    task = advance(in_phase(phase), CancelAsked(LATER, "not wanted"))
    assert (task.phase, task.reason) == (Phase.DEAD, Reason.CANCELLED)
    assert (task.last_error, task.updated_at) == ("not wanted", LATER)


def test_a_reply_with_an_order_id_completes() -> None:
    """running/sent, PLACED: completed(order_id)."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(Placed("o1"), LATER))
    assert (task.status, task.order_id) == (TaskStatus.COMPLETED, "o1")
    assert task.result == {"order_id": "o1", "found_by": "reply"}
    assert (task.reason, task.last_error, task.updated_at) == (None, None, LATER)


@pytest.mark.parametrize("outcome", [NotSent("connection refused"), LIMIT])
def test_what_is_proved_not_placed_is_tried_again(outcome: PlaceOutcome) -> None:
    """running/sent, NOT_SENT or 429, attempts left: retrying(next_attempt_at)."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(outcome))
    assert (task.status, task.phase) == (TaskStatus.RETRYING, Phase.WAITING)
    assert (task.next_attempt_at, task.attempts, task.sends) == (LATER, 1, 1)
    assert not task.may_be_at_broker


@pytest.mark.parametrize("outcome", [TOKEN, NotSent("It expired.", spent=False)])
def test_a_dead_token_or_a_check_of_ours_spends_no_attempt(outcome: PlaceOutcome) -> None:
    """The send is counted in the tag's suffix all the same."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(outcome), max_attempts=1)
    assert (task.phase, task.attempts, task.sends) == (Phase.WAITING, 0, 1)


def test_a_permanent_refusal_kills_at_once() -> None:
    """running/sent, permanent REFUSED: dead_letter(refused), in the broker's words."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(POOR))
    assert (task.reason, task.last_error) == (Reason.REFUSED, "Insufficient funds")
    assert not task.may_be_at_broker


@pytest.mark.parametrize("outcome", [NotSent("connection refused"), LIMIT])
def test_spent_attempts_kill(outcome: NotSent | Refused) -> None:
    """running/sent, attempts spent: dead_letter(exhausted), after just so many sends."""
    task = fresh(max_attempts=2)
    for number in range(2):
        assert task.phase is not Phase.DEAD
        task = advance(advance(task, Sent(AT, tag(number), DAY, 4)), answered(outcome))
    assert (task.reason, task.attempts, task.sends) == (Reason.EXHAUSTED, 2, 2)
    assert task.last_error == outcome.message


@pytest.mark.parametrize("outcome", [LOST, Accepted()])
def test_an_unknown_outcome_is_resolved_not_repeated(outcome: ChangeOutcome) -> None:
    """running/sent, UNKNOWN: running/resolving, which cannot be sent."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(outcome))
    assert (task.status, task.phase) == (TaskStatus.RUNNING, Phase.RESOLVING)
    assert task.may_be_at_broker
    with pytest.raises(IllegalTransition):
        advance(task, sent(task))


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.RESOLVING])
def test_what_a_dead_process_had_sent_is_resolved(phase: Phase) -> None:
    """running/* of an earlier epoch at a start: running/resolving, never pending."""
    task = advance(in_phase(phase), Interrupted(LATER))
    assert (task.status, task.phase) == (TaskStatus.RUNNING, Phase.RESOLVING)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.DONE])
def test_an_order_that_is_seen_completes_its_task_from_anywhere(phase: Phase) -> None:
    """Any but completed, an order with our intent: completed(order_id, found_by)."""
    task = advance(in_phase(phase), seen("o7"))
    assert (task.phase, task.order_id) == (Phase.DONE, "o7")
    assert task.result == {"order_id": "o7", "found_by": "book"}
    assert (task.reason, task.last_error, task.next_attempt_at) == (None, None, None)
    assert task.may_be_at_broker


@pytest.mark.parametrize(
    "event", [answered(Placed("o1")), *OUTSIDE_EVENTS[2:7], seen("o1")], ids=repr
)
def test_nothing_changes_a_completed_task(event: TaskEvent) -> None:
    """Completed, any reply or the same order again: the very same object."""
    task = in_phase(Phase.DONE)
    assert advance(task, event) is task


def test_a_sibling_slice_is_no_contradiction() -> None:
    """An iceberg makes several orders under one whole tag."""
    task = in_phase(Phase.DONE)
    assert advance(task, seen("o2", sliced=True)) is task
    assert contradiction(task, seen("o2", sliced=True)) is None


def test_a_slice_of_another_send_is_a_contradiction() -> None:
    """Completed, same intent, other attempt suffix: an incident, sliced or not."""
    task = after(
        Sent(AT, tag(0), DAY, 4),
        answered(NotSent("x")),
        Sent(AT, tag(1), DAY, 4),
        answered(Placed("o1")),
    )
    assert contradiction(task, seen("o2", send=1, sliced=True)) is None
    assert "o2" in (contradiction(task, seen("o2", send=0, sliced=True)) or "")


def test_a_second_order_is_a_contradiction() -> None:
    """Completed, a second order that is no slice: unchanged, an incident that names both."""
    task = in_phase(Phase.DONE)
    assert advance(task, seen("o2")) is task
    message = contradiction(task, seen("o2")) or ""
    assert "o1" in message
    assert "o2" in message
    assert contradiction(task, seen("o1")) is None


@pytest.mark.parametrize("event", [seen("o7"), answered(Placed("o7"))], ids=repr)
def test_an_order_after_death_is_a_contradiction_and_corrected(event: TaskEvent) -> None:
    """What was reported as not placed is reported as placed, with an alarm."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(LOST), AbsenceProved(AT))
    assert "o7" in (contradiction(task, event) or "")
    assert advance(task, event).order_id == "o7"


def test_a_reply_that_contradicts_a_seen_order_is_told() -> None:
    """A refusal of an order that exists, or another order id."""
    task = after(Sent(AT, tag(0), DAY, 4), seen("o1"))
    assert contradiction(task, answered(Placed("o1"))) is None
    assert contradiction(task, answered(LOST)) is None
    assert "o2" in (contradiction(task, answered(Placed("o2"))) or "")
    assert "Insufficient funds" in (contradiction(task, answered(POOR)) or "")


def test_absence_proved_ends_the_search() -> None:
    """Resolving, absence proved: dead_letter(not_placed_proved)."""
    task = advance(in_phase(Phase.RESOLVING), AbsenceProved(LATER))
    assert (task.reason, task.may_be_at_broker) == (Reason.NOT_PLACED_PROVED, False)


def test_a_day_that_ends_without_proof_leaves_it_unresolved() -> None:
    """Resolving, its trading day ended: dead_letter(unresolved), still perhaps at the broker."""
    task = advance(in_phase(Phase.RESOLVING), DayEnded(LATER))
    assert (task.reason, task.may_be_at_broker) == (Reason.UNRESOLVED, True)


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.RESOLVING, Phase.DONE, Phase.DEAD])
def test_a_cancel_after_the_send_is_remembered(phase: Phase) -> None:
    """running/*, cancel: remembered, so that the order is cancelled once it is known."""
    task = advance(in_phase(phase), CancelAsked(LATER, "why"))
    assert task.phase is phase
    assert task.cancel_requested
    assert advance(task, CancelAsked(LATER, "again")) is task


@pytest.mark.parametrize("outcome", [NotSent("x"), NotSent("x", spent=False), LIMIT, TOKEN])
def test_a_remembered_cancel_stops_the_retries(outcome: PlaceOutcome) -> None:
    """It is dead(cancelled), never sent again."""
    task = after(Sent(AT, tag(0), DAY, 4), CancelAsked(AT, "why"), answered(outcome))
    assert (task.phase, task.reason) == (Phase.DEAD, Reason.CANCELLED)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.WAITING, Phase.SENT, Phase.RESOLVING])
def test_a_late_order_of_a_cancelled_task_is_still_to_be_cancelled(phase: Phase) -> None:
    """It obeys its owner's standing wish, also when the task had died in the meantime."""
    task = advance(in_phase(phase), CancelAsked(AT, "why"))
    if task.phase is Phase.RESOLVING:
        task = advance(task, DayEnded(AT))
    task = advance(task, seen("o7"))
    assert (task.phase, task.cancel_requested) == (Phase.DONE, True)


# Cancel and modify tasks.


def test_a_change_is_done_only_when_its_order_shows_it() -> None:
    """The broker's yes is no evidence."""
    task = after(Sent(AT, tag(0), DAY, 4), answered(Accepted()), operation="cancel_order")
    assert (task.phase, task.next_attempt_at) == (Phase.RESOLVING, LATER)
    task = advance(task, GoalReached(LATER, {"status": "CANCELLED"}))
    assert (task.phase, task.result) == (Phase.DONE, {"status": "CANCELLED"})
    assert task.order_id == "o1"


def test_a_cancel_is_never_given_up() -> None:
    """Refusals and faults lead back to another send, however many there were."""
    task = fresh("cancel_order", max_attempts=1)
    for number, outcome in enumerate(OUTCOMES[1:]):
        task = advance(task, Sent(AT, tag(number), DAY, 4))
        task = advance(task, answered(outcome))
        if task.phase is Phase.RESOLVING:
            task = advance(task, GoalOpen(AT))
        assert task.phase is Phase.WAITING


def test_a_modification_has_its_attempts() -> None:
    """One that the order never shows is exhausted; one that is refused is refused."""
    task = fresh("modify_order", max_attempts=2)
    for number in range(2):
        task = advance(task, Sent(AT, tag(number), DAY, 4))
        task = advance(advance(task, answered(Accepted())), GoalOpen(AT))
    assert task.reason is Reason.EXHAUSTED
    refused = after(Sent(AT, tag(0), DAY, 4), answered(POOR), operation="modify_order")
    assert refused.reason is Reason.REFUSED


def test_an_order_that_ended_otherwise_is_too_late() -> None:
    """The dead letter says what became of the order."""
    task = advance(in_phase(Phase.SENT, "cancel_order"), GoalMissed(AT, {"status": "X"}, "late"))
    assert (task.reason, task.result, task.last_error) == (
        Reason.TOO_LATE,
        {"status": "X"},
        "late",
    )


def test_a_change_is_never_said_to_be_at_the_broker() -> None:
    """Only orders are."""
    assert not any(in_phase(phase, "cancel_order").may_be_at_broker for phase in Phase)


@pytest.mark.parametrize("operation", ["modify_order", "cancel_order"])
def test_calling_off_a_change_never_touches_its_order(operation: Operation) -> None:
    """It stops the retries; what had its effect already leaves no wish to cancel the order."""
    called_off = CancelAsked(AT, "why")
    assert not advance(in_phase(Phase.DONE, operation), called_off).cancel_requested
    late = after(Sent(AT, tag(0), DAY, 4), called_off, operation=operation)
    assert not advance(late, GoalReached(AT, {})).cancel_requested
    resolving = advance(late, answered(Accepted()))
    assert advance(resolving, GoalOpen(AT)).reason is Reason.CANCELLED


def test_a_sighting_never_gives_a_change_another_order() -> None:
    """Its order is the one it changes."""
    task = in_phase(Phase.RESOLVING, "modify_order")
    assert advance(task, seen("o9")) is task


class AnyEventInAnyOrder(RuleBasedStateMachine):
    """A place task to which anything happens."""

    task: OrderTask
    found: bool = False

    @initialize(most=st.integers(1, 3), planned=st.booleans())
    def submit(self, most: int, *, planned: bool) -> None:
        """A new task or leg."""
        self.task = fresh(max_attempts=most, phase=Phase.PLANNED if planned else Phase.QUEUED)

    def happen(self, event: TaskEvent) -> None:
        """Let it happen; what is illegal must change nothing."""
        before, was = self.task, repr(self.task)
        try:
            after = advance(before, event)
        except IllegalTransition:
            assert not isinstance(event, OUTSIDE)
            after = before
        assert repr(before) == was
        self.task = after
        if before.phase is Phase.DONE:
            assert after.phase is Phase.DONE
            assert after.order_id == before.order_id
        if before.phase is Phase.DEAD and after.phase is not Phase.DEAD:
            assert after.phase is Phase.DONE
            assert contradiction(before, event)
        if before.phase in {Phase.SENT, Phase.RESOLVING} and after.phase is Phase.WAITING:
            assert isinstance(event, Answered)
            assert isinstance(event.outcome, NotSent | Refused)
        if before.cancel_requested:
            assert after.cancel_requested
            assert after.sends == before.sends
        assert after.sends - before.sends == isinstance(event, Sent) * (after is not before)
        if after is not before:
            assert after.intent == before.intent
            assert after.params == before.params

    @rule(event=st.sampled_from(list(OWN.values())))
    def own(self, event: TaskEvent) -> None:
        """Something that this service does."""
        self.happen(sent(self.task) if isinstance(event, Sent) else event)

    @precondition(lambda self: self.task.phase in {Phase.QUEUED, Phase.WAITING})
    @rule()
    def send(self) -> None:
        """Often enough to get somewhere."""
        self.happen(sent(self.task))

    @rule(event=st.sampled_from(OUTSIDE_EVENTS))
    def outside(self, event: TaskEvent) -> None:
        """Something that the broker or the owner does."""
        placed = isinstance(event, Answered) and isinstance(event.outcome, Placed)
        self.found = self.found or isinstance(event, Seen) or placed
        self.happen(event)

    @invariant()
    def status_says_what_phase_says(self) -> None:
        """The document's word and ours never disagree."""
        assert self.task.status == STATUS[self.task.phase]
        assert (self.task.reason is not None) == (self.task.phase is Phase.DEAD)
        assert self.task.finished == (self.task.phase in {Phase.DONE, Phase.DEAD})

    @invariant()
    def attempts_stay_within_their_maximum(self) -> None:
        """And within what was sent."""
        assert 0 <= self.task.attempts <= self.task.max_attempts
        assert self.task.attempts <= self.task.sends

    @invariant()
    def what_was_seen_is_completed(self) -> None:
        """A task is completed just when an order of it was seen, and then has its id."""
        assert self.found == (self.task.phase is Phase.DONE) == (self.task.order_id is not None)
        if self.found:
            assert self.task.result is not None
            assert self.task.result["order_id"] == self.task.order_id

    @invariant()
    def what_waits_knows_when(self) -> None:
        """A retry has its time; what is sent has its tag."""
        if self.task.phase is Phase.WAITING:
            assert self.task.next_attempt_at is not None
        if self.task.phase in {Phase.SENT, Phase.RESOLVING}:
            assert self.task.broker_tag == tag(self.task.sends - 1)


AnyEventInAnyOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)
TestAnyEventInAnyOrder = AnyEventInAnyOrder.TestCase
