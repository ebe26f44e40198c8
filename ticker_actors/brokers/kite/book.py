"""Reads of the order book, one after the other: what has not changed is not read again.

A day has thousands of orders, nearly all of them done. To make a struct of each takes 0.2 s for
5 000, during which nobody else has a turn, and to keep it takes a kilobyte. So a row that has come
to its end is given once; while it stays the same, it is only counted. And a read makes nothing big
of its own beside the texts: what a process has taken once from the system, it rarely gives back.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import compress

import msgspec

from ticker_actors.brokers.kite import classify
from ticker_actors.exchange import wire_rows
from ticker_actors.http1 import HttpResult, Reply
from ticker_actors.model.order_keys import KeyList, Keys, found, order_key
from ticker_actors.model.orders import BrokerOrder
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
        """The digests of its terminal ones, sorted."""
        self._keys = KeyList()
        """Their `order_key`, in the same order."""

    def forget(self) -> None:
        """Give every row anew."""
        self._open.clear()
        self._done, self._keys = array("q"), KeyList()

    def read(self, result: HttpResult) -> OrderBook | Unreadable:
        """What an answer says. Whatever is out of the ordinary is judged by `classify` alone."""
        texts = _texts(result)
        if texts is None:
            return classify.order_book(result)
        seen, again, new = bytearray(len(self._done)), dict[int, int](), dict[int, int]()
        for place, text in enumerate(texts):
            digest = _digest(text)
            if (at := found(self._done, digest)) is not None:
                seen[at] = True
            elif digest in self._open:
                again[place] = digest
            else:
                new[place] = digest
        try:
            values = [_loaded(texts[place]) for place in new]
        except (ValueError, RecursionError):
            return classify.order_book(result)
        read, places = wire_rows.rows(values, BrokerOrder), tuple(new)
        bad = tuple(replace(row, place=places[row.place]) for row in read.bad)
        wrong = {row.place for row in bad}
        good = (place for place in places if place not in wrong)
        rows = {place: self._open[digest] for place, digest in again.items()}
        rows.update(zip(good, read.value or (), strict=True))
        repeated = self._count(seen)
        self._remember({(again.get(place) or new[place]): row for place, row in rows.items()})
        orders = tuple(rows[place] for place in sorted(rows))
        return classify.bad_rows(bad, orders, repeated) if bad else OrderBook(orders, repeated)

    def _count(self, seen: bytearray) -> Keys:
        """The keys of the terminal rows that were shown again. The others are forgotten."""
        if not all(seen):
            self._done = array("q", compress(self._done, seen))
            self._keys = KeyList(compress(self._keys, seen))
        return Keys(self._keys)

    def _remember(self, rows: Mapping[int, BrokerOrder]) -> None:
        """Keep these rows, by the digest of their text, and of terminal ones only the key."""
        self._open = {digest: row for digest, row in rows.items() if not row.terminal}
        for digest, row in rows.items():
            if row.terminal:
                at = bisect_left(self._done, digest)
                self._done.insert(at, digest)
                self._keys.insert(at, order_key(row.order_id))


def _texts(result: HttpResult) -> list[msgspec.Raw] | None:
    if not isinstance(result, Reply) or result.status != 200:  # noqa: PLR2004  # OK
        return None
    try:
        envelope = msgspec.json.decode(result.body, type=_Envelope)
    except (ValueError, RecursionError):
        return None
    return envelope.data if envelope.status == "success" and not envelope.error_type else None


def _digest(text: msgspec.Raw) -> int:
    """64 bits of a row's text, by which it is known again in this process.

    Once in a million million days a row that is new or has changed is taken for one of 5 000 that
    are done. It is not missed where it matters most: an order is called absent only after a read
    before which everything was forgotten.
    """
    return hash(bytes(text))


def _loaded(text: msgspec.Raw) -> object:
    """As `wire.envelope` does it: a byte that is not UTF-8 spoils only the text it is in."""
    return json.loads(bytes(text).decode("utf-8", "replace"))
