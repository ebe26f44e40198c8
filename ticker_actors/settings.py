"""The environment, decoded once into one frozen object. A wrong value stops the start."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ticker_actors.log import LogFormat, LogLevel
from ticker_actors.model import database
from ticker_actors.model.limits import Limits
from ticker_actors.model.validation import complaint, hints

_Count = Annotated[int, Meta(ge=0)]
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
    broker: Literal["paper"] = "paper"
    """Real orders are never the default and never inferred."""
    paper_file: str | None = None
    """The paper exchange's own book. Default: beside the SQLite file, else `data/paper.db`."""
    paper_funds: Annotated[int, Meta(ge=1, le=10**15)] = 1_000_000_000
    """Rupees: enough that nobody's first order is refused; at most what sums of ticks can hold."""
    paper_seed: int = 1
    """Of the documented price walk."""

    max_order_quantity: _Positive = 1_000_000
    """Units of one order: a slip of three zeros should not reach the exchange."""
    task_max_attempts: Annotated[int, Meta(ge=1, le=100)] = 5
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
    webhook_allow_private: bool | None = None
    """Whether webhooks may go to private addresses. Default: only when bound to loopback."""
    stream_connections_per_account: _Count = 20
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"

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
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def paper_path(self) -> Path:
        """Where the paper exchange keeps its book."""
        if self.paper_file is not None:
            return Path(self.paper_file)
        if self.postgres is not None:
            return Path("data/paper.db")
        return self.database_file.with_suffix(".paper.db")

    @property
    def private_webhooks(self) -> bool:
        """Whether webhooks may go to private addresses."""
        return self.loopback if self.webhook_allow_private is None else self.webhook_allow_private

    @property
    def limits(self) -> Limits:
        """The account's budget at its broker."""
        return Limits(self.orders_per_second, self.orders_per_minute, self.orders_per_day)


def load(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment. An empty variable counts as not set."""
    kinds = hints(Settings)
    given: dict[str, object] = {}
    for name, kind in kinds.items():
        text = environment.get(name.upper(), "").strip()
        if not text:
            continue
        value = _split(text) if kind == tuple[str, ...] else text
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


_WORDS = frozenset({"log_level", "log_format"})
"""Settings in which capitals mean nothing."""
_SECRET = frozenset({"api_key", "database_url"})


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check(settings: Settings) -> None:
    """Rules across settings."""
    _check_database(settings)
    _check_doors(settings)


def _check_doors(settings: Settings) -> None:
    """Keys, names and origins that could never match are mistakes."""
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
    if not settings.loopback and settings.api_key is None and not settings.allow_no_key:
        message = (
            f"HOST={settings.host} can be reached from other machines, so API_KEY must be set "
            "(or ALLOW_NO_KEY=1, if something else guards the door)."
        )
        raise SettingsError(message)


MIN_KEY_LENGTH = 16
"""Characters; a shorter key can be guessed."""
_KEY = re.compile(rf"[!-~]{{{MIN_KEY_LENGTH},}}")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_ORIGIN = re.compile(r"https?://[^/\s@?#]+")


def _check_database(settings: Settings) -> None:
    url = settings.database_url
    if database.is_postgres(url):
        try:
            database.postgres(url)
        except ValueError as error:
            raise SettingsError(f"Setting DATABASE_URL {error}.") from None
        return
    if not url.removeprefix("sqlite:///") or not url.startswith("sqlite:///"):
        scheme = url.split(":", 1)[0]
        raise SettingsError(
            "Setting DATABASE_URL must be sqlite:///file.db or "
            f"postgresql://user:password@host/database, not {scheme}."
        )
    if "?" in url:
        raise SettingsError("Setting DATABASE_URL takes no parameters (after ?) for SQLite.")
    if settings.database_file.name in {"", "..", ":memory:"}:
        # A database in memory would lose what was acknowledged.
        raise SettingsError("Setting DATABASE_URL must name a file: sqlite:///file.db.")
    if settings.paper_path.resolve() == settings.database_file.resolve():
        raise SettingsError("Setting PAPER_FILE must not name the file of DATABASE_URL.")
