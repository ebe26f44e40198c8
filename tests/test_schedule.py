"""Cron lines: five fields, in a time zone, also where its clocks change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from ticker_actors.model.schedule import Schedule

INDIA, BERLIN = ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    """An instant."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_times_are_those_of_the_zone() -> None:
    """Two at night in India is the evening before in UTC."""
    schedule = Schedule("0 2 * * *", INDIA)
    assert schedule.after(utc("2026-01-10 12:00")) == utc("2026-01-10 20:30")
    assert schedule.latest(utc("2026-01-10 12:00")) == utc("2026-01-09 20:30")


@pytest.mark.parametrize("fraction", ["", ".000001", ".9"])
def test_a_time_is_reached_when_it_has_come(fraction: str) -> None:
    """Then it is the latest, and the next is another."""
    at = utc("2026-01-10 20:30:00" + fraction)
    schedule = Schedule("0 2 * * *", INDIA)
    assert schedule.latest(at) == utc("2026-01-10 20:30")
    assert schedule.after(at) == utc("2026-01-11 20:30")


def test_no_time_is_lost_or_gone_back_to_when_clocks_change() -> None:
    """Half past two comes once a day, where it is skipped and where it comes twice."""
    schedule = Schedule("30 2 * * *", BERLIN)
    spring = [utc("2026-03-28 01:30"), utc("2026-03-29 01:00"), utc("2026-03-30 00:30")]
    autumn = [utc("2026-10-24 00:30"), utc("2026-10-25 00:30"), utc("2026-10-26 01:30")]
    for first, second, third in (spring, autumn):
        assert schedule.after(first) == second
        assert schedule.after(second) == third
    again = utc("2026-10-25 01:10")  # ten past two for the second time
    assert schedule.after(again) == utc("2026-10-26 01:30")
    assert schedule.latest(again) == utc("2026-10-25 00:30")


@pytest.mark.parametrize(
    "line, says",
    [
        ("", "five fields"),
        ("0 2 * *", "five fields"),
        ("0 0 2 * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 2 * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 2 30 2 *", "day"),
        ("0 2 * * FOO", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("0 2 29 2 MON#5,X", "day-of-week"),
    ],
)
def test_a_wrong_line_is_refused(line: str, says: str) -> None:
    """With the field that is wrong."""
    with pytest.raises(ValueError, match=says):
        Schedule(line, INDIA)
