"""Order ids by the thousand: each has a key of its own, and sets of keys are sets."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.order_keys import Keys, order_key


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
