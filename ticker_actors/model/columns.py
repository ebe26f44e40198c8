"""Numbers by the thousand that come one by one, in memory of their own.

An array of Python's is moved as it grows, and leaves a hole in the heap that is too small for the
next larger one. Eighty that grow beside each other left holes of two thirds of what they hold.
"""

import mmap
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from struct import calcsize
from typing import Literal

FIRST_CELLS = 8192
"""More than the orders that an account may place in a day. Memory is taken as it is written to, a
page at a time."""

Size = Literal["I", "Q", "q"]
"""In the words of `struct`: four bytes, eight, and eight with a sign."""


class Column:
    """Numbers of one size, in any order. One that does not fit is a `ValueError`.

    Not to be copied, nor to be changed while somebody iterates over it.
    """

    __slots__ = ("_cells", "_used", "size")

    def __init__(self, size: Size, numbers: Iterable[int] = ()) -> None:
        try:
            given = array(size, numbers)
        except OverflowError as error:
            raise ValueError(*error.args) from None
        self.size: Size = size
        self._used = len(given)
        self._cells = _cells(size, max(FIRST_CELLS, self._used))
        self._cells[: self._used] = memoryview(given)

    def __len__(self) -> int:
        return self._used

    def __iter__(self) -> Iterator[int]:
        return iter(self._cells[: self._used])

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._used:
            raise IndexError(place)
        return self._cells[place]

    def insert(self, place: int, number: int) -> None:
        """Put a number in between."""
        used = self._used
        if not 0 <= place <= used:
            raise IndexError(place)
        if used == len(self._cells):
            old, self._cells = self._cells, _cells(self.size, 2 * used)
            self._cells[:used] = old
        cells = self._cells
        cells[used] = number  # one that does not fit moves nothing
        if place != used:
            cells[place + 1 : used + 1] = cells[place:used]
            cells[place] = number
        self._used = used + 1

    def pop(self, place: int) -> int:
        """Take a number out."""
        number, used, cells = self[place], self._used, self._cells
        cells[place : used - 1] = cells[place + 1 : used]
        self._used = used - 1
        return number

    def sorted_place(self, number: int) -> int:
        """Where a number belongs in a column that is sorted: before its equals."""
        return bisect_left(self._cells, number, 0, self._used)

    def found(self, number: int) -> int | None:
        """The place of a number in a column that is sorted, or None."""
        place = self.sorted_place(number)
        return place if place < self._used and self._cells[place] == number else None


def _cells(size: Size, count: int) -> "memoryview[int]":
    # A copy of nothing is memory of this process alone, also where it forks.
    memory = mmap.mmap(-1, count * calcsize(size), access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # else the system may fill up a large page with it
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(memory).cast(size)
