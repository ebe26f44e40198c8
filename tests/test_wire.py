"""Kite's forms, envelopes and rows, without I/O."""

from typing import Annotated
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import kite_texts
from tests.kite_texts import TAG
from ticker_actors.exchange import wire, wire_rows
from ticker_actors.model.orders import PRINTABLE, BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.portfolio import (
    Depth,
    DepthLevel,
    Holding,
    Margins,
    Ohlc,
    Profile,
    Trade,
)

Printable = Annotated[str, msgspec.Meta(pattern=PRINTABLE)]


def content(body: bytes) -> object:
    """What a success holds."""
    envelope = wire.envelope(body)
    assert isinstance(envelope, wire.Success)
    return envelope.data


def book(body: bytes = kite_texts.ORDERS) -> tuple[BrokerOrder, ...]:
    """The orders of a book that can be read."""
    found = wire_rows.rows(content(body), BrokerOrder)
    assert found.bad == ()
    assert found.value is not None
    return found.value


ROW = {
    "order_id": "1",
    "status": "OPEN",
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 1,
    "product": "CNC",
    "order_type": "LIMIT",
}
"""All that a row must have."""


def one(**fields: object) -> BrokerOrder:
    """A row with some fields other than usual."""
    found = wire_rows.row({**ROW, **fields}, BrokerOrder)
    assert found.bad == (), found.bad
    assert found.value is not None
    return found.value


def problem(**fields: object) -> str:
    """What is wrong with a row."""
    found = wire_rows.row({**ROW, **fields}, BrokerOrder)
    assert found.value is None
    (bad,) = found.bad
    return bad.problem


# Requests


def test_a_limit_order() -> None:
    """A limit order carries what it says, our tag, and no protection."""
    order = PlaceOrder(
        exchange="NFO",
        tradingsymbol="M&M25NOVFUT",
        transaction_type="SELL",
        quantity=50,
        product="NRML",
        order_type="LIMIT",
        price=2900.5,
        disclosed_quantity=10,
        tag="my own",
        expires_in=5,
    )
    assert wire.place_form(order, TAG) == {
        "variety": "regular",
        "exchange": "NFO",
        "tradingsymbol": "M&M25NOVFUT",
        "transaction_type": "SELL",
        "quantity": "50",
        "product": "NRML",
        "order_type": "LIMIT",
        "price": "2900.5",
        "validity": "DAY",
        "disclosed_quantity": "10",
        "tag": TAG,
    }


@pytest.mark.parametrize("order_type", ["MARKET", "SL-M"])
@pytest.mark.parametrize(
    "given_protection, sent", [(None, "-1"), (-1.0, "-1"), (2.0, "2"), (2.5, "2.5"), (0.0, "0")]
)
def test_a_market_order_is_protected(
    order_type: str, given_protection: float | None, sent: str
) -> None:
    """MARKET and SL-M carry a protection, automatic unless the client wants another."""
    order = msgspec.convert(
        {
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "transaction_type": "BUY",
            "quantity": 1,
            "product": "CNC",
            "order_type": order_type,
            "market_protection": given_protection,
        },
        PlaceOrder,
    )
    assert wire.place_form(order, TAG)["market_protection"] == sent


@pytest.mark.parametrize(
    "changes, known, protected",
    [
        (OrderChanges(order_type="MARKET"), "LIMIT", True),
        (OrderChanges(order_type="SL-M", trigger_price=9.0), None, True),
        (OrderChanges(trigger_price=9.0), "SL-M", True),
        (OrderChanges(quantity=2), "MARKET", True),
        (OrderChanges(order_type="LIMIT", price=9.0), "MARKET", False),
        (OrderChanges(price=9.0), "LIMIT", False),
        (OrderChanges(price=9.0), None, False),
    ],
)
def test_a_modification_is_protected_where_the_order_needs_it(
    changes: OrderChanges, known: str | None, protected: object
) -> None:
    """An order that is or becomes MARKET or SL-M carries a protection on modify too."""
    form = wire.modify_form("151220000000000", "regular", changes, known)
    assert form.get("market_protection") == ("-1" if protected else None)


def test_a_modification_names_only_what_changes() -> None:
    """Absolute values of the named fields, and the order itself."""
    form = wire.modify_form("7", "amo", OrderChanges(quantity=5, validity="IOC"), None)
    assert form == {"variety": "amo", "order_id": "7", "quantity": "5", "validity": "IOC"}


@pytest.mark.parametrize(
    "price, text",
    [(1500.0, "1500.0"), (0.0025, "0.0025"), (0.00001, "0.00001"), (999999999.95, "999999999.95")],
)
def test_prices_have_no_exponent(price: float, text: str) -> None:
    """A price is written in plain digits, exactly as it was given."""
    assert wire.modify_form("1", "regular", OrderChanges(price=price), None)["price"] == text


@given(st.dictionaries(st.sampled_from(["tag", "price", "validity"]), st.text()))
def test_a_form_is_encoded_as_everywhere(form: dict[str, str]) -> None:
    """Byte for byte what the standard library makes of it."""
    assert wire.encoded(form) == urlencode(form).encode()


def test_paths_are_quoted() -> None:
    """Nothing in an id or variety can leave its place in a path."""
    assert wire.placed("regular", "../x?y=1") == "/orders/regular/..%2Fx%3Fy%3D1"
    assert wire.placing("a/b") == "/orders/a%2Fb"
    assert wire.history("1") == "/orders/1"
    assert wire.trades_of("1") == "/orders/1/trades"


# Envelopes


def test_envelopes() -> None:
    """Success with data, error with its type; anything else is neither."""
    assert wire.envelope(b'{"status": "success", "data": null}') == wire.Success(None)
    assert wire.envelope(b'{"status": "error", "message": "x", "error_type": "T"}') == wire.Failure(
        "T", "x"
    )
    assert wire.envelope(b'{"status": "error"}') == wire.Failure("", "")
    for body in (b"", b"null", b"[]", b'"x"', b"{}", b'{"status": "success"}', b"{", b"\xff"):
        assert wire.envelope(body) is None


def test_one_odd_byte_spoils_only_its_text() -> None:
    """A book with a byte that is not UTF-8, and half of a surrogate pair, is read all the same."""
    body = kite_texts.ORDERS.replace(b'"RMS:Margin', b'"\xe9\\ud83d RMS:Margin').replace(
        b'"Insufficient funds.', b'"\xe9\\ud83d\\u0000Insufficient\\nfunds.'
    )
    assert book(body)[1].status_message == "\ufffdInsufficient funds. Required margin is 95417.84."


@given(st.text(st.characters(exclude_categories=())))
def test_clean_text_can_be_stored(text: str) -> None:
    """What is clean passes the pattern of texts that every store holds, and stays as it is."""
    clean = wire.clean(text)
    assert msgspec.convert(clean, Printable) == clean
    assert wire.clean(clean) == clean


@pytest.mark.parametrize(
    "value, text",
    [
        ("1953341975595868160", "1953341975595868160"),
        (1953341975595868161, "1953341975595868161"),
        ("151220000000000", "151220000000000"),
        *(("", None), (" 1", None), ("1\n", None), ("a/b", None), ("٣", None), ("1" * 65, None)),
        *((0, None), (-1, None), (True, None), (1.5e18, None), (None, None), ([], None)),
    ],
)
def test_order_ids_are_text(value: object, text: str | None) -> None:
    """Ids keep all their digits, and what cannot be one is none."""
    assert wire.order_id(value) == text


# Rows


def test_the_book_of_the_documentation() -> None:
    """Every field that we keep of three rows that Kite could have sent."""
    cancelled, rejected, complete = book()
    assert msgspec.to_builtins(cancelled) == {
        "order_id": "210531000000101",
        "status": "CANCELLED",
        "exchange": "CDS",
        "tradingsymbol": "USDINR21JUNFUT",
        "transaction_type": "BUY",
        "quantity": 1,
        "product": "NRML",
        "order_type": "LIMIT",
        "variety": "regular",
        "validity": "DAY",
        "price": 72.0,
        "trigger_price": 0.0,
        "average_price": 0.0,
        "filled_quantity": 0,
        "pending_quantity": 1,
        "cancelled_quantity": 1,
        "disclosed_quantity": 0,
        "status_message": None,
        "exchange_order_id": "1100000000000201",
        "parent_order_id": None,
        "order_timestamp": "2021-05-31T03:48:57.000Z",
        "exchange_timestamp": "2021-05-31T03:45:38.000Z",
        "exchange_update_timestamp": "2021-05-31T03:48:58.000Z",
        "tag": None,
        "tags": (),
    }
    assert (rejected.variety, rejected.validity, rejected.quantity) == ("iceberg", "TTL", 200)
    assert rejected.all_tags() == (TAG, TAG)
    assert rejected.exchange_timestamp is None
    assert (complete.order_id, complete.average_price) == ("1953341975595868160", 109.35)
    assert (complete.tradingsymbol, complete.tags) == ("M&M", ("mktp", "mktp:2.00"))


def test_the_history_of_an_order() -> None:
    """A history is rows of the same kind, in the order in which they happened."""
    assert [row.status for row in book(kite_texts.HISTORY)] == ["PUT ORDER REQ RECEIVED", "OPEN"]


@pytest.mark.parametrize(
    "text, instant",
    [
        ("2021-05-31 09:18:57", "2021-05-31T03:48:57.000Z"),
        ("2021-05-31 00:00:00", "2021-05-30T18:30:00.000Z"),
        ("2021-05-31T09:18:57+0530", "2021-05-31T03:48:57.000Z"),
        ("2021-05-31 09:18:57.123456", "2021-05-31T03:48:57.123Z"),
        *(("0001-01-01 00:00:00", None), ("09:18:57", None), ("soon", None), ("", None)),
        *((None, None), (7, None), ([], None)),
    ],
)
def test_naive_times_are_indian(text: object, instant: str | None) -> None:
    """A time without a zone is IST; one that cannot be read is unknown, and spoils nothing."""
    assert one(order_timestamp=text).order_timestamp == instant


def test_kites_loose_ways_are_tolerated() -> None:
    """Numbers as strings, null and empty fields, ids as numbers, fields nobody knows."""
    order = one(
        order_id=1953341975595868161,
        exchange_order_id=1100000000000201,
        quantity="10",
        price="72.5",
        average_price=None,
        filled_quantity="",
        pending_quantity=10.0,
        tag="",
        tags=None,
        status_message="",
        meta="not an object",
        guid=None,
        surprise={"a": [1]},
    )
    assert (order.order_id, order.exchange_order_id) == ("1953341975595868161", "1100000000000201")
    assert (order.quantity, order.price, order.average_price) == (10, 72.5, 0.0)
    assert (order.filled_quantity, order.pending_quantity) == (0, 10)
    assert (order.tag, order.tags, order.status_message) == (None, (), None)
    assert one(tags=["a\x00", None, 7]).tags == ("a", "7")


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"order_id": None}, "order_id is missing"),
        ({"order_id": "a b"}, "order_id: it is not an order id"),
        ({"status": ""}, "status is missing"),
        ({"status": "\x00"}, "status is missing"),
        ({"quantity": None}, "quantity is missing"),
        ({"quantity": True}, "quantity: it is not a number"),
        ({"quantity": 1.5}, "quantity: it is not a whole number"),
        ({"quantity": 10**400}, "quantity: it is not a number"),
        ({"quantity": 2**60}, "quantity: it is out of range"),
        ({"price": float("nan")}, "price: it is out of range"),
        ({"price": "inf"}, "price: it is out of range"),
        ({"price": [1]}, "price: it is not a number"),
        ({"status_message": {"a": 1}}, "status_message: it is not text"),
        ({"tags": "a"}, "tags: it is not a list"),
        ({"tags": [["a"]]}, "tags: it is not text"),
    ],
)
def test_a_row_that_is_not_understood_names_its_field(fields: dict[str, object], said: str) -> None:
    """Any other surprise makes the row bad, and says where."""
    assert problem(**fields) == said


def test_bad_rows_leave_the_good_ones() -> None:
    """Each bad row has its place and its order; the others are read."""
    found = wire_rows.rows([ROW, None, {**ROW, "order_id": "2", "status": 1.5}], BrokerOrder)
    assert found.value == (one(),)
    assert [(bad.place, bad.order_id, bad.problem, bad.raw[:6]) for bad in found.bad] == [
        (1, None, "it is not an object", "null"),
        (2, "2", "status: it is not text", '{"orde'),
    ]


def test_trades() -> None:
    """A fill; its time of day without a date is left out."""
    found = wire_rows.rows(content(kite_texts.TRADES), Trade)
    assert found.value == (
        Trade(
            trade_id="10000000",
            order_id="210531000000101",
            exchange="NSE",
            tradingsymbol="SBIN",
            transaction_type="BUY",
            product="CNC",
            quantity=1,
            average_price=420.65,
            instrument_token=779521,
            exchange_order_id="1100000000000201",
            fill_timestamp="2021-05-31T03:46:39.000Z",
            exchange_timestamp="2021-05-31T03:46:39.000Z",
        ),
    )


def test_positions() -> None:
    """Both lists; a bad row of either makes them unread."""
    found = wire_rows.positions(content(kite_texts.POSITIONS)).value
    assert found is not None
    assert found.day == ()
    (position,) = found.net
    assert (position.tradingsymbol, position.multiplier, position.value) == (
        "LEADMINI17DECFUT",
        1000.0,
        -161050.0,
    )
    odd: tuple[object, ...] = (None, [], {}, {"net": [], "day": [{}]})
    for data in odd:
        assert wire_rows.positions(data).value is None
        assert wire_rows.positions(data).bad


def test_holdings_margins_and_profile() -> None:
    """What an account has, and who it is."""
    (holding,) = wire_rows.rows(content(kite_texts.HOLDINGS), Holding).value or ()
    assert (holding.isin, holding.quantity, holding.pnl) == ("INF204KB17I5", 2, 3.59)
    assert holding.authorised_date == "2021-06-07T18:30:00.000Z"
    margins = wire_rows.row(content(kite_texts.MARGINS), Margins).value
    assert margins is not None
    assert margins.equity is not None
    assert margins.equity.available["live_balance"] == 99725.05
    assert margins.equity.utilised == {"debits": 145706.55, "exposure": 38981.25, "span": 101989.0}
    profile = wire_rows.row(content(kite_texts.PROFILE), Profile).value
    assert profile is not None
    assert (profile.user_id, profile.exchanges) == ("AB1234", ("BFO", "MCX", "NSE"))


def test_quotes() -> None:
    """Quotes by name, with their depth."""
    found = wire_rows.quotes(content(kite_texts.QUOTES)).value
    assert found is not None
    quote = found["NSE:M&M"]
    assert (quote.last_price, quote.volume) == (1412.95, 7360198)
    assert quote.last_trade_time == "2021-06-08T10:15:52.000Z"
    assert quote.ohlc == Ohlc(open=1396.0, high=1421.75, low=1395.55, close=1389.65)
    assert quote.depth == Depth(
        buy=(DepthLevel(price=0.0, quantity=0),),
        sell=(DepthLevel(price=1412.95, quantity=5191, orders=13),),
    )
    assert wire_rows.quotes({"NSE:X": {}}).bad[0].problem == "instrument_token is missing"
    assert wire_rows.quotes([]).bad
