"""One account's settings: its broker, who it is there, and what it is held to.

From the environment for account `primary`, or from `ACCOUNTS_FILE` for several. Secrets never stand
in that file: it names the environment variables that hold them.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ticker_actors.model.limits import BROKER, Limits
from ticker_actors.model.orders import Exchange, Product
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.validation import problems

BrokerName = Literal["paper", "kite"]
Count = Annotated[int, Meta(ge=0)]
LEAST_HORIZON_SECONDS = 90.0
"""At Kite itself. With less, an order could be called absent, and appear."""
MOST_ACCOUNTS = 100
"""Each has a lane, a feed and a lease of its own."""

KITE_ROOT_URL = "https://api.kite.trade"
KITE_TICKER_URL = "wss://ws.kite.trade"


class AccountError(Exception):
    """An account's settings are wrong. Its message is one sentence that names the setting."""


class KiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who an account is at Kite Connect, and where that is."""

    api_key: str
    api_secret: str | None = None
    """Only a login needs it, and a postback's checksum."""
    access_token: str | None = None
    """Of today, if a login elsewhere gave one."""
    root_url: str = KITE_ROOT_URL
    ticker_url: str = KITE_TICKER_URL
    token_file: Path
    """Where `ticker-actors login` leaves the day's access token, for nobody else to read."""

    def __repr__(self) -> str:
        # Neither who it is nor the URL, whose query may hold a secret of its own.
        return f"KiteSettings({urlsplit(self.root_url).hostname})"


class PaperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An account's own paper exchange."""

    file: Path
    funds: int
    """Rupees before its first trade."""
    seed: int


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One account."""

    account_id: str
    at: PaperSettings | KiteSettings
    limits: Limits
    risk: RiskLimits

    @property
    def broker(self) -> BrokerName:
        """Where its orders go."""
        return "kite" if isinstance(self.at, KiteSettings) else "paper"


class AccountEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of `ACCOUNTS_FILE`: what is not named is as the environment says for all."""

    broker: BrokerName
    api_key_env: str | None = None
    """The name of the environment variable that holds the API key."""
    api_secret_env: str | None = None
    access_token_env: str | None = None
    root_url: str | None = None
    ticker_url: str | None = None
    token_file: str | None = None
    paper_file: str | None = None
    paper_funds: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    orders_per_second: Count | None = None
    orders_per_minute: Count | None = None
    orders_per_day: Count | None = None
    max_order_quantity: Annotated[int, Meta(ge=1)] | None = None
    max_order_value: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    allowed_exchanges: Annotated[tuple[Exchange, ...], Meta(min_length=1)] | None = None
    allowed_products: Annotated[tuple[Product, ...], Meta(min_length=1)] | None = None
    price_band_percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    max_orders_a_day: Annotated[int, Meta(ge=1)] | None = None


def read_entries(path: Path) -> dict[str, AccountEntry]:
    """The accounts of a TOML file, one table each. Raises `AccountError`."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AccountError(f"ACCOUNTS_FILE {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AccountError(f"ACCOUNTS_FILE {path} is no TOML: {error}.") from error
    if not 0 < len(found) <= MOST_ACCOUNTS:
        raise AccountError(f"ACCOUNTS_FILE {path} must name 1 to {MOST_ACCOUNTS} accounts.")
    return {name: _entry(path, name, table) for name, table in found.items()}


def _entry(path: Path, name: str, table: object) -> AccountEntry:
    if not _NAME.fullmatch(name):
        raise AccountError(
            f"ACCOUNTS_FILE {path} names an account {name!r}: "
            "a name has 1 to 64 letters, digits, _ and -."
        )
    try:
        return msgspec.convert(table, AccountEntry)
    except msgspec.ValidationError:
        named = "; ".join(f"{key} {text}" for key, text in problems(table, AccountEntry, name))
        raise AccountError(f"ACCOUNTS_FILE {path} is wrong: {named}.") from None


def kite_settings(  # noqa: PLR0913  # all by name
    *,
    account_id: str,
    environment: Mapping[str, str],
    key_env: str | None,
    secret_env: str | None,
    token_env: str | None,
    root_url: str,
    ticker_url: str,
    token_file: Path,
) -> KiteSettings:
    """An account at Kite. Raises `AccountError` when its key is missing or a URL is none."""

    def secret(setting: str, name: str | None) -> str | None:
        if name is None:
            return None
        if not _VARIABLE.fullmatch(name):  # not repeated here: it may be the secret itself
            raise AccountError(
                f"Account {account_id}: {setting} must be the name of an environment variable, "
                "in capitals."
            )
        value = environment.get(name, "").strip()
        if value and not _VISIBLE.fullmatch(value):
            raise AccountError(
                f"Account {account_id}: {name} must be printable ASCII without spaces."
            )
        return value or None

    api_key = secret("api_key_env", key_env)
    if api_key is None:
        todo = (
            "api_key_env must name the variable that holds its API key"
            if key_env is None
            else f"{key_env} must be set to its API key"
        )
        raise AccountError(f"Account {account_id} is at Kite, so {todo}.")
    _check_url(f"Account {account_id}: root_url (KITE_ROOT_URL)", root_url, "http")
    _check_url(f"Account {account_id}: ticker_url (KITE_TICKER_URL)", ticker_url, "ws")
    return KiteSettings(
        api_key=api_key,
        api_secret=secret("api_secret_env", secret_env),
        access_token=secret("access_token_env", token_env),
        root_url=root_url,
        ticker_url=ticker_url,
        token_file=token_file,
    )


def check_limits(account: AccountSettings, horizon: float) -> None:
    """What real money does not allow: no limit, one above Kite's, or a hasty proof of absence.

    A stand-in on loopback may have all of it. `horizon` is in seconds. Raises `AccountError`.
    """
    if not isinstance(account.at, KiteSettings) or _loopback(account.at.root_url):
        return
    named = f"Account {account.account_id} is at Kite"
    for field in BROKER.__dataclass_fields__:
        limit, most = getattr(account.limits, field), getattr(BROKER, field)
        if not 0 < limit <= most:
            setting = f"ORDERS_{field.upper()}"
            raise AccountError(f"{named}, which counts requests: {setting} must be 1 to {most}.")
    if horizon < LEAST_HORIZON_SECONDS:
        raise AccountError(
            f"{named}, where orders were seen to appear 83 s late: ABSENCE_HORIZON_SECONDS must be "
            f"at least {LEAST_HORIZON_SECONDS:g}."
        )


def _check_url(setting: str, url: str, scheme: str) -> None:
    """The URL itself is not repeated: it may hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise AccountError(f"{setting} is no URL: {error}.") from None
    if parts.scheme not in {scheme, f"{scheme}s"} or not host:
        raise AccountError(f"{setting} must begin with {scheme}s:// and name a host.")
    if parts.username is not None or parts.fragment or not _VISIBLE.fullmatch(url):
        raise AccountError(f"{setting} must be plain ASCII, without a user and a fragment.")
    if parts.scheme == scheme and not _loopback(url):
        raise AccountError(
            f"{setting} must begin with {scheme}s://, or the access token would travel in clear "
            f"to {host}."
        )


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_VISIBLE = re.compile(r"[!-~]+")
