"""Order ids by the thousand: a key of eight bytes stands for each, or four that are near others.

A set of Python's takes ten times as much for each, and a book of the day is compared every few
seconds.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from itertools import groupby

from ticker_actors.model.columns import Column

MOST_DIGITS = 19
"""Of a number that may have less than 63 bits."""
_NO_NUMBER = 1 << 63
_NEAR = 1 << 31
"""Half of what four bytes can tell: later ids are larger, but not always."""


def order_key(order_id: str) -> int:
    """64 bits that stand for an order id where thousands are remembered or compared.

    A number, as Kite's are, is its own key. Of others, two among 5 000 have the same once in a
    million million days.
    """
    if len(order_id) <= MOST_DIGITS and order_id.isascii() and order_id.isdecimal():
        number = int(order_id)
        if number < _NO_NUMBER and str(number) == order_id:
            return number
    text = order_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") | _NO_NUMBER


class Keys(AbstractSet[int]):
    """A set of order keys that does not change."""

    __slots__ = ("_sorted",)

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._sorted = array("Q", (key for key, _ in groupby(sorted(keys))))

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, int):
            return False
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def __iter__(self) -> Iterator[int]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    def __hash__(self) -> int:
        return hash(self._sorted.tobytes())

    def __repr__(self) -> str:
        return f"<Keys of {len(self)} orders>"

    def missing(self, keys: Iterable[int]) -> set[int]:
        """Those of sorted keys that are not in here. One walk along both."""
        lost, place, here, end = set(), 0, self._sorted, len(self._sorted)
        for key in keys:
            while place < end and here[place] < key:
                place += 1
            if place == end or here[place] != key:
                lost.add(key)
        return lost


NONE = Keys()
"""No order at all."""


class KeyList:
    """Keys in a row: of four bytes each while all are near the first, as those of one day are."""

    __slots__ = ("_base", "_offsets")

    def __init__(self, keys: Iterable[int] = ()) -> None:
        kept = list(keys)
        self._base = max(kept[0] - _NEAR, 0) if kept else 0
        try:
            self._offsets = Column("I", (key - self._base for key in kept))
        except ValueError:
            self._base, self._offsets = 0, Column("Q", kept)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[int]:
        return (self._base + offset for offset in self._offsets)

    def insert(self, place: int, key: int) -> None:
        """Put a key in between."""
        if not self._offsets:
            self._base = max(key - _NEAR, 0)
        try:
            self._offsets.insert(place, key - self._base)
        except ValueError:  # too far from the first
            self._base, self._offsets = 0, Column("Q", self)
            self._offsets.insert(place, key)

    def delete(self, place: int) -> None:
        """Take a key out."""
        self._offsets.pop(place)

    def sorted_place(self, key: int) -> int:
        """Where a key belongs in a list that is sorted."""
        return self._offsets.sorted_place(key - self._base)

    def found(self, key: int) -> int | None:
        """The place of a key in a list that is sorted, or None."""
        return self._offsets.found(key - self._base)
