"""Reads of the order book, one after the other: what has not changed is not read again.

A day has thousands of orders, nearly all of them done. To make a struct of each takes 0.2 s for
5 000, and to keep it takes a kilobyte. So a row that has come to its end is given once; while it
stays the same, it is only counted. Others have a turn every few rows that are read or recognised:
an order must not wait for a book (5 ms at the most while 5 000 stay the same, 25 ms where all are
new). And a read makes nothing big of its own beside the texts: what a process has taken once from
the system, it rarely gives back.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import msgspec
import trio

from ticker_actors.brokers.kite import classify
from ticker_actors.exchange import wire_rows
from ticker_actors.http1 import HttpResult, Reply
from ticker_actors.model.columns import Column
from ticker_actors.model.order_keys import KeyList, Keys, order_key
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import BadRow, OrderBook, Unreadable

ROWS_AT_ONCE = 500
"""Rows that are looked at in one go: 1 ms where they are known."""
NEW_AT_ONCE = 50
"""Rows that are read in one go: 2 ms."""


class _Envelope(msgspec.Struct):
    """The usual success, its rows still texts."""

    status: str
    data: list[msgspec.Raw]
    error_type: object = None


@dataclass(slots=True)
class _Shown:
    """What is known of an answer's rows, by their places in it."""

    seen: bytearray
    """Of the terminal rows that were given before, those that it shows again."""
    digests: dict[int, int] = field(default_factory=dict)
    """Of the other rows' texts."""
    new: list[int] = field(default_factory=list)
    """Those among them that are to be read."""
    rows: dict[int, BrokerOrder] = field(default_factory=dict)
    """Those that have been, now or by the last read."""
    bad: list[BadRow] = field(default_factory=list)
    """Those that cannot be understood."""

    def take(self, texts: Sequence[msgspec.Raw], places: Sequence[int]) -> bool:
        """Read these rows; False when one is no JSON at all."""
        try:
            values = [_loaded(texts[place]) for place in places]
        except (ValueError, RecursionError):
            return False
        read = wire_rows.rows(values, BrokerOrder)
        bad = {row.place for row in read.bad}
        good = (place for number, place in enumerate(places) if number not in bad)
        self.rows.update(zip(good, read.value or (), strict=True))
        self.bad += [replace(row, place=places[row.place]) for row in read.bad]
        return True


class BookReader:
    """Reads books as `classify.order_book` does, and counts the terminal rows it gave before.

    It has one user: a read must have ended before the next one, or a `forget`.
    """

    def __init__(self) -> None:
        self._open: dict[int, BrokerOrder] = {}
        """The rows of the last book that are not terminal, by the digest of their text."""
        self._done = Column("q")
        """The digests of its terminal ones, sorted."""
        self._keys = KeyList()
        """Their `order_key`, in the same order."""

    def forget(self) -> None:
        """Give every row anew."""
        self._open.clear()
        self._done, self._keys = Column("q"), KeyList()

    async def read(self, result: HttpResult) -> OrderBook | Unreadable:
        """What an answer says. Whatever is out of the ordinary is judged by `classify` alone.

        Cancelled, it has given nothing and remembers nothing of it.
        """
        texts = _texts(result)
        if texts is None:
            return classify.order_book(result)
        shown = _Shown(seen=bytearray(len(self._done)))
        for start in range(0, len(texts), ROWS_AT_ONCE):
            self._look(texts, range(start, min(start + ROWS_AT_ONCE, len(texts))), shown)
            await trio.lowlevel.checkpoint()
        for start in range(0, len(shown.new), NEW_AT_ONCE):
            if not shown.take(texts, shown.new[start : start + NEW_AT_ONCE]):
                return classify.order_book(result)
            await trio.lowlevel.checkpoint()
        repeated = self._count(shown.seen)
        self._remember(shown)
        orders = tuple(shown.rows[place] for place in sorted(shown.rows))
        bad = tuple(shown.bad)
        return classify.bad_rows(bad, orders, repeated) if bad else OrderBook(orders, repeated)

    def _look(self, texts: Sequence[msgspec.Raw], places: range, shown: _Shown) -> None:
        """Tell these rows apart: those that were given before, and those that are new."""
        for place in places:
            digest = _digest(texts[place])
            if (at := self._done.found(digest)) is not None:
                shown.seen[at] = True
                continue
            shown.digests[place] = digest
            if (row := self._open.get(digest)) is not None:
                shown.rows[place] = row
            else:
                shown.new.append(place)

    def _count(self, seen: bytearray) -> Keys:
        """The keys of the terminal rows that were shown again. The others are forgotten."""
        if not all(seen):
            self._done = Column("q", compress(self._done, seen))
            self._keys = KeyList(compress(self._keys, seen))
        return Keys(self._keys)

    def _remember(self, shown: _Shown) -> None:
        """Keep these rows, by the digest of their text, and of terminal ones only the key."""
        rows = [(shown.digests[place], row) for place, row in shown.rows.items()]
        self._open = {digest: row for digest, row in rows if not row.terminal}
        for digest, row in rows:
            if row.terminal:
                at = self._done.sorted_place(digest)
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
