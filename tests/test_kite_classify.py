"""The table of the order protocol: what each answer of Kite's proves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kite_texts import HOLDINGS, ORDERS, PLACED, error
from ticker_actors.brokers.kite.classify import change_outcome, order_book, place_outcome, read
from ticker_actors.exchange import wire_rows
from ticker_actors.http1 import HttpResult, Lost, Reply, Unsent
from ticker_actors.model.outcomes import (
    Accepted,
    NotSent,
    OrderBook,
    Placed,
    Refused,
    Unknown,
    Unreadable,
)
from ticker_actors.model.portfolio import Profile

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"
TIMED_OUT = "Order request timed out. Please check the order book and confirm before placing again."
NO_IPS = "No IPs configured for this app. Add allowed IPs on the Kite developer console."
NO_PROTECTION = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)


def reply(status: int, body: bytes, **headers: str) -> Reply:
    """An answer; header names with underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"content-type": "application/json", **named}, body)


DEFINITE = (
    "InputException",
    "MarginException",
    "HoldingException",
    "UserException",
    "OrderException",
)


@pytest.mark.parametrize("message", ["DNS failed", "Connection refused", "TLS failed"])
def test_what_never_left_is_not_sent(message: str) -> None:
    """A failure before the first byte is NOT_SENT, of either kind of call."""
    assert place_outcome(Unsent(message)) == NotSent(message)
    assert change_outcome(Unsent(message)) == NotSent(message)
    assert order_book(Unsent(message)) == Unreadable(message)


@pytest.mark.parametrize("message", ["read timed out", "reset", "cut reply"])
def test_what_was_lost_is_unknown(message: str) -> None:
    """After the first byte, whatever breaks leaves the order unknown."""
    assert place_outcome(Lost(message)) == Unknown(message)
    assert change_outcome(Lost(message)) == Unknown(message)
    assert order_book(Lost(message)) == Unreadable(message)


@pytest.mark.parametrize("status", [200, 201, 202])
def test_an_order_id_with_2xx_is_placed(status: int) -> None:
    """2xx with an order id is PLACED, and of a change ACCEPTED."""
    assert place_outcome(reply(status, PLACED)) == Placed("1953341975595868160")
    assert change_outcome(reply(status, PLACED)) == Accepted()


def test_a_numeric_order_id_keeps_all_its_digits() -> None:
    """A 19-digit id that comes as a number is the same text."""
    body = b'{"status": "success", "data": {"order_id": 1953341975595868161}}'
    assert place_outcome(reply(200, body)) == Placed("1953341975595868161")


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422])
@pytest.mark.parametrize("error_type", DEFINITE)
def test_a_definite_type_with_4xx_is_refused(status: int, error_type: str) -> None:
    """These types with a 4xx say that no order can come of it, and are not tried again."""
    answer = reply(status, error(error_type, "Insufficient funds."))
    assert place_outcome(answer) == Refused(error_type, "Insufficient funds.")
    assert change_outcome(answer) == Refused(error_type, "Insufficient funds.")


@pytest.mark.parametrize(
    "message",
    [
        "Order cannot be cancelled as it is being processed. Try later.",
        "Maximum allowed order modifications exceeded.",
        "Maximum allowed order requests exceeded",
        NO_PROTECTION,
        "LIMIT orders that are far away from the LTP are restricted as per exchange guidelines.",
        "Timely entry against orders on book",
    ],
)
def test_kites_ordinary_refusals_are_refused(message: str) -> None:
    """No sentence of an ordinary refusal is taken for a time-out."""
    answer = reply(400, error("InputException", message))
    assert place_outcome(answer) == Refused("InputException", message)


@pytest.mark.parametrize("status", [400, 403, 404, 500, 504])
@pytest.mark.parametrize("error_type", [*DEFINITE, "TokenException", "PermissionException"])
@pytest.mark.parametrize(
    "message",
    [
        TIMED_OUT,
        "Request timed-out",
        "request TIMEOUT at OMS",
        "Please check the orderbook.",
        "Check your order book before placing",
        "Insufficient funds. Required margin is 2.00. Check the orderbook for open orders.",
        "Something went wrong. Try again.",
        "Please try placing again after some time",
    ],
)
def test_a_text_of_doubt_goes_before_the_type(status: int, error_type: str, message: str) -> None:
    """What says timed out, check the order book or try again is UNKNOWN, whatever else it says."""
    outcome = place_outcome(reply(status, error(error_type, message)))
    assert isinstance(outcome, Unknown)
    assert outcome.message == message


@pytest.mark.parametrize(
    "body",
    [
        error("NetworkException", "Too many requests"),
        error("OrderException", TIMED_OUT),
        error("GeneralException", "x"),
        HTML,
        b"",
        PLACED,
    ],
)
def test_429_goes_before_everything(body: bytes) -> None:
    """A request over the limit was not looked at, whatever its body says; it is tried again."""
    outcome = place_outcome(reply(429, body))
    assert isinstance(outcome, Refused)
    assert outcome.retryable
    assert outcome.retry_after == 1.0
    assert change_outcome(reply(429, body)) == outcome


def test_429_is_kites_network_exception() -> None:
    """A 429 keeps Kite's own words for it."""
    answer = reply(429, error("NetworkException", "Too many requests"))
    assert place_outcome(answer) == Refused(
        "NetworkException", "Too many requests", retryable=True, retry_after=1.0
    )


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("7", 7.0),
        ("2.5", 2.5),
        ("0", 1.0),
        ("-3", 1.0),
        ("nan", 1.0),
        ("1e400", 86_400.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
    ],
)
def test_retry_after_is_honoured(header: str, seconds: float) -> None:
    """Seconds of Retry-After are kept between a second and a day; a date says nothing."""
    outcome = place_outcome(reply(429, b"", retry_after=header))
    assert isinstance(outcome, Refused)
    assert outcome.retry_after == seconds


def test_a_dead_token_is_retryable_and_asks_for_a_login() -> None:
    """403 TokenException is tried again after a login; its type is what spends no attempt."""
    message = "Incorrect `api_key` or `access_token`."
    answer = reply(403, error("TokenException", message))
    refused = Refused("TokenException", message, retryable=True, trouble="login_required")
    assert place_outcome(answer) == refused
    assert change_outcome(answer) == refused
    assert order_book(answer) == Unreadable(message, "login_required")


@pytest.mark.parametrize("status", [400, 401])
def test_a_token_exception_with_another_status_is_unknown(status: int) -> None:
    """The table knows TokenException only with 403; that a login is needed is still seen."""
    outcome = place_outcome(reply(status, error("TokenException", "x")))
    assert outcome == Unknown("x", "login_required")


@pytest.mark.parametrize(
    "error_type, message",
    [
        ("PermissionException", NO_IPS),
        ("PermissionException", "That API call is not allowed for the authenticated user"),
        ("InputException", NO_IPS),
        ("UserException", "IP not allowed to place orders for this app"),
    ],
)
def test_what_is_not_permitted_is_flagged(error_type: str, message: str) -> None:
    """A refusal of the app or its address is final, and names the account's trouble."""
    outcome = place_outcome(reply(403, error(error_type, message)))
    assert outcome == Refused(error_type, message, trouble="not_permitted")


def test_a_missing_address_is_flagged_under_any_type() -> None:
    """Of a type that proves nothing the order is unknown, but the account's trouble is named."""
    outcome = place_outcome(reply(403, error("GeneralException", NO_IPS)))
    assert outcome == Unknown(NO_IPS, "not_permitted")


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520])
@pytest.mark.parametrize(
    "error_type", [*DEFINITE, "TokenException", "NetworkException", "GeneralException"]
)
def test_any_5xx_is_unknown(status: int, error_type: str) -> None:
    """With a 5xx no type proves anything, and no trouble of the account is read from it."""
    assert place_outcome(reply(status, error(error_type, "x"))) == Unknown("x")


@pytest.mark.parametrize(
    "error_type",
    ["NetworkException", "DataException", "GeneralException", "NewException", "inputexception"],
)
@pytest.mark.parametrize("status", [200, 302, 400, 403])
def test_other_types_are_unknown(status: int, error_type: str) -> None:
    """Types that say nothing about the order, and types nobody has heard of, are UNKNOWN."""
    assert place_outcome(reply(status, error(error_type, "x"))) == Unknown("x")


UNKNOWN_ANSWERS = {
    "HTML with 502": reply(502, HTML, content_type="text/html"),
    "HTML with 400": reply(400, HTML, content_type="text/html"),
    "HTML with 200": reply(200, HTML, content_type="text/html"),
    "a redirect": reply(302, b"", location="/elsewhere"),
    "a redirect that holds an order id": reply(307, PLACED),
    "500 that says success": reply(500, PLACED),
    "400 that says success": reply(400, PLACED),
    "200 without order id": reply(200, b'{"status": "success", "data": {}}'),
    "200 with an empty order id": reply(200, b'{"status": "success", "data": {"order_id": ""}}'),
    "200 with a null order id": reply(200, b'{"status": "success", "data": {"order_id": null}}'),
    "200 with true as order id": reply(200, b'{"status": "success", "data": {"order_id": true}}'),
    "200 with a rounded order id": reply(
        200, b'{"status": "success", "data": {"order_id": 1.9533419755958681e18}}'
    ),
    "200 with an odd order id": reply(200, b'{"status": "success", "data": {"order_id": "../1"}}'),
    "200 with true as data": reply(200, b'{"status": "success", "data": true}'),
    "200 with a list": reply(200, b"[1, 2]"),
    "200 without data": reply(200, b'{"status": "success"}'),
    "200 with an error in it": reply(200, error("InputException", "x")),
    "a cut body": reply(200, PLACED[:-7]),
    "an empty body": reply(200, b""),
    "no content": reply(204, b""),
    "an error without type": reply(400, b'{"status": "error", "message": "x"}'),
    "an error with an odd type": reply(400, b'{"status": "error", "error_type": {"a": 1}}'),
    "a type without status": reply(500, b'{"error_type": "InputException"}'),
    "nested too deep": reply(200, b"[" * 100_000),
    "not UTF-8": reply(400, b"\xff\xfe\x00"),
    "an early answer": reply(100, b""),
}


@pytest.mark.parametrize("name", UNKNOWN_ANSWERS)
def test_everything_else_is_unknown(name: str) -> None:
    """Whatever is not in the table leaves the order unknown, of either kind of call."""
    assert isinstance(place_outcome(UNKNOWN_ANSWERS[name]), Unknown)
    assert isinstance(change_outcome(UNKNOWN_ANSWERS[name]), Unknown)
    assert isinstance(order_book(UNKNOWN_ANSWERS[name]), Unreadable)


def test_messages_hold_no_body_and_no_control_characters() -> None:
    """A message is Kite's own sentence, cleaned and cut, never somebody else's page."""
    page = place_outcome(reply(502, b"secret page", content_type="text/html\x00"))
    assert page == Unknown("The answer was 502 (text/html, 11 bytes), not Kite's JSON.")
    long = place_outcome(reply(400, error("InputException", "a\\u0000\\ud800" + "b" * 1000)))
    assert isinstance(long, Refused)
    assert long.message == "a" + "b" * 499


def test_a_good_book_is_read_whole() -> None:
    """All rows of a book, in its order."""
    book = order_book(reply(200, ORDERS))
    assert isinstance(book, OrderBook)
    ids = [order.order_id for order in book.orders]
    assert ids == ["210531000000101", "220524001859672", "1953341975595868160"]


@pytest.mark.parametrize("status", [201, 206, 304, 500])
def test_only_200_is_a_valid_book(status: int) -> None:
    """A book with any other status proves nothing."""
    assert isinstance(order_book(reply(status, ORDERS)), Unreadable)


def test_an_empty_book_is_a_book_and_null_is_none() -> None:
    """No order today is an answer; `null` is not."""
    assert order_book(reply(200, b'{"status": "success", "data": []}')) == OrderBook(())
    nothing = order_book(reply(200, b'{"status": "success", "data": null}'))
    assert isinstance(nothing, Unreadable)


def test_a_bad_row_spoils_the_read_and_is_kept() -> None:
    """The read is not valid, names the row, keeps it as it came, and still shows the others."""
    body = ORDERS.replace(b'"quantity": 200', b'"quantity": "many"')
    book = order_book(reply(200, body))
    assert isinstance(book, Unreadable)
    assert book.message == (
        "Kite's answer cannot be understood: row 2 (order 220524001859672): "
        "quantity: it is not a number."
    )
    assert [order.order_id for order in book.orders] == ["210531000000101", "1953341975595868160"]
    (bad,) = book.bad
    assert (bad.place, bad.order_id) == (1, "220524001859672")
    assert '"quantity": "many"' in bad.raw


def test_other_reads_are_all_or_nothing() -> None:
    """A read gives its content, or says why there is none."""
    shape = read(reply(200, HOLDINGS), lambda data: wire_rows.row(data, Profile))
    assert isinstance(shape, Unreadable)
    assert "it is not an object" in shape.message
    refused = read(
        reply(403, error("PermissionException", "x")), lambda data: wire_rows.row(data, Profile)
    )
    assert refused == Unreadable("x", "not_permitted")


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["status", "data", "error_type", "message", "order_id", "tags", "quantity", "net"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def _encoded(value: Any) -> bytes:  # noqa: ANN401  # any JSON
    import json  # noqa: PLC0415  # only here: Kite's texts are not made by code

    return json.dumps(value).encode()


@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=200) | JSON.map(_encoded),
    header=st.text(max_size=20),
)
def test_no_answer_raises(status: int, body: bytes, header: str) -> None:
    """Whatever bytes come, each call has an outcome, and PLACED never without a 2xx."""
    answer = Reply(status, {"content-type": header, "retry-after": header}, body)
    outcome = place_outcome(answer)
    assert isinstance(outcome, Refused | Unknown | Placed)
    assert not isinstance(outcome, Placed) or 200 <= status < 300
    assert isinstance(change_outcome(answer), Refused | Unknown | Accepted)
    assert isinstance(order_book(answer), OrderBook | Unreadable)


@given(cut=st.integers(0, len(PLACED) - 1), status=st.sampled_from([200, 400, 403]))
def test_a_cut_body_is_always_unknown(cut: int, status: int) -> None:
    """No part of a good answer is taken for the whole."""
    assert isinstance(place_outcome(reply(status, PLACED[:cut])), Unknown)


def test_the_kinds_of_result_are_three() -> None:
    """Every result of a request is a row of the table."""
    results: tuple[HttpResult, ...] = (Unsent("x"), Lost("x"), reply(200, PLACED))
    assert [type(place_outcome(result)) for result in results] == [NotSent, Unknown, Placed]
