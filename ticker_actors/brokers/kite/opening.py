"""One account at Kite, put together: its calls, its ticker, and the login of the day."""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime

import certifi
import structlog
import trio

from ticker_actors.account_settings import KiteSettings
from ticker_actors.brokers.kite.api import KiteApi, KiteBroker
from ticker_actors.brokers.kite.dial import tls_dial
from ticker_actors.brokers.kite.feed import KiteFeed
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.login import KeptToken, TokenFile, exchanged
from ticker_actors.brokers.kite.root import Root, TickerUrl
from ticker_actors.brokers.kite.session import Session
from ticker_actors.exchange import wire_rows
from ticker_actors.model.ids import Chance
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import LoginRefused, LoginToken, Unreadable

TOKEN_LOOK_SECONDS = 2.0
"""How often the token file is looked at: a login by the command line is seen this soon."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_kite(
    account_id: str, at: KiteSettings, now: Callable[[], datetime], chance: Chance
) -> AsyncGenerator[KiteBroker, None]:
    """A broker on the account, with its ticker connected and its token followed."""
    root, file = Root.parse(at.root_url), TokenFile(at.token_file)
    session = Session(at.api_key, at.access_token)
    ticker = TickerUrl.parse(at.ticker_url)
    trusted = ssl.create_default_context(cafile=certifi.where())
    feed = KiteFeed(account_id, ticker, session, read_order, chance, tls_dial(trusted))
    with closing(HttpClient(root)) as http:
        login = Login(account_id, at, session, root, http, file, now)
        login.look()
        broker = KiteBroker(root, http, session, feed, login)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            nursery.start_soon(login.follow)
            yield broker
            nursery.cancel_scope.cancel()


def read_order(data: object) -> BrokerOrder | str:
    """The order in a message of the ticker; a string says what is wrong with it."""
    found = wire_rows.row(data, BrokerOrder)
    return found.value or "; ".join(row.problem for row in found.bad)


class Login:
    """Gives an account's session its token: from a login over HTTP, or from the token file."""

    def __init__(  # noqa: PLR0913, PLR0917  # the parts it joins
        self,
        account_id: str,
        at: KiteSettings,
        session: Session,
        root: Root,
        http: HttpClient,
        file: TokenFile,
        now: Callable[[], datetime],
    ) -> None:
        self._account_id = account_id
        self._at = at
        self._session = session
        self._root = root
        self._http = http
        self._file = file
        self._now = now
        self._turn = trio.Lock()
        self._seen = 0

    async def log_in(self, token: LoginToken) -> LoginRefused | None:
        """Take a new token, if the broker answers to it; keep it for the next start.

        Until then all calls go out under the old one: a wrong token disturbs nothing.
        """
        async with self._turn:
            found = await self._judged(token)
            if isinstance(found, LoginRefused):
                return found
            if (refusal := self._file.refusal(found.user_id)) is not None:
                return LoginRefused(refusal)
            self._session.access_token = found.access_token
            _log.info("logged in", account_id=self._account_id, user_id=found.user_id)
            with trio.CancelScope(shield=True):  # it was bought once, and cannot be bought again
                await trio.to_thread.run_sync(self._keep, found)
        return None

    def look(self) -> None:
        """Take up what a login, here or elsewhere, left in the token file."""
        changed = self._file.changed_at()
        if changed != self._seen:
            self._seen = changed
            token = self._file.read(self._now())
            if token is not None:
                self._session.access_token = token

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            await trio.sleep(TOKEN_LOOK_SECONDS)
            self.look()

    async def _judged(self, token: LoginToken) -> KeptToken | LoginRefused:
        if token.access_token is None:
            if self._at.api_secret is None:
                return LoginRefused(
                    f"Account {self._account_id} has no API secret, which a request token needs."
                )
            return await exchanged(
                self._root,
                self._http,
                api_key=self._at.api_key,
                api_secret=self._at.api_secret,
                request_token=token.request_token or "",
            )
        session = Session(self._at.api_key, token.access_token)
        profile = await KiteApi(self._root, self._http, session).profile()
        if isinstance(profile, Unreadable):
            return LoginRefused(f"The broker does not answer to this token: {profile.message}")
        return KeptToken(token.access_token, profile.user_id, self._now())

    def _keep(self, token: KeptToken) -> None:
        try:
            self._file.write(token.access_token, token.user_id, self._now())
        except OSError as error:
            _log.warning("token not kept", account_id=self._account_id, error=str(error))
