"""Reads of the order book, each after the one before: what is read anew, and what is not."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kite_texts import ORDERS
from ticker_actors.brokers.kite.book import BookReader
from ticker_actors.brokers.kite.classify import order_book
from ticker_actors.http1 import Lost, Reply
from ticker_actors.model.outcomes import OrderBook, Unreadable

ROWS: list[dict[str, Any]] = json.loads(ORDERS)["data"]


def reply(data: object, status: int = 200) -> Reply:
    """A success with these rows."""
    body = json.dumps({"status": "success", "data": data}).encode()
    return Reply(status, {"content-type": "application/json"}, body)


def book(reader: BookReader, answer: Reply) -> OrderBook:
    """A read that must succeed."""
    found = reader.read(answer)
    assert isinstance(found, OrderBook)
    return found


def test_a_row_that_has_not_changed_is_the_same_struct() -> None:
    """Only what changed is made anew, wherever the rows stand."""
    reader = BookReader()
    first = book(reader, reply(ROWS))
    changed = [ROWS[2], {**ROWS[0], "status_message": "changed"}, ROWS[1]]
    second = book(reader, reply(changed))
    assert second.orders[0] is first.orders[2]
    assert second.orders[1].status_message == "changed"
    assert second.orders[2] is first.orders[1]
    assert second == order_book(reply(changed))


def test_what_left_the_book_is_forgotten() -> None:
    """No more is kept than the last book."""
    reader = BookReader()
    first = book(reader, reply(ROWS))
    assert book(reader, reply([])) == OrderBook(())
    again = book(reader, reply(ROWS))
    assert again == first
    assert again.orders[0] is not first.orders[0]


@pytest.mark.parametrize(
    "answer",
    [
        Lost("gone"),
        reply(ROWS, status=500),
        reply([*ROWS, {"order_id": "1"}]),
        reply([*ROWS, 5]),
        reply(None),
        Reply(200, {}, b'{"status": "success", "error_type": "TokenException", "data": []}'),
        Reply(200, {}, ORDERS.replace(b'"tag": null', b'"tag": NaN')),
        Reply(200, {}, ORDERS.replace(b"RELIANCE", b"RELI\xffNCE")),
        Reply(200, {}, b'{"status": "success", "data": [' + b"[" * 10_000),
        Reply(200, {}, b"<html>"),
    ],
    ids=lambda answer: str(answer)[:30] + str(getattr(answer, "body", b""))[-30:],
)
def test_anything_odd_is_judged_as_ever(answer: Reply) -> None:
    """The verdict is that of a first read, before and after a good one."""
    reader = BookReader()
    assert reader.read(answer) == order_book(answer)
    book(reader, reply(ROWS))
    assert reader.read(answer) == order_book(answer)


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", 5, -1, 2.5, "x", "é\x00", [], {}, True, "COMPLETE", "2026-01-01"]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.builds(
                lambda row, name, value: {**row, name: value},
                st.sampled_from(ROWS),
                st.sampled_from(sorted(ROWS[0])),
                ODD,
            ),
            max_size=4,
        ),
        max_size=4,
    )
)
def test_no_read_differs_from_a_first_one(books: list[list[dict[str, Any]]]) -> None:
    """Whatever came before, a book is read as if nothing had."""
    reader = BookReader()
    for rows in books:
        answer = reply(rows)
        found, expected = reader.read(answer), order_book(answer)
        assert found == expected
        assert isinstance(found, OrderBook | Unreadable)
