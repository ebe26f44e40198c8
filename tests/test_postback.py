"""Kite's postbacks: only who knows the API secret can sign one."""

import hashlib
import json

import pytest

from ticker_actors.brokers.kite.postback import genuine

SECRET = "s3cr3t"
FIELDS = {
    "user_id": "AB1234",
    "unfilled_quantity": 0,
    "app_id": 1234,
    "checksum": "",
    "placed_by": "AB1234",
    "order_id": "220303000308932",
    "exchange_order_id": "1000000001482421",
    "parent_order_id": None,
    "status": "COMPLETE",
    "order_timestamp": "2022-03-03 09:24:25",
    "tradingsymbol": "SBIN",
    "exchange": "NSE",
    "quantity": 1,
    "meta": {},
}
"""In the shape of Kite's documentation, with more than we read."""


def signed(order_id: str, timestamp: str, secret: str) -> str:
    """The documented checksum."""
    return hashlib.sha256((order_id + timestamp + secret).encode()).hexdigest()


GOOD = signed("220303000308932", "2022-03-03 09:24:25", SECRET)


def body(**changes: object) -> bytes:
    """A postback that is signed, but for these fields."""
    return json.dumps({**FIELDS, "checksum": GOOD, **changes}).encode()


def test_a_signed_postback() -> None:
    """The documented fields and checksum; what it does not cover may be anything."""
    assert genuine(body(), SECRET)
    assert genuine(body(status="REJECTED", quantity=99), SECRET)


def test_names_beyond_ascii() -> None:
    """The checksum is over UTF-8."""
    checksum = signed("ид", "", "ключ")
    assert genuine(body(order_id="ид", order_timestamp="", checksum=checksum), "ключ")


@pytest.mark.parametrize(
    "changes",
    [
        {"checksum": ""},
        {"checksum": GOOD[:-1]},
        {"checksum": GOOD.upper()},
        {"checksum": GOOD + "0"},
        {"checksum": "é" * 64},
        {"checksum": None},
        {"checksum": 1},
        {"checksum": [GOOD]},
        {"checksum": True},
        {"order_id": "220303000308933"},
        {"order_id": 220303000308932},
        {"order_id": None},
        {"order_timestamp": "2022-03-03 09:24:26"},
        {"order_timestamp": None},
        {"order_timestamp": {}},
    ],
    ids=str,
)
def test_forged_postbacks(changes: dict[str, object]) -> None:
    """A checksum of something else, or no checksum at all."""
    assert not genuine(body(**changes), SECRET)


def test_another_secret() -> None:
    """A postback of another account's app is not of this one."""
    assert not genuine(body(), "another")
    unsigned = signed("220303000308932", "2022-03-03 09:24:25", "")
    assert not genuine(body(checksum=unsigned), SECRET)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"order_id": "\\ud800", "order_timestamp": "", "checksum": "\\udfff"}',
        b'{"order_id": "\xed\xa0\x80", "order_timestamp": "", "checksum": ""}',
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b"1" * 100_000,
        b"order_id=1&checksum=2",
        body() + b"x",
    ],
    ids=lambda content: str(content[:20]),
)
def test_garbage(content: bytes) -> None:
    """Anybody can send anything: it is not genuine, and nothing is raised."""
    assert not genuine(content, SECRET)
