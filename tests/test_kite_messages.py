"""The ticker's text messages as Kite's documents and captures show them, through the row reader."""

import json
from typing import Any

import pytest

from ticker_actors.brokers.kite.messages import Garbled, Notice, read
from ticker_actors.model.orders import BrokerOrder

wire_rows = pytest.importorskip(
    "ticker_actors.exchange.wire_rows", reason="the row reader comes with the REST adapter"
)


def read_order(data: object) -> BrokerOrder | str:
    """One row, as the adapter reads it."""
    found = wire_rows.row(data, BrokerOrder)
    order: BrokerOrder | None = found.value
    return str(found.bad[0].problem) if order is None else order


# https://kite.trade/docs/connect/v3/postbacks/ in its WebSocket form: the checksum is empty.
COMPLETE = """
{
  "type": "order",
  "id": "",
  "data": {
    "account_id": "AB1234", "unfilled_quantity": 0, "checksum": "", "placed_by": "AB1234",
    "order_id": "1953341975595868160", "exchange_order_id": "1100000048723551",
    "parent_order_id": null, "status": "COMPLETE", "status_message": null,
    "status_message_raw": null, "order_timestamp": "2026-03-02 09:24:25",
    "exchange_update_timestamp": "2026-03-02 09:24:26",
    "exchange_timestamp": "2026-03-02 09:24:25", "variety": "regular", "exchange": "NSE",
    "tradingsymbol": "SBIN", "instrument_token": 779521, "order_type": "LIMIT",
    "transaction_type": "BUY", "validity": "DAY", "product": "CNC", "quantity": 10,
    "disclosed_quantity": 0, "price": 470.05, "trigger_price": 0, "average_price": 470,
    "filled_quantity": 10, "pending_quantity": 0, "cancelled_quantity": 0,
    "market_protection": 0, "meta": {}, "tag": "1ABC0000000000010000",
    "tags": ["1ABC0000000000010000", "mktp"], "guid": "XXXXXX"
  }
}
"""


def altered(**fields: object) -> str:
    """The message with other fields; what is None is left out."""
    content = json.loads(COMPLETE)
    content["data"].update(fields)
    content["data"] = {name: value for name, value in content["data"].items() if value is not None}
    return json.dumps(content)


def test_complete_order() -> None:
    """Every field is kept: long ids as text, IST times as UTC, a tag in both of its places."""
    assert read(COMPLETE, read_order) == BrokerOrder(
        order_id="1953341975595868160",
        exchange_order_id="1100000048723551",
        status="COMPLETE",
        exchange="NSE",
        tradingsymbol="SBIN",
        transaction_type="BUY",
        quantity=10,
        product="CNC",
        order_type="LIMIT",
        price=470.05,
        average_price=470.0,
        filled_quantity=10,
        order_timestamp="2026-03-02T03:54:25.000Z",
        exchange_timestamp="2026-03-02T03:54:25.000Z",
        exchange_update_timestamp="2026-03-02T03:54:26.000Z",
        tag="1ABC0000000000010000",
        tags=("1ABC0000000000010000", "mktp"),
    )


@pytest.mark.parametrize(
    "fields,expected",
    [
        ({"status": "UPDATE", "filled_quantity": 4}, {"status": "UPDATE", "filled_quantity": 4}),
        ({"status": "A NEW ONE"}, {"status": "A NEW ONE"}),
        ({"tag": None}, {"tag": None, "tags": ("1ABC0000000000010000", "mktp")}),
        ({"tags": None}, {"tags": (), "tag": "1ABC0000000000010000"}),
        ({"order_id": 1953341975595868160}, {"order_id": "1953341975595868160"}),
        ({"order_id": "220303000308932"}, {"order_id": "220303000308932"}),
        ({"exchange_update_timestamp": ""}, {"exchange_update_timestamp": None}),
        ({"status_message": "RMS: no\n\x00 funds"}, {"status_message": "RMS: no  funds"}),
        ({"price": "470.05"}, {"price": 470.05}),
        ({"surprise": {"of": ["any", "kind"]}}, {}),
    ],
)
def test_variations(fields: dict[str, object], expected: dict[str, Any]) -> None:
    """What Kite is known to send differently, and what it may."""
    order = read(altered(**fields), read_order)
    assert isinstance(order, BrokerOrder)
    assert {name: getattr(order, name) for name in expected} == expected


@pytest.mark.parametrize(
    "fields,problem",
    [
        ({"order_id": 1.953341975595868e18}, "order_id"),
        ({"order_id": ""}, "order_id"),
        ({"status": None}, "status"),
        ({"quantity": "ten"}, "quantity"),
        ({"filled_quantity": float("nan")}, "filled_quantity"),
    ],
)
def test_order_that_cannot_be_read_names_its_field(fields: dict[str, object], problem: str) -> None:
    """The log then says which field it was, with the whole message."""
    text = altered(**fields)
    found = read(text, read_order)
    assert isinstance(found, Garbled)
    assert problem in found.problem
    assert found.raw.replace("\\\\", "\\") == text


def test_words_for_people() -> None:
    """Errors and messages are kept as text."""
    assert read('{"type": "error", "data": "Error text"}', read_order) == Notice(
        "error", "Error text"
    )
