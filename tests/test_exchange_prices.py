"""The paper exchange's price walk: seeded, bounded, cheap."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.exchange.prices import MAX_CATCH_UP_STEPS, START_TICKS, Walk, start_ticks

NOON = 1_763_620_200
"""A Unix time in seconds, as the broker passes it."""
PINNED = [30_000, 30_000, 29_998, 29_999, 30_001, 30_002, 30_003, 30_001]


@pytest.mark.parametrize(
    "symbol, rupees",
    [("NIFTY25NOVFUT", 19_500.25), ("BANKNIFTY25NOVFUT", 45_500.0), ("INFY", 1_500.0)],
)
def test_known_symbols_start_near_the_document(symbol: str, rupees: float) -> None:
    """The document's symbols begin at its prices."""
    assert Walk("seed").price(symbol, NOON) == rupees * 20


@given(st.text(st.characters(codec="utf-8"), max_size=64).filter(lambda s: s not in START_TICKS))
def test_any_symbol_has_a_price(symbol: str) -> None:
    """Every other name starts between 50 and 5 000 rupees."""
    assert 1_000 <= start_ticks(symbol) <= 100_000


def test_walk_is_decided_by_its_seed() -> None:
    """One seed makes one walk, another seed another."""
    first, again, other = (
        [walk.price("INFY", NOON + step) for step in range(200)]
        for walk in (Walk("a"), Walk("a"), Walk("b"))
    )
    assert first == again
    assert first != other


def test_walk_is_pinned() -> None:
    """The documented rule gives these prices; a change of it is a change of behaviour."""
    walk = Walk("paper")
    assert [walk.price("INFY", NOON + step) for step in range(8)] == PINNED


def test_symbols_do_not_move_each_other() -> None:
    """Asking for one symbol leaves the walk of another as it is."""
    alone, both = Walk("a"), Walk("a")
    alone.price("INFY", NOON)
    both.price("INFY", NOON)
    for step in range(1, 50):
        both.price("TCS", NOON + step)
        assert alone.price("INFY", NOON + step) == both.price("INFY", NOON + step)


def test_skipped_steps_are_walked() -> None:
    """Asked only now and then, the walk passes the same prices as asked every second."""
    often, seldom = Walk("a"), Walk("a")
    prices = [often.price("INFY", NOON + step) for step in range(MAX_CATCH_UP_STEPS)]
    seldom.price("INFY", NOON)
    assert seldom.price("INFY", NOON + MAX_CATCH_UP_STEPS - 1) == prices[-1]


def test_moves_are_small_and_stay_in_range() -> None:
    """A step is at most two ticks, and the price stays within 5 % of its start."""
    walk = Walk("wide")
    symbol = min((f"S{number}" for number in range(200)), key=start_ticks)
    start = start_ticks(symbol)
    prices = [walk.price(symbol, NOON + step) for step in range(20_000)]
    assert max(abs(after - before) for before, after in pairwise(prices)) == 2
    assert start * 0.95 <= min(prices) < start < max(prices) <= start * 1.05
    assert max(prices) > start * 1.04 or min(prices) < start * 0.96, "the bounds were not tried"


def test_a_long_silence_is_cheap() -> None:
    """After a night the walk goes on from where it stood, without replaying the night."""
    walk = Walk("a")
    before = walk.price("INFY", NOON)
    after = walk.price("INFY", NOON + 10**9)
    assert abs(after - before) <= 2 * MAX_CATCH_UP_STEPS


def test_an_earlier_step_moves_nothing() -> None:
    """A clock that steps back finds the last price, and the walk goes on from there."""
    walk = Walk("a")
    walk.price("INFY", NOON)
    price = walk.price("INFY", NOON + 100)
    assert walk.price("INFY", NOON - 3_600) == price
    assert abs(walk.price("INFY", NOON - 3_599) - price) <= 2
