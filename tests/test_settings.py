"""The environment: decoded once, strictly; a wrong value stops the start with a sentence."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from ticker_actors.model.limits import Limits
from ticker_actors.model.retention import Retention
from ticker_actors.settings import Settings, SettingsError, load

KEY = "0123456789abcdef"


def test_nothing_needs_to_be_set() -> None:
    """The documented defaults: loopback, SQLite, paper."""
    settings = load({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.broker) == ("127.0.0.1", 8080, "paper")
    assert settings.database_file == Path("data/ticker.db")
    assert settings.paper_path == Path("data/ticker.paper.db")
    assert settings.limits == Limits(8, 400, 5000)
    assert (settings.absence_horizon_seconds, settings.batch_answer_seconds) == (120.0, 25.0)
    assert (settings.max_order_quantity, settings.task_max_attempts) == (1_000_000, 5)


def test_values_are_read_as_what_they_mean() -> None:
    """Text is all that an environment has; spaces around it and other names do not count."""
    settings = load(
        {
            "PORT": " 9000 ",
            "ABSENCE_HORIZON_SECONDS": "2.5",
            "ALLOW_NO_KEY": "true",
            "WEBHOOK_ALLOW_PRIVATE": "0",
            "ALLOWED_ORIGINS": "https://a.example, https://b.example,",
            "API_KEY": KEY,
            "ORDERS_PER_SECOND": "0",
            "LOG_LEVEL": "",
            "PATH": "/bin",
            "host": "ignored",
        }
    )
    assert (settings.port, settings.absence_horizon_seconds) == (9000, 2.5)
    assert (settings.allow_no_key, settings.private_webhooks) == (True, False)
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.limits.per_second == 0
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    "name, value",
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "80.5"),
        ("BROKER", "zerodha"),
        ("BROKER", "Paper"),
        ("TASK_MAX_ATTEMPTS", "0"),
        ("TASK_MAX_ATTEMPTS", "101"),
        ("TASK_RETENTION_DAYS", "0"),
        ("TASK_RETENTION_DAYS", "7.5"),
        ("TASK_RETENTION_DAYS", "99999999"),
        ("EVENT_RETENTION_COUNT", "-1"),
        ("EVENT_RETENTION_COUNT", "many"),
        ("TASK_CLEANUP_SCHEDULE", "daily"),
        ("TASK_CLEANUP_SCHEDULE", "0 25 * * *"),
        ("TASK_CLEANUP_SCHEDULE", "0 2 30 2 *"),
        ("TZ", "India"),
        ("TZ", "Asia"),
        ("TZ", "../etc/passwd"),
        ("TZ", "IST-5:30"),
        ("ORDERS_PER_SECOND", "-1"),
        ("MAX_ORDER_QUANTITY", "0"),
        ("PAPER_FUNDS", "99999999999999999999999999"),
        ("ABSENCE_HORIZON_SECONDS", "0"),
        ("ABSENCE_HORIZON_SECONDS", "nan"),
        ("ABSENCE_HORIZON_SECONDS", "inf"),
        ("BATCH_ANSWER_SECONDS", "soon"),
        ("ALLOW_NO_KEY", "yes please"),
        ("WEBHOOK_ALLOW_PRIVATE", "2"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("API_KEY", "short"),
        ("API_KEY", "with spaces, and no header takes them so"),
        ("API_KEY", "ключключключключ"),
        ("ALLOWED_HOSTS", "desk.example:8080"),
        ("ALLOWED_HOSTS", "https://desk.example"),
        ("ALLOWED_ORIGINS", "https://desk.example/"),
        ("ALLOWED_ORIGINS", "desk.example"),
        ("TRUSTED_PROXIES", "proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.1/8"),
        ("TRUSTED_PROXIES", "*"),
        ("DATABASE_URL", "mysql://user:pass@host/db"),
        ("DATABASE_URL", "postgresql://user:pass@host"),
        ("DATABASE_URL", "postgresql://user:pass@host/"),
        ("DATABASE_URL", "postgresql://user:pass@host/a/b"),
        ("DATABASE_URL", "postgresql://user:pass@host:x/db"),
        ("DATABASE_URL", "postgresql://user:pass@host/db?port=x"),
        ("DATABASE_URL", "postgresql://user:pass@[host/db"),
        ("DATABASE_URL", "postgresql://user:pass@host/db?options=-c%20fsync%3Doff"),
        ("DATABASE_URL", "postgresql://user:pass@host/db?sslmode=maybe"),
        ("DATABASE_URL", "data/ticker.db"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:////"),
        ("DATABASE_URL", "sqlite:///."),
        ("DATABASE_URL", "sqlite:///.."),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:///x.db?mode=ro"),
        ("PAPER_FILE", "data/../data/ticker.db"),
    ],
)
def test_a_wrong_value_stops_the_start_and_is_named(name: str, value: str) -> None:
    """One sentence, with the setting's name."""
    with pytest.raises(SettingsError) as info:
        load({name: value})
    message = str(info.value)
    assert name in message
    assert message.endswith(".")
    assert "\n" not in message


def test_secrets_are_not_in_the_sentence() -> None:
    """It goes to logs."""
    for environment in (
        {"DATABASE_URL": "postgresql://user:hunter2@host/db?unknown=hunter2"},
        {"DATABASE_URL": "mysql://user:hunter2@host/db"},
        {"DATABASE_URL": "host=db user=user password=hunter2"},
        {"API_KEY": "hunter2"},
    ):
        with pytest.raises(SettingsError) as info:
            load(environment)
        assert "hunter2" not in str(info.value)


def test_the_nightly_cleanup_is_at_two_in_india() -> None:
    """A week is kept, and 100 000 events of an account; TZ moves the hour."""
    noon = datetime(2025, 11, 20, 12, tzinfo=UTC)
    assert load({}).retention == Retention(7, 100_000)
    assert load({"EVENT_RETENTION_COUNT": "0"}).retention == Retention(7, 0)
    for zone, hour in ((None, "20:30"), ("UTC", "02:00"), ("America/New_York", "07:00")):
        schedule = load({} if zone is None else {"TZ": zone}).cleanup_schedule
        assert f"{schedule.after(noon):%H:%M}" == hour


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    """And webhooks may go to this machine, as a first try needs."""
    settings = load({"HOST": host})
    assert settings.loopback
    assert settings.private_webhooks


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "[::1]"])  # noqa: S104
def test_another_host_needs_a_key_or_a_word(host: str) -> None:
    """An order service that everybody can reach is a mistake."""
    with pytest.raises(SettingsError, match="API_KEY"):
        load({"HOST": host})
    assert not load({"HOST": host, "API_KEY": KEY}).private_webhooks
    assert load({"HOST": host, "ALLOW_NO_KEY": "1"}).allow_no_key


@pytest.mark.parametrize(
    "url, database, paper",
    [
        ("sqlite:///a.db", "a.db", "a.paper.db"),
        ("sqlite:////var/lib/a.db", "/var/lib/a.db", "/var/lib/a.paper.db"),
        ("sqlite:///a", "a", "a.paper.db"),
        ("sqlite:///a.paper.db", "a.paper.db", "a.paper.paper.db"),
    ],
)
def test_the_files_are_where_the_url_says(url: str, database: str, paper: str) -> None:
    """Three slashes and a relative path, four and an absolute one; the paper book beside it."""
    settings = load({"DATABASE_URL": url})
    assert (settings.database_file, settings.paper_path) == (Path(database), Path(paper))
    assert load({"DATABASE_URL": url, "PAPER_FILE": "b.db"}).paper_path == Path("b.db")


@pytest.mark.parametrize(
    "url, shown",
    [
        ("postgresql://user:hunter2@host/db", "postgresql://user@host:5432/db"),
        ("postgres://user:hunter2@host:1/db", "postgresql://user@host:1/db"),
        ("postgresql+asyncpg://user:hunter2@[::1]/db", "postgresql://user@[::1]:5432/db"),
        ("POSTGRES+psycopg://host/db", "postgresql://host:5432/db"),
        ("postgresql://u%40x:hunt%2Fer2@host/d%20b", "postgresql://u@x@host:5432/d b"),
        (
            "postgresql://user@host/db?host=/run/pg&sslmode=disable",
            "postgresql://user@/run/pg:5432/db",
        ),
        ("postgresql:///db?user=a&password=hunter2&port=7", "postgresql://a@:7/db"),
    ],
)
def test_postgresql_urls_are_understood_and_shown_without_the_password(
    url: str, shown: str
) -> None:
    """Any usual spelling; a host in the parameters wins. The paper book has a file of its own."""
    settings = load({"DATABASE_URL": url})
    assert settings.database == shown
    assert "hunter2" not in repr(settings.postgres)
    assert settings.paper_path == Path("data/paper.db")


def test_passwords_are_decoded() -> None:
    """A URL cannot hold every character as it is."""
    address = load({"DATABASE_URL": "postgresql://u:p%40%2Fss@h/d"}).postgres
    assert address is not None
    assert address.password == "p@/ss"
    assert load({}).postgres is None


def test_trusted_proxies_are_addresses_and_networks() -> None:
    """With commas, of both families; by default nobody is trusted."""
    assert load({}).proxies == ()
    found = load({"TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7,::1"}).proxies
    assert [str(network) for network in found] == ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]


def test_settings_are_frozen() -> None:
    """What was checked stays what it was."""
    with pytest.raises(AttributeError):
        load({}).port = 1  # type: ignore[misc]  # that is the point
    assert msgspec.structs.asdict(load({}))
