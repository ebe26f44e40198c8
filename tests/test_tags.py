"""The broker tag: our only handle on an order, and the ids beside it."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model import ids
from ticker_actors.model.calendar import from_iso, iso, trading_day
from ticker_actors.model.tags import MAX_SENDS, Tag, ours, parse

AT = datetime(2025, 11, 20, 4, 0, tzinfo=UTC)
BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@given(st.text(BASE36, min_size=1, max_size=21), st.integers(0, 36**4))
def test_digits_in_base_36(digits: str, more: int) -> None:
    """As many as are asked for, odd or even, leading zeros too; what is beyond them is left out."""
    number = int(digits, 36)
    assert ids.base36(number + more * 36 ** len(digits), len(digits)) == digits


@given(
    st.text(BASE36, min_size=3, max_size=3),
    st.text(BASE36, min_size=12, max_size=12),
    st.integers(0, MAX_SENDS),
)
def test_a_tag_survives_the_way_to_the_broker_and_back(
    installation: str, intent: str, send: int
) -> None:
    """Twenty alphanumerics, whatever case they come back in."""
    tag = Tag(installation, intent, send)
    assert len(str(tag)) == 20
    assert str(tag).isalnum()
    assert parse(str(tag)) == parse(str(tag).lower()) == tag


def test_a_tag_looks_just_so() -> None:
    """Version, installation, intent, spare, send in base 36."""
    assert str(Tag("ABC", "0123456789AB", 0)) == "1ABC0123456789AB0000"
    assert str(Tag("ABC", "0123456789AB", 37)) == "1ABC0123456789AB0011"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mine",
        "2ABC0123456789AB0000",
        "1ABC0123456789AB0100",
        "1ABC0123456789AB000",
        "1ABC0123456789AB00000",
        "1ABC0123456789AB0000\n",
        " 1ABC0123456789AB0000",
        "1ABC0123456789A-0000",
        "1ABC0123456789A\u017f0000",  # a long s, the upper case of which is S
        "1AB\u00df123456789AB0000",
    ],
)
def test_other_tags_are_not_ours(text: str) -> None:
    """Another program's orders are never taken for ours."""
    assert parse(text) is None


def test_ours_is_the_first_tag_of_this_installation() -> None:
    """Another installation of this service may trade the same account."""
    mine, other = "1abc0123456789ab0001", "1XYZ0123456789AB0000"
    assert ours((), "ABC") is None
    assert ours(("basket", other), "ABC") is None
    assert ours(("basket", other, mine), "ABC") == Tag("ABC", "0123456789AB", 1)


def test_ids_look_as_documented_and_sort_by_time() -> None:
    """ULIDs behind a prefix; UUIDs of version 4; intents that fit a tag."""
    chance = random.Random(1).getrandbits
    tasks = [ids.task_id(AT + timedelta(milliseconds=number), chance) for number in range(50)]
    assert tasks == sorted(tasks)
    assert all(len(name) == len("task_") + 26 for name in tasks)
    assert ids.event_id(AT, chance).startswith("evt_")
    assert ids.stream(chance).startswith("str_")
    for _ in range(50):
        parts = ids.uuid(chance).split("-")
        assert [len(part) for part in parts] == [8, 4, 4, 4, 12]
        assert parts[2][0] == "4"
        assert parts[3][0] in "89ab"
    intents = {ids.intent(chance) for _ in range(1000)}
    assert len(intents) == 1000
    assert all(parse(str(Tag("ABC", intent, 0))) for intent in intents)


def test_a_trading_day_is_a_date_in_india() -> None:
    """It begins at 18:30 UTC of the day before."""
    assert trading_day(datetime(2025, 11, 20, 18, 29, 59, tzinfo=UTC)).isoformat() == "2025-11-20"
    assert trading_day(datetime(2025, 11, 20, 18, 30, tzinfo=UTC)).isoformat() == "2025-11-21"


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_times_as_text_sort_as_times(one: datetime, other: datetime) -> None:
    """Milliseconds and Z; reading back loses less than a millisecond."""
    assert iso(one).endswith("Z")
    assert len(iso(one)) == len("2025-10-31T09:15:30.123Z")
    assert timedelta(0) <= one - from_iso(iso(one)) < timedelta(milliseconds=1)
    if iso(one) != iso(other):
        assert (iso(one) < iso(other)) == (one < other)
