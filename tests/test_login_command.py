"""`ticker-actors login`: what a person pastes, the redirect on loopback, and the real process."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.receiver import listening
from tests.seller import BOUGHT, KEY, REQUEST, SECRET, Seller
from ticker_actors.account_settings import AccountSettings, KiteSettings, PaperSettings
from ticker_actors.brokers.kite.login import TokenFile
from ticker_actors.login import DONE, ELSEWHERE, LoginError, caught, login, token_in
from ticker_actors.model.calendar import IST
from ticker_actors.model.limits import Limits
from ticker_actors.model.risk import RiskLimits

NOON = datetime(2025, 11, 20, 12, tzinfo=IST)
SOON = 10.0


# What a person pastes


@pytest.mark.parametrize(
    "text",
    [
        REQUEST,
        f"  {REQUEST}\r\n",
        f"http://127.0.0.1:5000/?request_token={REQUEST}&action=login&status=success",
        f"https://example.com/login?action=login&request_token={REQUEST}#x",
        f"127.0.0.1/?request_token={REQUEST}",
        f"?status=success&request_token={REQUEST}",
    ],
)
def test_a_token_or_the_address_it_came_in(text: str) -> None:
    """Whatever a browser shows can be pasted whole."""
    assert token_in(text) == REQUEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "two words",
        "ключ",
        "a\0b",
        "http://127.0.0.1:5000/",
        "http://127.0.0.1:5000/?status=cancelled",
        "http://127.0.0.1:5000/?request_token=",
        "http://127.0.0.1:5000/?request_token=a%0Ab",
        "http://[127.0.0.1/?request_token=a",
        "https://kite.zerodha.com/connect/login?v=3&api_key=k",
        f"request_token={REQUEST}",
        "x" * 257,
        "�",
    ],
)
def test_what_is_no_token(text: str) -> None:
    """An address without one is not sent to the broker as if it were one."""
    with pytest.raises(LoginError, match="no request token"):
        token_in(text)


# The redirect


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
    return port


class Redirect:
    """`caught` on a port of its own, and a browser."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.token: str | None = None
        self.port = free_port()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.token = await caught("http://kite/login", self.port, self._say(task_status))

    def _say(self, task_status: trio.TaskStatus[None]) -> Callable[[str], object]:
        def say(text: str) -> None:
            self.said.append(text)
            task_status.started()

        return say

    async def open(self) -> trio.SocketStream:
        """A connection to it."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def get(self, target: str) -> bytes:
        """What a browser is answered."""
        return await self.ask(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,*/*;q=0.8\r\n"
            "Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\r\n".encode()
        )

    async def ask(self, request: bytes) -> bytes:
        """Every byte that comes back."""
        stream = await self.open()
        async with stream:
            text = b""
            with suppress(trio.BrokenResourceError):
                await stream.send_all(request)
                while data := await stream.receive_some():
                    text += data
            return text


@asynccontextmanager
async def awaiting() -> AsyncGenerator[Redirect]:
    """A command that waits for its redirect, and gets it in time."""
    redirect = Redirect()
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            await nursery.start(redirect.run)
            yield redirect


GOOD_TARGET = f"/?request_token={REQUEST}&action=login&status=success"


async def test_the_redirect_is_caught() -> None:
    """The page to open is said, the browser gets a page, and the token is here."""
    async with awaiting() as redirect:
        page = await redirect.get(GOOD_TARGET)
    assert page.startswith(b"HTTP/1.1 200 ")
    assert page.endswith(DONE)
    assert redirect.token == REQUEST
    assert "http://kite/login" in redirect.said[0]
    assert REQUEST.encode() not in page


async def test_browsers_ask_for_more_than_the_redirect() -> None:
    """An icon, a redirect without a token, an empty one: each is answered, and the wait goes on."""
    async with awaiting() as redirect:
        for target in ("/favicon.ico", "/", "/?status=cancelled", "/?request_token=", "//[?x"):
            page = await redirect.get(target)
            assert page.startswith(b"HTTP/1.1 404 "), target
            assert page.endswith(ELSEWHERE)
        await redirect.get(GOOD_TARGET)
    assert redirect.token == REQUEST


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ],
    ids=lambda garbage: str(garbage[:24]),
)
async def test_garbage_does_not_end_the_wait(garbage: bytes) -> None:
    """TLS on a plain port, endless heads, other methods: the browser's turn still comes."""
    async with awaiting() as redirect:
        page = await redirect.ask(garbage)
        assert REQUEST.encode() not in page
        await redirect.get(GOOD_TARGET)
    assert redirect.token == REQUEST


async def test_silent_connections_do_not_block_the_redirect() -> None:
    """Browsers open connections ahead of need, and say nothing on them; one may also vanish."""
    async with awaiting() as redirect:
        silent = [await redirect.open() for _ in range(20)]
        await silent[0].send_all(b"GET / HT")
        await silent[1].aclose()
        await redirect.get(GOOD_TARGET)
        for stream in silent:
            await stream.aclose()
    assert redirect.token == REQUEST


async def test_nobody_logs_in(autojump_clock: MockClock) -> None:
    """After ten minutes the command ends with a sentence."""
    port = free_port()
    with pytest.raises(LoginError, match=r"No redirect came within 10 minutes\."):
        await caught("http://kite/login", port, lambda _: None)


async def test_a_port_that_is_taken() -> None:
    """Somebody else listens there, and might get the token: nothing is said but that."""
    said: list[str] = []
    async with listening(lambda stream: stream.aclose()) as port:
        with pytest.raises(LoginError, match=f"127.0.0.1:{port}: Address already in use"):
            await caught("http://kite/login", port, said.append)
    assert not said


# The command


AT_KITE = KiteSettings(api_key=KEY, api_secret=SECRET, token_file=Path("y"))


def account(name: str, at: KiteSettings | PaperSettings) -> AccountSettings:
    """An account of this name."""
    return AccountSettings(account_id=name, at=at, limits=Limits(8, 400, 5000), risk=RiskLimits())


async def test_which_account_logs_in() -> None:
    """The only one at Kite needs no name; several, none, a paper one and an unknown one do."""
    paper = account("paper", PaperSettings(file=Path("x"), funds=1, seed=1))
    one, two = (account(name, AT_KITE) for name in ("one", "two"))
    mute = account("mute", KiteSettings(api_key=KEY, token_file=Path("y")))

    async def asked(_: str) -> str:
        return ""

    for accounts, name, sentence in (
        ([paper, one], None, "There is no request token in that."),
        ([paper, one, two], "two", "There is no request token in that."),
        ([paper, one, two], None, "Say which account with --account: one, two."),
        ([paper], None, "No account is at Kite: set BROKER=kite, or ACCOUNTS_FILE."),
        ([paper], "paper", "Account paper is on paper: it needs no login."),
        ([paper, one], "One", "There is no account One; there are paper, one."),
        ([mute], None, "Account mute has no API secret, which a login needs."),
    ):
        with pytest.raises(LoginError) as info:
            await login(accounts, name, asked, lambda: NOON)
        assert str(info.value) == sentence


class Command:
    """`ticker-actors login` as a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        kept = {name: text for name, text in os.environ.items() if name in {"PATH", "PYTHONPATH"}}
        repository = str(Path(__file__).parents[1])
        self.environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join([repository, kept.get("PYTHONPATH", "")]),
            "BROKER": "kite",
            "KITE_API_KEY": KEY,
            "KITE_API_SECRET": SECRET,
            "KITE_ROOT_URL": f"http://127.0.0.1:{port}/oms?user=1",
            "LOG_LEVEL": "debug",
        }

    async def run(self, *arguments: str, pasted: bytes) -> tuple[int, str]:
        """Its exit code, and all that it printed."""
        done = await trio.run_process(
            [sys.executable, "-m", "ticker_actors", "login", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=pasted,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        text = (done.stdout + done.stderr).decode()
        assert "Traceback" not in text
        for secret in (SECRET, BOUGHT, REQUEST):
            assert secret not in text
        return done.returncode, text

    @property
    def token(self) -> str | None:
        """What it left for the service."""
        return TokenFile(self.folder / "data" / "kite-primary.token").read(datetime.now(UTC))


@asynccontextmanager
async def command(folder: Path) -> AsyncGenerator[Command]:
    """The command beside a seller of tokens."""
    async with listening(Seller(prefix="/oms")) as port:
        yield Command(folder, port)


@pytest.mark.slow
async def test_the_command_with_a_pasted_address(tmp_path: Path) -> None:
    """It prints the page to open, takes the address, leaves the token and says so; once."""
    async with command(tmp_path) as run:
        pasted = f"http://127.0.0.1/{GOOD_TARGET}\n".encode()
        code, text = await run.run(pasted=pasted)
        assert code == 0, text
        assert "/oms/connect/login?user=1&v=3&api_key=the-api-key" in text
        assert "Account primary is logged in as AB1234" in text
        assert run.token == BOUGHT
        code, text = await run.run(pasted=pasted)
        assert code == 1
        assert text.strip().endswith(
            "ticker-actors: The broker refused the request token: Token is invalid or has expired."
        )
        assert run.token == BOUGHT


@pytest.mark.slow
@pytest.mark.parametrize("pasted", [b"", b"\n", b"\xff\xfe\n", b"http://[\n"], ids=str)
async def test_the_command_with_no_token(tmp_path: Path, pasted: bytes) -> None:
    """End of input, an empty line, bytes that are no text: one sentence, exit code 1."""
    async with command(tmp_path) as run:
        code, text = await run.run(pasted=pasted)
        assert (code, run.token) == (1, None)
    assert "ticker-actors: There is no request token in that." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, environment, code, sentence",
    [
        ((), {"BROKER": "paper"}, 1, "No account is at Kite"),
        (("--account", "other"), {}, 1, "There is no account other; there are primary."),
        ((), {"KITE_API_SECRET": ""}, 1, "Account primary has no API secret"),
        ((), {"KITE_API_KEY": ""}, 2, "KITE_API_KEY must be set"),
        (("--listen", "0"), {}, 2, "LOGIN_PORT must be"),
        (("--listen", "http"), {}, 2, "LOGIN_PORT must be"),
        ((), {"KITE_ROOT_URL": "http://127.0.0.1:1/oms"}, 1, "The broker cannot be reached"),
    ],
    ids=["paper", "unknown", "no secret", "no key", "port 0", "port", "away"],
)
async def test_the_command_that_cannot(
    tmp_path: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    code: int,
    sentence: str,
) -> None:
    """Misuse ends with 2, no login with 1, and one sentence that says why."""
    async with command(tmp_path) as run:
        run.environment.update(environment)
        ended, text = await run.run(*arguments, pasted=f"{REQUEST}\n".encode())
    assert (ended, run.token) == (code, None)
    assert sentence in text


@pytest.mark.slow
async def test_the_command_refuses_somebody_else(tmp_path: Path) -> None:
    """In one sentence that names both users and the way out; the old token stays."""
    async with command(tmp_path) as run:
        file = TokenFile(tmp_path / "data" / "kite-primary.token")
        file.write("theirs", "ZZ9999", datetime.now(UTC))
        code, text = await run.run(pasted=f"http://127.0.0.1/{GOOD_TARGET}\n".encode())
        assert code == 1
        assert "the account was ZZ9999's before" in text
        assert run.token == "theirs"


@pytest.mark.slow
async def test_the_command_that_listens(tmp_path: Path) -> None:
    """`--listen` says the page to open at once, also into a pipe, and catches the redirect."""
    port = free_port()
    async with command(tmp_path) as run, trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "ticker_actors", "login", "--listen", str(port)],
                cwd=tmp_path,
                env=run.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        assert process.stdout is not None
        text = b""
        with trio.fail_after(SOON):
            while b"/connect/login" not in text:
                text += await process.stdout.receive_some()
            redirect = Redirect()
            redirect.port = port
            assert (await redirect.get("/favicon.ico")).startswith(b"HTTP/1.1 404 ")
            assert (await redirect.get(GOOD_TARGET)).endswith(DONE)
            while data := await process.stdout.receive_some():
                text += data
            assert await process.wait() == 0
        assert run.token == BOUGHT
    assert b"logged in as AB1234" in text
    for secret in (SECRET, BOUGHT, REQUEST):
        assert secret.encode() not in text
