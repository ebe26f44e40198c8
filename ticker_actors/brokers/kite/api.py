"""Kite Connect's REST calls: `KiteApi` reads, `KiteBroker` is the broker that a lane calls.

Sources: https://kite.trade/docs/connect/v3/. Every call makes at most one request and returns what
it proves; `classify` judges.
"""

import re
from collections.abc import AsyncIterable, Callable, Collection
from functools import partial
from typing import Protocol, TypeVar

from ticker_actors.brokers.kite import classify
from ticker_actors.brokers.kite.book import BookReader
from ticker_actors.brokers.kite.http import (
    ORDER_IDLE_SECONDS,
    READ_IDLE_SECONDS,
    HttpClient,
)
from ticker_actors.brokers.kite.prices import LastPrices
from ticker_actors.brokers.kite.root import Query, Root
from ticker_actors.brokers.kite.session import Session
from ticker_actors.exchange import wire, wire_rows
from ticker_actors.http1 import HttpResult
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedItem,
    LoginRefused,
    LoginToken,
    OrderBook,
    Placed,
    PlaceOutcome,
    Refused,
    Unreadable,
)
from ticker_actors.model.portfolio import Holding, Margins, Positions, Profile, Quote, Trade

T = TypeVar("T")

USER_AGENT = "ticker-actors"
_HEADERS = (
    *wire.VERSION_HEADERS.items(),
    ("User-Agent", USER_AGENT),
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
)
ORDER_TYPES = 20_000
"""Orders whose type is remembered: only open ones are, and so many are never open."""
_VISIBLE = re.compile(r"[!-~]+")
NO_LOGIN = "There is no access token: log in."


class KiteApi:
    """One account's calls that change nothing. Each returns its content, or why there is none."""

    def __init__(self, root: Root, http: HttpClient, session: Session) -> None:
        """The caller closes `http`."""
        self._root = root
        self._http = http
        self._session = session

    async def order_history(self, order_id: str) -> tuple[BrokerOrder, ...] | Unreadable:
        """All states of one order, in the order in which it had them."""
        return await self._read(wire.history(order_id), partial(_rows, kind=BrokerOrder))

    async def trades(self, order_id: str | None = None) -> tuple[Trade, ...] | Unreadable:
        """The fills of the day, or those of one order."""
        path = wire.TRADES if order_id is None else wire.trades_of(order_id)
        return await self._read(path, partial(_rows, kind=Trade))

    async def positions(self) -> Positions | Unreadable:
        """What is held short term."""
        return await self._read(wire.POSITIONS, wire_rows.positions)

    async def holdings(self) -> tuple[Holding, ...] | Unreadable:
        """What is kept in the demat account."""
        return await self._read(wire.HOLDINGS, partial(_rows, kind=Holding))

    async def margins(self) -> Margins | Unreadable:
        """Money of both segments."""
        return await self._read(wire.MARGINS, partial(wire_rows.row, kind=Margins))

    async def profile(self) -> Profile | Unreadable:
        """Who the access token belongs to."""
        return await self._read(wire.PROFILE, partial(wire_rows.row, kind=Profile))

    async def quotes(self, instruments: Collection[str]) -> dict[str, Quote] | Unreadable:
        """Quotes by `EXCHANGE:TRADINGSYMBOL`, at most `wire.MAX_QUOTES`; unknown ones are left out.

        Kite takes one such call a second.
        """
        if len(instruments) > wire.MAX_QUOTES:
            raise ValueError(f"Kite quotes {wire.MAX_QUOTES} instruments at a time.")
        query = [("i", name) for name in instruments]
        return await self._read(wire.QUOTE, wire_rows.quotes, query)

    async def _read(
        self,
        path: str,
        parse: Callable[[object], wire_rows.Read[T]],
        query: Query | None = None,
    ) -> T | Unreadable:
        result = await self._get(path, query)
        if isinstance(result, Unreadable):
            return result
        return classify.read(result, parse)

    async def _get(self, path: str, query: Query | None = None) -> HttpResult | Unreadable:
        if (signature := self._session.authorization()) is None:
            return Unreadable(NO_LOGIN, "login_required")
        return await self._http.request(
            "GET",
            self._root.target(path, query),
            (*_HEADERS, ("Authorization", signature)),
            idle=READ_IDLE_SECONDS,
        )


def _rows(data: object, kind: type[wire_rows.S]) -> wire_rows.Read[tuple[wire_rows.S, ...]]:
    return wire_rows.rows(data, kind)


class Login(Protocol):
    """What takes new tokens; `opening.Login` does."""

    async def log_in(self, token: LoginToken) -> LoginRefused | None:
        """Take a new token, if the broker answers to it."""
        ...


class KiteBroker(KiteApi):
    """The port `actors.ports.Broker` on one account at Kite."""

    def __init__(
        self,
        root: Root,
        http: HttpClient,
        session: Session,
        feed: AsyncIterable[FeedItem],
        login: Login | None = None,
    ) -> None:
        """`feed` is what `updates` gives: the ticker's order messages."""
        super().__init__(root, http, session)
        self._feed = feed
        self._login = login
        self._prices = LastPrices(self.quotes)
        self._order_types: dict[str, str] = {}
        """Of orders that were not done yet when they were last seen."""
        self._book = BookReader()

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        """Place an order under our tag."""
        form = wire.place_form(order, tag)
        result = await self._send("POST", wire.placing(order.variety), form)
        outcome = result if isinstance(result, Refused) else classify.place_outcome(result)
        if isinstance(outcome, Placed):
            self._order_types[outcome.order_id] = order.order_type
        return outcome

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        """Ask for absolute new values of an order.

        Whether it needs a `market_protection` is known from its placing or the last read of the
        book; a lane has read the book before it sends anything.
        """
        form = wire.modify_form(order_id, variety, changes, self._order_types.get(order_id))
        result = await self._send("PUT", wire.placed(variety, order_id), form)
        return result if isinstance(result, Refused) else classify.change_outcome(result)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        """Ask for an order to be cancelled."""
        result = await self._send("DELETE", wire.placed(variety, order_id))
        return result if isinstance(result, Refused) else classify.change_outcome(result)

    async def orders(self) -> OrderBook | Unreadable:
        """The whole order book of the day."""
        result = await self._get(wire.ORDERS)
        book = result if isinstance(result, Unreadable) else await self._book.read(result)
        if len(self._order_types) >= ORDER_TYPES:
            self._order_types.clear()
        for row in book.orders:
            if row.terminal:
                self._order_types.pop(row.order_id, None)
            else:
                self._order_types[row.order_id] = row.order_type
        return book

    def forget_book(self) -> None:
        """Let the next read of the book give every row, and count none as repeated."""
        self._book.forget()

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        """What an instrument last traded at, in rupees; None when that is not known."""
        return await self._prices.price(f"{exchange}:{tradingsymbol}")

    async def log_in(self, token: LoginToken) -> LoginRefused | None:
        """Take a new access token. None when Kite answers to it."""
        if self._login is None:
            return LoginRefused("This account takes no login.")
        return await self._login.log_in(token)

    def updates(self) -> AsyncIterable[FeedItem]:
        """Pushed order updates, for one reader."""
        return self._feed

    async def _send(
        self, method: str, path: str, form: dict[str, str] | None = None
    ) -> HttpResult | Refused:
        """One order call. Without a login it is answered as Kite would answer a dead token."""
        if (signature := self._session.authorization()) is None:
            return Refused("TokenException", NO_LOGIN, retryable=True, trouble="login_required")
        body = b"" if form is None else wire.encoded(form)
        kind = () if form is None else wire.FORM_HEADERS.items()
        length = ("Content-Length", str(len(body)))
        return await self._http.request(
            method,
            self._root.target(path),
            (*_HEADERS, ("Authorization", signature), *kind, length),
            body,
            idle=ORDER_IDLE_SECONDS,
        )
