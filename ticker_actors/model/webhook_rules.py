"""What a webhook's URL may be, what an answer means, and when a delivery is tried again."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from ticker_actors.model.changes import DeliveryState

DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (0, 5, 15, 60, 300, 1800, 7200, 21_600, 43_200, 86_400, 86_400)
)
"""Before each attempt: 11 of them over 68.6 hours, so a receiver may be down for a weekend."""
SPREAD = 0.2
"""Jitter, either way: deliveries that failed together must not all come back together."""
LONGEST_RETRY_AFTER = timedelta(days=1)
"""A receiver may ask for no longer a pause: the longest step of our own."""
BUSY_PAUSE = timedelta(seconds=30)
"""After 429 or 503, at least: the receiver says that it has too much to do."""
LONGEST_URL = 2048
"""Characters; what proxies and servers commonly take."""

_HTTP_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT",
    re.ASCII,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt brought: the receiver's status, or the error that kept it from us."""

    status: int | None = None
    retry_after: str | None = None
    """The header as it came."""
    error: str | None = None
    """One sentence without secrets; None when there is a status."""

    @property
    def succeeded(self) -> bool:
        """2xx. A redirect is a failure, and is never followed."""
        return self.status is not None and HTTPStatus(200) <= self.status < HTTPStatus(300)


def verdict(
    answer: Answer, *, attempt: int, now: datetime, chance: float
) -> tuple[DeliveryState, datetime | None]:
    """What becomes of a delivery after this attempt (1 is the first), and when the next is due.

    `chance` is uniform in [0, 1). 410 says that the receiver is gone: nothing more is tried.
    """
    if answer.succeeded:
        return "succeeded", None
    if answer.status == HTTPStatus.GONE or attempt >= len(DELAYS):
        return "failed", None
    delay = DELAYS[attempt] * (1 + SPREAD * (2 * chance - 1))
    pause = retry_after(answer.retry_after, now)
    if answer.status in _BUSY:
        pause = max(pause, BUSY_PAUSE)
    return "pending", now + max(delay, pause)


def retry_after(header: str | None, now: datetime) -> timedelta:
    """How long `Retry-After` asks us to wait (RFC 9110, 10.2.3), within a day; 0 if not at all."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        # A number of many digits is a day as well, and would overflow a timedelta.
        return min(timedelta(seconds=int(text[:9])), LONGEST_RETRY_AFTER)
    date = _http_date(text)
    if date is None:
        return timedelta(0)
    return max(timedelta(0), min(date - now, LONGEST_RETRY_AFTER))


def _http_date(text: str) -> datetime | None:
    """Read an IMF-fixdate. `strptime` would open a file of Python's at its first use."""
    found = _HTTP_DATE.fullmatch(text)
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        return datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            int(hour),
            int(minute),
            int(second),
            tzinfo=UTC,
        )
    except ValueError:
        return None


def url_problem(url: str, *, allow_http: bool) -> str | None:
    """What is wrong with the URL of a new webhook, as the end of a sentence; None when it will do.

    Where its host leads is the client's question, asked at every attempt.
    """
    return next(_url_problems(url, allow_http=allow_http), None)


def _url_problems(url: str, *, allow_http: bool) -> Iterator[str]:
    if len(url) > LONGEST_URL:
        yield f"must have at most {LONGEST_URL} characters"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        yield "must be printable ASCII without spaces: percent-encode the rest"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        yield "is not a URL: its host or port cannot be read"
        return
    if parts.scheme not in {"http", "https"}:
        yield "must begin with https:// or http://"
    if parts.scheme == "http" and not allow_http:
        yield "must begin with https://: orders and the secret travel in it"
    if "@" in parts.netloc:
        yield "must not contain a user name or password"
    if "#" in url:
        yield "must not contain a fragment (#)"
    if not parts.hostname or port == 0:
        yield "must name a host, and a port other than 0"
