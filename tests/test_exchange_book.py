"""The paper exchange's book: matching, money, refusals and the day, without clock or file."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from ticker_actors.exchange.account import Position
from ticker_actors.exchange.book import LIQUIDITY, Book
from ticker_actors.exchange.order import TICKS_PER_RUPEE, PaperOrder, to_rupees, to_ticks
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder, Variety
from ticker_actors.model.outcomes import Accepted, Placed, Refused

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 IST."""
OFF_TICK = Refused(
    "InputException",
    "Tick size for this script is 0.05. Kindly enter price in the multiple of tick size for this "
    "script.",
)


class Desk:
    """A book with its clock and its market in the test's hand. Prices are rupees."""

    def __init__(self, *, price: float = 100.0, funds: float = 1_000_000) -> None:
        self.now = NOON
        self.price = price
        self.funds = funds
        self.book = Book(funds=funds, price=self.ticks, day=trading_day(NOON))

    def ticks(self, symbol: str, step: int) -> int:
        """The market, the same for every symbol."""
        assert symbol
        assert step == int(self.now.timestamp())
        ticks = to_ticks(self.price)
        assert ticks is not None
        return ticks

    def place(
        self, order_type: str, quantity: int = 10, side: str = "BUY", **fields: object
    ) -> str:
        """Place an order that must be taken; its id."""
        outcome = self.try_place(order_type, quantity, side, **fields)
        assert isinstance(outcome, Placed)
        return outcome.order_id

    def try_place(
        self, order_type: str, quantity: int = 10, side: str = "BUY", **fields: object
    ) -> Placed | Refused:
        """Place an order."""
        order = msgspec.convert(
            {
                "exchange": "NSE",
                "tradingsymbol": "INFY",
                "transaction_type": side,
                "quantity": quantity,
                "product": "MIS",
                "order_type": order_type,
                **fields,
            },
            PlaceOrder,
        )
        return self.book.place(order, "TAG", self.now)

    def tick(self, price: float | None = None, **later: float) -> None:
        """A second (or another time) later, at a new price."""
        self.now += timedelta(**later) if later else timedelta(seconds=1)
        self.price = self.price if price is None else price
        self.book.step(self.now)

    def row(self, order_id: str) -> BrokerOrder:
        """The order as the book shows it."""
        return next(row for row in self.book.rows(self.now) if row.order_id == order_id)

    def pushed(self) -> list[tuple[str, int]]:
        """Status and fill of each update since the last look."""
        updates = self.book.unsaved().updates
        self.book.saved()
        return [(update.status, update.filled_quantity) for update in updates]


def test_market_order_fills_at_once() -> None:
    """A MARKET order trades at the price of its second and is pushed as COMPLETE."""
    desk = Desk(price=1500.05)
    row = desk.row(desk.place("MARKET"))
    assert (row.status, row.filled_quantity, row.average_price) == ("COMPLETE", 10, 1500.05)
    assert (row.pending_quantity, row.cancelled_quantity) == (0, 0)
    assert desk.pushed() == [("COMPLETE", 10)]


def test_row_is_whole() -> None:
    """A row has Kite's fields: id of the IST day, tag in both places, exchange times."""
    desk = Desk()
    row = desk.row(desk.place("LIMIT", price=1.0, variety="amo", disclosed_quantity=5))
    assert row.order_id == "251120000000001"
    assert (row.tag, row.tags) == ("TAG", ("TAG",))
    assert (row.variety, row.disclosed_quantity, row.price) == ("amo", 5, 1.0)
    assert row.order_timestamp == row.exchange_timestamp == "2025-11-20T06:30:00.000Z"
    assert row.exchange_order_id


def test_large_order_fills_in_parts() -> None:
    """What one second's market cannot give is traded in the next ones, at their prices."""
    desk = Desk(price=10.0)
    order_id = desk.place("MARKET", LIQUIDITY + 5_000)
    assert desk.row(order_id).status == "OPEN"
    assert desk.pushed() == [("UPDATE", LIQUIDITY)]
    desk.tick(10.30)
    row = desk.row(order_id)
    assert (row.status, row.filled_quantity, row.average_price) == ("COMPLETE", 15_000, 10.1)
    assert desk.pushed() == [("COMPLETE", 15_000)]


def test_older_orders_trade_first() -> None:
    """Orders of a symbol share its units by age, also with one placed in the same second."""
    desk = Desk(price=10.0)
    first = desk.place("MARKET", 2 * LIQUIDITY)
    desk.now += timedelta(seconds=1)
    second = desk.place("MARKET", 5)
    assert (desk.row(first).status, desk.row(second).filled_quantity) == ("COMPLETE", 0)
    desk.tick()
    assert desk.row(second).status == "COMPLETE"


def test_limit_order_rests_until_its_price() -> None:
    """A LIMIT order far from the market rests without a push and trades when its price is there."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0)
    assert (desk.row(order_id).status, desk.row(order_id).pending_quantity) == ("OPEN", 10)
    assert desk.pushed() == []
    desk.tick(1.05)
    assert desk.row(order_id).status == "OPEN"
    desk.tick(1.0)
    assert (desk.row(order_id).status, desk.row(order_id).average_price) == ("COMPLETE", 1.0)


@pytest.mark.parametrize("side, limit", [("SELL", 1.0), ("BUY", 500.0)])
def test_limit_beyond_the_market_trades_better(side: str, limit: float) -> None:
    """A marketable LIMIT order gets the market's price, which is better than its own."""
    desk = Desk()
    row = desk.row(desk.place("LIMIT", side=side, price=limit))
    assert (row.status, row.average_price) == ("COMPLETE", 100.0)


def test_stop_waits_for_its_trigger() -> None:
    """An SL-M order is TRIGGER PENDING until the price is at or beyond its trigger, then trades."""
    desk = Desk()
    order_id = desk.place("SL-M", side="SELL", trigger_price=95.0)
    desk.tick(95.05)
    assert desk.row(order_id).status == "TRIGGER PENDING"
    at_once = desk.place("SL-M", side="SELL", trigger_price=95.05)
    assert desk.row(at_once).average_price == 95.05
    later = desk.place("SL-M", side="SELL", trigger_price=94.5)
    desk.tick(95.0)
    assert (desk.row(order_id).status, desk.row(order_id).average_price) == ("COMPLETE", 95.0)
    desk.tick(94.0)
    assert desk.row(later).average_price == 94.0


def test_stop_limit_keeps_its_limit() -> None:
    """A triggered SL order is a LIMIT order: it rests OPEN while the market is beyond its limit."""
    desk = Desk()
    order_id = desk.place("SL", price=105.5, trigger_price=105.0)
    desk.tick(106.0)
    assert (desk.row(order_id).status, desk.pushed()) == ("OPEN", [])
    dearer = OrderChanges(price=105.75, trigger_price=110.0)
    assert desk.book.modify(order_id, dearer, desk.now) == Accepted()
    assert desk.row(order_id).status == "OPEN", "a live stop does not go back to waiting"
    desk.tick(104.0)
    assert (desk.row(order_id).status, desk.row(order_id).average_price) == ("COMPLETE", 104.0)


def test_ioc_keeps_what_it_filled() -> None:
    """An IOC order is cancelled at once with what it could not fill."""
    desk = Desk(price=10.0)
    row = desk.row(desk.place("MARKET", LIQUIDITY + 1, validity="IOC"))
    assert (row.status, row.filled_quantity, row.cancelled_quantity) == ("CANCELLED", LIQUIDITY, 1)
    row = desk.row(desk.place("LIMIT", price=1.0, validity="IOC"))
    assert (row.status, row.filled_quantity, row.cancelled_quantity) == ("CANCELLED", 0, 10)


def test_ttl_ends_after_its_minutes() -> None:
    """A TTL order is cancelled when its minutes are over."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0, validity="TTL", validity_ttl=2)
    desk.tick(seconds=119)
    assert desk.row(order_id).status == "OPEN"
    desk.tick()
    assert desk.row(order_id).status == "CANCELLED"
    assert desk.pushed() == [("CANCELLED", 0)]


def test_ttl_made_day_stays() -> None:
    """A TTL order modified to DAY outlives its minutes."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0, validity="TTL", validity_ttl=2)
    assert desk.book.modify(order_id, OrderChanges(validity="DAY"), desk.now) == Accepted()
    desk.tick(minutes=5)
    assert desk.row(order_id).status == "OPEN"


@pytest.mark.parametrize("variety", ["co", "auction"])
def test_varieties_that_are_not_simulated_are_refused(variety: Variety) -> None:
    """What the paper exchange cannot do as the real one does, it does not pretend to do."""
    desk = Desk()
    answer = desk.try_place("MARKET", variety=variety)
    assert isinstance(answer, Refused)
    assert variety in answer.message
    assert desk.book.rows(desk.now) == ()


def test_refusals_of_a_bad_price() -> None:
    """A price or trigger off the tick is refused in Kite's words, and makes no order."""
    desk = Desk()
    assert desk.try_place("LIMIT", price=100.01) == OFF_TICK
    assert desk.try_place("SL", price=100.0, trigger_price=99.99) == OFF_TICK
    missing = desk.try_place("LIMIT")
    assert isinstance(missing, Refused)
    assert "`price`" in missing.message
    assert desk.book.rows(desk.now) == ()


@pytest.mark.parametrize("price", [0.0, -100.0])
def test_price_must_be_positive(price: float) -> None:
    """A price of nothing, or below, is a bad price, in a placement and in a modification."""
    desk = Desk()
    order = PlaceOrder(
        exchange="NSE",
        tradingsymbol="INFY",
        transaction_type="BUY",
        quantity=1,
        product="CNC",
        order_type="LIMIT",
        price=price,
    )
    assert desk.book.place(order, "TAG", desk.now) == OFF_TICK
    order_id = desk.place("LIMIT", price=1.0)
    assert desk.book.modify(order_id, OrderChanges(price=price), desk.now) == OFF_TICK


@pytest.mark.parametrize("rupees", [19_500.25, 0.05, 0.1 + 0.2, 999_999_999.95])
def test_prices_on_the_tick_survive_floats(rupees: float) -> None:
    """Every multiple of the tick is one, also where floats are coarse."""
    ticks = to_ticks(rupees)
    assert ticks is not None
    assert to_rupees(ticks) == pytest.approx(rupees, abs=1e-6)


def test_insufficient_funds_stand_rejected() -> None:
    """An order that the money does not cover gets an id and is REJECTED in the book."""
    desk = Desk(funds=1_000.50)
    row = desk.row(desk.place("MARKET", 11))
    assert (row.status, row.pending_quantity, row.exchange_order_id) == ("REJECTED", 0, None)
    assert row.status_message == (
        "Insufficient funds. Required margin is 1100.00 but available margin is 1000.50."
    )
    assert desk.pushed() == [("REJECTED", 0)]
    assert desk.book.available == 1_000.50


def test_open_orders_block_their_margin() -> None:
    """A resting order binds money until it is cancelled."""
    desk = Desk(funds=1_000)
    order_id = desk.place("LIMIT", 10, price=60.0)
    assert desk.book.available == 400.0
    assert desk.row(desk.place("LIMIT", 10, price=50.0)).status == "REJECTED"
    assert desk.book.cancel(order_id, desk.now) == Accepted()
    assert desk.row(desk.place("LIMIT", 10, price=50.0)).status == "OPEN"


def test_closing_needs_no_margin() -> None:
    """What makes a position smaller needs no money, what turns it round needs it for the rest."""
    desk = Desk(funds=1_000)
    desk.place("MARKET", 10)
    assert desk.book.available == 0.0
    assert desk.row(desk.place("MARKET", 21, "SELL")).status == "REJECTED"
    desk.tick(110.0)
    assert desk.row(desk.place("MARKET", 10, "SELL")).status == "COMPLETE"
    assert desk.book.available == 1_100.0


def test_two_closing_orders_close_once() -> None:
    """A second order to close the same units needs margin: it would open the other side."""
    desk = Desk(funds=1_500)
    desk.place("MARKET", 10)
    desk.place("LIMIT", 10, "SELL", price=105.0)
    assert desk.book.available == 500.0
    assert desk.row(desk.place("LIMIT", 10, "SELL", price=105.0)).status == "REJECTED"


def test_modified_closing_order_still_closes() -> None:
    """A closing order that is modified does not count as an order before itself."""
    desk = Desk(funds=1_000)
    desk.place("MARKET", 10)
    order_id = desk.place("LIMIT", 10, "SELL", price=105.0)
    assert desk.book.modify(order_id, OrderChanges(price=106.0), desk.now) == Accepted()


def test_short_positions_gain_when_prices_fall() -> None:
    """Selling short binds the price, and buying back cheaper earns the difference."""
    desk = Desk(funds=1_000)
    desk.place("MARKET", 10, "SELL")
    assert desk.book.available == 0.0
    desk.tick(90.0)
    desk.place("MARKET", 10)
    assert desk.book.available == 1_100.0
    assert [position.net for position in desk.book.positions] == [0]


def test_cheap_sell_binds_what_it_will_trade_at() -> None:
    """A SELL LIMIT far below the market trades at the market and needs margin for that."""
    desk = Desk(funds=500)
    assert desk.row(desk.place("LIMIT", 10, "SELL", price=1.0)).status == "REJECTED"


def test_modify_moves_an_order() -> None:
    """New values are set and pushed as UPDATE, without an effect on what was not named."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0)
    desk.pushed()
    assert desk.book.modify(order_id, OrderChanges(quantity=20, price=2.0), desk.now) == Accepted()
    row = desk.row(order_id)
    assert (row.status, row.quantity, row.price, row.validity) == ("OPEN", 20, 2.0, "DAY")
    assert desk.pushed() == [("UPDATE", 0)]
    assert desk.book.available == 1_000_000 - 40


def test_modify_to_market_trades_at_once() -> None:
    """A LIMIT order made MARKET trades in the same second."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0)
    assert desk.book.modify(order_id, OrderChanges(order_type="MARKET"), desk.now) == Accepted()
    assert (desk.row(order_id).status, desk.row(order_id).price) == ("COMPLETE", 0.0)
    assert desk.pushed() == [("COMPLETE", 10)]


def test_modify_between_limit_and_stop() -> None:
    """A LIMIT order made SL waits for its trigger, and made LIMIT again it is open."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0)
    incomplete = desk.book.modify(order_id, OrderChanges(order_type="SL"), desk.now)
    assert isinstance(incomplete, Refused)
    stop = OrderChanges(order_type="SL", price=120.0, trigger_price=110.0)
    assert desk.book.modify(order_id, stop, desk.now) == Accepted()
    assert desk.row(order_id).status == "TRIGGER PENDING"
    limit = OrderChanges(order_type="LIMIT", price=2.0)
    assert desk.book.modify(order_id, limit, desk.now) == Accepted()
    assert (desk.row(order_id).status, desk.row(order_id).trigger_price) == ("OPEN", 0.0)


def test_modify_validity() -> None:
    """An order made IOC ends at once, and TTL cannot be set without minutes."""
    desk = Desk()
    order_id = desk.place("LIMIT", price=1.0)
    assert isinstance(desk.book.modify(order_id, OrderChanges(validity="TTL"), desk.now), Refused)
    assert desk.book.modify(order_id, OrderChanges(validity="IOC"), desk.now) == Accepted()
    assert desk.row(order_id).status == "CANCELLED"


def test_modify_refusals() -> None:
    """Filled quantity, money and the count of modifications bound what can be modified."""
    desk = Desk(price=10.0, funds=200_000)
    order_id = desk.place("MARKET", LIQUIDITY + 100)
    below = desk.book.modify(order_id, OrderChanges(quantity=LIQUIDITY), desk.now)
    assert isinstance(below, Refused)
    dear = desk.book.modify(order_id, OrderChanges(quantity=30_000), desk.now)
    assert dear == Refused(
        "MarginException",
        "Insufficient funds. Required margin is 200000.00 but available margin is 100000.00.",
    )
    resting = desk.place("LIMIT", price=1.0)
    for _ in range(25):
        assert desk.book.modify(resting, OrderChanges(price=1.05), desk.now) == Accepted()
    refused = desk.book.modify(resting, OrderChanges(price=1.05), desk.now)
    assert isinstance(refused, Refused)
    assert refused.message == "Maximum allowed order modifications exceeded."


def test_ended_and_unknown_orders() -> None:
    """What ended cannot be changed, what never was cannot be found: Kite's words for both."""
    desk = Desk()
    done = desk.place("MARKET")
    assert desk.book.cancel(done, desk.now) == Refused(
        "InputException", "Order cannot be cancelled as it is being processed. Try later."
    )
    assert desk.book.modify(done, OrderChanges(price=1.0), desk.now) == Refused(
        "InputException", "Order cannot be modified as it is being processed. Try later."
    )
    unknown = Refused("OrderException", "Couldn't find that `order_id`.")
    assert desk.book.cancel("1", desk.now) == unknown
    assert desk.book.modify("1", OrderChanges(price=1.0), desk.now) == unknown


def test_cancel_keeps_the_fill() -> None:
    """A cancelled order says what it had filled and what it gave up, and trades no more."""
    desk = Desk(price=10.0)
    order_id = desk.place("MARKET", LIQUIDITY + 100)
    assert desk.book.cancel(order_id, desk.now) == Accepted()
    desk.tick()
    row = desk.row(order_id)
    assert (row.status, row.filled_quantity, row.cancelled_quantity) == ("CANCELLED", 10_000, 100)


def test_same_tag_makes_two_orders() -> None:
    """A tag is no idempotency key, as at Kite."""
    desk = Desk()
    assert desk.place("LIMIT", price=1.0) != desk.place("LIMIT", price=1.0)
    assert [row.tag for row in desk.book.rows(desk.now)] == ["TAG", "TAG"]


def test_day_rolls_at_midnight_ist() -> None:
    """At 00:00 IST open orders end, the book is empty, ids begin anew and positions stay."""
    desk = Desk()
    desk.place("MARKET")
    desk.place("LIMIT", price=1.0)
    desk.pushed()
    desk.now = datetime(2025, 11, 20, 18, 29, 59, tzinfo=UTC)
    assert len(desk.book.rows(desk.now)) == 2
    desk.now += timedelta(seconds=1)
    assert desk.book.rows(desk.now) == ()
    assert desk.pushed() == [("CANCELLED", 0)]
    assert [position.net for position in desk.book.positions] == [10]
    assert desk.book.available == 1_000_000 - 1_000
    assert desk.place("LIMIT", price=1.0) == "251121000000001"


def test_clock_that_steps_back_keeps_the_day() -> None:
    """A clock before midnight again makes no second order of an old id."""
    desk = Desk()
    desk.now += timedelta(days=1)
    first = desk.place("LIMIT", price=1.0)
    desk.now -= timedelta(days=1)
    assert desk.place("LIMIT", price=1.0) > first
    assert len(desk.book.rows(desk.now)) == 2


FUNDS = 5_000_000
"""Rupees: enough for one or two of the orders below, so that some are rejected."""
orders_placed = st.fixed_dictionaries(
    {
        "order_type": st.sampled_from(["MARKET", "LIMIT", "SL", "SL-M"]),
        "side": st.sampled_from(["BUY", "SELL"]),
        "quantity": st.integers(1, 3 * LIQUIDITY),
        "tradingsymbol": st.sampled_from(["INFY", "TCS"]),
        "product": st.sampled_from(["MIS", "NRML"]),
        "validity": st.sampled_from(["DAY", "IOC", "TTL"]),
        "price": st.integers(1_900, 2_100).map(to_rupees),
        "trigger_price": st.integers(1_900, 2_100).map(to_rupees),
    }
)
changes_wanted = st.builds(
    OrderChanges,
    quantity=st.none() | st.integers(1, 3 * LIQUIDITY),
    price=st.none() | st.integers(1_900, 2_100).map(to_rupees),
    trigger_price=st.none() | st.integers(1_900, 2_100).map(to_rupees),
    order_type=st.none() | st.sampled_from(["MARKET", "LIMIT", "SL", "SL-M"]),
    validity=st.none() | st.sampled_from(["DAY", "IOC", "TTL"]),
)


class AnyHistory(RuleBasedStateMachine):
    """A book under any calls, with a file beside it that is restored from at any time."""

    order_ids = Bundle("order_ids")

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(funds=FUNDS)
        self.kept_orders: dict[str, PaperOrder] = {}
        self.kept_positions: dict[tuple[str, str, str], Position] = {}
        self.cash = 0
        """Ticks x units from all fills, counted without the book's help."""

    @rule(target=order_ids, fields=orders_placed)
    def place(self, fields: dict[str, object]) -> object:
        """Place an order of any kind."""
        if fields["order_type"] not in {"LIMIT", "SL"}:
            del fields["price"]
        if fields["order_type"] not in {"SL", "SL-M"}:
            del fields["trigger_price"]
        if fields["validity"] == "TTL":
            fields["validity_ttl"] = 1
        outcome = self.desk.try_place(**fields)  # type: ignore[arg-type]  # drawn of the right kinds
        self.keep()
        return outcome.order_id if isinstance(outcome, Placed) else multiple()

    @rule(order_id=order_ids, changes=changes_wanted)
    def modify(self, order_id: str, changes: OrderChanges) -> None:
        """Modify any order, ended ones too."""
        self.desk.book.modify(order_id, changes, self.desk.now)
        self.keep()

    @rule(order_id=order_ids)
    def cancel(self, order_id: str) -> None:
        """Cancel any order, ended ones too."""
        self.desk.book.cancel(order_id, self.desk.now)
        self.keep()

    @rule(ticks=st.integers(1_900, 2_100), seconds=st.sampled_from([0.3, 1, 1, 1, 30, 40_000]))
    def tick(self, ticks: int, seconds: float) -> None:
        """Let time pass and the market move; the longest step often crosses midnight."""
        self.desk.tick(to_rupees(ticks), seconds=seconds)
        self.keep()

    @rule()
    def restart(self) -> None:
        """Make the book again from what was kept of it."""
        day = max((order.day for order in self.kept_orders.values()), default=trading_day(NOON))
        old, now = self.desk.book, self.desk.now
        self.desk.book = Book(
            funds=self.desk.funds,
            price=self.desk.ticks,
            day=day,
            orders=[order for order in self.kept_orders.values() if order.day == day],
            positions=self.kept_positions.values(),
        )
        assert self.desk.book.rows(now) == old.rows(now)
        assert not self.desk.book.unsaved()

    def keep(self) -> None:
        """Do as the file does, and judge every change of an order."""
        unsaved = self.desk.book.unsaved()
        for order in unsaved.orders:
            before = self.kept_orders.get(order.order_id)
            if before is not None:
                assert before.resting, "an ended order changed"
                assert order.filled_quantity >= before.filled_quantity
            self.cash -= order.sign * (order.filled_value - (before.filled_value if before else 0))
            self.kept_orders[order.order_id] = order
        for position in unsaved.positions:
            self.kept_positions[position.key] = position
        for update in unsaved.updates:
            assert update.order_id in {order.order_id for order in unsaved.orders}
        self.desk.book.saved()

    @invariant()
    def quantities_add_up(self) -> None:
        """Filled, pending and cancelled are the whole order, and only an ended one has no rest."""
        for row in self.desk.book.rows(self.desk.now):
            parts = row.filled_quantity + row.pending_quantity + row.cancelled_quantity
            assert parts == (0 if row.status == "REJECTED" else row.quantity)
            assert (row.pending_quantity == 0) == row.terminal
            assert row.filled_quantity == row.quantity or row.status != "COMPLETE"

    @invariant()
    def no_fill_beyond_the_market(self) -> None:
        """Every unit traded inside the range of the market."""
        for order in self.kept_orders.values():
            if order.filled_quantity:
                assert 1_900 <= order.filled_value / order.filled_quantity <= 2_100

    @invariant()
    def no_fill_worse_than_the_limit(self) -> None:
        """An order that never changed its limit has no average price beyond it."""
        for order in self.kept_orders.values():
            if order.price and not order.modifications:
                limit = order.price * order.filled_quantity
                assert order.sign * (limit - order.filled_value) >= 0

    @invariant()
    def money_is_conserved(self) -> None:
        """Cash of all fills is realised profit less the cost of what is held (plus, for shorts)."""
        positions = self.desk.book.positions
        held = sum((p.cost if p.net > 0 else -p.cost) for p in positions)
        assert self.cash == sum(p.realised for p in positions) - held
        assert all(p.cost >= 0 and (p.net != 0 or p.cost == 0) for p in positions)

    @invariant()
    def available_is_its_definition(self) -> None:
        """Available money is funds, profit, what is bound and what is blocked, and nothing else."""
        free = sum(p.realised - p.cost for p in self.desk.book.positions)
        blocked = sum(order.margin for order in self.kept_orders.values())
        available = self.desk.book.available
        assert round(available * TICKS_PER_RUPEE) == FUNDS * TICKS_PER_RUPEE + free - blocked

    @invariant()
    def positions_are_the_fills(self) -> None:
        """The net position of an instrument is the sum of its fills."""
        for position in self.desk.book.positions:
            assert position.net == sum(
                order.sign * order.filled_quantity
                for order in self.kept_orders.values()
                if (order.exchange, order.tradingsymbol, order.product) == position.key
            )


AnyHistory.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestAnyHistory = AnyHistory.TestCase
