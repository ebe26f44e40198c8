"""A hundred thousand tasks at once: every step that could meet them all is taken in pieces."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ticker_actors.actors.draft import Draft
from ticker_actors.actors.ledger import MOST_AT_ONCE, Ledger
from ticker_actors.model.calendar import Moment, trading_day
from ticker_actors.model.changes import Recovered
from ticker_actors.model.limits import Limits
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.outcomes import OrderBook
from ticker_actors.model.tasks import OrderTask, Phase, Reason, Seen, Sent, advance, create

NOON = datetime(2025, 11, 24, 6, 30, tzinfo=UTC)
HORIZON = 120.0
MANY = 2 * MOST_AT_ONCE + 1
PIECES = [MOST_AT_ONCE, MOST_AT_ONCE, 1]


def at(seconds: float) -> Moment:
    """So long after the start."""
    return Moment(NOON + timedelta(seconds=seconds), 1000.0 + seconds)


def order(number: int) -> OrderTask:
    """A queued order that expires after a minute."""
    return create(
        task_id=f"task_{number}",
        intent=f"{number:012}",
        key=None,
        operation="place_order",
        params={
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "quantity": 1,
            "product": "CNC",
            "order_type": "MARKET",
            "variety": "regular",
        },
        account_id="primary",
        at=NOON,
        expires_at=NOON + timedelta(minutes=1),
        max_attempts=5,
    )


def sent(number: int, when: datetime = NOON) -> OrderTask:
    """An order that a dead process had sent."""
    return advance(order(number), Sent(when, f"tag{number}", trading_day(when), 1))


def recovered(tasks: Sequence[OrderTask], orders: Sequence[OrderView] = ()) -> Ledger:
    """A ledger that took these over."""
    ledger = Ledger("primary", "ABC", HORIZON, Limits(8, 400, 5000), lambda bits: 1 << bits - 1)
    found = Recovered(
        account_id="primary",
        epoch=2,
        head_sequence=0,
        tasks=tuple(tasks),
        batches=(),
        orders=tuple(orders),
        attempts=(),
    )
    ledger.recover(found, at(0))
    return ledger


def resumed(ledger: Ledger) -> list[Draft]:
    """The pieces of the rest of the recovery."""
    drafts = [Draft()]
    while ledger.resume(drafts[-1], at(0)):
        drafts.append(Draft())
    return drafts[:-1]


def turns(ledger: Ledger, when: Moment) -> list[Draft]:
    """The pieces of what is due, each wanted at once by the one before."""
    drafts = []
    while ledger.next_turn(when) == 0:
        drafts.append(Draft())
        ledger.turn(drafts[-1], when)
    return drafts


def sizes(drafts: Sequence[Draft]) -> list[int]:
    """How many tasks each writes."""
    return [len(draft.tasks) for draft in drafts]


def test_what_a_dead_process_had_sent_is_taken_up_in_pieces() -> None:
    """Each becomes unknown, once, in a transaction of bounded size."""
    drafts = resumed(recovered([sent(number) for number in range(MANY)]))
    assert sizes(drafts) == PIECES
    written = {name: task for draft in drafts for name, task in draft.tasks.items()}
    assert len(written) == MANY
    assert {task.phase for task in written.values()} == {Phase.RESOLVING}


def test_nothing_is_sent_between_the_pieces() -> None:
    """A new order is taken meanwhile, and waits for the gate."""
    ledger = recovered([sent(number) for number in range(MANY)])
    ledger.resume(Draft(), at(0))
    draft = Draft()
    task = ledger.submit(draft, order(MANY), at(0))
    ledger.adopt(task, at(0))
    ledger.turn(draft, at(1))
    assert (task.phase, draft.calls) == (Phase.QUEUED, [])
    assert sizes(resumed(ledger)) == PIECES[1:]


def test_a_cancel_does_not_prove_that_another_program_s_try_failed() -> None:
    """It was tried without our tag: whoever cancels it before the recovery does, learns that."""
    ledger = recovered([msgspec.structs.replace(order(0), attempts=1)])
    draft = Draft()
    ledger.cancel_task(draft, ledger.tasks["task_0"], "Its owner cancelled it.", at(0))
    assert draft.tasks["task_0"].reason is Reason.UNRESOLVED
    assert [event.event for event in draft.events] == ["order_unresolved"]
    assert sizes(resumed(ledger)) == [0]


def test_a_new_cancel_does_not_judge_what_is_not_looked_at_yet() -> None:
    """A change of another program's that says nothing stops nobody, and ends as invalid."""
    resting = OrderView(
        account_id="primary",
        order=BrokerOrder(
            order_id="1",
            status="OPEN",
            exchange="NSE",
            tradingsymbol="INFY",
            transaction_type="BUY",
            quantity=1,
            product="CNC",
            order_type="LIMIT",
            variety="regular",
            validity="DAY",
        ),
        task_id="task_0",
        tag=None,
        version=1,
        trading_day=trading_day(NOON),
    )
    empty = msgspec.structs.replace(
        order(MANY), operation="modify_order", params={"order_id": "1"}, order_id="1", epoch=1
    )
    ledger = recovered([*(sent(number) for number in range(MANY)), empty], [resting])
    ledger.resume(Draft(), at(0))
    wanted = msgspec.structs.replace(
        order(MANY + 1),
        operation="cancel_order",
        params={"order_id": "1", "variety": "regular"},
        order_id="1",
    )
    ledger.request_change(Draft(), wanted, at(0))
    written = {name: task for draft in resumed(ledger) for name, task in draft.tasks.items()}
    assert written[empty.task_id].reason is Reason.INVALID


def test_what_another_program_saved_is_looked_at_in_pieces() -> None:
    """A piece may write nothing, and yet others have their turn after it."""
    theirs = [msgspec.structs.replace(order(number), epoch=1) for number in range(MANY)]
    assert sizes(resumed(recovered(theirs))) == [0] * len(PIECES)


def test_orders_of_before_a_restart_go_first() -> None:
    """A new one queues behind them, however early it comes."""
    ledger = recovered([order(1), order(2)])
    new = ledger.submit(Draft(), order(3), at(0))
    ledger.adopt(new, at(0))
    assert list(ledger._queue) == ["task_1", "task_2", "task_3"]


def test_what_has_expired_is_not_sent_on_the_way_to_its_end() -> None:
    """Nor does it spend the budget of those that have not."""
    ledger = recovered([order(number) for number in range(MANY)])
    resumed(ledger)
    ledger.admission.gate_open = True
    draft = Draft()
    ledger.turn(draft, at(60))
    assert (len(draft.tasks), draft.calls) == (MOST_AT_ONCE, [])


def test_all_that_expire_at_one_instant_die_in_pieces() -> None:
    """None is forgotten, and none waits for a clock: the next piece is due at once."""
    ledger = recovered([order(number) for number in range(MANY)])
    assert not resumed(ledger)  # they are our own: nothing has to be looked at
    drafts = turns(ledger, at(60))
    assert [size for size in sizes(drafts) if size] == PIECES
    reasons = {task.reason for draft in drafts for task in draft.tasks.values()}
    assert reasons == {Reason.EXPIRED}


def test_all_that_one_read_proves_absent_die_in_pieces() -> None:
    """The read is the evidence; the conclusions are drawn one piece after the other."""
    ledger = recovered([sent(number) for number in range(MANY)])
    resumed(ledger)
    far = 5 * HORIZON  # no order of the day is known
    for number in range(5):
        began = at(far + 10 * number)
        assert ledger.read(Draft(), OrderBook(()), began, began)
    drafts = turns(ledger, at(far + 50))
    assert [size for size in sizes(drafts) if size] == PIECES
    reasons = {task.reason for draft in drafts for task in draft.tasks.values()}
    assert reasons == {Reason.NOT_PLACED_PROVED}


def test_an_order_that_appears_after_the_proof_is_not_called_absent() -> None:
    """What was sighted before the conclusion was drawn decides."""
    ledger = recovered([sent(0)])
    resumed(ledger)
    far = 5 * HORIZON
    for number in range(5):
        began = at(far + 10 * number)
        ledger.read(Draft(), OrderBook(()), began, began)
    draft, seen = Draft(), Seen(at(far + 45).at, "1", "feed", 0)
    ledger.change(draft, "task_0", seen, at(far + 45))
    assert not any(sizes(turns(ledger, at(far + 50))))
    assert ledger.tasks["task_0"].phase is Phase.DONE


@pytest.mark.parametrize("when", [NOON - timedelta(days=1), NOON])
def test_a_day_that_has_ended_tells_nothing_more(when: datetime) -> None:
    """Sent on a day that is over, whether it ended before the start or after, it is unresolved."""
    ledger = recovered([sent(0, when)])
    resumed(ledger)
    ledger.admission.gate_open = True
    drafts = turns(ledger, at(0)) + turns(ledger, at(86_400))
    ended = [task for draft in drafts for task in draft.tasks.values()]
    assert [task.reason for task in ended] == [Reason.UNRESOLVED]
