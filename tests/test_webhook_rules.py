"""What an answer means, when a delivery is tried again, and what a URL may be."""

import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_actors.model.webhook_rules import (
    LONGEST_RETRY_AFTER,
    Answer,
    retry_after,
    url_problem,
    verdict,
)

NOW = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
MIDDLE = 0.5
"""The chance that leaves a delay as it is."""


def pause(answer: Answer, *, attempt: int = 1, chance: float = MIDDLE) -> float:
    """Seconds until the next attempt."""
    state, next_at = verdict(answer, attempt=attempt, now=NOW, chance=chance)
    assert state == "pending"
    assert next_at is not None
    return (next_at - NOW).total_seconds()


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_two_hundred_and_something_is_success(status: int) -> None:
    """Any 2xx ends the delivery."""
    answer = Answer(status=status)
    assert verdict(answer, attempt=11, now=NOW, chance=MIDDLE) == ("succeeded", None)


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 302, 304, 307, 400, 401, 404, 500])
def test_everything_else_is_tried_again(status: int | None) -> None:
    """Redirects, refusals, server errors and silence are failures like each other."""
    assert pause(Answer(status=status)) == 5


def test_gone_is_believed_at_once() -> None:
    """410 ends the delivery at its first attempt."""
    answer = Answer(status=410)
    assert verdict(answer, attempt=1, now=NOW, chance=MIDDLE) == ("failed", None)


def test_the_schedule_is_eleven_attempts_over_68_hours() -> None:
    """Each failure waits as documented, and the eleventh is the last."""
    pauses = [pause(Answer(status=500), attempt=attempt) for attempt in range(1, 11)]
    assert pauses == [5, 15, 60, 300, 1800, 7200, 21_600, 43_200, 86_400, 86_400]
    assert verdict(Answer(status=500), attempt=11, now=NOW, chance=0) == ("failed", None)


@given(attempt=st.integers(1, 10), chance=st.floats(0, 1, exclude_max=True))
def test_jitter_is_a_fifth_either_way(attempt: int, chance: float) -> None:
    """No delay is more than 20 % from its step."""
    step = pause(Answer(status=500), attempt=attempt)
    jittered = pause(Answer(status=500), attempt=attempt, chance=chance)
    assert 0.8 * step <= jittered <= 1.2 * step


def test_jitter_uses_its_whole_range() -> None:
    """The least and the greatest chance give the shortest and the longest delay."""
    assert pause(Answer(status=500), attempt=4, chance=0) == 240
    assert pause(Answer(status=500), attempt=4, chance=1) == 360


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_receiver_is_left_alone_for_half_a_minute(status: int) -> None:
    """429 and 503 wait at least 30 s, and longer when the step is longer."""
    assert pause(Answer(status=status), chance=0) == 30
    assert pause(Answer(status=status), attempt=4) == 300
    assert pause(Answer(status=status, retry_after="10")) == 30


def test_retry_after_is_a_lower_bound() -> None:
    """`Retry-After` lengthens a pause and never shortens one, whatever the failure."""
    assert pause(Answer(status=429, retry_after="120")) == 120
    assert pause(Answer(status=302, retry_after="120")) == 120
    assert pause(Answer(status=500, retry_after="1"), attempt=4) == 300
    assert pause(Answer(status=503, retry_after="999999")) == 86_400


@pytest.mark.parametrize(
    "header, seconds",
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        (" 7 ", 7),
        ("-7", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٣", 0),
        ("9" * 5000, 86_400),
        ("Thu, 20 Nov 2025 06:31:00 GMT", 60),
        ("Thu, 20 Nov 2025 06:29:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 86_400),
        ("Thu, 20 Nov 2025 06:30:07 GMT ", 7),
        ("Thu, 20 Nov 2025 07:30:00 GMT", 3600),
        ("Thu, 99 Nov 2025 06:31:00 GMT", 0),
        ("Thu, 20 Nov 2025 24:31:00 GMT", 0),
        ("Thu, 20 Nox 2025 06:31:00 GMT", 0),
        ("Thu, 20 Nov 0000 06:31:00 GMT", 0),
        ("Thu, ٢٠ Nov 2025 06:31:00 GMT", 0),
        ("Thu, 20 Nov 2025 06:31:00 GMT, and so on", 0),
        ("Thu, 20 Nov 99999999999999999999 06:31:00 GMT", 0),
        ("Thu, 20 Nov 2025 06:31:00 +99999999999999999999", 0),
    ],
)
def test_retry_after_is_read_in_both_its_forms(header: str | None, seconds: int) -> None:
    """Seconds and dates count, within a day; nonsense counts as nothing."""
    assert retry_after(header, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_is_known(month: int) -> None:
    """A date in any month is read as the day it is."""
    date = datetime(2025, month, 17, 6, 30, 30, tzinfo=UTC)
    header = format_datetime(date, usegmt=True)
    assert retry_after(header, date - timedelta(seconds=9)) == timedelta(seconds=9)


def test_a_date_is_read_without_opening_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module is imported for a date: there may be no file left to open it with."""
    monkeypatch.setitem(sys.modules, "_strptime", None)
    assert retry_after("Thu, 20 Nov 2025 06:31:00 GMT", NOW) == timedelta(seconds=60)


@given(st.text())
def test_no_retry_after_is_too_strange(header: str) -> None:
    """Whatever a receiver sends, the pause is within its bounds."""
    assert timedelta(0) <= retry_after(header, NOW) <= LONGEST_RETRY_AFTER


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_date_is_a_bounded_pause(date: datetime) -> None:
    """A date of any year gives a pause within a day."""
    assert timedelta(0) <= retry_after(format_datetime(date, usegmt=True), NOW)
    assert retry_after(format_datetime(date, usegmt=True), NOW) <= LONGEST_RETRY_AFTER


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/hooks/a%20b?token=x",
        "HTTPS://EXAMPLE.COM/",
        "http://127.0.0.1:3000/webhook",
        "http://[::1]:3000/",
        "https://example.com/" + "a" * 2028,
    ],
)
def test_good_urls_are_taken(url: str) -> None:
    """A host, over http or https, is all that is asked."""
    assert url_problem(url, allow_http=True) is None


@pytest.mark.parametrize(
    "url, word",
    [
        ("", "https://"),
        ("example.com/hook", "https://"),
        ("ftp://example.com", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://:443/", "host"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "port"),
        ("https://example.com:http/", "port"),
        ("https://[::1/", "host"),
        ("https://me:secret@example.com/", "user name"),
        ("https://me@example.com/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com/a b", "ASCII"),
        ("https://example.com/\r\nX: y", "ASCII"),
        ("https://bücher.example/", "ASCII"),
        ("https://example.com\\@evil.example/", "ASCII"),
        ("https://example.com/" + "a" * 2029, "2048"),
    ],
)
def test_bad_urls_are_refused_with_a_reason(url: str, word: str) -> None:
    """Every rule has words that name it, and none quotes the URL."""
    problem = url_problem(url, allow_http=True)
    assert problem is not None
    assert word in problem
    assert "secret" not in problem


def test_plain_http_is_refused_where_others_listen() -> None:
    """Without leave for http only https is taken."""
    assert url_problem("http://example.com/", allow_http=False) is not None
    assert url_problem("https://example.com/", allow_http=False) is None


@given(st.text(max_size=40))
def test_no_url_is_too_strange(text: str) -> None:
    """Any text is judged without an error."""
    for url in (text, f"https://{text}"):
        url_problem(url, allow_http=False)
