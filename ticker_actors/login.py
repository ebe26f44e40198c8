"""`ticker-actors login`: the daily login of an account at Kite, by the person whose account it is.

It prints the page to open, and gets the request token either from the keyboard or from the redirect
that follows the login, caught on loopback. A running service finds the new token by itself.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import h11
import trio

from ticker_actors.account_settings import AccountSettings, KiteSettings
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.login import TokenFile, exchanged, login_url
from ticker_actors.brokers.kite.root import Root
from ticker_actors.model.outcomes import LoginRefused

REDIRECT_SECONDS = 600.0
"""A person looks for a phone, and types a code."""
REQUEST_SECONDS = 5.0
MOST_BYTES = 16 * 1024
DONE = b"Thank you. The terminal says whether you are logged in; you may close this page."
ELSEWHERE = b"There is no request token in this address."
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")


class LoginError(Exception):
    """There was no login. Its message is one sentence for the operator."""


async def login(
    accounts: Sequence[AccountSettings],
    account_id: str | None,
    request_token: Callable[[str], Awaitable[str]],
    now: Callable[[], datetime],
) -> str:
    """Log an account in; what to tell its owner. Raises `LoginError`.

    `request_token` is given the page's address, and gives what came back: the token, or the whole
    address that the page redirected to.
    """
    account = _chosen(accounts, account_id)
    at = account.at
    if not isinstance(at, KiteSettings):
        raise LoginError(f"Account {account.account_id} is on paper: it needs no login.")
    if at.api_secret is None:
        raise LoginError(f"Account {account.account_id} has no API secret, which a login needs.")
    token = token_in(await request_token(login_url(at.api_key, at.root_url)))
    root = Root.parse(at.root_url)
    with closing(HttpClient(root)) as http:
        bought = await exchanged(
            root, http, api_key=at.api_key, api_secret=at.api_secret, request_token=token
        )
    if isinstance(bought, LoginRefused):
        raise LoginError(bought.message)
    file = TokenFile(at.token_file)
    if (refusal := file.refusal(bought.user_id)) is not None:
        raise LoginError(f"{refusal}.")
    try:
        file.write(bought.access_token, bought.user_id, now())
    except OSError as error:
        raise LoginError(f"The token cannot be kept in {at.token_file}: {error}.") from error
    kept = await trio.Path(at.token_file).absolute()
    return (
        f"Account {account.account_id} is logged in as {bought.user_id}; a service that runs with "
        f"the same settings takes the token up from {kept} within seconds."
    )


def token_in(text: str) -> str:
    """The request token in what a person copied: the token, or the address it came in."""
    text = text.strip()
    found = _queried(text) if set(text) & set("/?&=") else text
    if found is None or not _TOKEN.fullmatch(found):
        raise LoginError("There is no request token in that.")
    return found


def _queried(address: str) -> str | None:
    """The request token in the query of an address, if there is one."""
    try:
        return parse_qs(urlsplit(address).query).get("request_token", [None])[0]
    except ValueError:
        return None


async def caught(url: str, port: int, say: Callable[[str], object]) -> str:
    """Wait on loopback for the redirect that follows a login. Raises `LoginError`."""
    try:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    except OSError as error:
        raise LoginError(f"Cannot listen on 127.0.0.1:{port}: {error.strerror}.") from error
    say(
        f"Open this page and log in; its redirect is awaited on http://127.0.0.1:{port}/\n\n{url}\n"
    )
    tokens: list[str] = []
    with trio.move_on_after(REDIRECT_SECONDS) as scope:
        async with trio.open_nursery() as nursery:

            async def receive(stream: trio.SocketStream) -> None:
                token = await _redirected(stream)
                if token is not None:
                    tokens.append(token)
                    nursery.cancel_scope.cancel()

            await trio.serve_listeners(receive, listeners, handler_nursery=nursery)
    if not tokens:
        assert scope.cancelled_caught  # noqa: S101  # it ends in no other way
        raise LoginError(f"No redirect came within {REDIRECT_SECONDS / 60:.0f} minutes.")
    return tokens[0]


async def _redirected(stream: trio.SocketStream) -> str | None:
    """The request token in one request of a browser, and an answer for the person."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_BYTES)
    with trio.move_on_after(REQUEST_SECONDS):
        async with stream:
            try:
                while (event := server.next_event()) is h11.NEED_DATA:
                    server.receive_data(await stream.receive_some(MOST_BYTES))
            except (h11.RemoteProtocolError, trio.BrokenResourceError):
                return None
            if not isinstance(event, h11.Request) or event.method != b"GET":
                return None
            token = _queried(event.target.decode("ascii", "replace"))
            body = ELSEWHERE if token is None else DONE
            head = h11.Response(
                status_code=404 if token is None else 200,
                headers=[
                    ("Content-Type", "text/plain; charset=utf-8"),
                    ("Content-Length", str(len(body))),
                    ("Connection", "close"),
                ],
            )
            parts = (head, h11.Data(data=body), h11.EndOfMessage())
            deadline = trio.current_time() + REQUEST_SECONDS
            with (
                trio.CancelScope(shield=True, deadline=deadline),
                suppress(trio.BrokenResourceError),
            ):
                await stream.send_all(b"".join(server.send(part) or b"" for part in parts))
            return token
    return None


def _chosen(accounts: Sequence[AccountSettings], account_id: str | None) -> AccountSettings:
    kite = [account for account in accounts if isinstance(account.at, KiteSettings)]
    if account_id is None:
        if len(kite) == 1:
            return kite[0]
        if not kite:
            raise LoginError("No account is at Kite: set BROKER=kite, or ACCOUNTS_FILE.")
        named = ", ".join(account.account_id for account in kite)
        raise LoginError(f"Say which account with --account: {named}.")
    for account in accounts:
        if account.account_id == account_id:
            return account
    named = ", ".join(account.account_id for account in accounts)
    raise LoginError(f"There is no account {account_id}; there are {named}.")
