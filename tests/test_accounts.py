"""What an account may do: its state, its session, its broker's faults, and our own checks."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from tests.asking import batched, cancelled, finished, modified, submit, until
from tests.fakes import (
    ACCOUNT,
    OPENED,
    FakeBroker,
    ScriptedBroker,
    StaleBook,
    UnreadableBook,
    World,
    limit_order,
    market_order,
    rate_limited,
)
from ticker_actors.actors import executor
from ticker_actors.actors.admission import BREAKER_FAULTS
from ticker_actors.actors.lane import MISMATCH_SECONDS, LaneState
from ticker_actors.actors.requests import (
    Accepted,
    ClientKey,
    Denied,
    Overloaded,
    Unchecked,
)
from ticker_actors.brokers.pushed import Pushed
from ticker_actors.model.accounts import AccountState, reduces
from ticker_actors.model.limits import MOST_MODIFICATIONS, Limits
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedItem,
    NotSent,
    OrderBook,
    PlaceOutcome,
    Refused,
    Unknown,
    Unreadable,
)
from ticker_actors.model.portfolio import Position, Positions
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.tasks import Reason, TaskStatus

DEAD_TOKEN = Refused(
    "TokenException", "Token is invalid or has expired.", retryable=True, trouble="login_required"
)
NO_ADDRESS = Refused(
    "PermissionException",
    "No IPs configured for this app.",
    trouble="not_permitted",
)


class Holder(FakeBroker):
    """Holds 100 INFY long and 50 TCS short, both CNC."""

    async def positions(self) -> Positions | Unreadable:
        held = {"INFY": 100, "TCS": -50}
        return Positions(
            net=tuple(
                Position(exchange="NSE", tradingsymbol=symbol, product="CNC", quantity=quantity)
                for symbol, quantity in held.items()
            )
        )


class BlindHolder(FakeBroker):
    """Does not say what it holds."""

    async def positions(self) -> Positions | Unreadable:
        return Unreadable("502 Bad Gateway")


class Priced(FakeBroker):
    """Everything last traded at 100, but for one symbol that nobody knows."""

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        del exchange
        return None if tradingsymbol == "UNKNOWN" else 100.0


class LoggedOut(FakeBroker):
    """Refuses every call until there is a new token."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = False

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        return await super().place(order, tag) if self.alive else DEAD_TOKEN

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        return book if self.alive else Unreadable("Token is invalid.", "login_required")


async def state_of(process: object) -> LaneState:
    """How the account stands."""
    (state,) = await process.executor.lanes()  # type: ignore[attr-defined]  # any World's process
    assert isinstance(state, LaneState)
    return state


# The operator's word


async def test_halted_account_only_cancels(autojump_clock: MockClock) -> None:
    """New orders and changes are denied with a code; what rests can be cancelled."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        resting = await finished(process, await submit(process))
        await process.executor.set_state(ACCOUNT, AccountState.HALTED, "lunch")
        denied = await process.executor.submit_order(ACCOUNT, limit_order())
        changed = await process.executor.modify_order(
            ACCOUNT, resting.order_id or "", OrderChanges(price=101.0)
        )
        assert isinstance(denied, Denied)
        assert isinstance(changed, Denied)
        assert (denied.code, changed.code) == ("account_halted", "account_halted")
        cancel = await finished(process, await cancelled(process, resting.order_id or ""))
    assert cancel.status is TaskStatus.COMPLETED
    assert len(world.store.tasks) == 2


async def test_waiting_orders_of_a_halted_account_expire_or_go_on(
    autojump_clock: MockClock,
) -> None:
    """Halting holds what is queued; it spends no attempt, and no expiry is lengthened."""
    world = World(broker=FakeBroker(), limits=Limits(1, 0, 0))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await submit(process)
        fast = await submit(process, market_order())
        slow = await submit(process)
        await process.executor.set_state(ACCOUNT, AccountState.HALTED, None)
        await trio.sleep(20)
        assert len(world.broker.sent()) == 1
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None)
        slow = await finished(process, slow)
        fast = await finished(process, fast)
    assert fast.reason is Reason.EXPIRED
    assert (slow.status, slow.attempts) == (TaskStatus.COMPLETED, 1)


async def test_an_order_on_its_way_to_the_store_is_held_too(autojump_clock: MockClock) -> None:
    """The state is asked once more just before the first byte."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.store.commit_seconds = lambda: 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, process)
            await trio.sleep(0.1)
            nursery.start_soon(
                process.executor.set_state, ACCOUNT, AccountState.HALTED, "stop at once"
            )
        await trio.sleep(10)
        assert not world.broker.sent()
    (task,) = world.store.tasks.values()
    assert (task.status, task.attempts) == (TaskStatus.RETRYING, 0)


async def test_the_state_outlives_the_process(autojump_clock: MockClock) -> None:
    """A halted account is still halted after a restart, and says why."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await process.executor.set_state(ACCOUNT, AccountState.HALTED, "drill")
    async with world.process() as process:
        await trio.sleep(OPENED)
        denied = await process.executor.submit_order(ACCOUNT, limit_order())
        state = await state_of(process)
    assert isinstance(denied, Denied)
    assert (state.standing.state, state.standing.reason) == (AccountState.HALTED, "drill")
    assert "account_status" in world.store.names()


async def test_a_key_is_answered_whatever_the_state(autojump_clock: MockClock) -> None:
    """Who asks again after the account was halted hears of the first request."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        key = ClientKey("once", "hash")
        first = await submit(process, key=key)
        await process.executor.set_state(ACCOUNT, AccountState.HALTED, None)
        again = await process.executor.submit_order(ACCOUNT, limit_order(), key)
    assert isinstance(again, Accepted)
    assert (again.task.task_id, again.replayed) == (first.task_id, True)


# REDUCING


@pytest.mark.parametrize(
    "order, taken",
    [
        (limit_order("INFY", 100, transaction_type="SELL"), True),
        (limit_order("INFY", 101, transaction_type="SELL"), False),
        (limit_order("INFY", 1), False),
        (limit_order("TCS", 50), True),
        (limit_order("TCS", 51), False),
        (limit_order("INFY", 1, transaction_type="SELL", product="MIS"), False),
        (limit_order("WIPRO", 1, transaction_type="SELL"), False),
    ],
    ids=["close", "turn round", "enlarge", "buy back", "too much", "other product", "nothing held"],
)
async def test_reducing_account_takes_what_shrinks_a_position(
    autojump_clock: MockClock, order: PlaceOrder, *, taken: bool
) -> None:
    """And sends it; everything else is denied."""
    world = World(broker=Holder())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        answer = await process.executor.submit_order(ACCOUNT, order)
        await trio.sleep(1)
    assert isinstance(answer, Accepted if taken else Denied)
    assert len(world.broker.sent()) == taken


async def test_reducing_counts_what_is_on_its_way(autojump_clock: MockClock) -> None:
    """Two orders that each close the position would turn it round."""
    world = World(broker=Holder())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        sell = limit_order("INFY", 60, transaction_type="SELL")
        await finished(process, await submit(process, sell))
        assert isinstance(await process.executor.submit_order(ACCOUNT, sell), Denied)
        batch = await process.executor.submit_batch(
            ACCOUNT,
            tuple(limit_order("TCS", 30) for _ in range(2)),
            rollback_on_failure=True,
        )
    assert isinstance(batch, Denied)
    assert (batch.code, batch.leg) == ("account_reducing", 1)


async def test_reducing_without_positions_takes_nothing(autojump_clock: MockClock) -> None:
    """What is not known to shrink a position does not pass."""
    world = World(broker=BlindHolder())
    async with world.process() as process:
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        denied = await process.executor.submit_order(ACCOUNT, limit_order(transaction_type="SELL"))
    assert isinstance(denied, Denied)
    assert "502 Bad Gateway" in denied.message


def test_reduces_never_turns_a_position_round() -> None:
    """Positions of one instrument and product count together; a flat one cannot shrink."""
    held = [
        Position(exchange="NSE", tradingsymbol="INFY", product="CNC", quantity=quantity)
        for quantity in (30, 20)
    ]
    sell = limit_order("INFY", 50, transaction_type="SELL")
    assert reduces(sell, held)
    assert not reduces(sell, held, pending=1)
    assert not reduces(sell, [])
    assert not reduces(limit_order("INFY", 1), held)


# The session


async def test_dead_token_holds_everything_until_a_login(autojump_clock: MockClock) -> None:
    """One call finds out; the others wait, spend no attempt, and go by themselves afterwards."""
    world = World(broker=LoggedOut())
    world.broker.alive = True
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.broker.alive = False
        tasks = [await submit(process) for _ in range(3)]
        await trio.sleep(10)
        state = await state_of(process)
        assert state.login_required
        reads = len(world.broker.reads)
        await trio.sleep(20)
        assert len(world.broker.reads) - reads <= 2  # a dead token is not hammered
        world.broker.alive = True
        await process.executor.note_login(ACCOUNT)
        for task in tasks:
            done = await finished(process, task)
            assert (done.status, done.attempts) == (TaskStatus.COMPLETED, 1)
        assert not (await state_of(process)).login_required
    assert world.store.names().count("account_status") == 2


async def test_a_start_without_a_session_says_so(autojump_clock: MockClock) -> None:
    """The book cannot be read: nothing is sent, and the reason is not hidden."""
    world = World(broker=LoggedOut())
    async with world.process() as process:
        await submit(process)
        await trio.sleep(5)
        state = await state_of(process)
        assert state.login_required
        assert any("login" in worry for worry in state.worries)
        world.broker.alive = True
        await trio.sleep(60)  # found without being told
        assert not (await state_of(process)).login_required
        assert len(world.broker.sent()) == 1


async def test_no_permission_halts_the_account(autojump_clock: MockClock) -> None:
    """The order is refused, no other burns quota, and only the operator ends it."""
    world = World(broker=ScriptedBroker(NO_ADDRESS))
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await finished(process, await submit(process))
        assert (task.reason, task.attempts) == (Reason.REFUSED, 1)
        state = await state_of(process)
        assert state.standing.state is AccountState.HALTED
        assert "No IPs configured" in (state.standing.reason or "")
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None)
        assert (await finished(process, await submit(process))).status is TaskStatus.COMPLETED


# Faults of the broker


@pytest.mark.parametrize("fault", [NotSent("refused"), Unknown("reset")], ids=["unsent", "unknown"])
async def test_breaker_opens_and_a_read_closes_it(
    autojump_clock: MockClock, fault: PlaceOutcome
) -> None:
    """After so many faults in a row nothing is sent before the book was read."""
    broker = BreakingBroker(fault)
    world = World(broker=broker)
    async with world.process() as process:
        await trio.sleep(OPENED)
        broker.broken = True
        for _ in range(BREAKER_FAULTS):
            await submit(process)
        await trio.sleep(1)
        assert (await state_of(process)).breaker_open
        calls = len(broker.sent())
        late = await submit(process)
        await trio.sleep(4)
        assert len(broker.sent()) == calls
        broker.broken = False
        assert (await finished(process, late)).status is TaskStatus.COMPLETED
        assert not (await state_of(process)).breaker_open


class BreakingBroker(UnreadableBook):
    """Whatever is asked of it comes to nothing while it is broken."""

    def __init__(self, fault: PlaceOutcome) -> None:
        super().__init__()
        self.broken = False
        self._fault = fault

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if not self.broken:
            return await super().place(order, tag)
        self.note("place", tag)
        return self._fault


async def test_a_refusal_is_no_fault(autojump_clock: MockClock) -> None:
    """A broker that answers is well, whatever it answers."""
    refusals = [Refused("InputException", "No.") for _ in range(BREAKER_FAULTS + 1)]
    world = World(broker=ScriptedBroker(*refusals))
    async with world.process() as process:
        await trio.sleep(OPENED)
        for _ in refusals:
            await finished(process, await submit(process))
        assert not (await state_of(process)).breaker_open


async def test_429_pauses_the_whole_account(autojump_clock: MockClock) -> None:
    """The next order does not run into the same wall."""
    world = World(broker=ScriptedBroker(rate_limited(3.0)))
    async with world.process() as process:
        await trio.sleep(OPENED)
        first = await submit(process)
        await trio.sleep(0.5)
        second = await submit(process)
        await finished(process, first)
        await finished(process, second)
    first_call, *later = [call.at for call in world.broker.calls]
    assert len(later) == 2
    assert min(later) - first_call >= 3.0


async def test_book_that_is_wrong_for_long_halts_the_account(autojump_clock: MockClock) -> None:
    """The ids are named; the operator may accept that they are gone."""
    world = World(broker=StaleBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(6)
        world.broker.hidden = {order_id}
        await trio.sleep(MISMATCH_SECONDS + 40)
        state = await state_of(process)
        assert state.standing.state is AccountState.HALTED
        assert order_id in (state.standing.reason or "")
        wrong = await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None, ("another",))
        assert isinstance(wrong, Denied)
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None, (order_id,))
        await trio.sleep(5)
        state = await state_of(process)
        assert state.missing == ()
        assert (await finished(process, await submit(process))).status is TaskStatus.COMPLETED
    async with world.process() as process:  # and it stays accepted
        await trio.sleep(5)
        assert (await state_of(process)).gate_open


async def test_rows_beside_a_garbled_one_are_taken(autojump_clock: MockClock) -> None:
    """A read that is not valid proves no absence, but what it shows is there."""
    world = World(broker=GarbledBook())
    async with world.process() as process:
        await trio.sleep(OPENED)
        task = await submit(process)
        assert (await finished(process, task)).result == {
            "order_id": world.broker.placed_id,
            "found_by": "book",
        }


class GarbledBook(FakeBroker):
    """Loses every reply, and one row of its book is garbled from the second read on."""

    placed_id = ""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        outcome = await super().place(order, tag)
        self.placed_id = next(iter(self.book))
        del outcome
        return Unknown("reset")

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        if not isinstance(book, OrderBook) or not book.orders:
            return book
        return Unreadable("Row 7: quantity is no number.", orders=book.orders)


# Our own checks


@pytest.mark.parametrize(
    "limits, order, code",
    [
        (RiskLimits(max_value=999), limit_order(quantity=10), "max_value"),
        (RiskLimits(max_value=999), market_order(quantity=10), "max_value"),
        (RiskLimits(exchanges=("BSE",)), limit_order(), "exchange_not_allowed"),
        (RiskLimits(products=("MIS",)), limit_order(), "product_not_allowed"),
        (RiskLimits(price_band=5), limit_order(price=106.0), "price_band"),
        (RiskLimits(price_band=5), limit_order(price=94.0), "price_band"),
        (RiskLimits(max_quantity=9), limit_order(), "max_quantity"),
    ],
    ids=["value", "market value", "exchange", "product", "above", "below", "quantity"],
)
async def test_checks_deny_with_a_code(
    autojump_clock: MockClock, limits: RiskLimits, order: PlaceOrder, code: str
) -> None:
    """Nothing is stored; the field and the setting are named."""
    world = World(broker=Priced(), risk=limits)
    async with world.process() as process:
        denied = await process.executor.submit_order(ACCOUNT, order)
    assert isinstance(denied, Denied)
    assert denied.code == code
    assert denied.field
    assert not world.store.tasks


async def test_checks_pass_where_the_price_is_not_known(autojump_clock: MockClock) -> None:
    """A market order of an unknown instrument has no value to judge."""
    world = World(broker=Priced(), risk=RiskLimits(max_value=1, price_band=1))
    async with world.process() as process:
        await submit(process, market_order("UNKNOWN"))


class Untraded(FakeBroker):
    """Nothing has traded yet, which a broker shows as a last price of 0."""

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        del exchange, tradingsymbol
        return 0.0


async def test_a_last_price_of_zero_is_no_price(autojump_clock: MockClock) -> None:
    """What was listed today has not traded: there is nothing to be off from."""
    world = World(broker=Untraded(), risk=RiskLimits(max_value=1000, price_band=1))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await finished(process, await submit(process, limit_order(price=100.0)))
        await submit(process, market_order())
        denied = await process.executor.submit_order(ACCOUNT, limit_order(quantity=11, price=100.0))
    assert isinstance(denied, Denied)
    assert denied.code == "max_value"


async def test_a_leg_is_named_in_a_batch_of_one(autojump_clock: MockClock) -> None:
    """Its field is `orders[0].quantity`, as for any other mistake in it."""
    world = World(broker=FakeBroker(), risk=RiskLimits(max_quantity=5))
    async with world.process() as process:
        denied = await process.executor.submit_batch(
            ACCOUNT, (limit_order(quantity=6),), rollback_on_failure=False
        )
        alone = await process.executor.submit_order(ACCOUNT, limit_order(quantity=6))
    assert isinstance(denied, Denied)
    assert isinstance(alone, Denied)
    assert (denied.field, denied.leg, alone.leg) == ("quantity", 0, None)


async def test_orders_a_day_are_counted_across_restarts(autojump_clock: MockClock) -> None:
    """A loop that went wrong stops at a number; a batch counts all its legs."""
    world = World(broker=FakeBroker(), risk=RiskLimits(orders_a_day=3))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await finished(process, await submit(process))
    async with world.process() as process:
        await trio.sleep(OPENED)
        denied = await process.executor.submit_batch(
            ACCOUNT, tuple(limit_order() for _ in range(3)), rollback_on_failure=False
        )
        assert isinstance(denied, Denied)
        assert (denied.code, denied.leg) == ("orders_a_day", 2)
        await submit(process)
        await submit(process)
        last = await process.executor.submit_order(ACCOUNT, limit_order())
    assert isinstance(last, Denied)


@pytest.mark.parametrize("price_band", [None, 50.0], ids=["no price", "a price"])
async def test_orders_at_once_are_counted_one_by_one(
    price_band: float | None, autojump_clock: MockClock
) -> None:
    """A loop that sends all at the same instant is stopped at the same number."""

    class Slow(Priced):
        """Its price takes a moment, so that all the orders are judged together."""

        async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
            await trio.sleep(0.1)
            return await super().last_price(exchange, tradingsymbol)

    world = World(broker=Slow(), risk=RiskLimits(orders_a_day=3, price_band=price_band))
    answers: list[object] = []
    async with world.process() as process:
        await trio.sleep(OPENED)

        async def send() -> None:
            answers.append(await process.executor.submit_order(ACCOUNT, limit_order()))

        async def send_batch() -> None:
            orders = (limit_order(), limit_order())
            answers.append(
                await process.executor.submit_batch(ACCOUNT, orders, rollback_on_failure=False)
            )

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(send)
                nursery.start_soon(send_batch)
    assert len(world.store.tasks) == 3
    assert any(isinstance(answer, Denied) for answer in answers)


async def test_two_closing_orders_at_once_do_not_turn_a_position_round(
    autojump_clock: MockClock,
) -> None:
    """What shrinks a position is counted when it is taken: the second order finds nothing left."""
    world = World(broker=Holder())
    answers: list[object] = []
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)

        async def close() -> None:
            order = limit_order("INFY", 100, transaction_type="SELL")
            answers.append(await process.executor.submit_order(ACCOUNT, order))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(close)
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Denied", "Denied"]


class Terse(Holder):
    """Answers a place call, and for a while shows nothing of the order."""

    async def orders(self) -> OrderBook | Unreadable:
        return Unreadable("502 Bad Gateway") if self.sent() else await super().orders()

    def updates(self) -> AsyncIterator[FeedItem]:
        return aiter(Pushed(1))


class TerseUnknown(Terse):
    """As above, and its answer is lost."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        await super().place(order, tag)
        return Unknown("cut")


@pytest.mark.parametrize("broker", [Terse, TerseUnknown])
async def test_an_order_of_which_nothing_is_known_counts_as_closing(
    broker: type[Terse], autojump_clock: MockClock
) -> None:
    """It may be at the exchange already, so no second one may close the same position."""
    world = World(broker=broker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        order = limit_order("INFY", 100, transaction_type="SELL")
        await submit(process, order)
        await until(lambda: bool(world.broker.sent()))
        await trio.sleep(1)
        denied = await process.executor.submit_order(ACCOUNT, order)
    assert isinstance(denied, Denied)
    assert len(world.broker.sent()) == 1


async def test_modifications_of_an_order_are_counted(autojump_clock: MockClock) -> None:
    """The broker takes so many; the next is denied before it is stored, after a restart too."""
    world = World(broker=FakeBroker())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        for number in range(MOST_MODIFICATIONS - 1):
            price = 101.0 + number
            await finished(process, await modified(process, order_id, price=price))
    async with world.process() as process:
        await trio.sleep(OPENED)
        await finished(process, await modified(process, order_id, price=90.0))
        denied = await process.executor.modify_order(ACCOUNT, order_id, OrderChanges(price=91.0))
    assert isinstance(denied, Denied)
    assert denied.code == "too_many_modifications"


class Moody(FakeBroker):
    """Answers modifications with `answer` while it has one, and does nothing."""

    answer: ChangeOutcome | None = None

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        if self.answer is None:
            return await super().modify(order_id, variety, changes)
        self.note("modify", order_id)
        return self.answer

    def modified(self, order_id: str) -> int:
        return sum(call.name == "modify" and call.about == order_id for call in self.calls)


async def test_no_retry_makes_one_modification_too_many(autojump_clock: MockClock) -> None:
    """The last one that is taken is sent once: a 26th send would be the broker's to refuse."""
    broker = Moody()
    async with World(broker=broker).process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        for number in range(MOST_MODIFICATIONS - 1):
            await finished(process, await modified(process, order_id, price=101.0 + number))
        broker.answer = Refused("NetworkException", "Busy", retryable=True)
        last = await finished(process, await modified(process, order_id, price=90.0))
    assert (last.reason, last.attempts) == (Reason.EXHAUSTED, 1)
    assert last.last_error is not None
    assert last.last_error.endswith("The broker takes no more modifications of this order.")
    assert broker.modified(order_id) == MOST_MODIFICATIONS


async def test_a_modification_that_a_dead_token_stopped_is_not_counted(
    autojump_clock: MockClock,
) -> None:
    """It changed nothing at the broker, so it goes out after the login."""
    broker = Moody()
    async with World(broker=broker).process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        for number in range(MOST_MODIFICATIONS - 1):
            await finished(process, await modified(process, order_id, price=101.0 + number))
        broker.answer = DEAD_TOKEN
        last = await modified(process, order_id, price=90.0)
        await until(lambda: broker.modified(order_id) == MOST_MODIFICATIONS)
        broker.answer = None
        assert (await finished(process, last)).status is TaskStatus.COMPLETED


async def test_the_days_orders_are_counted_across_restarts(autojump_clock: MockClock) -> None:
    """The broker's limit of the day waits for the next one; cancels go on."""
    world = World(broker=FakeBroker(), limits=Limits(0, 0, 2))
    async with world.process() as process:
        await trio.sleep(OPENED)
        first = await finished(process, await submit(process))
        await finished(process, await submit(process))
    async with world.process() as process:
        await trio.sleep(OPENED)
        assert (await state_of(process)).left_today == 0
        waiting = await submit(process)
        cancel = await finished(process, await cancelled(process, first.order_id or ""))
        waiting = await finished(process, waiting)
    assert cancel.status is TaskStatus.COMPLETED
    assert waiting.reason is Reason.EXPIRED


# Races and long faults, found by a reviewer


async def test_a_batch_stored_while_the_state_changes_is_judged_by_it(
    autojump_clock: MockClock,
) -> None:
    """Its legs were let in while all was well: they are held, not let pass."""
    world = World(broker=Holder())
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.store.commit_seconds = lambda: 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batched, process, limit_order("WIPRO", 5), limit_order("WIPRO", 6))
            await trio.sleep(0.1)
            nursery.start_soon(
                process.executor.set_state, ACCOUNT, AccountState.REDUCING, "stop buying"
            )
        await trio.sleep(20)
    assert not world.broker.sent()


class Closing(FakeBroker):
    """Holds INFY until somebody says otherwise, and takes a while to tell."""

    held = 100

    async def positions(self) -> Positions | Unreadable:
        held = self.held
        await trio.sleep(0.3)
        return Positions(
            net=(Position(exchange="NSE", tradingsymbol="INFY", product="CNC", quantity=held),)
        )


async def test_a_fill_while_positions_are_read_counts(autojump_clock: MockClock) -> None:
    """What has just filled may be in neither the positions nor what is on its way."""
    world = World(broker=Closing())
    sell = limit_order("INFY", 100, transaction_type="SELL")
    answers: list[object] = []
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        first = await finished(process, await submit(process, sell))

        async def second() -> None:
            answers.append(await process.executor.submit_order(ACCOUNT, sell))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(second)
            await trio.sleep(0.1)
            world.broker.held = 0
            world.broker.fill(first.order_id or "")
    assert isinstance(answers[0], Denied)


async def test_what_was_let_pass_is_judged_anew_in_a_new_state(autojump_clock: MockClock) -> None:
    """Between two times of REDUCING the position may have been closed elsewhere."""
    world = World(broker=Closing(), limits=Limits(1, 0, 0))
    sell = limit_order("INFY", 50, transaction_type="SELL")
    async with world.process() as process:
        await trio.sleep(OPENED)
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, process, sell)
            nursery.start_soon(submit, process, sell)
        await process.executor.set_state(ACCOUNT, AccountState.HALTED, "a fault elsewhere")
        world.broker.held = 0
        await trio.sleep(60)
        calls = len(world.broker.sent())
        await process.executor.set_state(ACCOUNT, AccountState.REDUCING, None)
        await trio.sleep(20)
    assert len(world.broker.sent()) == calls == 1


class LaterForbidden(StaleBook):
    """From some moment on it says that this machine may not place orders."""

    forbidden = False

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        return NO_ADDRESS if self.forbidden else await super().place(order, tag)


async def test_another_halt_forgets_nothing_that_was_accepted(autojump_clock: MockClock) -> None:
    """The operator does not have to say it again."""
    world = World(broker=LaterForbidden())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(6)
        world.broker.hidden = {order_id}
        await trio.sleep(MISMATCH_SECONDS + 40)
        await process.executor.set_state(ACCOUNT, AccountState.ACTIVE, None, (order_id,))
        await trio.sleep(5)
        world.broker.forbidden = True
        await finished(process, await submit(process))
        state = await state_of(process)
        assert state.standing.state is AccountState.HALTED
        assert state.standing.accepted == (order_id,)


async def test_a_long_retry_after_stops_no_cancel(autojump_clock: MockClock) -> None:
    """Nor orders for longer than a minute; meanwhile the account says why it waits."""
    broker = ScriptedBroker()
    world = World(broker=broker)
    async with world.process() as process:
        await trio.sleep(OPENED)
        resting = await finished(process, await submit(process))
        broker.script(rate_limited(3600.0))
        late = await submit(process)
        await trio.sleep(1)
        assert any("fewer requests" in worry for worry in (await state_of(process)).worries)
        cancel = await cancelled(process, resting.order_id or "")
        await trio.sleep(10)
        assert broker.sent("cancel")
        assert (await finished(process, cancel)).status is TaskStatus.COMPLETED
        assert (await finished(process, late)).status is TaskStatus.COMPLETED


class OutThenStale(StaleBook):
    """Cannot be read for a while, and then shows an old book."""

    broken = False

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        return Unreadable("502 Bad Gateway") if self.broken else book


async def test_a_stale_read_after_an_outage_halts_nobody(autojump_clock: MockClock) -> None:
    """A book has its minute from the first read that misses an order, not from the last one."""
    world = World(broker=OutThenStale())
    async with world.process() as process:
        await trio.sleep(OPENED)
        order_id = (await finished(process, await submit(process))).order_id or ""
        await trio.sleep(30)
        world.broker.broken = True
        await trio.sleep(90)
        world.broker.hidden, world.broker.broken = {order_id}, False
        await trio.sleep(20)
        assert (await state_of(process)).missing
        world.broker.hidden = set()
        await trio.sleep(10)
        assert (await state_of(process)).standing.state is AccountState.ACTIVE


async def test_an_unreadable_book_closes_the_gate(autojump_clock: MockClock) -> None:
    """Nobody would see what becomes of an order; by itself it goes on when the book is back."""
    world = World(broker=UnreadableBook())
    world.broker.broken = False
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.broker.broken = True
        await trio.sleep(MISMATCH_SECONDS + 60)
        waiting = await submit(process)
        await trio.sleep(30)
        assert not (await state_of(process)).gate_open
        assert not world.broker.sent()
        world.broker.broken = False
        assert (await finished(process, waiting)).status is TaskStatus.COMPLETED


class AnswersToTheOldToken(FakeBroker):
    """Answers a call 2 s later, by the token it came with."""

    alive = True

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        alive = self.alive
        await trio.sleep(2)
        return await super().place(order, tag) if alive else DEAD_TOKEN

    async def orders(self) -> OrderBook | Unreadable:
        book = await super().orders()
        return book if self.alive else Unreadable("Token is invalid.", "login_required")


async def test_an_answer_to_the_old_token_does_not_close_a_new_session(
    autojump_clock: MockClock,
) -> None:
    """It is looked into at once: a market order behind it is still fresh."""
    world = World(broker=AnswersToTheOldToken())
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.broker.alive = False
        await submit(process)
        await trio.sleep(1)
        world.broker.alive = True
        await process.executor.note_login(ACCOUNT)
        await trio.sleep(3)
        market = await finished(process, await submit(process, market_order()))
    assert market.status is TaskStatus.COMPLETED


async def test_a_stalled_store_lets_no_burst_go(autojump_clock: MockClock) -> None:
    """In no second do more requests leave than the broker takes, whenever they were stored."""
    world = World(broker=FakeBroker(), limits=Limits(8, 400, 5000))
    async with world.process() as process:
        await trio.sleep(OPENED)
        world.store.commit_seconds = lambda: 6.0
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(submit, process)
                await trio.sleep(0.13)
            world.store.commit_seconds = lambda: 0.002
        await trio.sleep(20)
    times = [call.at for call in world.broker.sent()]
    assert len(times) == 40
    assert all(late - early > 0.99 for early, late in zip(times, times[10:], strict=False))


class SlowPrices(FakeBroker):
    """Takes 7 s to say that it knows no price."""

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        del exchange, tradingsymbol
        await trio.sleep(7)
        return None


async def test_checks_that_take_too_long_take_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored, so nothing is sent minutes after it was asked for; many are too many."""
    monkeypatch.setattr(executor, "MOST_UNSENT", 30)
    world = World(broker=SlowPrices(), risk=RiskLimits(max_value=1e9))
    legs = tuple(market_order(f"S{number}") for number in range(20))
    answers: list[object] = []
    async with world.process() as process:
        await trio.sleep(OPENED)
        batch = await process.executor.submit_batch(ACCOUNT, legs, rollback_on_failure=False)

        async def one() -> None:
            answers.append(await process.executor.submit_order(ACCOUNT, limit_order()))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
    assert isinstance(batch, Unchecked)
    assert {type(answer) for answer in answers} == {Unchecked, Overloaded}
    assert not world.store.tasks
