"""The environment, decoded once into one frozen object. A wrong value stops the start."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_origin
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from ticker_actors.account_settings import (
    KITE_ROOT_URL,
    KITE_TICKER_URL,
    AccountEntry,
    AccountError,
    AccountSettings,
    BrokerName,
    Count,
    KiteSettings,
    PaperSettings,
    check_limits,
    kite_settings,
    read_entries,
)
from ticker_actors.log import LogFormat, LogLevel
from ticker_actors.model import database
from ticker_actors.model.limits import Limits, StreamLimits
from ticker_actors.model.orders import Exchange, Product
from ticker_actors.model.proxies import Network, networks
from ticker_actors.model.retention import Retention
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.schedule import Schedule
from ticker_actors.model.validation import complaint, hints

_Count = Count
PRIMARY = "primary"
"""The account that every document and every default means."""

_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class SettingsError(Exception):
    """A setting is wrong. Its message is one sentence that names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, by its environment name in lower case, with its unit and its reason."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """0 lets the system choose; the banner says which."""
    database_url: str = "sqlite:///data/ticker.db"
    """Or `postgresql://user:password@host/database`; `model/database.py` knows its parameters."""
    standby: bool = False
    """While another copy writes the accounts: wait, and take over when it ends."""
    accounts_file: str | None = None
    """TOML with several accounts. Without it there is one, `primary`, as the next settings say."""
    broker: BrokerName = "paper"
    """Real orders are never the default and never inferred."""
    kite_api_key: str | None = None
    kite_api_secret: str | None = None
    """For the login and for postbacks."""
    kite_access_token: str | None = None
    """Of today. A newer login wins over it."""
    kite_root_url: str = KITE_ROOT_URL
    """Or a sandbox's; a path and query parameters survive."""
    kite_ticker_url: str = KITE_TICKER_URL
    paper_file: str | None = None
    """The paper exchange's own book. Default: beside the SQLite file, else `data/paper.db`."""
    paper_funds: Annotated[int, Meta(ge=1, le=10**15)] = 1_000_000_000
    """Rupees: enough that nobody's first order is refused; at most what sums of ticks can hold."""
    paper_seed: int = 1
    """Of the documented price walk."""

    login_account: str | None = None
    """For `ticker-actors login`: which account, where several are at Kite."""
    login_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """For `ticker-actors login`: where on loopback the redirect is caught. Default: not at all."""

    max_order_quantity: _Positive = 1_000_000
    """Units of one order: a slip of three zeros should not reach the exchange."""
    max_order_value: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    """Rupees of one order."""
    allowed_exchanges: tuple[Exchange, ...] = ()
    """None named: all."""
    allowed_products: tuple[Product, ...] = ()
    price_band_percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    """By how much a price may be off the last one known."""
    max_orders_a_day: Annotated[int, Meta(ge=1)] | None = None
    """Of an account, taken by us; the broker's own limit is ORDERS_PER_DAY."""
    task_max_attempts: Annotated[int, Meta(ge=1, le=100)] = 5
    task_retention_days: Annotated[int, Meta(ge=1, le=3650)] = 7
    """How long what has ended is kept; at least the day that limits at the broker count."""
    event_retention_count: Annotated[int, Meta(ge=0, le=10**9)] = 100_000
    """Events of an account's log: some 50 MB. The oldest go first; 0 is no limit but the age."""
    task_cleanup_schedule: str = "0 2 * * *"
    """A cron line, in the zone of `tz`: by default far from trading."""
    tz: str = "Asia/Kolkata"
    """A name of the tz database."""
    orders_per_second: _Count = 8
    """Kite allows 10; 2 are kept for cancels."""
    orders_per_minute: _Count = 400
    orders_per_day: _Count = 5000
    absence_horizon_seconds: _Seconds = 120.0
    """How long an unknown order may still appear at the broker: 83 s has been seen."""
    batch_answer_seconds: _Seconds = 25.0
    """A batch request is answered by then: most proxies give up at 30 s."""

    api_key: str | None = None
    allow_no_key: bool = False
    """Serve another host than loopback without a key, on the operator's own word."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients may call this service by, besides loopback's (`Host` header)."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may use this service, such as `https://desk.example.com`."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose `X-Forwarded-For` is believed. None named: nobody's."""
    webhook_allow_private: bool | None = None
    """Whether webhooks may go to private addresses. Default: only when bound to loopback."""
    stream_connections_per_account: _Count = 20
    stream_connections_per_address: _Count = 50
    """Of all accounts: a page that leaks connections must not take everybody's."""
    stream_handshakes_per_second: _Count = 100
    """A tenth of what a slow core can do: so that a storm of reconnections delays no order."""
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"

    def __repr__(self) -> str:
        return f"Settings({self.host}:{self.port})"  # some of the others are secrets

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def postgres(self) -> database.Postgres | None:
        """The PostgreSQL database, or None when it is a file of SQLite's."""
        url = self.database_url
        return database.postgres(url) if database.is_postgres(url) else None

    @property
    def database(self) -> str:
        """The database as it may be shown: without its password."""
        return str(self.postgres or self.database_file)

    @property
    def database_file(self) -> Path:
        """The path in `sqlite:///relative.db` or `sqlite:////absolute.db`."""
        return Path(database.sqlite(self.database_url))

    @property
    def paper_path(self) -> Path:
        """Where the paper exchange keeps its book."""
        if self.paper_file is not None:
            return Path(self.paper_file)
        if self.postgres is not None:
            return Path("data/paper.db")
        return self.database_file.with_suffix(".paper.db")

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks of `trusted_proxies`."""
        return networks(self.trusted_proxies)

    @property
    def private_webhooks(self) -> bool:
        """Whether webhooks may go to private addresses."""
        return self.loopback if self.webhook_allow_private is None else self.webhook_allow_private

    @property
    def cleanup_schedule(self) -> Schedule:
        """When what is beyond the retention is deleted."""
        return Schedule(self.task_cleanup_schedule, zone(self.tz))

    @property
    def retention(self) -> Retention:
        """What is kept."""
        return Retention(self.task_retention_days, self.event_retention_count)

    @property
    def limits(self) -> Limits:
        """An account's budget at its broker."""
        return Limits(self.orders_per_second, self.orders_per_minute, self.orders_per_day)

    @property
    def risk(self) -> RiskLimits:
        """What an account's orders are held to."""
        return RiskLimits(
            max_quantity=self.max_order_quantity,
            max_value=self.max_order_value,
            exchanges=self.allowed_exchanges or None,
            products=self.allowed_products or None,
            price_band=self.price_band_percent,
            orders_a_day=self.max_orders_a_day,
        )

    @property
    def stream_limits(self) -> StreamLimits:
        """How many streams there may be."""
        return StreamLimits(
            per_account=self.stream_connections_per_account,
            per_address=self.stream_connections_per_address,
            handshakes_per_second=self.stream_handshakes_per_second,
        )

    def beside_database(self, name: str) -> Path:
        """A file of the service's own: beside the SQLite file, else in `data`."""
        return (Path("data") if self.postgres else self.database_file.parent) / name


def zone(name: str) -> ZoneInfo:
    """A time zone as `TZ` has it: a name, or a file. Raises `ValueError` and others."""
    name = name.removeprefix(":")
    if not name.startswith("/"):
        return ZoneInfo(name)
    with Path(name).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def load(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment. An empty variable counts as not set."""
    kinds = hints(Settings)
    given: dict[str, object] = {}
    for name, kind in kinds.items():
        text = environment.get(name.upper(), "").strip()
        if not text:
            continue
        value = _split(text) if get_origin(kind) is tuple else text
        if name in _WORDS:
            value = text.lower()
        try:
            # Text is all that an environment can hold, so here "5" means 5.
            given[name] = msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as error:
            shown = "" if name in _SECRET else f" (it is {text!r})"
            raise SettingsError(
                f"Setting {name.upper()} {complaint(error, kind)}{shown}."
            ) from None
    settings = msgspec.convert(given, Settings)
    _check(settings)
    return settings


def load_accounts(
    settings: Settings, environment: Mapping[str, str]
) -> tuple[AccountSettings, ...]:
    """The accounts to trade for: those of `ACCOUNTS_FILE`, else `primary`.

    Raises `SettingsError`, also where a broker's credentials are missing.
    """
    try:
        if settings.accounts_file is None:
            entries = {PRIMARY: _primary(settings)}
        else:
            entries = read_entries(Path(settings.accounts_file))
        accounts = tuple(
            _account(name, entry, settings, environment) for name, entry in entries.items()
        )
        for account in accounts:
            check_limits(account, settings.absence_horizon_seconds)
    except AccountError as error:
        raise SettingsError(str(error)) from None
    _check_files(settings, accounts)
    return accounts


def _primary(settings: Settings) -> AccountEntry:
    return AccountEntry(
        broker=settings.broker,
        api_key_env="KITE_API_KEY",
        api_secret_env="KITE_API_SECRET",  # noqa: S106  # a name
        access_token_env="KITE_ACCESS_TOKEN",  # noqa: S106  # a name
    )


def _account(
    account_id: str, entry: AccountEntry, settings: Settings, environment: Mapping[str, str]
) -> AccountSettings:
    """An account: its own settings, and those of all for the rest."""
    at: KiteSettings | PaperSettings
    if entry.broker == "kite":
        token_file = entry.token_file or settings.beside_database(f"kite-{account_id}.token")
        at = kite_settings(
            account_id=account_id,
            environment=environment,
            key_env=entry.api_key_env,
            secret_env=entry.api_secret_env,
            token_env=entry.access_token_env,
            root_url=entry.root_url or settings.kite_root_url,
            ticker_url=entry.ticker_url or settings.kite_ticker_url,
            token_file=Path(token_file),
        )
    else:
        book = settings.beside_database(f"{account_id}.paper.db")
        if account_id == PRIMARY:
            book = settings.paper_path  # the one it has had without ACCOUNTS_FILE
        at = PaperSettings(
            file=book if entry.paper_file is None else Path(entry.paper_file),
            funds=entry.paper_funds or settings.paper_funds,
            seed=settings.paper_seed,
        )
    limits = Limits(
        _own(entry.orders_per_second, settings.orders_per_second),
        _own(entry.orders_per_minute, settings.orders_per_minute),
        _own(entry.orders_per_day, settings.orders_per_day),
    )
    risk = RiskLimits(
        max_quantity=entry.max_order_quantity or settings.risk.max_quantity,
        max_value=entry.max_order_value or settings.risk.max_value,
        exchanges=entry.allowed_exchanges or settings.risk.exchanges,
        products=entry.allowed_products or settings.risk.products,
        price_band=entry.price_band_percent or settings.risk.price_band,
        orders_a_day=entry.max_orders_a_day or settings.risk.orders_a_day,
    )
    return AccountSettings(account_id=account_id, at=at, limits=limits, risk=risk)


def _own(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_files(settings: Settings, accounts: tuple[AccountSettings, ...]) -> None:
    """Two accounts in one file would trade as one; a token would overwrite what it lands on."""
    seen: dict[Path, str] = {}
    if settings.postgres is None:
        seen[settings.database_file.resolve()] = "DATABASE_URL"
    if settings.accounts_file is not None:
        seen[Path(settings.accounts_file).resolve()] = "ACCOUNTS_FILE"
    for account in accounts:
        at = account.at
        path = (at.file if isinstance(at, PaperSettings) else at.token_file).resolve()
        if path in seen:
            raise SettingsError(
                f"Account {account.account_id} must not share the file {path} with {seen[path]}."
            )
        seen[path] = f"account {account.account_id}"


_WORDS = frozenset({"log_level", "log_format"})
"""Settings in which capitals mean nothing."""
_SECRET = frozenset(
    {"api_key", "database_url", "kite_api_key", "kite_api_secret", "kite_access_token"}
)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check(settings: Settings) -> None:
    """Rules across settings."""
    _check_database(settings)
    _check_doors(settings)
    _check_schedule(settings)


def _check_doors(settings: Settings) -> None:
    """Keys, names, origins and networks that could never match are mistakes."""
    if settings.api_key is not None and not _KEY.fullmatch(settings.api_key):
        raise SettingsError(
            f"Setting API_KEY must be at least {MIN_KEY_LENGTH} printable ASCII characters "
            "without spaces."
        )
    for host in settings.allowed_hosts:
        if not _HOST.fullmatch(host):
            raise SettingsError(f"Setting ALLOWED_HOSTS takes names without a port, not {host!r}.")
    for origin in settings.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"Setting ALLOWED_ORIGINS takes origins like https://desk.example.com, "
                f"not {origin!r}."
            )
    try:
        _ = settings.proxies  # making them is the check
    except ValueError as error:
        raise SettingsError(
            f"Setting TRUSTED_PROXIES takes addresses and networks like 10.0.0.0/8, not '{error}'."
        ) from None
    if not settings.loopback and settings.api_key is None and not settings.allow_no_key:
        message = (
            f"HOST={settings.host} can be reached from other machines, so API_KEY must be set "
            "(or ALLOW_NO_KEY=1, if something else guards the door)."
        )
        raise SettingsError(message)


def _check_schedule(settings: Settings) -> None:
    try:
        zone(settings.tz)
    except (KeyError, ValueError, OSError):  # unknown; not a name; a folder of names
        raise SettingsError(
            f"Setting TZ must name a time zone like Asia/Kolkata (it is {settings.tz!r})."
        ) from None
    try:
        _ = settings.cleanup_schedule  # making it is the check
    except ValueError as error:
        raise SettingsError(
            f"Setting TASK_CLEANUP_SCHEDULE {error} (it is {settings.task_cleanup_schedule!r})."
        ) from None


MIN_KEY_LENGTH = 16
"""Characters; a shorter key can be guessed."""
_KEY = re.compile(rf"[!-~]{{{MIN_KEY_LENGTH},}}")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_ORIGIN = re.compile(r"https?://[^/\s@?#]+")


def _check_database(settings: Settings) -> None:
    url = settings.database_url
    judge = database.postgres if database.is_postgres(url) else database.sqlite
    try:
        judge(url)
    except ValueError as error:
        raise SettingsError(f"Setting DATABASE_URL {error}.") from None
    if settings.postgres is not None:
        return
    if settings.paper_path.resolve() == settings.database_file.resolve():
        raise SettingsError("Setting PAPER_FILE must not name the file of DATABASE_URL.")
