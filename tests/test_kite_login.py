"""Logging in at Kite: the token file, the exchange, and a running session."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.receiver import listening, read_request
from tests.seller import BOUGHT, KEY, REQUEST, SECRET, Seller, said
from ticker_actors.account_settings import KiteSettings
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.login import (
    KeptToken,
    TokenFile,
    exchanged,
    last_flush,
    login_url,
)
from ticker_actors.brokers.kite.opening import TOKEN_LOOK_SECONDS, Login
from ticker_actors.brokers.kite.root import Root
from ticker_actors.brokers.kite.session import Session
from ticker_actors.model.calendar import IST
from ticker_actors.model.outcomes import LoginRefused, LoginToken

NOON = datetime(2025, 11, 20, 12, tzinfo=IST)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the token is kept, in a folder that is not there yet."""
    return tmp_path / "data" / "kite-primary.token"


# The token file


def test_a_token_is_kept_for_the_day(kept: Path) -> None:
    """What was written is read until 06:00 IST of the next day."""
    file = TokenFile(kept)
    assert file.read(NOON) is None
    file.write(BOUGHT, "AB1234", NOON)
    assert file.read(NOON) == BOUGHT
    assert file.read(NOON + timedelta(hours=17, minutes=59)) == BOUGHT
    assert file.read(NOON + timedelta(hours=18)) is None
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize(
    "now, flush",
    [
        (datetime(2025, 11, 20, 5, 59, tzinfo=IST), datetime(2025, 11, 19, 6, tzinfo=IST)),
        (datetime(2025, 11, 20, 6, 0, tzinfo=IST), datetime(2025, 11, 20, 6, tzinfo=IST)),
        (datetime(2025, 11, 20, 0, 29, tzinfo=UTC), datetime(2025, 11, 19, 6, tzinfo=IST)),
        (datetime(2025, 11, 20, 0, 30, tzinfo=UTC), datetime(2025, 11, 20, 6, tzinfo=IST)),
        (datetime(2026, 1, 1, 0, 0, tzinfo=IST), datetime(2025, 12, 31, 6, tzinfo=IST)),
    ],
    ids=str,
)
def test_tokens_die_at_six_in_india(now: datetime, flush: datetime) -> None:
    """Wherever the machine is."""
    assert last_flush(now) == flush


def test_nobody_else_may_read_it_from_the_first_byte_on(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode is 0600 when the first byte is written, under any umask; a rename makes it whole."""
    modes: list[tuple[str, int]] = []
    write = os.write

    def watched(file: int, data: bytes) -> int:
        modes.append(
            (str(Path(f"/proc/self/fd/{file}").readlink()), os.fstat(file).st_mode & 0o777)
        )
        return write(file, data)

    before = os.umask(0)
    try:
        monkeypatch.setattr(os, "write", watched)
        TokenFile(kept).write(BOUGHT, "AB1234", NOON)
    finally:
        os.umask(before)
    ((name, mode),) = modes
    assert (name.startswith(f"{kept}."), mode) == (True, 0o600)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_token(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or not at all; the next write finds its way past what was left."""
    file = TokenFile(kept)
    file.write("old", None, NOON)

    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            file.write("new", None, NOON)
    assert file.read(NOON) == "old"
    file.write("new", None, NOON)
    assert file.read(NOON) == "new"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_open_is_ignored(kept: Path, mode: int) -> None:
    """Somebody else may have taken the token, or put another one there."""
    file = TokenFile(kept)
    file.write(BOUGHT, None, NOON)
    kept.chmod(mode)
    assert file.read(NOON) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"token",
        b"\xff\xfe\0",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"access_token":"x","user_id":null}',
        b'{"access_token":1,"user_id":null,"logged_in_at":"2025-11-20T12:00:00+05:30"}',
        b'{"access_token":"x","user_id":null,"logged_in_at":"2025-11-20T12:00:00"}',
        b'{"access_token":"x","user_id":null,"logged_in_at":"yesterday"}',
    ],
    ids=lambda content: str(content[:24]),
)
def test_a_token_file_of_garbage_is_none(kept: Path, content: bytes) -> None:
    """It is as if it were not there, and says so in the log; the service starts without it."""
    file = TokenFile(kept)
    file.write(BOUGHT, None, NOON)
    kept.write_bytes(content)
    assert file.read(NOON) is None


def test_a_folder_in_its_place(kept: Path) -> None:
    """It cannot be read, which is as if it were not there."""
    kept.mkdir(parents=True)
    assert TokenFile(kept).read(NOON) is None


# The exchange


@asynccontextmanager
async def selling(seller: Seller, query: str = "") -> AsyncGenerator[tuple[Root, HttpClient]]:
    """A client of the seller."""
    async with listening(seller) as port:
        root = Root.parse(f"http://127.0.0.1:{port}{seller.prefix}{query}")
        with closing(HttpClient(root, deadline=2.0)) as http:
            yield root, http


async def test_a_request_token_buys_an_access_token() -> None:
    """Once, under the documented checksum, also below a path and a query of one's own."""
    seller = Seller(prefix="/oms")
    async with selling(seller, "?user=1") as (root, http):
        buy = partial(exchanged, root, http, api_key=KEY, api_secret=SECRET, request_token=REQUEST)
        bought = await buy()
        assert isinstance(bought, KeptToken)
        assert (bought.access_token, bought.user_id) == (BOUGHT, "AB1234")
        assert seller.seen == ["POST /oms/session/token?user=1 HTTP/1.1"]
        again = await buy()
    assert again == LoginRefused(
        "The broker refused the request token: Token is invalid or has expired."
    )


async def test_a_wrong_secret_is_refused() -> None:
    """The checksum tells; the sentence does not repeat the secret."""
    async with selling(Seller()) as (root, http):
        refused = await exchanged(
            root, http, api_key=KEY, api_secret="wrong", request_token=REQUEST
        )
    assert refused == LoginRefused("The broker refused the request token: Invalid `checksum`.")


@pytest.mark.parametrize(
    "text",
    [
        b"<html>502 Bad Gateway</html>",
        b'{"status": "success", "data": {}}',
        b'{"status": "success", "data": null}',
        b'{"status": "success", "data": {"access_token": "", "user_id": "AB1234"}}',
        b'{"status": "success", "data": {"access_token": 5, "user_id": "AB1234"}}',
        b'{"status": "success", "data": {"access_token": "t", "user_id": null}}',
        b"",
    ],
    ids=str,
)
async def test_an_answer_without_a_token(text: bytes) -> None:
    """Nothing is taken for a token that is none."""

    async def odd(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(said(200, text))

    async with listening(odd) as port:
        root = Root.parse(f"http://127.0.0.1:{port}")
        with closing(HttpClient(root, deadline=2.0)) as http:
            refused = await exchanged(
                root, http, api_key=KEY, api_secret=SECRET, request_token=REQUEST
            )
    assert refused == LoginRefused("The broker's answer to the request token was not understood.")


async def test_a_broker_that_is_not_there() -> None:
    """A closed port and a cut connection are told as such."""
    async with listening(lambda stream: stream.aclose()) as port:
        root = Root.parse(f"http://127.0.0.1:{port}")
        with closing(HttpClient(root, deadline=2.0)) as http:
            buy = partial(
                exchanged, root, http, api_key=KEY, api_secret=SECRET, request_token=REQUEST
            )
            cut = await buy()
    with closing(HttpClient(root, deadline=2.0)) as http:
        closed = await exchanged(root, http, api_key=KEY, api_secret=SECRET, request_token=REQUEST)
    for refused in (cut, closed):
        assert isinstance(refused, LoginRefused)
        assert refused.message.startswith("The broker cannot be reached: ")


# A running session


def kite_settings(kept: Path, root_url: str = "http://127.0.0.1:9") -> KiteSettings:
    """An account at Kite."""
    return KiteSettings(api_key=KEY, api_secret=SECRET, root_url=root_url, token_file=kept)


@asynccontextmanager
async def session_at(
    seller: Seller, kept: Path, token: str | None, now: Callable[[], datetime] = lambda: NOON
) -> AsyncGenerator[tuple[Login, Session]]:
    """A session with this token, and what logs it in."""
    async with selling(seller) as (root, http):
        session = Session(KEY, token)
        yield (
            Login("primary", kite_settings(kept), session, root, http, TokenFile(kept), now),
            session,
        )


async def test_a_good_token_is_used_and_kept(kept: Path) -> None:
    """From the next call on, and at the next start."""
    async with session_at(Seller(alive={"new"}), kept, "old") as (login, session):
        assert await login.log_in(LoginToken(access_token="new")) is None
        assert session.access_token == "new"
    assert TokenFile(kept).read(NOON) == "new"


async def test_a_bought_token_is_used_and_kept(kept: Path) -> None:
    """A request token works as well; the broker has just said whose it is."""
    seller = Seller()
    async with session_at(seller, kept, "old") as (login, session):
        assert await login.log_in(LoginToken(request_token=REQUEST)) is None
        assert session.access_token == BOUGHT
    assert TokenFile(kept).read(NOON) == BOUGHT
    assert seller.seen == ["POST /session/token HTTP/1.1"]


@pytest.mark.parametrize(
    "token",
    [LoginToken(access_token="dead"), LoginToken(request_token="spent"), LoginToken()],
    ids=["access", "request", "none"],
)
async def test_a_refused_token_leaves_the_old_one(kept: Path, token: LoginToken) -> None:
    """Not for a moment is a call signed with it: work under way must not be cut off."""
    async with session_at(Seller(alive={"old"}), kept, "old") as (login, session):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def nobody_saw_another() -> None:
                await session.wait_changed("old")
                raise AssertionError

            assert isinstance(await login.log_in(token), LoginRefused)
            nursery.cancel_scope.cancel()
        assert session.access_token == "old"
    assert TokenFile(kept).changed_at() == 0


async def test_a_login_of_somebody_else_is_refused(kept: Path) -> None:
    """Whoever logged in before, however long ago: the account's orders are in that user's book."""
    file = TokenFile(kept)
    file.write("of yesterday", "ZZ9999", NOON - timedelta(days=3))
    async with session_at(Seller(alive={"new"}), kept, "old") as (login, session):
        refused = await login.log_in(LoginToken(access_token="new"))
        assert session.access_token == "old"
        assert isinstance(refused, LoginRefused)
        assert "the login of AB1234, and the account was ZZ9999's" in refused.message
        await trio.Path(kept).unlink()
        assert await login.log_in(LoginToken(access_token="new")) is None
    assert file.refusal("AB1234") is None
    assert file.refusal(None) is None


async def test_a_token_that_cannot_be_kept_is_used(tmp_path: Path) -> None:
    """The login counts until the next start, where it would be asked for again."""
    (tmp_path / "data").write_text("a file where a folder should be")
    kept = tmp_path / "data" / "token"
    async with session_at(Seller(alive={"new"}), kept, None) as (login, session):
        assert await login.log_in(LoginToken(access_token="new")) is None
        assert session.access_token == "new"


async def test_a_client_that_hangs_up_does_not_lose_the_token(kept: Path) -> None:
    """A request token buys once: what it bought is kept, whoever still listens."""

    class HangsUp(Session):
        @property
        def access_token(self) -> str | None:
            return super().access_token

        @access_token.setter
        def access_token(self, token: str | None) -> None:
            Session.access_token.fset(self, token)  # type: ignore[attr-defined]  # a property
            scope.cancel()

    async with selling(Seller()) as (root, http):
        session = HangsUp(KEY, None)
        login = Login(
            "primary", kite_settings(kept), session, root, http, TokenFile(kept), lambda: NOON
        )
        with trio.CancelScope() as scope:
            await login.log_in(LoginToken(request_token=REQUEST))
    assert TokenFile(kept).read(NOON) == BOUGHT


async def test_two_logins_at_once_take_turns(kept: Path) -> None:
    """The last one wins, in the session and in the file alike."""
    async with session_at(Seller(alive={"one", "two"}), kept, None) as (login, session):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(login.log_in, LoginToken(access_token="one"))
            nursery.start_soon(login.log_in, LoginToken(access_token="two"))
        assert session.access_token == TokenFile(kept).read(NOON)


async def test_the_newest_login_wins(kept: Path, autojump_clock: MockClock) -> None:
    """A start takes the file's token before the configured one; a stale one does not count."""
    file = TokenFile(kept)
    root = Root.parse("http://127.0.0.1:9")
    for logged_in_at, token in ((NOON, BOUGHT), (NOON - timedelta(days=1), "configured")):
        file.write(BOUGHT, None, logged_in_at)
        session = Session(KEY, "configured")
        with closing(HttpClient(root)) as http:
            Login("primary", kite_settings(kept), session, root, http, file, lambda: NOON).look()
        assert session.access_token == token


async def test_a_running_session_takes_up_what_the_command_line_wrote(
    kept: Path, autojump_clock: MockClock
) -> None:
    """Within seconds, without a word; a file that is removed or garbage changes nothing."""
    file = TokenFile(kept)
    session = Session(KEY, "old")
    root = Root.parse("http://127.0.0.1:9")
    with closing(HttpClient(root)) as http:
        login = Login("primary", kite_settings(kept), session, root, http, file, lambda: NOON)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(login.follow)
            await trio.sleep(TOKEN_LOOK_SECONDS * 1.5)
            assert session.access_token == "old"
            file.write("new", "AB1234", NOON)
            with trio.fail_after(TOKEN_LOOK_SECONDS * 1.5):
                await session.wait_changed("old")
            assert session.access_token == "new"
            await trio.Path(kept).unlink()
            await trio.sleep(TOKEN_LOOK_SECONDS * 1.5)
            await trio.Path(kept).write_bytes(b"garbage")
            await trio.sleep(TOKEN_LOOK_SECONDS * 1.5)
            assert session.access_token == "new"
            nursery.cancel_scope.cancel()


# Where a person logs in


def test_the_login_page_of_kite() -> None:
    """The official package knows it; it is imported for this alone, and only when it is asked."""
    script = (
        "import sys; from ticker_actors.brokers.kite.login import login_url; "
        "from ticker_actors.account_settings import KITE_ROOT_URL; "
        "import ticker_actors.__main__; "
        "assert not {'kiteconnect', 'twisted'} & set(sys.modules); "
        "print(login_url('a key', KITE_ROOT_URL))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("https://kite.zerodha.com/connect/login?api_key=")
    assert done.stdout.strip().endswith("v=3")


def test_the_login_page_of_a_sandbox() -> None:
    """Under its own root, path and query."""
    assert (
        login_url("k&y", "http://127.0.0.1:8090/oms/?user=1")
        == "http://127.0.0.1:8090/oms/connect/login?user=1&v=3&api_key=k%26y"
    )
    assert login_url("key", "https://[::1]") == "https://[::1]/connect/login?v=3&api_key=key"
