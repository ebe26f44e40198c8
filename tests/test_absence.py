"""The rule by which an order may be called not placed: section 4 of the order protocol."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.absence import AbsenceWatch

DAY = date(2025, 11, 20)


def watch() -> AbsenceWatch:
    """An order sent at second 1000, which may take 120 s to appear."""
    return AbsenceWatch(since=1000.0, day=DAY, horizon=120.0)


def observe(
    over: AbsenceWatch,
    *began: float,
    day: date = DAY,
    orders_known: bool = True,
    whole: bool = True,
) -> list[bool]:
    """What each read without the order proves."""
    return [over.observe(began=at, day=day, orders_known=orders_known, whole=whole) for at in began]


def test_three_reads_after_the_horizon_prove_it() -> None:
    """Five seconds apart at the least."""
    assert observe(watch(), 1120.0, 1125.0, 1130.0) == [False, False, True]


def test_reads_before_the_horizon_prove_nothing() -> None:
    """However many: the order may still appear."""
    early = [1000.0 + number for number in range(0, 120, 5)]
    assert not any(observe(watch(), *early))
    assert observe(watch(), *early, 1120.0, 1125.0, 1130.0)[-3:] == [False, False, True]


def test_reads_close_together_count_once() -> None:
    """They could be stale in the same way."""
    assert not any(observe(watch(), 1120.0, 1121.0, 1122.0, 1124.9, 1125.0, 1129.9))


def test_a_read_of_another_day_proves_nothing() -> None:
    """Its book would not show the order anyway."""
    tomorrow = DAY + timedelta(days=1)
    assert not any(observe(watch(), 1120.0, 1200.0, 1300.0, 1400.0, day=tomorrow))


def test_an_empty_book_must_be_read_longer() -> None:
    """Five reads after five horizons, while no order of the day is known."""
    reads = (1120.0, 1500.0, 1599.9, 1600.0, 1605.0, 1610.0, 1615.0, 1620.0)
    assert observe(watch(), *reads, orders_known=False) == [False] * 7 + [True]


def test_a_book_that_empties_takes_its_evidence_with_it() -> None:
    """Reads that sufficed beside known orders do not count for an empty book."""
    over = watch()
    assert not any(observe(over, 1120.0, 1125.0))
    assert not any(observe(over, 1200.0, 1605.0, 1610.0, 1615.0, 1620.0, orders_known=False))
    assert observe(over, 1625.0, orders_known=False) == [True]


def test_one_read_must_give_every_row() -> None:
    """Reads that only counted the rows that repeat are no proof by themselves, however many."""
    over = watch()
    assert over.wants(1120.0, orders_known=True)
    assert not any(observe(over, 1120.0, 1125.0, 1130.0, 1200.0, whole=False))
    assert over.wants(1205.0, orders_known=True)
    assert observe(over, 1205.0) == [True]


def test_a_whole_read_is_wanted_once_the_horizon_has_passed() -> None:
    """Before it would prove nothing, and one is enough."""
    over = watch()
    observe(over, 1110.0)
    assert not over.wants(1119.9, orders_known=True)
    assert over.wants(1120.0, orders_known=True)
    observe(over, 1120.0)
    assert not over.wants(1125.0, orders_known=True)
    assert observe(over, 1125.0, 1130.0, whole=False) == [False, True]


def test_a_whole_read_beside_known_orders_is_none_for_an_empty_book() -> None:
    """As all evidence, it must have begun after five horizons."""
    over = watch()
    observe(over, 1120.0)
    late = (1600.0, 1605.0, 1610.0, 1615.0, 1620.0)
    assert not any(observe(over, *late, orders_known=False, whole=False))
    assert over.wants(1625.0, orders_known=False)
    assert observe(over, 1625.0, orders_known=False) == [True]


@given(st.lists(st.tuples(st.floats(0, 900), st.booleans(), st.booleans(), st.booleans())))
def test_absence_is_never_proved_on_less(reads: list[tuple[float, bool, bool, bool]]) -> None:
    """Three reads of the day, apart, all begun after the horizon, one of them whole."""
    over, good, every = watch(), list[float](), -1.0
    for after, today, known, whole in sorted(reads):
        day = DAY if today else DAY + timedelta(days=1)
        if today and after >= 120.0 and (not good or after >= good[-1] + 5.0 - 1e-9):
            good.append(after)
        every = after if today and whole else every
        if over.observe(began=1000.0 + after, day=day, orders_known=known, whole=whole):
            assert today
            assert every >= (120.0 if known else 600.0)
            assert len(good) >= (3 if known else 5)
            assert after >= (130.0 if known else 620.0)
