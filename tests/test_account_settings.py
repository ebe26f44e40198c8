"""The accounts of a service: `primary` from the environment, or several from `ACCOUNTS_FILE`."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ticker_actors.account_settings import (
    KITE_ROOT_URL,
    AccountSettings,
    KiteSettings,
    PaperSettings,
)
from ticker_actors.model.limits import Limits
from ticker_actors.model.risk import RiskLimits
from ticker_actors.settings import SettingsError, load, load_accounts

KITE = {"BROKER": "kite", "KITE_API_KEY": "hunter2key"}
ENTRY = 'broker = "kite"\napi_key_env = "THE_KEY"\n'
SECRETS = {
    "THE_KEY": "hunter2key",
    "THE_SECRET": "hunter2secret",
    "THE_TOKEN": "hunter2token",
}


def accounts_of(environment: Mapping[str, str]) -> dict[str, AccountSettings]:
    """The accounts by name."""
    accounts = load_accounts(load(environment), environment)
    return {account.account_id: account for account in accounts}


def refusal(environment: Mapping[str, str]) -> str:
    """The sentence with which they are refused."""
    with pytest.raises(SettingsError) as info:
        accounts_of(environment)
    message = str(info.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "hunter2" not in message
    return message


def written(folder: Path, content: str | bytes) -> dict[str, str]:
    """An environment with this accounts file."""
    path = folder / "accounts.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {**SECRETS, "ACCOUNTS_FILE": str(path)}


def test_one_paper_account_by_default() -> None:
    """Nothing set: `primary` on paper, beside the database."""
    (account,) = load_accounts(load({}), {})
    assert (account.account_id, account.broker) == ("primary", "paper")
    assert account.at == PaperSettings(file=Path("data/ticker.paper.db"), funds=10**9, seed=1)
    assert account.limits == Limits(8, 400, 5000)
    assert account.risk == RiskLimits()


def test_kite_for_the_primary_account() -> None:
    """BROKER=kite and its credentials; the checks hold for it as well."""
    environment = {
        **KITE,
        "KITE_API_SECRET": " hunter2secret ",
        "KITE_ACCESS_TOKEN": "hunter2token",
        "DATABASE_URL": "sqlite:////var/lib/t/ticker.db",
        "MAX_ORDER_VALUE": "100000",
        "ALLOWED_EXCHANGES": "NSE, BSE",
        "ALLOWED_PRODUCTS": "CNC",
        "PRICE_BAND_PERCENT": "5",
        "MAX_ORDERS_A_DAY": "50",
        "ORDERS_PER_SECOND": "3",
    }
    account = accounts_of(environment)["primary"]
    at = account.at
    assert isinstance(at, KiteSettings)
    assert (at.api_key, at.api_secret, at.access_token) == (
        "hunter2key",
        "hunter2secret",
        "hunter2token",
    )
    assert at.root_url == KITE_ROOT_URL
    assert at.token_file == Path("/var/lib/t/kite-primary.token")
    assert account.limits.per_second == 3
    assert account.risk == RiskLimits(
        max_value=100_000.0,
        exchanges=("NSE", "BSE"),
        products=("CNC",),
        price_band=5.0,
        orders_a_day=50,
    )


def test_several_accounts(tmp_path: Path) -> None:
    """Each has its own broker, credentials and limits, and the environment's for the rest."""
    text = f"""
        [family]
        {ENTRY}
        api_secret_env = "THE_SECRET"
        access_token_env = "THE_TOKEN"
        root_url = "https://kite.example/oms?user=1"
        ticker_url = "wss://ticker.example/x"
        token_file = "family.token"
        orders_per_second = 2
        max_order_value = 1000
        allowed_exchanges = ["NSE"]

        [primary]
        broker = "paper"
        paper_funds = 5
        max_order_quantity = 10
    """
    environment = {**written(tmp_path, text), "ORDERS_PER_DAY": "7", "MAX_ORDERS_A_DAY": "3"}
    found = accounts_of(environment)
    assert list(found) == ["family", "primary"]
    family, primary = found["family"], found["primary"]
    assert family.at == KiteSettings(
        api_key="hunter2key",
        api_secret="hunter2secret",
        access_token="hunter2token",
        root_url="https://kite.example/oms?user=1",
        ticker_url="wss://ticker.example/x",
        token_file=Path("family.token"),
    )
    assert family.limits == Limits(2, 400, 7)
    assert family.risk == RiskLimits(max_value=1000.0, exchanges=("NSE",), orders_a_day=3)
    assert primary.at == PaperSettings(file=Path("data/ticker.paper.db"), funds=5, seed=1)
    assert primary.limits == Limits(8, 400, 7)
    assert primary.risk == RiskLimits(max_quantity=10, orders_a_day=3)


def test_primary_keeps_its_paper_book(tmp_path: Path) -> None:
    """Who adds an ACCOUNTS_FILE later finds the orders of `primary` where they were."""
    environment = written(tmp_path, "[primary]\nbroker = 'paper'\n[b]\nbroker = 'paper'")
    for more in ({}, {"PAPER_FILE": "mine.db"}):
        found = accounts_of({**environment, **more})
        assert found["primary"].at == load_accounts(load(more), more)[0].at
        assert found["b"].at == PaperSettings(file=Path("data/b.paper.db"), funds=10**9, seed=1)


def test_urls_of_all_accounts_come_from_the_environment(tmp_path: Path) -> None:
    """One sandbox for all of them is named once."""
    environment = {
        **written(tmp_path, f"[a]\n{ENTRY}[b]\n{ENTRY}root_url = 'https://b.example'"),
        "KITE_ROOT_URL": "http://127.0.0.1:8090/oms",
        "KITE_TICKER_URL": "ws://localhost:8090/ws",
    }
    roots = [
        account.at.root_url
        for account in accounts_of(environment).values()
        if isinstance(account.at, KiteSettings)
    ]
    assert roots == ["http://127.0.0.1:8090/oms", "https://b.example"]


@pytest.mark.parametrize(
    "content, named",
    [
        ("", "must name 1 to 100 accounts"),
        ("".join(f"[a{number}]\nbroker = 'paper'\n" for number in range(101)), "1 to 100"),
        ("primary = 1", "primary must be an object"),
        ("broker = 'paper'", "broker must be an object"),
        ("[[primary]]\nbroker = 'paper'", "primary must be an object"),
        ("[primary]", "primary.broker is required"),
        ("[primary]\nbroker = 'papr'", "primary.broker must be one of paper, kite"),
        ("[primary]\nbroker = 'Kite'", "primary.broker must be one of"),
        ("[primary]\nbroker = 'paper'\napi_key = 'hunter2'", "primary.api_key is not a known"),
        ("[primary]\nbroker = 'paper'\nORDERS_PER_DAY = 1", "primary.ORDERS_PER_DAY is not"),
        ("['']\nbroker = 'paper'", "1 to 64 letters"),
        ("['a b']\nbroker = 'paper'", "1 to 64 letters"),
        ("['../x']\nbroker = 'paper'", "1 to 64 letters"),
        ('["a\\n"]\nbroker = "paper"', "1 to 64 letters"),
        (f"[{'a' * 65}]\nbroker = 'paper'", "1 to 64 letters"),
        ("[a.b]\nbroker = 'paper'", "a.broker is required"),
        ("[primary]\nbroker = 'paper'\norders_per_day = '5'", "primary.orders_per_day must be"),
        ("[primary]\nbroker = 'paper'\norders_per_day = -1", "primary.orders_per_day must be"),
        ("[primary]\nbroker = 'paper'\norders_per_day = 1.5", "primary.orders_per_day must be"),
        ("[primary]\nbroker = 'paper'\nmax_order_value = nan", "primary.max_order_value must"),
        ("[primary]\nbroker = 'paper'\nmax_order_value = 2025-01-01", "primary.max_order_value"),
        ("[primary]\nbroker = 'paper'\nmax_order_quantity = 0", "primary.max_order_quantity"),
        ("[primary]\nbroker = 'paper'\nprice_band_percent = 101", "primary.price_band_percent"),
        ("[primary]\nbroker = 'paper'\nallowed_exchanges = []", "primary.allowed_exchanges"),
        ("[primary]\nbroker = 'paper'\nallowed_exchanges = ['NYSE']", "primary.allowed_exchanges"),
        ("[primary]\nbroker = 'paper'\nallowed_products = 'CNC'", "primary.allowed_products"),
        ("[primary]\nbroker = 'paper'\npaper_funds = true", "primary.paper_funds must be"),
        ("[primary]\nbroker = 'paper'\nx = 1\norders_per_day = ''", "orders_per_day must"),
        ("[primary", "is no TOML"),
        ("[primary]\nbroker = 'paper'\nbroker = 'kite'", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"[primary]\nbroker = 'paper'\0", "is no TOML"),
        ("[primary]\nbroker = 'kite'", "api_key_env must name the variable"),
        ("[primary]\nbroker = 'kite'\napi_key_env = ''", "api_key_env must be the name"),
        ("[primary]\nbroker = 'kite'\napi_key_env = 'hunter2key'", "api_key_env must be the name"),
        ("[primary]\nbroker = 'kite'\napi_key_env = 'NOT_THERE'", "NOT_THERE must be set"),
        (f"[a]\n{ENTRY}api_secret_env = 'hunter2'", "api_secret_env must be the name"),
        (f"[a]\n{ENTRY}access_token_env = 'hunter2 x'", "access_token_env must be the name"),
        (f"[a]\n{ENTRY}orders_per_minute = 0", "ORDERS_PER_MINUTE must be 1 to 400"),
        (f"[a]\n{ENTRY}root_url = 'http://hunter2:hunter2@127.0.0.1/'", "root_url"),
        (f"[a]\n{ENTRY}ticker_url = 'ws://ticker.example'", "ticker_url"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 45 else "",
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str | bytes, named: str) -> None:
    """One sentence says which account and which setting, and repeats nothing secret."""
    message = refusal(written(tmp_path, content))
    assert named in message


def test_every_mistake_of_an_account_is_named_at_once(tmp_path: Path) -> None:
    """Nobody wants to start five times for five mistakes."""
    text = "[a]\nbroker = 'x'\nfoo = 1\norders_per_day = 'x'\nallowed_products = ['CNC', 'X']"
    message = refusal(written(tmp_path, text))
    for name in ("a.broker", "a.foo", "a.orders_per_day", "a.allowed_products"):
        assert name in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Not there, or a folder: the sentence has the system's own words."""
    assert "No such file" in refusal({"ACCOUNTS_FILE": str(tmp_path / "none.toml")})
    assert "Is a directory" in refusal({"ACCOUNTS_FILE": str(tmp_path)})


@pytest.mark.parametrize(
    "text, named",
    [
        (
            "[a]\nbroker='paper'\npaper_file='x.db'\n[b]\nbroker='paper'\npaper_file='y/../x.db'",
            "account a",
        ),
        (f"[a]\n{ENTRY}token_file='x'\n[b]\n{ENTRY}token_file='./x'", "account a"),
        (f"[a]\nbroker='paper'\npaper_file='x'\n[b]\n{ENTRY}token_file='x'", "account a"),
        ("[a]\nbroker='paper'\npaper_file='data/ticker.db'", "DATABASE_URL"),
        (f"[a]\n{ENTRY}token_file='data/ticker.db'", "DATABASE_URL"),
        (f"[a]\n{ENTRY}token_file='FILE'", "ACCOUNTS_FILE"),
    ],
    ids=["two books", "two tokens", "book and token", "database", "token", "accounts"],
)
def test_no_file_has_two_uses(tmp_path: Path, text: str, named: str) -> None:
    """Two accounts in one book would trade as one, and a token would overwrite a database."""
    text = text.replace("FILE", str(tmp_path / "accounts.toml"))
    message = refusal(written(tmp_path, text))
    assert "must not share the file" in message
    assert named in message


@pytest.mark.parametrize(
    "name, value",
    [
        ("KITE_ROOT_URL", "http://api.kite.trade"),
        ("KITE_ROOT_URL", "http://10.0.0.1:8090"),
        ("KITE_ROOT_URL", "http://127.0.0.1.example.com"),
        ("KITE_ROOT_URL", "http://localhost.example.com"),
        ("KITE_ROOT_URL", "http://0.0.0.0"),
        ("KITE_ROOT_URL", "ws://127.0.0.1"),
        ("KITE_ROOT_URL", "ftp://127.0.0.1"),
        ("KITE_ROOT_URL", "api.kite.trade"),
        ("KITE_ROOT_URL", "https://"),
        ("KITE_ROOT_URL", "https://:443"),
        ("KITE_ROOT_URL", "https://host:port"),
        ("KITE_ROOT_URL", "https://host:65536"),
        ("KITE_ROOT_URL", "https://[::1"),
        ("KITE_ROOT_URL", "https://me:hunter2@host"),
        ("KITE_ROOT_URL", "https://host/#hunter2"),
        ("KITE_ROOT_URL", "https://höst"),
        ("KITE_ROOT_URL", "https://host/a b"),
        ("KITE_TICKER_URL", "ws://ws.kite.trade"),
        ("KITE_TICKER_URL", "https://ws.kite.trade"),
        ("KITE_TICKER_URL", "wss://me:hunter2@host"),
        ("KITE_TICKER_URL", "wss://host/?api_key=hunter2#x"),
    ],
)
def test_wrong_urls(name: str, value: str) -> None:
    """Wrong schemes, no host, a password in it, or a token that would travel in clear."""
    assert name in refusal({**KITE, name: value})


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost", "[::1]:1", "127.9.9.9"])
def test_loopback_needs_no_encryption_and_no_limits(host: str) -> None:
    """A sandbox on this machine may be plain, and nobody counts there."""
    environment = {
        **KITE,
        "KITE_ROOT_URL": f"http://{host}/oms?x=1",
        "KITE_TICKER_URL": f"ws://{host}/ticker",
        "ORDERS_PER_SECOND": "0",
        "ORDERS_PER_MINUTE": "0",
        "ORDERS_PER_DAY": "0",
    }
    assert accounts_of(environment)["primary"].limits == Limits(0, 0, 0)


@pytest.mark.parametrize("name", ["ORDERS_PER_SECOND", "ORDERS_PER_MINUTE", "ORDERS_PER_DAY"])
def test_kite_without_limits_is_refused(name: str) -> None:
    """Kite counts requests, so somebody must; on paper nobody does."""
    assert name in refusal({**KITE, name: "0"})
    assert accounts_of({name: "0"})["primary"].broker == "paper"


@pytest.mark.parametrize(
    "environment, named",
    [
        ({"BROKER": "kite"}, "KITE_API_KEY must be set"),
        ({"BROKER": "kite", "KITE_API_KEY": "  "}, "KITE_API_KEY must be set"),
        ({"BROKER": "kite", "KITE_API_KEY": "hunter2 x"}, "KITE_API_KEY must be printable"),
        ({**KITE, "KITE_API_SECRET": "hunter2ключ"}, "KITE_API_SECRET must be printable"),
        ({**KITE, "KITE_ACCESS_TOKEN": "hunter2\nx"}, "KITE_ACCESS_TOKEN must be printable"),
    ],
    ids=["no key", "blank key", "space", "not ASCII", "new line"],
)
def test_credentials_that_are_none(environment: dict[str, str], named: str) -> None:
    """What no header can hold would be refused by Kite for ever, in words that help nobody."""
    assert named in refusal(environment)


@pytest.mark.parametrize(
    "name, value",
    [
        ("MAX_ORDER_VALUE", "0"),
        ("MAX_ORDER_VALUE", "nan"),
        ("ALLOWED_EXCHANGES", "NSE,NYSE"),
        ("ALLOWED_EXCHANGES", "nse"),
        ("ALLOWED_PRODUCTS", "CNC;MIS"),
        ("PRICE_BAND_PERCENT", "-5"),
        ("PRICE_BAND_PERCENT", "5%"),
        ("MAX_ORDERS_A_DAY", "0"),
        ("MAX_ORDERS_A_DAY", "many"),
    ],
)
def test_wrong_limits(name: str, value: str) -> None:
    """A limit that is none stops the start; it is never taken for no limit."""
    assert name in refusal({name: value})


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Settings may land in a log or a traceback; what they hold may not."""
    text = f"""[a]\n{ENTRY}
        api_secret_env = "THE_SECRET"
        access_token_env = "THE_TOKEN"
        root_url = "https://kite.example/oms?password=hunter2"
    """
    environment = {
        **written(tmp_path, text),
        "API_KEY": "hunter2hunter2hunter2",
        "DATABASE_URL": "postgresql://user:hunter2@host/db",
        "KITE_API_SECRET": "hunter2",
    }
    settings = load(environment)
    accounts = load_accounts(settings, environment)
    shown = f"{settings!r} {settings} {accounts!r} {accounts[0].at}"
    assert "hunter2" not in shown
    assert "kite.example" in shown


@pytest.mark.parametrize(
    "name, value, named",
    [
        ("ORDERS_PER_SECOND", "11", "ORDERS_PER_SECOND must be 1 to 10"),
        ("ORDERS_PER_MINUTE", "401", "ORDERS_PER_MINUTE must be 1 to 400"),
        ("ORDERS_PER_DAY", "5001", "ORDERS_PER_DAY must be 1 to 5000"),
        ("ABSENCE_HORIZON_SECONDS", "89", "ABSENCE_HORIZON_SECONDS must be at least 90"),
        ("MAX_ORDER_VALUE", "inf", "MAX_ORDER_VALUE"),
    ],
)
def test_what_real_money_does_not_allow(name: str, value: str, named: str) -> None:
    """A limit above Kite's is none; an order was seen to come 83 s late."""
    assert named in refusal({**KITE, name: value})
