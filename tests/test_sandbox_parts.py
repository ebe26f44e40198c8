"""The sandbox's parts without a socket: faults, forms, ids, the record, instruments, options."""

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ticker_actors.exchange import packets, wire, wire_forms, wire_out
from ticker_actors.exchange.book import LIQUIDITY, Book
from ticker_actors.exchange.prices import Walk
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import Placed, Refused
from ticker_actors.sandbox import market
from ticker_actors.sandbox.faults import BOOKS, KINDS, ORDER_CALLS, TICKER, Faults, FaultsError
from ticker_actors.sandbox.market import Market
from ticker_actors.sandbox.options import SandboxOptions, add_arguments, from_arguments
from ticker_actors.sandbox.order_ids import hidden, shown
from ticker_actors.sandbox.record import Record

NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)

# Faults


def test_one_seed_gives_one_row_of_faults() -> None:
    """The same order of draws meets the same faults, and another seed others."""

    def drawn(seed: str) -> list[str | None]:
        faults = Faults.parse(f"{seed}:0.1")
        return [faults.draw(ORDER_CALLS) for _ in range(200)]

    assert drawn("7") == drawn("7")
    assert drawn("7") != drawn("8")


def test_a_kind_does_not_move_another() -> None:
    """With one more kind enabled, and draws of others between, a kind comes when it came before."""

    def places(text: str) -> list[int]:
        faults = Faults.parse(text)
        found = []
        for number in range(300):
            faults.draw(TICKER)
            if faults.draw(BOOKS) == "stale_book":
                found.append(number)
        return found

    assert places("stale_book=0.2,seed=3") == places("stale_book=0.2,drop_ticker=0.5,seed=3")


def test_faults_are_counted_by_name() -> None:
    """What happened can be told from what was drawn, and a reset begins anew."""
    faults = Faults.parse("lose_reply=1.0,empty_book=1")
    assert [faults.draw(ORDER_CALLS), faults.draw(BOOKS)] == ["lose_reply", "empty_book"]
    assert faults.counts == Counter({"lose_reply": 1, "empty_book": 1})
    assert faults.report()["rates"] == {"lose_reply": 1.0, "empty_book": 1.0}
    faults.reset("")
    assert faults.draw(ORDER_CALLS) is None
    assert not faults.counts


def test_a_seed_alone_enables_all_kinds() -> None:
    """Over a long run every kind happens."""
    faults = Faults.parse("42")
    assert set(faults.rates) == set(KINDS)
    for _ in range(3_000):
        for kinds in (ORDER_CALLS, BOOKS, TICKER):
            faults.draw(kinds)
    assert set(faults.counts) == {*ORDER_CALLS, *BOOKS, *TICKER}


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("lose_reply=2", "must be a number from 0 to 1"),
        ("lose_reply=x", "must be a number from 0 to 1"),
        ("loose_reply=1", "There is no fault 'loose_reply'; there are lose_request, "),
        ("a b", "Faults are SEED"),
        ("1:2", "must be a number from 0 to 1"),
    ],
)
def test_wrong_faults_are_named(text: str, sentence: str) -> None:
    """The operator is told what is wrong, and a reset that fails changes nothing."""
    with pytest.raises(FaultsError, match=sentence):
        Faults.parse(text)
    faults = Faults.parse("empty_book=1")
    with pytest.raises(FaultsError):
        faults.reset(text)
    assert faults.rates == {"empty_book": 1.0}


def test_every_fault_is_documented() -> None:
    """The README names each kind."""
    readme = Path(__file__).parents[1].joinpath("README.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in readme] == []


# Forms


ORDERS: dict[str, dict[str, Any]] = {
    "limit": {"order_type": "LIMIT", "price": 1500.05},
    "market": {"order_type": "MARKET", "market_protection": -1.0},
    "stop": {"order_type": "SL", "price": 1500.0, "trigger_price": 1490.0},
    "stop market": {"order_type": "SL-M", "trigger_price": 1.05, "market_protection": 2.5},
    "minutes": {"order_type": "LIMIT", "price": 1.0, "validity": "TTL", "validity_ttl": 2},
    "disclosed": {"order_type": "LIMIT", "price": 1.0, "disclosed_quantity": 5},
    "iceberg": {
        "order_type": "LIMIT",
        "price": 1.0,
        "variety": "iceberg",
        "iceberg_legs": 2,
        "iceberg_quantity": 5,
    },
}


@pytest.mark.parametrize("name", ORDERS)
def test_what_the_adapter_writes_is_read_back(name: str) -> None:
    """The form of an order is read as that order, tag and all."""
    order = PlaceOrder(
        exchange="NSE",
        tradingsymbol="M&M",
        transaction_type="SELL",
        quantity=10,
        product="MIS",
        **ORDERS[name],
    )
    form = wire.place_form(order, "TAG1")
    assert wire_forms.place(order.variety, form) == (order, "TAG1")


def test_changes_that_the_adapter_writes_are_read_back() -> None:
    """Absolute values, and a protection where the order is or becomes one that needs it."""
    changes = OrderChanges(order_type="SL-M", trigger_price=1490.5, quantity=3)
    form = wire.modify_form("1", "regular", changes, "LIMIT")
    assert wire_forms.changes("LIMIT", form) == changes
    assert wire_forms.changes("MARKET", {"quantity": "3"}) == wire_forms.NO_PROTECTION
    assert isinstance(wire_forms.changes("LIMIT", {"quantity": "x"}), Refused)


def test_errors_are_read_as_they_were_written() -> None:
    """Both envelopes are what the reading half of the wire makes of them."""
    assert wire.envelope(wire_out.success([1])) == wire.Success([1])
    failure = wire_out.failure("InputException", "No.")
    assert wire.envelope(failure) == wire.Failure("InputException", "No.")


def test_order_ids_are_long_and_come_back() -> None:
    """Nineteen digits that a double cannot hold; what was never shown is no order's."""
    assert shown("251120000000001") == "1925112000000000001"
    assert hidden(shown("251120000000001")) == "251120000000001"
    assert int(float(shown("251120000000001"))) != int(shown("251120000000001"))
    assert [hidden(text) for text in ("", "1", "251120000000001", "../..", "2" * 19)] == [""] * 5


# The record


class Desk:
    """A book and its record, at a price of one's own."""

    def __init__(self) -> None:
        self.price = 1_000
        self.now = NOON
        self.book = Book(funds=1e9, price=lambda *_: self.price, day=trading_day(NOON))
        self.record = Record()

    def save(self) -> None:
        """As the desk does after every call."""
        self.record.note(self.book.unsaved().orders)
        self.book.saved()

    def place(self, **fields: Any) -> str:  # noqa: ANN401
        """An order, by the book's id."""
        base: dict[str, Any] = {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "quantity": 1,
            "product": "CNC",
            "order_type": "MARKET",
        }
        placed = self.book.place(PlaceOrder(**{**base, **fields}), "T", self.now)
        assert isinstance(placed, Placed)
        self.save()
        return placed.order_id

    def tick(self, price: int) -> None:
        """A second later."""
        self.price = price
        self.now += timedelta(seconds=1)
        self.book.step(self.now)
        self.save()

    def statuses(self, order_id: str) -> Sequence[str]:
        """Of its history."""
        return [state.status for state in self.record.history(order_id)]


def test_partial_fills_are_trades_but_no_states() -> None:
    """A large order fills in parts, each at its price, and is OPEN all the while."""
    desk = Desk()
    order_id = desk.place(quantity=2 * LIQUIDITY + 5)
    desk.tick(1_001)
    desk.tick(1_002)
    trades = desk.record.trades(order_id)
    assert [(trade.quantity, trade.average_price) for trade in trades] == [
        (LIQUIDITY, 50.0),
        (LIQUIDITY, 50.05),
        (5, 50.1),
    ]
    assert len({trade.trade_id for trade in trades}) == 3
    assert desk.statuses(order_id)[-2:] == ["OPEN", "COMPLETE"]
    assert desk.statuses(order_id).count("OPEN") == 1


def test_stop_waits_in_its_history() -> None:
    """TRIGGER PENDING, OPEN, COMPLETE, also for one that goes live as it is placed."""
    desk = Desk()
    waiting = desk.place(order_type="SL-M", trigger_price=55.0)
    assert desk.statuses(waiting)[-1] == "TRIGGER PENDING"
    desk.tick(1_100)
    at_once = desk.place(order_type="SL-M", trigger_price=54.0)
    for order_id in (waiting, at_once):
        assert desk.statuses(order_id)[-3:] == ["TRIGGER PENDING", "OPEN", "COMPLETE"]


def test_rejected_order_never_reaches_the_exchange() -> None:
    """Its history ends after validation, with the reason."""
    desk = Desk()
    order_id = desk.place(quantity=900_000_000)
    *_, last = desk.record.history(order_id)
    assert desk.statuses(order_id) == ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "REJECTED"]
    assert last.exchange_order_id is None
    assert last.status_message is not None


def test_record_lives_for_a_day() -> None:
    """What Kite's book forgets overnight, this forgets."""
    desk = Desk()
    order_id = desk.place()
    desk.record.forget_before(trading_day(NOON))
    assert desk.record.version(order_id) is not None
    desk.record.forget_before(trading_day(NOON + timedelta(days=1)))
    assert desk.record.version(order_id) is None
    assert desk.record.history(order_id) == ()
    assert desk.record.trades() == ()


# Instruments


def test_new_symbols_get_tokens_of_their_segment() -> None:
    """A symbol keeps its token; its last byte is Kite's segment, and 31 bits hold it."""
    shop = Market(Walk("1"))
    tokens = set()
    for exchange in ("NSE", "NFO", "CDS", "MCX"):
        found = shop.find(exchange, "ACME")
        assert found is not None
        assert found is shop.find(exchange, "ACME")
        assert found is shop.by_token(found.instrument_token)
        assert found.instrument_token & 0xFF == packets.SEGMENTS[exchange.lower()]
        tokens.add(found.instrument_token)
    assert len(tokens) == 4
    assert max(tokens) < 2**31


def test_no_instrument_without_a_market(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown exchanges, impossible names and one name too many have none."""
    shop = Market(Walk("1"))
    bad = [("XXX", "A"), ("NSE", ""), ("NSE", "A" * 65), ("NSE", "é"), ("NSE", "A\n")]
    assert [shop.find(*name) for name in bad] == [None] * len(bad)
    monkeypatch.setattr(market, "MOST_INSTRUMENTS", len(shop.instruments()) + 1)
    assert shop.find("NSE", "LAST") is not None
    assert shop.find("NSE", "ONE TOO MANY") is None


def test_tokens_that_meet_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """When hashes collide, the later symbol has the next free token."""
    monkeypatch.setattr(market, "_TOKEN_BITS", 2)
    shop = Market(Walk("1"))
    found = [shop.find("BFO", f"S{number}") for number in range(3)]
    assert len({one.instrument_token for one in found if one is not None}) == 3


# Options


def parsed(*arguments: str) -> SandboxOptions:
    """What the command line makes of them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


def test_options_as_they_come() -> None:
    """Nothing given is the default, on loopback and port 8090."""
    assert parsed() == SandboxOptions()
    assert (parsed().host, parsed().port, parsed().limits) == ("127.0.0.1", 8090, True)


def test_every_option_is_read() -> None:
    """Each sets its own field."""
    options = parsed(
        *("--host", "::1", "--port", "0", "--prefix", "/oms/", "--file", "a.db", "--funds", "5"),
        *("--seed", "x", "--faults", "late=0.5", "--fault-delay", "2.5", "--no-limits"),
        *("--postback-url", "http://h/p", "--redirect-url", "https://h/r"),
    )
    assert options == SandboxOptions(
        host="::1",
        port=0,
        prefix="/oms",
        file=Path("a.db"),
        funds=5,
        seed="x",
        faults=Faults.parse("late=0.5"),
        fault_delay=2.5,
        limits=False,
        postback_url="http://h/p",
        redirect_url="https://h/r",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "x"),
        ("--port", "70000"),
        ("--prefix", "oms"),
        ("--funds", "0"),
        ("--faults", "nothing=1"),
        ("--fault-delay", "0"),
        ("--postback-url", "ftp://h"),
    ],
)
def test_wrong_options_stop_the_start(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, and a sentence that names the option."""
    with pytest.raises(SystemExit) as end:
        parsed(*arguments)
    assert end.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err
