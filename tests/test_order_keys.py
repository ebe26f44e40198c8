"""Order ids by the thousand: each has a key of its own, and sets of keys are sets."""

from array import array
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.order_keys import KeyList, Keys, order_key


@given(st.integers(1, 2**63 - 1))
def test_a_number_is_its_own_key(number: int) -> None:
    """So no two of Kite's order ids share one."""
    assert order_key(str(number)) == number


@pytest.mark.parametrize(
    "order_id", ["", "007", "+7", " 7", "7 ", "\u0667", "-7", "7x", "9" * 19, "9" * 40, "\ud800"]
)
def test_what_is_no_plain_number_has_a_key_that_no_number_has(order_id: str) -> None:
    """It looks like one, or is too big for one."""
    assert 2**63 <= order_key(order_id) < 2**64


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_keys_are_a_set(some: list[int], others: list[int]) -> None:
    """Each is there once, whatever the order and however often it came."""
    keys, mixed = Keys(some), sorted({*some[::2], *others})
    assert (list(keys), len(keys)) == (sorted({*some}), len({*some}))
    assert all(key in keys for key in some)
    assert [key in keys for key in others] == [key in some for key in others]
    assert keys.missing(array("Q", mixed)) == {*mixed} - {*some}
    assert keys == Keys(reversed(some))
    assert hash(keys) == hash(Keys(some))


NEAR_AND_FAR = st.one_of(
    st.integers(0, 3),
    st.integers(261_123_000_000_000, 261_123_000_000_003),
    st.sampled_from([2**31, 2**32, 2**63, 2**64]).flatmap(lambda n: st.integers(n - 3, n - 1)),
)


@given(st.lists(st.tuples(st.booleans(), NEAR_AND_FAR)))
def test_a_list_of_keys_is_a_list(steps: list[tuple[bool, int]]) -> None:
    """However near or far from each other they are, and in whatever order they come and go."""
    keys, plain = KeyList(), list[int]()
    for add, key in steps:
        place = keys.sorted_place(key)
        assert place == bisect_left(plain, key)
        assert keys.found(key) == (place if key in plain else None)
        if add:
            keys.insert(place, key)
            plain.insert(place, key)
        elif plain:
            keys.delete(place % len(plain))
            del plain[place % len(plain)]
        assert (list(keys), len(keys)) == (plain, len(plain))
    assert list(KeyList(reversed(plain))) == plain[::-1]


def test_the_keys_of_a_day_take_four_bytes() -> None:
    """Until one of another kind comes."""
    keys = KeyList(range(261_123_000_000_000, 261_123_000_005_000))
    assert keys._offsets.size == "I"
    keys.insert(5_000, order_key("A1"))
    assert list(keys)[-2:] == [261_123_000_004_999, order_key("A1")]
