"""Logging in: from a request token to the day's access token, and where that is kept.

Sources: https://kite.trade/docs/connect/v3/user/. A person logs in at Kite's page once a day, which
redirects with a request token; that and the API secret buy the access token, once.
"""

import hashlib
import os
import secrets
import stat
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import structlog
from msgspec import Meta

from ticker_actors.account_settings import KITE_ROOT_URL
from ticker_actors.brokers.kite.http import READ_IDLE_SECONDS, HttpClient
from ticker_actors.brokers.kite.root import Root
from ticker_actors.exchange import wire
from ticker_actors.http1 import Lost, Reply, Unsent
from ticker_actors.model.calendar import IST
from ticker_actors.model.outcomes import LoginRefused

FLUSH = time(6)
"""IST. About then all access tokens of the day before die (the broker's own, daily)."""

_log = structlog.get_logger(__name__)


class KeptToken(msgspec.Struct, frozen=True):
    """What stands in a token file."""

    access_token: str
    user_id: str | None
    logged_in_at: Annotated[datetime, Meta(tz=True)]


class TokenFile:
    """The day's access token, in a file for nobody else to read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, now: datetime) -> str | None:
        """The token, if it is of today; None when there is none, or others could read it."""
        kept = self._kept()
        return kept.access_token if kept and kept.logged_in_at >= last_flush(now) else None

    def refusal(self, user_id: str | None) -> str | None:
        """Why a login of this user is not taken: the account was somebody else's before.

        Its orders are in another order book, so every one of them would seem to be lost.
        """
        kept = self._kept()
        if kept is None or None in {kept.user_id, user_id} or kept.user_id == user_id:
            return None
        return (
            f"This is the login of {user_id}, and the account was {kept.user_id}'s before: "
            f"if that is meant, delete {self._path}"
        )

    def _kept(self) -> KeptToken | None:
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                kept = msgspec.json.decode(file.read(), type=KeptToken)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            _log.warning("token file unusable", path=str(self._path), error=type(error).__name__)
            return None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            _log.warning("token file ignored: others may read it", path=str(self._path))
            return None
        return kept

    def write(self, access_token: str, user_id: str | None, now: datetime) -> None:
        """Keep a token, whole or not at all. Raises `OSError`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: a service and the command line may write at the same time.
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, msgspec.json.encode(KeptToken(access_token, user_id, now)))
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(self._path)

    def changed_at(self) -> int:
        """When it was last written, in nanoseconds; 0 when there is none."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0


def last_flush(now: datetime) -> datetime:
    """When the tokens of the day before died, or were about to."""
    here = now.astimezone(IST)
    today = datetime.combine(here.date(), FLUSH, IST)
    return today if here >= today else today - timedelta(days=1)


def login_url(api_key: str, root_url: str) -> str:
    """Where a person logs in. A sandbox has its own page, under its root."""
    if root_url == KITE_ROOT_URL:
        # The one place that imports it: it brings Twisted, and takes half a second.
        from kiteconnect import KiteConnect  # noqa: PLC0415

        return str(KiteConnect(api_key=api_key).login_url())
    root = Root.parse(root_url)
    scheme = "https" if root.tls else "http"
    target = root.target("/connect/login", [("v", "3"), ("api_key", api_key)])
    return f"{scheme}://{root.authority}{target}"


async def exchanged(
    root: Root, http: HttpClient, *, api_key: str, api_secret: str, request_token: str
) -> KeptToken | LoginRefused:
    """The access token that a request token buys. Its time is not set: the caller has the clock."""
    signed = hashlib.sha256(f"{api_key}{request_token}{api_secret}".encode()).hexdigest()
    form = {"api_key": api_key, "request_token": request_token, "checksum": signed}
    body = urlencode(form).encode()
    headers = (
        *wire.VERSION_HEADERS.items(),
        *wire.FORM_HEADERS.items(),
        ("Content-Length", str(len(body))),
    )
    result = await http.request(
        "POST", root.target("/session/token"), headers, body, idle=READ_IDLE_SECONDS
    )
    match result:
        case Unsent(message=message) | Lost(message=message):
            return LoginRefused(f"The broker cannot be reached: {message}")
        case Reply(body=content):
            return _bought(content)


def _bought(content: bytes) -> KeptToken | LoginRefused:
    match wire.envelope(content):
        case wire.Success(data={"access_token": str(token), "user_id": str(user_id)}) if token:
            return KeptToken(token, user_id, datetime.min.replace(tzinfo=IST))
        case wire.Failure(message=message):
            return LoginRefused(f"The broker refused the request token: {message}")
    return LoginRefused("The broker's answer to the request token was not understood.")
