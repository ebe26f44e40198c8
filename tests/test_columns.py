"""Columns of numbers: lists that take little memory."""

import resource
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model import columns
from ticker_actors.model.columns import FIRST_CELLS, Column, Size

STATM = Path("/proc/self/statm")
"""What the process has resident, in pages."""
PAGE = resource.getpagesize()
RANGES: dict[Size, tuple[int, int]] = {
    "I": (0, 2**32 - 1),
    "Q": (0, 2**64 - 1),
    "q": (-(2**63), 2**63 - 1),
}


def numbers_of(size: Size) -> st.SearchStrategy[int]:
    """Some that are near each other, and all others."""
    return st.one_of(st.integers(0, 9), st.integers(*RANGES[size]))


@given(st.data(), st.sampled_from(list(RANGES)))
def test_column_is_a_list(data: st.DataObject, size: Size) -> None:
    """What is put in between and taken out leaves what a list would hold, however it grows."""
    step = st.tuples(st.booleans(), st.integers(0, 99), numbers_of(size))
    steps = data.draw(st.lists(step))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "FIRST_CELLS", 2)
        column, model = Column(size), list[int]()
        for put, place, number in steps:
            if put or not model:
                column.insert(place % (len(model) + 1), number)
                model.insert(place % (len(model) + 1), number)
            else:
                assert column.pop(place % len(model)) == model.pop(place % len(model))
            assert [*column] == [column[at] for at in range(len(column))] == model
        assert [*Column(size, column)] == model


@given(st.data(), st.sampled_from(list(RANGES)))
def test_sorted_column_finds_its_numbers(data: st.DataObject, size: Size) -> None:
    """A number that is there is found, and another is not; both have their place."""
    numbers = data.draw(st.lists(numbers_of(size)))
    other = data.draw(numbers_of(size))
    column = Column(size, sorted(numbers))
    for number in (*numbers, other):
        place = bisect_left(sorted(numbers), number)
        assert column.sorted_place(number) == place
        assert column.found(number) == (place if number in numbers else None)


@pytest.mark.parametrize("size", RANGES)
def test_number_that_does_not_fit_changes_nothing(size: Size) -> None:
    """It is refused before anything has moved; the least and the most fit."""
    least, most = RANGES[size]
    column = Column(size, [least, most])
    for number in (least - 1, most + 1):
        with pytest.raises(ValueError, match="invalid value"):
            column.insert(0, number)
        with pytest.raises(ValueError):  # noqa: PT011  # in Python's words, one for each size
            Column(size, [number])
    assert [*column] == [least, most]


@pytest.mark.parametrize("place", [-1, 3, FIRST_CELLS])
def test_no_number_comes_where_there_would_be_a_gap(place: int) -> None:
    """It is refused before anything has moved."""
    column = Column("I", [3, 5])
    with pytest.raises(IndexError):
        column.insert(place, 4)
    assert [*column] == [3, 5]


@pytest.mark.parametrize("place", [-1, 2, FIRST_CELLS])
def test_place_without_a_number_is_an_error(place: int) -> None:
    """The memory behind the last number is nobody's."""
    column = Column("I", [3, 5])
    with pytest.raises(IndexError):
        column[place]
    with pytest.raises(IndexError):
        column.pop(place)


@pytest.mark.skipif(not STATM.exists() or PAGE > 4096, reason="of small pages, which Linux counts")
def test_column_takes_the_memory_that_its_numbers_take() -> None:
    """Four hundred of ten numbers take a page or two each, not their whole room."""

    def resident() -> int:
        return int(STATM.read_text().split()[1])

    before = resident()
    kept = [Column("Q", range(10)) for _ in range(400)]
    assert resident() - before < 3 * len(kept)
