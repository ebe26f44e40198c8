"""Reads of the order book, each after the one before: what is read anew, and what is not."""

import gc
import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kite_texts import ORDERS
from tests.turns import counted_turns
from ticker_actors.brokers.kite import book as book_module
from ticker_actors.brokers.kite.book import NEW_AT_ONCE, ROWS_AT_ONCE, BookReader
from ticker_actors.brokers.kite.classify import order_book
from ticker_actors.http1 import Lost, Reply
from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import OrderBook, Unreadable


@pytest.fixture(scope="module", autouse=True, params=[False, True], ids=["whole", "pieces"])
def pieces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Books of a few rows are read in one go, and in pieces."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(book_module, "ROWS_AT_ONCE", 3)
            patch.setattr(book_module, "NEW_AT_ONCE", 2)
        yield


ROWS: list[dict[str, Any]] = json.loads(ORDERS)["data"]


def reply(data: object, status: int = 200) -> Reply:
    """A success with these rows."""
    body = json.dumps({"status": "success", "data": data}).encode()
    return Reply(status, {"content-type": "application/json"}, body)


def read(reader: BookReader, answer: Reply | Lost) -> OrderBook | Unreadable:
    """A read with nobody beside it."""
    return trio.run(reader.read, answer)


def book(reader: BookReader, answer: Reply) -> OrderBook:
    """A read that must succeed."""
    found = read(reader, answer)
    assert isinstance(found, OrderBook)
    return found


class Compared:
    """A reader, and beside it what a first read would tell."""

    def __init__(self) -> None:
        self.reader = BookReader()
        self.given: set[BrokerOrder] = set()

    def read(self, answer: Reply | Lost) -> None:
        """Told is what a first read tells, but for terminal rows that are only counted.

        These are rows of the same book, and each was given, just so, by an earlier read.
        """
        found, whole = read(self.reader, answer), order_book(answer)
        left, counted = list(found.orders), set()
        for row in whole.orders:
            if left and left[0] == row:
                self.given.add(left.pop(0))
            else:
                assert row.terminal
                assert row in self.given
                counted.add(order_key(row.order_id))
        assert not left
        assert set(found.repeated) == counted
        assert replace(found, orders=whole.orders, repeated=Keys()) == whole


def status(row: dict[str, Any], text: str) -> dict[str, Any]:
    """The row in another status."""
    return {**row, "status": text}


OPEN = [status(row, "OPEN") for row in ROWS]
KEYS = Keys(order_key(row["order_id"]) for row in ROWS)


def test_a_row_that_has_not_changed_is_the_same_struct() -> None:
    """Only what changed is made anew, wherever the rows stand."""
    reader = BookReader()
    first = book(reader, reply(OPEN))
    changed = [OPEN[2], {**OPEN[0], "status_message": "changed"}, OPEN[1]]
    second = book(reader, reply(changed))
    assert second.orders[0] is first.orders[2]
    assert second.orders[1].status_message == "changed"
    assert second.orders[2] is first.orders[1]
    assert second == order_book(reply(changed))


def test_a_row_at_its_end_is_given_once_and_then_counted() -> None:
    """Until it changes: then it is given again, and counted again."""
    reader = BookReader()
    assert book(reader, reply(ROWS)) == order_book(reply(ROWS))
    for _ in range(2):
        assert book(reader, reply(ROWS)) == OrderBook((), KEYS)
    busted = [*ROWS[:2], status(ROWS[2], "CANCELLED")]
    found = book(reader, reply(busted))
    assert found.orders == order_book(reply(busted[2:])).orders
    assert set(found.repeated) == {*KEYS} - {order_key(ROWS[2]["order_id"])}
    assert found.present == KEYS
    assert book(reader, reply(busted)) == OrderBook((), KEYS)


def test_what_left_the_book_is_forgotten() -> None:
    """No more is kept than the last book."""
    for rows in (ROWS, OPEN):
        reader = BookReader()
        first = book(reader, reply(rows))
        assert book(reader, reply([])) == OrderBook(())
        again = book(reader, reply(rows))
        assert again == first
        assert again.orders[0] is not first.orders[0]


def test_rows_are_counted_beside_a_bad_one() -> None:
    """A book with a bad row gives the others no second time, however often it is read."""
    reader = BookReader()
    book(reader, reply(ROWS))
    spoilt = reply([{"order_id": "1"}, *ROWS, 5])
    for _ in range(2):
        found = read(reader, spoilt)
        assert found == replace(order_book(spoilt), orders=(), repeated=KEYS)
    assert book(reader, reply(ROWS)) == OrderBook((), KEYS)


def test_forgetting_gives_every_row_again() -> None:
    """Then nothing counts that was given before."""
    reader = BookReader()
    book(reader, reply(ROWS))
    reader.forget()
    assert book(reader, reply(ROWS)) == order_book(reply(ROWS))


def test_a_row_at_its_end_keeps_twelve_bytes() -> None:
    """A book of five thousand rows leaves 60 kB behind, and no struct."""
    many = [{**ROWS[2], "order_id": str(number)} for number in range(5_000)]
    reader = BookReader()
    book(reader, reply(many))
    gc.collect()
    tracemalloc.start()
    book(reader, reply(many))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not reader._open
    assert kept < 5_000 * 16


@pytest.mark.parametrize("given", [False, True], ids=["new", "given before"])
async def test_others_have_a_turn_while_a_book_is_read(given: bool) -> None:  # noqa: FBT001
    """After every few rows, of which new ones cost more."""
    many = [{**ROWS[2], "order_id": str(number)} for number in range(2_000)]
    reader = BookReader()
    if given:
        await reader.read(reply(many))
    pauses = len(many) // ROWS_AT_ONCE + (0 if given else len(many) // NEW_AT_ONCE)
    async with counted_turns() as turns:
        await reader.read(reply(many))
        assert turns() >= pauses - 2  # its first may be before ours, its last after it


async def test_a_read_that_is_cut_short_has_given_nothing() -> None:
    """Wherever it is cut: the next one gives what it would have given, and counts no more."""
    more = [{**ROWS[2], "order_id": str(number)} for number in range(7)]
    pauses, cut = 0, True
    while cut:
        reader = BookReader()
        await reader.read(reply(ROWS))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.read, reply([*ROWS[:2], *more]))
                for _ in range(pauses):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        cut = scope.cancelled_caught
        found = await reader.read(reply([*ROWS, *more]))
        if cut:
            assert found.orders == order_book(reply(more)).orders
            assert set(found.repeated) == set(KEYS)
        else:  # what had left the book is given again
            assert found.orders == order_book(reply(ROWS[2:])).orders
        pauses += 1
    assert pauses > 2


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
        Reply(200, {}, ORDERS.replace(b'"tag": null', b'"tag": ' + b"1" * 5_000)),
        Reply(200, {}, ORDERS.replace(b"RELIANCE", b"RELI\xffNCE")),
        Reply(200, {}, b'{"status": "success", "data": [' + b"[" * 10_000),
        Reply(200, {}, b"<html>"),
    ],
    ids=lambda answer: str(answer)[:30] + str(getattr(answer, "body", b""))[-30:],
)
def test_anything_odd_is_judged_as_ever(answer: Reply) -> None:
    """The verdict is that of a first read, before and after a good one."""
    assert read(BookReader(), answer) == order_book(answer)
    compared = Compared()
    for each in (answer, reply(ROWS), answer, reply(ROWS)):
        compared.read(each)


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
                ODD | st.sampled_from(["OPEN", "CANCELLED"]),
            ),
            max_size=4,
        ),
        max_size=6,
    )
)
def test_no_read_differs_from_a_first_one(books: list[list[dict[str, Any]]]) -> None:
    """Whatever came before, a book is read as if nothing had, but for what is counted."""
    compared = Compared()
    for rows in books:
        compared.read(reply(rows))
        compared.read(reply([*rows, *ROWS]))


WORDS = st.sampled_from(["OPEN", "COMPLETE", "CANCELLED", "TRIGGER PENDING"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(1, 6), WORDS, st.booleans()), max_size=8),
            st.sampled_from(["", "bad", "NaN", "502", "forget"]),
        ),
        max_size=12,
    )
)
def test_orders_that_come_and_go_are_all_told_of(
    books: list[tuple[list[tuple[int, str, bool]], str]],
) -> None:
    """Repeated, changed, missing for a while, beside bad rows: no order is lost or made up."""
    compared = Compared()
    for orders, fault in books:
        rows: list[Any] = [
            {**ROWS[2], "order_id": str(number), "status": text, "tag": "x" if tagged else None}
            for number, text, tagged in orders
        ]
        if fault == "bad":
            rows.insert(0, {**ROWS[0], "quantity": "many"})
        elif fault == "NaN":
            rows.append({**ROWS[0], "price": math.nan})
        elif fault == "forget":
            compared.reader.forget()
        compared.read(reply(rows, status=502 if fault == "502" else 200))
