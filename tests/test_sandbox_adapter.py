"""Our own broker and feed on the sandbox: the whole way round, every fault, and a path prefix."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio

from tests.sandboxes import Sandbox, sandbox
from tests.test_kite_api import NoFeed
from ticker_actors.brokers.kite.api import KiteBroker
from ticker_actors.brokers.kite.dial import tls_dial
from ticker_actors.brokers.kite.feed import KiteFeed
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.root import Root, TickerUrl
from ticker_actors.brokers.kite.session import Session
from ticker_actors.exchange import wire_rows
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    Accepted,
    FeedBack,
    FeedItem,
    FeedLost,
    NotSent,
    OrderBook,
    Placed,
    Refused,
    Unknown,
    Unreadable,
)
from ticker_actors.model.portfolio import Margins, Positions, Profile

TAG = "14HGMOOGEMSVDBFM0000"
RESTING = PlaceOrder(
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type="BUY",
    quantity=1,
    product="CNC",
    order_type="LIMIT",
    price=1.0,
)
MARKET = PlaceOrder(
    exchange="NSE",
    tradingsymbol="INFY",
    transaction_type="BUY",
    quantity=1,
    product="CNC",
    order_type="MARKET",
)
DELAY = 0.3
NEVER = 3600.0
"""Later than any test ends."""


@asynccontextmanager
async def on(kite: Sandbox, root: str = "", token: str = "sandbox") -> AsyncGenerator[KiteBroker]:
    """A broker of ours on a sandbox."""
    place = Root.parse(f"{kite.address.rest}{root}")
    with closing(HttpClient(place, deadline=3.0)) as http:
        yield KiteBroker(place, http, Session("sandbox", token), NoFeed())


@asynccontextmanager
async def following(url: str, token: str = "sandbox") -> AsyncGenerator[KiteFeed]:
    """A feed of ours on a sandbox's ticker."""
    feed = KiteFeed(
        "primary",
        TickerUrl.parse(url),
        Session("sandbox", token),
        read_order,
        lambda bits: 2**bits // 2,
        tls_dial(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        yield feed
        nursery.cancel_scope.cancel()


def read_order(data: object) -> BrokerOrder | str:
    """As the service reads an order message."""
    read = wire_rows.row(data, BrokerOrder)
    return read.bad[0].problem if read.value is None else read.value


async def heard(feed: KiteFeed) -> FeedItem:
    """The next item, which is to come soon."""
    with trio.fail_after(10):
        return await anext(feed)


async def book(broker: KiteBroker) -> tuple[BrokerOrder, ...]:
    """A good read of the book."""
    found = await broker.orders()
    assert isinstance(found, OrderBook)
    return found.orders


async def test_there_and_back() -> None:
    """Place, see it on the feed and in the book, modify, cancel: each proved by the other."""
    async with (
        sandbox() as kite,
        on(kite) as broker,
        following(kite.address.ticker) as feed,
    ):
        assert await heard(feed) == FeedBack()
        placed = await broker.place(RESTING, TAG)
        assert isinstance(placed, Placed)
        changes = OrderChanges(price=1.5, quantity=2)
        assert await broker.modify(placed.order_id, "regular", changes) == Accepted()
        (row,) = await book(broker)
        assert (row.tag, row.status, row.price, row.quantity) == (TAG, "OPEN", 1.5, 2)
        modified = await heard(feed)
        assert isinstance(modified, BrokerOrder)
        assert (modified.status, modified.price, modified.tag) == ("UPDATE", 1.5, TAG)
        assert await broker.cancel(placed.order_id, "regular") == Accepted()
        (row,) = await book(broker)
        assert row.status == "CANCELLED"
        assert await heard(feed) == row
        assert isinstance(await broker.cancel(placed.order_id, "regular"), Refused)


async def test_all_reads_are_read() -> None:
    """What our adapter reads, the sandbox has: none of it is a bad row."""
    async with sandbox() as kite, on(kite) as broker:
        placed = await broker.place(MARKET, TAG)
        assert isinstance(placed, Placed)
        history = await broker.order_history(placed.order_id)
        assert not isinstance(history, Unreadable)
        assert [state.status for state in history][::4] == ["PUT ORDER REQ RECEIVED", "COMPLETE"]
        trades = await broker.trades()
        assert not isinstance(trades, Unreadable)
        assert [trade.order_id for trade in trades] == [placed.order_id]
        positions = await broker.positions()
        assert isinstance(positions, Positions)
        assert [position.quantity for position in positions.net] == [1]
        assert await broker.holdings() == ()
        assert isinstance(await broker.margins(), Margins)
        assert isinstance(await broker.profile(), Profile)
        quotes = await broker.quotes(["NSE:INFY", "XXX:Y"])
        assert not isinstance(quotes, Unreadable)
        assert set(quotes) == {"NSE:INFY"}


FAULTS: dict[str, tuple[type[object], int]] = {
    "lose_request": (Unknown, 0),
    "lose_reply": (Unknown, 1),
    "delay": (Placed, 1),
    "too_many": (Refused, 0),
    "bad_gateway": (Unknown, 1),
    "unavailable": (Unknown, 0),
    "general": (Unknown, 0),
    "timed_out": (Unknown, 1),
    "late": (Unknown, 0),
    "dead_token": (Refused, 0),
}
"""What a place call proves under each fault, and how many orders are in the book then."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_of_an_order_call(fault: str) -> None:
    """The outcome is what the order protocol says, and the book shows whether it was done."""
    kind, orders = FAULTS[fault]
    async with sandbox(fault_delay=NEVER if fault == "late" else DELAY) as kite, on(kite) as broker:
        kite.faults.reset(f"{fault}=1")
        outcome = await broker.place(RESTING, TAG)
        assert isinstance(outcome, kind)
        assert kite.faults.counts == {fault: 1}
        kite.faults.reset("")
        assert len(await book(broker)) == orders
        if isinstance(outcome, Refused):
            assert outcome.retryable


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_of_a_cancel(fault: str) -> None:
    """A cancel meets the same faults; `Accepted` and `Unknown` are told apart."""
    kind, done = FAULTS[fault]
    async with sandbox(fault_delay=NEVER if fault == "late" else DELAY) as kite, on(kite) as broker:
        placed = await broker.place(RESTING, TAG)
        assert isinstance(placed, Placed)
        kite.faults.reset(f"{fault}=1")
        outcome = await broker.cancel(placed.order_id, "regular")
        assert isinstance(outcome, Accepted if kind is Placed else kind)
        kite.faults.reset("")
        (row,) = await book(broker)
        assert row.terminal == bool(done)


async def test_same_requests_meet_the_same_faults() -> None:
    """Two sandboxes of one seed answer one order of requests alike, kind by kind."""

    async def outcomes() -> list[str]:
        async with sandbox(fault_delay=0.01) as kite, on(kite) as broker:
            kite.faults.reset("11:0.1")
            found = []
            for _ in range(15):
                found += [repr(await broker.place(RESTING, TAG)), repr(await broker.profile())]
            assert kite.faults.counts
            return [re.sub(r"order_id='\d+'", "", text) for text in found]

    assert await outcomes() == await outcomes()


async def test_no_outcome_says_what_the_book_denies() -> None:
    """Under all faults at once: what is placed is there once, what is refused is not there."""
    outcomes = {}
    async with sandbox(fault_delay=0.01) as kite, on(kite) as broker:
        kite.faults.reset("5:0.12")
        for number in range(150):
            outcomes[f"TAG{number}"] = await broker.place(RESTING, f"TAG{number}")
        assert set(kite.faults.counts) == set(FAULTS)
        counts = kite.faults.counts
        done = sum(counts[kind] for kind in ("lose_reply", "bad_gateway", "timed_out", "late"))
        done += sum(isinstance(outcome, Placed) for outcome in outcomes.values())
        kite.faults.reset("")
        with trio.fail_after(5):  # the last late order may be on its way yet
            while len(rows := await book(broker)) < done:  # noqa: ASYNC110  # it is not in here
                await trio.sleep(0.01)
    assert len(rows) == done
    ids = {tag: [row.order_id for row in rows if row.tag == tag] for tag in outcomes}
    for tag, outcome in outcomes.items():
        match outcome:
            case Placed(order_id=order_id):
                assert ids[tag] == [order_id]
            case Refused() | NotSent():
                assert ids[tag] == []
            case Unknown():
                assert len(ids[tag]) <= 1
    unknown = [len(ids[tag]) for tag, outcome in outcomes.items() if isinstance(outcome, Unknown)]
    assert {0, 1} == set(unknown)


async def test_late_order_comes_after_its_refusal() -> None:
    """It is not there when the answer says "timed out", and there a little later."""
    async with (
        sandbox(fault_delay=2.0) as kite,
        on(kite) as broker,
        following(kite.address.ticker) as feed,
    ):
        assert await heard(feed) == FeedBack()
        kite.faults.reset("late=1")
        assert isinstance(await broker.place(MARKET, TAG), Unknown)
        assert await book(broker) == ()
        late = await heard(feed)
        assert isinstance(late, BrokerOrder)
        assert (late.tag, late.status) == (TAG, "COMPLETE")


async def test_faulty_order_that_is_bad_is_refused() -> None:
    """A fault that carries an order out does not make a good one of a bad one."""
    bad = PlaceOrder(**{**_fields(RESTING), "price": 1.01})
    async with sandbox(fault_delay=DELAY) as kite, on(kite) as broker:
        for fault, kind in (("timed_out", Refused), ("delay", Refused), ("lose_reply", Unknown)):
            kite.faults.reset(f"{fault}=1")
            assert isinstance(await broker.place(bad, TAG), kind)
        assert await book(broker) == ()


@pytest.mark.parametrize("fault", ["lose_read", "too_many_reads", "bad_gateway_read"])
async def test_fault_of_a_read(fault: str) -> None:
    """A read that failed proves nothing of the book."""
    async with sandbox() as kite, on(kite) as broker:
        await broker.place(RESTING, TAG)
        kite.faults.reset(f"{fault}=1")
        assert isinstance(await broker.orders(), Unreadable)
        assert isinstance(await broker.positions(), Unreadable)
        assert kite.faults.counts == {fault: 2}


async def test_delayed_read() -> None:
    """It is late, and whole."""
    async with sandbox(fault_delay=DELAY) as kite, on(kite) as broker:
        await broker.place(RESTING, TAG)
        kite.faults.reset("delay_read=1")
        assert len(await book(broker)) == 1


async def test_books_that_lie() -> None:
    """A stale book shows the last honest one, an empty one nothing: both look like good reads."""
    async with sandbox() as kite, on(kite) as broker:
        await broker.place(RESTING, TAG)
        kite.faults.reset("stale_book=1")
        assert await book(broker) == ()
        kite.faults.reset("")
        before = await book(broker)
        await broker.place(RESTING, TAG)
        kite.faults.reset("stale_book=1")
        assert await book(broker) == before
        kite.faults.reset("empty_book=1")
        assert await book(broker) == ()
        kite.faults.reset("")
        assert len(await book(broker)) == 2


async def test_feed_comes_back_after_a_drop() -> None:
    """A dropped ticker is told, and the feed connects again by itself."""
    async with sandbox() as kite, following(kite.address.ticker) as feed:
        assert await heard(feed) == FeedBack()
        kite.faults.reset("drop_ticker=1")
        assert isinstance(await heard(feed), FeedLost)
        kite.faults.reset("")
        assert await heard(feed) == FeedBack()


async def test_feed_stops_at_a_dead_token() -> None:
    """The upgrade's 403 is read as the end of the login."""
    async with sandbox() as kite, following(kite.address.ticker, "wrong") as feed:
        assert await heard(feed) == FeedLost("Kite refused the access token (403): log in.")


async def test_dead_token_waits_for_a_login() -> None:
    """A wrong token is refused, retryable, and nothing is placed."""
    async with sandbox() as kite:
        async with on(kite, token="wrong") as broker:
            outcome = await broker.place(RESTING, TAG)
        assert isinstance(outcome, Refused)
        assert (outcome.retryable, outcome.trouble) == (True, "login_required")
        async with on(kite) as broker:
            assert await book(broker) == ()


async def test_under_a_prefix_with_further_parameters() -> None:
    """As at Zerodha's own sandbox: all under a path, the list of instruments beside it."""
    async with sandbox(prefix="/oms") as kite:
        assert kite.address.rest.endswith("/oms")
        ticker = f"{kite.address.ticker}?user_id=SB0001&x="
        async with on(kite, "?user_id=SB0001") as broker, following(ticker) as feed:
            assert await heard(feed) == FeedBack()
            placed = await broker.place(MARKET, TAG)
            assert isinstance(placed, Placed)
            told = await heard(feed)
            assert isinstance(told, BrokerOrder)
            assert told.order_id == placed.order_id
            assert [row.order_id for row in await book(broker)] == [placed.order_id]
        root = kite.address.rest.removesuffix("/oms")
        outside = Sandbox(type(kite.address)(root, ""), kite.faults)
        assert await outside.call(lambda client: client.instruments("NSE"))
        assert str(await outside.failing(lambda client: client.orders())) == "Route not found"


async def test_nothing_listens_is_not_sent() -> None:
    """After its end a sandbox is no broker: what cannot be connected was never sent."""
    async with sandbox() as kite:
        pass
    async with on(kite) as broker:
        assert isinstance(await broker.place(RESTING, TAG), NotSent)


def _fields(order: PlaceOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}
