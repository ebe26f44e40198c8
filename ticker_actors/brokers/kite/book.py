"""Reads of the order book, one after the other: what has not changed is not read again.

A day has thousands of orders, nearly all of them done. To make a struct of each takes 0.2 s for
5 000, during which nobody else has a turn, and to keep it takes a kilobyte. So a row that has come
to its end is given once; while it stays the same, it is only counted.
"""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from ticker_actors.brokers.kite import classify
from ticker_actors.exchange import wire_rows
from ticker_actors.http1 import HttpResult, Reply
from ticker_actors.model.orders import BrokerOrder, order_key
from ticker_actors.model.outcomes import OrderBook, Unreadable


class _Envelope(msgspec.Struct):
    """The usual success, its rows still texts."""

    status: str
    data: list[msgspec.Raw]
    error_type: object = None


class BookReader:
    """Reads books as `classify.order_book` does, and counts the terminal rows it gave before."""

    def __init__(self) -> None:
        self._open: dict[int, BrokerOrder] = {}
        """The rows of the last book that are not terminal, by the digest of their text."""
        self._done = array("q")
        """The digests of its terminal ones."""
        self._keys = array("Q")
        """Their `order_key`, in the same order."""

    def forget(self) -> None:
        """Give every row anew."""
        self._open.clear()
        self._done, self._keys = array("q"), array("Q")

    def read(self, result: HttpResult) -> OrderBook | Unreadable:
        """What an answer says. Whatever is out of the ordinary is judged by `classify` alone."""
        texts = _texts(result)
        if texts is None:
            return classify.order_book(result)
        digests = _digests(texts)
        done = dict(zip(self._done, self._keys, strict=True))
        new = [
            place
            for place, digest in enumerate(digests)
            if digest not in done and digest not in self._open
        ]
        try:
            values = [_loaded(texts[place]) for place in new]
        except (ValueError, RecursionError):
            return classify.order_book(result)
        found = wire_rows.rows(values, BrokerOrder)
        bad = tuple(replace(row, place=new[row.place]) for row in found.bad)
        wrong = {row.place for row in bad}
        good = (place for place in new if place not in wrong)
        rows = dict(zip(good, found.value or (), strict=True))
        book = self._take(digests, rows, done)
        if bad:
            return classify.bad_rows(bad, book.orders, book.repeated)
        return book

    def _take(
        self, digests: Sequence[int], new: dict[int, BrokerOrder], done: dict[int, int]
    ) -> OrderBook:
        """The book, its new rows given by their place; and remember it, but for bad ones."""
        before, self._open = self._open, {}
        orders, repeated, ends, keys = [], set(), [], []
        for place, digest in enumerate(digests):
            key = done.get(digest)
            if key is not None:
                repeated.add(key)
            elif (row := new.get(place) or before.get(digest)) is not None:
                orders.append(row)
                if row.terminal:
                    key = order_key(row.order_id)
                else:
                    self._open[digest] = row
            if key is not None:
                ends.append(digest)
                keys.append(key)
        self._done, self._keys = array("q", ends), array("Q", keys)
        return OrderBook(tuple(orders), frozenset(repeated))


def _texts(result: HttpResult) -> list[msgspec.Raw] | None:
    if not isinstance(result, Reply) or result.status != 200:  # noqa: PLR2004  # OK
        return None
    try:
        envelope = msgspec.json.decode(result.body, type=_Envelope)
    except (ValueError, RecursionError):
        return None
    return envelope.data if envelope.status == "success" and not envelope.error_type else None


def _digests(texts: Sequence[msgspec.Raw]) -> list[int]:
    """64 bits of each text, by which it is known again in this process.

    Once in a million million days a row that is new or has changed is taken for one of 5 000 that
    are done. It is not missed where it matters most: an order is called absent only by reads before
    which everything was forgotten.
    """
    return [hash(bytes(text)) for text in texts]


def _loaded(text: msgspec.Raw) -> object:
    """As `wire.envelope` does it: a byte that is not UTF-8 spoils only the text it is in."""
    return json.loads(bytes(text).decode("utf-8", "replace"))
