"""Orders: what a client may ask for, and how reports of one order become one view."""

import json
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ticker_actors.model.orders import (
    BrokerOrder,
    OrderChanges,
    OrderView,
    PlaceOrder,
    Source,
    conflicts,
    merge,
)

LIMIT = {
    "exchange": "NFO",
    "tradingsymbol": "NIFTY25NOVFUT",
    "transaction_type": "BUY",
    "quantity": 50,
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 19500.0,
}


def decode(**fields: object) -> PlaceOrder:
    """An order as the wire brings it; None leaves a field out."""
    given = {name: value for name, value in {**LIMIT, **fields}.items() if value is not None}
    return msgspec.json.decode(json.dumps(given), type=PlaceOrder)


def problems(**fields: object) -> list[str]:
    """The fields in conflict."""
    return [name for name, _ in conflicts(decode(**fields))]


# What a client sends.


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"price": 19500},  # JSON has one kind of number
        {"price": 0.05},
        {"quantity": 1},
        {"quantity": 999_999_999},
        {"tradingsymbol": "M&M"},
        {"tradingsymbol": "x" * 64},
        {"tag": "größer 🚀"},
        {"order_type": "MARKET", "price": None},
        {"order_type": "MARKET", "price": None, "market_protection": -1},
        {"order_type": "SL", "trigger_price": 19400.5},
        {"order_type": "SL-M", "price": None, "trigger_price": 19400.5},
        {"validity": "TTL", "validity_ttl": 2},
        {"validity": "IOC", "disclosed_quantity": 50},
        {"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 25},
        {"variety": "amo", "expires_in": 86_400},
    ],
    ids=repr,
)
def test_a_sound_order_decodes_without_conflicts(fields: dict[str, object]) -> None:
    """Everything that Kite takes can be asked for."""
    assert problems(**fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"quantity": "5"},
        {"quantity": 5.5},
        {"quantity": True},
        {"quantity": 0},
        {"quantity": -5},
        {"quantity": 1_000_000_000},
        {"quantity": 2**70},
        {"price": "19500"},
        {"price": 0},
        {"price": -1.0},
        {"price": 1e10},
        {"price": True},
        {"trigger_price": 0},
        {"exchange": "NYSE"},
        {"exchange": "nfo"},
        {"transaction_type": "buy"},
        {"order_type": "limit"},
        {"product": "X"},
        {"variety": "bo"},
        {"validity": "GTC"},
        {"tradingsymbol": ""},
        {"tradingsymbol": "x" * 65},
        {"tradingsymbol": "A\nB"},
        {"tradingsymbol": "INFY\n"},
        {"tradingsymbol": "A\x00"},
        {"tradingsymbol": "A\x9b31m"},
        {"tradingsymbol": 5},
        {"tag": ""},
        {"tag": "a\x7f"},
        {"tag": "\ud800"},
        {"expires_in": 0},
        {"expires_in": 86_401},
        {"expires_in": 1.5},
        {"validity_ttl": 0},
        {"iceberg_legs": 1},
        {"iceberg_legs": 11},
        {"market_protection": -2},
        {"unheard_of": 1},
        {"quantity": None},
        {"order_type": None},
    ],
    ids=repr,
)
def test_what_is_not_just_right_does_not_decode(fields: dict[str, object]) -> None:
    """Money and quantities are strict, unknown fields are errors, strings are printable."""
    with pytest.raises(msgspec.MsgspecError):
        decode(**fields)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-0"])
def test_a_price_is_a_number(number: str) -> None:
    """What JSON does not know, or what is no price, is refused."""
    text = json.dumps(LIMIT).replace("19500.0", number)
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(text, type=PlaceOrder)


@pytest.mark.parametrize(
    "fields, wrong",
    [
        ({"price": None}, ["price"]),
        ({"order_type": "SL", "price": None}, ["price", "trigger_price"]),
        ({"order_type": "SL"}, ["trigger_price"]),
        ({"order_type": "MARKET"}, ["price"]),
        ({"order_type": "MARKET", "price": None, "trigger_price": 1.0}, ["trigger_price"]),
        ({"order_type": "SL-M", "trigger_price": 1.0}, ["price"]),
        ({"order_type": "SL-M", "price": None}, ["trigger_price"]),
        ({"trigger_price": 1.0}, ["trigger_price"]),
        ({"market_protection": 0}, ["market_protection"]),
        ({"validity": "TTL"}, ["validity_ttl"]),
        ({"validity_ttl": 5}, ["validity_ttl"]),
        ({"variety": "iceberg"}, ["iceberg_legs", "iceberg_quantity"]),
        ({"variety": "iceberg", "iceberg_legs": 2}, ["iceberg_quantity"]),
        ({"iceberg_quantity": 5}, ["iceberg_quantity"]),
        ({"disclosed_quantity": 51}, ["disclosed_quantity"]),
        ({"order_type": "MARKET", "validity": "TTL"}, ["price", "validity_ttl"]),
    ],
    ids=repr,
)
def test_rules_across_fields_name_every_wrong_field(
    fields: dict[str, object], wrong: list[str]
) -> None:
    """All of them at once, each once."""
    assert problems(**fields) == wrong


def test_conflicts_of_what_decoded_so_far() -> None:
    """A dict of the sound fields is judged too, and a wrong type elsewhere does not hide a rule."""
    assert [name for name, _ in conflicts({"order_type": "LIMIT"})] == ["price"]
    assert list(conflicts({"price": 5.0})) == []


def test_a_modification_names_only_what_changes() -> None:
    """A missing price stays; one that its new kind cannot have is refused."""
    assert OrderChanges(price=5.0, quantity=2).named() == {"price": 5.0, "quantity": 2}
    assert list(conflicts(OrderChanges(order_type="LIMIT"))) == []
    assert list(conflicts(OrderChanges(price=5.0))) == []
    wrong = conflicts(OrderChanges(order_type="MARKET", price=5.0))
    assert [name for name, _ in wrong] == ["price"]


@pytest.mark.parametrize(
    "fields, seconds",
    [
        ({}, 300),
        ({"order_type": "MARKET", "price": None}, 10),
        ({"validity": "IOC"}, 10),
        ({"order_type": "SL-M", "price": None, "trigger_price": 1.0}, 300),
        ({"validity": "TTL", "validity_ttl": 1}, 60),
        ({"validity": "TTL", "validity_ttl": 60}, 300),
        ({"expires_in": 7}, 7),
        ({"order_type": "MARKET", "price": None, "expires_in": 60}, 60),
        ({"validity": "TTL", "validity_ttl": 1, "expires_in": 300}, 60),
    ],
    ids=repr,
)
def test_an_order_waits_no_longer_than_it_may(fields: dict[str, object], seconds: int) -> None:
    """Its own wish, else the default of its kind; never longer than its validity."""
    assert decode(**fields).expiry_seconds() == seconds


# What a broker shows.

TAG = "1ABC0123456789AB0000"
REGISTERED = "PUT ORDER REQ RECEIVED"


def row(status: str = "OPEN", filled: int = 0, **more: Any) -> BrokerOrder:  # noqa: ANN401  # fields
    """One report."""
    known: dict[str, Any] = {
        "order_id": "o1",
        "status": status,
        "exchange": "NFO",
        "tradingsymbol": "X",
        "transaction_type": "BUY",
        "quantity": 10,
        "product": "NRML",
        "order_type": "LIMIT",
        "filled_quantity": filled,
        "average_price": 100.0 if filled else 0.0,
        "tag": TAG,
    }
    return BrokerOrder(**{**known, **more})


SOURCES: tuple[Source, ...] = ("reply", "feed", "book")


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_report_again_changes_nothing(source: Source) -> None:
    """So that an event is told once."""
    for status in ("OPEN", "COMPLETE", "UPDATE", "SOMETHING NEW"):
        assert merge(row(status), row(status), source) == row(status)


@pytest.mark.parametrize("source", ["feed", "book"])
def test_the_filled_quantity_never_shrinks(source: Source) -> None:
    """A report with less is older, unless it is the end: then only its status counts."""
    assert merge(row(filled=5), row(filled=3), source) == row(filled=5)
    ended = merge(row(filled=5), row("CANCELLED", 3), source)
    assert (ended.status, ended.filled_quantity, ended.average_price) == ("CANCELLED", 5, 100.0)


def test_a_reply_proves_nothing_but_existence() -> None:
    """Whatever is known already is more."""
    for status in (REGISTERED, "OPEN", "COMPLETE"):
        assert merge(row(status, 5), row(REGISTERED), "reply") == row(status, 5)


@pytest.mark.parametrize("end", ["COMPLETE", "CANCELLED", "REJECTED"])
def test_an_end_sticks(end: str) -> None:
    """It yields only to another end that was read from the book."""
    assert merge(row(end), row("OPEN"), "feed") == row(end)
    assert merge(row(end), row("OPEN"), "book") == row(end)
    assert merge(row(end), row("UPDATE"), "feed") == row(end)
    other = "CANCELLED" if end == "COMPLETE" else "COMPLETE"
    assert merge(row(end), row(other), "feed") == row(end)
    assert merge(row(end), row(other), "book") == row(other)


def test_an_unknown_status_does_not_end_an_order() -> None:
    """Kite says that statuses may appear."""
    assert merge(row(), row("AMO TRANSIT"), "book").status == "AMO TRANSIT"
    assert not row("AMO TRANSIT").terminal


def test_an_update_changes_fields_but_not_the_status() -> None:
    """`UPDATE` is a word of the feed alone."""
    known = merge(row("OPEN"), row("UPDATE", 4), "feed")
    assert (known.status, known.filled_quantity) == ("OPEN", 4)


@pytest.mark.parametrize("late", [REGISTERED, "VALIDATION PENDING", "OPEN PENDING"])
@pytest.mark.parametrize("known", ["OPEN", "TRIGGER PENDING", "MODIFY PENDING", "CANCEL PENDING"])
def test_an_order_at_the_exchange_is_not_on_its_way_again(known: str, late: str) -> None:
    """A late update would make a standing leg look unsettled, and roll its batch back."""
    for source in SOURCES:
        assert merge(row(known), row(late), source).status == known


def test_a_morning_sends_an_after_market_order_on_its_way() -> None:
    """AMO REQ RECEIVED comes before the exchange, not after."""
    assert merge(row("AMO REQ RECEIVED"), row("OPEN PENDING"), "feed").status == "OPEN PENDING"


def test_a_late_update_of_the_feed_does_not_undo_a_modification() -> None:
    """The exchange's own time of an update tells which is older; the book heals in any case."""
    new = row(price=101.0, exchange_update_timestamp="2025-11-20T04:00:05.000Z")
    old = row(price=100.0, exchange_update_timestamp="2025-11-20T04:00:03.000Z")
    assert merge(new, old, "feed") == new
    assert merge(old, new, "feed") == new
    assert merge(new, old, "book") == old


def test_feed_and_book_that_show_a_tag_differently_change_nothing() -> None:
    """Kite shows it in `tag`, in `tags`, or in both: no event each time they take turns."""
    shapes: list[dict[str, Any]] = [
        {"tag": TAG, "tags": ()},
        {"tag": TAG, "tags": (TAG,)},
        {"tag": None, "tags": (TAG,)},
        {"tag": None, "tags": ()},
    ]
    for first in shapes[:3]:
        for second in shapes:
            assert merge(row(**first), row(**second), "book") == row(**first)
    assert merge(row(tag=None), row(), "feed").tag == TAG


def test_the_wire_shows_both_tags() -> None:
    """`tag` is the caller's, `broker_tag` ours, wherever the broker shows it."""
    for shape in ({"tag": TAG}, {"tag": None, "tags": (TAG,)}):
        view = OrderView(
            account_id="primary",
            order=row(**shape),
            task_id="task_1",
            tag="mine",
            version=1,
            trading_day=date(2025, 11, 20),
        )
        data = view.data()
        assert (data["tag"], data["broker_tag"], data["task_id"]) == ("mine", TAG, "task_1")
        assert "tags" not in data


@st.composite
def lives(draw: st.DrawFn) -> list[BrokerOrder]:
    """The true states of one order, oldest first; each is what a report would show."""
    states = [row(status) for status in (REGISTERED, "VALIDATION PENDING", "OPEN PENDING")]
    filled, price, moment = 0, 100.0, 0
    for _ in range(draw(st.integers(1, 5))):
        moment += draw(st.integers(1, 3))
        filled = min(9, filled + draw(st.integers(0, 3)))
        price += draw(st.sampled_from([0.0, 0.05]))
        at = f"2025-11-20T04:00:{moment:02d}.000Z"
        states.append(row("OPEN", filled, price=price, exchange_update_timestamp=at))
    end = draw(st.sampled_from([None, "COMPLETE", "CANCELLED"]))
    if end is not None:
        last = replace(states[-1], status=end, pending_quantity=0)
        states.append(replace(last, filled_quantity=10) if end == "COMPLETE" else last)
    return states


@given(lives(), st.data())
def test_the_order_of_arrival_does_not_matter(life: list[BrokerOrder], data: st.DataObject) -> None:
    """Any reports in any order, some lost, some twice: the last book makes the view the truth."""
    reports = data.draw(st.lists(st.tuples(st.sampled_from(life), st.sampled_from(SOURCES))))
    view = data.draw(st.sampled_from(life))
    for report, source in reports:
        before = view
        view = merge(before, report, source)
        assert view.filled_quantity >= before.filled_quantity
        assert merge(view, report, source) == view
        if before.terminal:
            assert view.terminal
    assert merge(view, life[-1], "book") == life[-1]


@given(lives(), st.data())
def test_the_feed_alone_ends_at_the_truth(life: list[BrokerOrder], data: st.DataObject) -> None:
    """When nothing of it is lost, its order of arrival does not matter either."""
    first, *rest = data.draw(st.permutations(life))
    view = first
    for report in rest:
        view = merge(view, report, "feed")
    assert view == life[-1]
