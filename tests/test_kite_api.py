"""Kite's calls against a stub that records them: what goes out, and under which root and token."""

import pkgutil
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio

import ticker_actors.brokers.kite
from tests import kite_texts
from tests.kite_texts import TAG, error
from tests.receiver import Receiver, answer, listening
from ticker_actors.actors.ports import Broker
from ticker_actors.brokers.kite.api import KiteBroker
from ticker_actors.brokers.kite.http import Headers, HttpClient
from ticker_actors.brokers.kite.root import Root
from ticker_actors.brokers.kite.session import Session
from ticker_actors.exchange import wire
from ticker_actors.http1 import HttpResult, Unsent
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    Accepted,
    FeedItem,
    FeedLost,
    NotSent,
    OrderBook,
    Placed,
    Refused,
    Unreadable,
)
from ticker_actors.model.portfolio import Margins, Positions, Profile

SECRET = "s3cr3tT0ken"
STOP = PlaceOrder(
    exchange="NSE",
    tradingsymbol="M&M",
    transaction_type="SELL",
    quantity=3,
    product="MIS",
    order_type="SL-M",
    trigger_price=1400.0,
)


class NoFeed:
    """A feed that is lost from the start."""

    async def __aiter__(self) -> AsyncIterator[FeedItem]:
        yield FeedLost("There is none.")


def said(body: bytes, status: int = 200) -> bytes:
    """An answer of Kite's."""
    return answer(status, "Content-Type: application/json", body=body)


@asynccontextmanager
async def kite(
    *answers: bytes, root: str = "", session: Session | None = None
) -> AsyncGenerator[tuple[KiteBroker, Receiver]]:
    """A broker on a stub, under a path and query of one's own."""
    receiver = Receiver(list(answers))

    async def keep_answering(stream: trio.abc.Stream) -> None:
        while True:
            await receiver(stream)

    async with listening(keep_answering) as port:
        place = Root.parse(f"http://127.0.0.1:{port}{root}")
        with closing(HttpClient(place, deadline=1.0)) as http:
            session = session or Session("key", SECRET)
            yield KiteBroker(place, http, session, NoFeed()), receiver


def form(receiver: Receiver) -> dict[str, str]:
    """The form of the last request."""
    return dict(parse_qsl(receiver.requests[-1].body.decode(), strict_parsing=True))


async def test_it_is_a_broker() -> None:
    """The adapter is what a lane asks for; the feed is what it was given."""
    async with kite() as (broker, _):
        port: Broker = broker
        assert [item async for item in port.updates()] == [FeedLost("There is none.")]


async def test_a_place_call() -> None:
    """Path, headers and form of one order, and the id that it got."""
    async with kite(said(kite_texts.PLACED)) as (broker, receiver):
        assert await broker.place(STOP, TAG) == Placed("1953341975595868160")
        (request,) = receiver.requests
        assert request.line == "POST /orders/regular HTTP/1.1"
        assert request.headers["x-kite-version"] == "3"
        assert request.headers["authorization"] == f"token key:{SECRET}"
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert form(receiver)["tag"] == TAG
        assert form(receiver)["market_protection"] == "-1"
        assert "autoslice" not in form(receiver)


async def test_a_modify_call_knows_the_order_it_placed() -> None:
    """A stop that we placed keeps its protection when only its trigger moves."""
    async with kite(said(kite_texts.PLACED)) as (broker, receiver):
        await broker.place(STOP, TAG)
        changes = OrderChanges(trigger_price=1390.0)
        assert await broker.modify("1953341975595868160", "regular", changes) == Accepted()
        assert receiver.requests[-1].line == "PUT /orders/regular/1953341975595868160 HTTP/1.1"
        assert form(receiver)["market_protection"] == "-1"
        assert form(receiver)["trigger_price"] == "1390.0"


async def test_a_modify_call_knows_the_orders_of_the_book() -> None:
    """So does one that was read from the book after a restart; a LIMIT order carries none."""
    rows = kite_texts.ORDERS.replace(b"COMPLETE", b"OPEN").replace(b"REJECTED", b"OPEN")
    async with kite(said(rows), said(kite_texts.PLACED)) as (broker, receiver):
        assert isinstance(await broker.orders(), OrderBook)
        await broker.modify("1953341975595868160", "regular", OrderChanges(quantity=2))
        assert form(receiver)["market_protection"] == "-1"
        await broker.modify("220524001859672", "iceberg", OrderChanges(quantity=2))
        assert "market_protection" not in form(receiver)


async def test_a_cancel_call() -> None:
    """A cancel has no body and no parameters."""
    async with kite(said(kite_texts.PLACED)) as (broker, receiver):
        assert await broker.cancel("151220000000000", "amo") == Accepted()
        (request,) = receiver.requests
        assert request.line == "DELETE /orders/amo/151220000000000 HTTP/1.1"
        assert (request.body, request.headers["content-length"]) == (b"", "0")


async def test_reads() -> None:
    """Each read goes to its own path and gives its own kind."""
    texts = kite_texts
    async with kite(
        said(texts.HISTORY),
        said(texts.TRADES),
        said(texts.TRADES),
        said(texts.POSITIONS),
        said(texts.HOLDINGS),
        said(texts.MARGINS),
        said(texts.PROFILE),
        said(texts.QUOTES),
    ) as (broker, receiver):
        history = await broker.order_history("1")
        assert not isinstance(history, Unreadable)
        assert history[-1].status == "OPEN"
        for order_id in (None, "1"):
            trades = await broker.trades(order_id)
            assert not isinstance(trades, Unreadable)
            assert trades[0].trade_id == "10000000"
        assert isinstance(await broker.positions(), Positions)
        assert isinstance(await broker.holdings(), tuple)
        assert isinstance(await broker.margins(), Margins)
        assert isinstance(await broker.profile(), Profile)
        quotes = await broker.quotes(["NSE:M&M", "NSE:INFY"])
        assert not isinstance(quotes, Unreadable)
        assert list(quotes) == ["NSE:M&M"]
    assert [request.line.split()[1] for request in receiver.requests] == [
        *("/orders/1", "/trades", "/orders/1/trades", "/portfolio/positions"),
        *("/portfolio/holdings", "/user/margins", "/user/profile"),
        "/quote?i=NSE%3AM%26M&i=NSE%3AINFY",
    ]


async def test_too_many_quotes_are_our_mistake() -> None:
    """More instruments than Kite takes in one call are a bug of the caller."""
    async with kite() as (broker, _):
        with pytest.raises(ValueError, match="500"):
            await broker.quotes([f"NSE:{number}" for number in range(wire.MAX_QUOTES + 1)])


class NotesIdle(HttpClient):
    """Notes how long a connection may have been idle for each kind of call."""

    noted: ClassVar[set[tuple[str, float]]] = set()

    async def request(
        self,
        method: str,
        target: str,  # noqa: ARG002 - it only notes
        headers: Headers,  # noqa: ARG002 - as above
        body: bytes = b"",  # noqa: ARG002 - as above
        *,
        idle: float,
    ) -> HttpResult:
        self.noted.add((method, idle))
        await trio.lowlevel.checkpoint()
        return Unsent("It only notes.")


async def test_only_reads_take_a_connection_that_was_idle_for_long() -> None:
    """A read that is lost is repeated; an order call that is lost is an unknown order."""
    root = Root.parse("http://h")
    broker = KiteBroker(root, NotesIdle(root), Session("key", "token"), NoFeed())
    await broker.place(STOP, TAG)
    await broker.modify("1", "regular", OrderChanges(quantity=1))
    await broker.cancel("1", "regular")
    await broker.orders()
    await broker.profile()
    assert NotesIdle.noted == {("POST", 2.0), ("PUT", 2.0), ("DELETE", 2.0), ("GET", 20.0)}


async def test_types_of_done_orders_are_not_kept() -> None:
    """Nobody modifies them, and a day has thousands."""
    async with kite(said(kite_texts.PLACED), said(kite_texts.ORDERS)) as (broker, _):
        await broker.place(STOP, TAG)
        assert broker._order_types == {"1953341975595868160": "SL-M"}
        await broker.orders()
        assert not broker._order_types


async def test_forgetting_the_book_lets_every_row_be_given_again() -> None:
    """Rows that are terminal are given once, then counted until they are forgotten."""
    async with kite(said(kite_texts.ORDERS)) as (broker, _):
        first = await broker.orders()
        assert isinstance(first, OrderBook)
        second = await broker.orders()
        assert second == OrderBook((), first.present)
        broker.forget_book()
        assert await broker.orders() == first


async def test_an_order_that_the_book_does_not_show_yet_is_still_known() -> None:
    """A read of the book forgets nothing of what was placed meanwhile, within a bound."""
    placed = b'{"status": "success", "data": {"order_id": "77"}}'
    async with kite(said(placed), said(kite_texts.ORDERS), said(placed)) as (broker, receiver):
        await broker.place(STOP, TAG)
        await broker.orders()
        await broker.modify("77", "regular", OrderChanges(trigger_price=1390.0))
        assert form(receiver)["market_protection"] == "-1"


async def test_a_root_with_a_path_and_a_query() -> None:
    """Under a prefix and with further parameters, as Zerodha's sandbox has them, all calls work."""
    answers = (said(kite_texts.PLACED), said(kite_texts.PLACED), said(kite_texts.QUOTES))
    async with kite(*answers, root="/oms?x=1&user=ab%2Fc") as (broker, receiver):
        assert await broker.place(STOP, TAG) == Placed("1953341975595868160")
        await broker.cancel("7", "regular")
        await broker.quotes(["NSE:M&M"])
    targets = [urlsplit(request.line.split()[1]) for request in receiver.requests]
    assert [target.path for target in targets] == [
        "/oms/orders/regular",
        "/oms/orders/regular/7",
        "/oms/quote",
    ]
    assert [target.query for target in targets] == [
        "x=1&user=ab%2Fc",
        "x=1&user=ab%2Fc",
        "x=1&user=ab%2Fc&i=NSE%3AM%26M",
    ]


async def test_a_new_login_takes_effect() -> None:
    """After a dead token the session's new one signs the next call."""
    session = Session("key", "old")
    dead = said(error("TokenException", "Token is invalid or has expired."), 403)
    async with kite(dead, said(kite_texts.PLACED), session=session) as (broker, receiver):
        refused = await broker.place(STOP, TAG)
        assert isinstance(refused, Refused)
        assert (refused.retryable, refused.trouble) == (True, "login_required")
        session.access_token = "new"
        assert isinstance(await broker.place(STOP, TAG), Placed)
    signed = [request.headers["authorization"] for request in receiver.requests]
    assert signed == ["token key:old", "token key:new"]


@pytest.mark.parametrize("token", [None, "", "a b", "a\nb", "ä", "\x7f"])
async def test_without_a_token_nothing_is_sent(token: str | None) -> None:
    """No login, or a token that no header can hold: answered as a dead token would be."""
    async with kite(said(kite_texts.PLACED), session=Session("key", token)) as (broker, receiver):
        for refused in (
            await broker.place(STOP, TAG),
            await broker.modify("1", "regular", OrderChanges(quantity=2)),
            await broker.cancel("1", "regular"),
        ):
            assert refused == Refused(
                "TokenException",
                "There is no access token: log in.",
                retryable=True,
                trouble="login_required",
            )
        book = await broker.orders()
        assert book == Unreadable("There is no access token: log in.", "login_required")
    assert receiver.requests == []


async def test_secrets_are_in_no_representation_and_no_outcome() -> None:
    """Neither key nor token is in what may be logged, even when a broken server echoes them."""
    session = Session("k3yk3y", SECRET)
    echo = f"Bad request: Authorization: token k3yk3y:{SECRET}".encode()
    async with kite(said(echo, 400), said(echo, 200), session=session) as (broker, _):
        seen = [session, broker, await broker.place(STOP, TAG), await broker.orders()]
    async with kite(root="/x", session=session) as (broker, _):
        unreachable = broker
    seen.append(await unreachable.place(STOP, TAG))
    assert isinstance(seen[-1], NotSent)
    for thing in seen:
        assert SECRET not in repr(thing)
        assert "k3yk3y" not in repr(thing)


def test_nothing_imports_twisted() -> None:
    """The library, the service and every module of the adapter start without Twisted's reactor."""
    package = ticker_actors.brokers.kite
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    modules = [module.name for module in found]
    assert len(modules) >= 5
    names = ["ticker_actors", "ticker_actors.service", "ticker_actors.__main__", *modules]
    script = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print(sorted(name for name in sys.modules if name.split(".")[0] in
      ("twisted", "autobahn", "kiteconnect", "OpenSSL")))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
