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
NUMBERS = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99), NUMBERS)), st.sampled_from("IQq"))
def test_column_is_a_list(steps: list[tuple[bool, int, int]], size: Size) -> None:
    """What is put in between and taken out leaves what a list would hold, however it grows."""
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


@given(st.lists(NUMBERS), NUMBERS)
def test_sorted_column_finds_its_numbers(numbers: list[int], other: int) -> None:
    """A number that is there is found, and another is not; both have their place."""
    column = Column("Q", sorted(numbers))
    for number in (*numbers, other):
        place = bisect_left(sorted(numbers), number)
        assert column.sorted_place(number) == place
        assert column.found(number) == (place if number in numbers else None)


@pytest.mark.parametrize(
    "size, number", [("I", -1), ("I", 2**32), ("Q", -1), ("Q", 2**64), ("q", 2**63)]
)
def test_number_that_does_not_fit_changes_nothing(size: Size, number: int) -> None:
    """It is refused before anything has moved."""
    column = Column(size, [3, 5])
    with pytest.raises(ValueError, match="invalid value"):
        column.insert(0, number)
    assert [*column] == [3, 5]


@pytest.mark.parametrize("place", [-1, 2, FIRST_CELLS])
def test_place_without_a_number_is_an_error(place: int) -> None:
    """The memory behind the last number is nobody's."""
    column = Column("I", [3, 5])
    with pytest.raises(IndexError):
        column[place]
    with pytest.raises(IndexError):
        column.pop(place)


@pytest.mark.skipif(not STATM.exists(), reason="only Linux says it so")
def test_column_takes_the_memory_that_its_numbers_take() -> None:
    """Four hundred of ten numbers take a page or two each, not their whole room."""
    page = resource.getpagesize()

    def resident() -> int:
        return page * int(STATM.read_text().split()[1])

    before = resident()
    kept = [Column("Q", range(10)) for _ in range(400)]
    assert resident() - before < len(kept) * FIRST_CELLS * 8 / 4
