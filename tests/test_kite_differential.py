"""Our calls beside those of the official `kiteconnect` package, against one recording stub.

What differs on purpose stands in the last tests, each with the reason.
"""

import re
import warnings
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio

from tests import kite_texts
from tests.kite_texts import TAG, error
from tests.receiver import Received, Receiver, answer, listening
from tests.test_kite_api import NoFeed
from ticker_actors.brokers.kite.api import KiteBroker
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.root import Root
from ticker_actors.brokers.kite.session import Session
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import Accepted, Placed, Refused, Unknown, Unreadable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its pinned autobahn and Twisted are full of them
    import kiteconnect
    from kiteconnect.exceptions import GeneralException, KiteException, NetworkException

OURS_TO_CHOOSE = {"user-agent", "accept", "connection", "host"}
"""Headers that say who asks, not what is asked."""

Ours = Callable[[KiteBroker], Awaitable[Any]]
Theirs = Callable[[Any], Any]


class Both:
    """How one call looked from either side, and what either made of the answer."""

    def __init__(self, requests: list[Received], ours: Any, theirs: Any) -> None:  # noqa: ANN401
        self.requests = requests
        self.ours = ours
        self.theirs = theirs

    def on_the_wire(self) -> list[dict[str, Any]]:
        """Each request less what may differ."""
        return [_comparable(request) for request in self.requests]


def _comparable(request: Received) -> dict[str, Any]:
    method, target, _ = request.line.split()
    parts = urlsplit(target)
    return {
        "method": method,
        "path": parts.path,
        "query": parse_qsl(parts.query, keep_blank_values=True),
        "headers": {
            name: value for name, value in request.headers.items() if name not in OURS_TO_CHOOSE
        },
        "form": sorted(parse_qsl(request.body.decode(), keep_blank_values=True)),
    }


async def both(ours: Ours, theirs: Theirs, reply: bytes, root: str = "") -> Both:
    """Make the same call from both sides. An exception of the package is its answer."""
    receiver = Receiver([reply])
    async with listening(receiver) as port:
        url = f"http://127.0.0.1:{port}{root}"
        with closing(HttpClient(Root.parse(url), deadline=1.0)) as http:
            broker = KiteBroker(Root.parse(url), http, Session("key", "token"), NoFeed())
            our_answer = await ours(broker)
        their_answer = await trio.to_thread.run_sync(_official, url, theirs)
    return Both(receiver.requests, our_answer, their_answer)


def _official(url: str, call: Theirs) -> Any:  # noqa: ANN401
    client = kiteconnect.KiteConnect("key", "token", root=url, timeout=1)
    client.reqsession.trust_env = False
    with closing(client.reqsession):
        try:
            return call(client)
        except Exception as failure:  # noqa: BLE001  # whatever it throws at its users
            return failure


def json(body: bytes, status: int = 200) -> bytes:
    """An answer with Kite's content type."""
    return answer(status, "Content-Type: application/json", body=body)


ORDERS: dict[str, dict[str, Any]] = {
    "limit": {"order_type": "LIMIT", "price": 1500.5},
    "round price": {"order_type": "LIMIT", "price": 1500.0, "validity": "IOC"},
    "market": {"order_type": "MARKET", "market_protection": -1},
    "market, 2 %": {"order_type": "MARKET", "market_protection": 2},
    "market, 2.5 %": {"order_type": "MARKET", "market_protection": 2.5},
    "stop": {"order_type": "SL", "price": 1500.0, "trigger_price": 1490.05},
    "stop market": {"order_type": "SL-M", "trigger_price": 1490.0, "market_protection": -1},
    "for minutes": {
        "order_type": "LIMIT",
        "price": 1.05,
        "validity": "TTL",
        "validity_ttl": 2,
        "disclosed_quantity": 5,
    },
    "iceberg": {
        "order_type": "LIMIT",
        "price": 463.0,
        "variety": "iceberg",
        "iceberg_legs": 5,
        "iceberg_quantity": 10,
        "quantity": 50,
    },
    "amo": {"order_type": "LIMIT", "price": 463.0, "variety": "amo", "tradingsymbol": "M&M"},
}
BASE: dict[str, Any] = {
    "variety": "regular",
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 10,
    "product": "CNC",
    "validity": "DAY",
}


@pytest.mark.parametrize("name", ORDERS)
async def test_a_place_call_is_the_same(name: str) -> None:
    """The package's keyword arguments and our order make one and the same request."""
    fields = {**BASE, **ORDERS[name]}
    seen = await both(
        lambda broker: broker.place(PlaceOrder(**fields), TAG),
        lambda client: client.place_order(**fields, tag=TAG),
        json(kite_texts.PLACED),
    )
    ours, theirs = seen.on_the_wire()
    assert ours == theirs
    assert ours["method"] == "POST"
    assert seen.ours == Placed(seen.theirs)


MODIFICATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "price and quantity": ({"price": 1501.0, "quantity": 5}, {}),
    "to market": ({"order_type": "MARKET"}, {"market_protection": -1}),
    "to stop": ({"order_type": "SL", "price": 9.5, "trigger_price": 9.45, "validity": "IOC"}, {}),
}


@pytest.mark.parametrize("name", MODIFICATIONS)
async def test_a_modify_call_is_the_same(name: str) -> None:
    """So are modifications; the protection that ours adds is one that the package can be told."""
    fields, added = MODIFICATIONS[name]
    seen = await both(
        lambda broker: broker.modify("151220000000000", "regular", OrderChanges(**fields)),
        lambda client: client.modify_order("regular", "151220000000000", **fields, **added),
        json(b'{"status": "success", "data": {"order_id": "151220000000000"}}'),
    )
    ours, theirs = seen.on_the_wire()
    assert ours == theirs
    assert ours["method"] == "PUT"
    assert (seen.ours, seen.theirs) == (Accepted(), "151220000000000")


async def test_a_cancel_call_is_the_same() -> None:
    """So is a cancel."""
    seen = await both(
        lambda broker: broker.cancel("151220000000000", "co"),
        lambda client: client.cancel_order("co", "151220000000000"),
        json(b'{"status": "success", "data": {"order_id": "151220000000000"}}'),
    )
    ours, theirs = seen.on_the_wire()
    assert ours == theirs
    assert ours["method"] == "DELETE"
    assert (seen.ours, seen.theirs) == (Accepted(), "151220000000000")


READS: dict[str, tuple[Ours, Theirs, bytes]] = {
    "orders": (lambda b: b.orders(), lambda c: c.orders(), kite_texts.ORDERS),
    "history": (
        lambda b: b.order_history("1"),
        lambda c: c.order_history("1"),
        kite_texts.HISTORY,
    ),
    "trades": (lambda b: b.trades(), lambda c: c.trades(), kite_texts.TRADES),
    "trades of one": (
        lambda b: b.trades("1"),
        lambda c: c.order_trades("1"),
        kite_texts.TRADES,
    ),
    "positions": (lambda b: b.positions(), lambda c: c.positions(), kite_texts.POSITIONS),
    "holdings": (lambda b: b.holdings(), lambda c: c.holdings(), kite_texts.HOLDINGS),
    "margins": (lambda b: b.margins(), lambda c: c.margins(), kite_texts.MARGINS),
    "profile": (lambda b: b.profile(), lambda c: c.profile(), kite_texts.PROFILE),
    "quotes": (
        lambda b: b.quotes(["NSE:M&M", "BSE:SENSEX 50"]),
        lambda c: c.quote("NSE:M&M", "BSE:SENSEX 50"),
        kite_texts.QUOTES,
    ),
}


@pytest.mark.parametrize("name", READS)
async def test_a_read_is_the_same(name: str) -> None:
    """Both ask alike, and each value that ours keeps is the one the package gives."""
    ours, theirs, text = READS[name]
    seen = await both(ours, theirs, json(text))
    our_request, their_request = seen.on_the_wire()
    assert our_request == their_request
    assert our_request["method"] == "GET"
    assert not isinstance(seen.ours, Unreadable)
    same(seen.ours.orders if name == "orders" else seen.ours, seen.theirs)


def same(ours: Any, theirs: Any) -> None:  # noqa: ANN401
    """Ours is a part of theirs: times by instant, a missing value as its default."""
    match ours:
        case tuple() | list():
            assert len(ours) == len([entry for entry in theirs if entry is not None])
            for one, other in zip(ours, theirs, strict=True):
                same(one, other)
        case dict():
            for name, value in ours.items():
                same(value, theirs[name])
        case str() if isinstance(theirs, datetime):
            assert ours == instant(theirs)
        case str() if re.fullmatch(r"....-..-.. ..:..:..", str(theirs)):
            assert ours == instant(datetime.fromisoformat(theirs))  # text to the package
        case str() | int() | float() | None:
            assert ours == theirs
        case struct:
            for name in struct.__struct_fields__:
                given = theirs.get(name)
                if given is not None and given != "":
                    same(getattr(struct, name), given)


def instant(naive: datetime) -> str:
    """The UTC of an Indian wall clock, counted by hand."""
    return (naive - timedelta(hours=5, minutes=30)).isoformat(timespec="milliseconds") + "Z"


@pytest.mark.parametrize(
    "status, error_type",
    [
        (400, "InputException"),
        (400, "OrderException"),
        (403, "TokenException"),
        (403, "PermissionException"),
        (429, "NetworkException"),
    ],
)
async def test_a_well_formed_error_is_read_alike(status: int, error_type: str) -> None:
    """Type, words and status of an error envelope are the same to both."""
    seen = await both(
        lambda broker: broker.cancel("1", "regular"),
        lambda client: client.cancel_order("regular", "1"),
        json(error(error_type, "Some reason."), status),
    )
    assert isinstance(seen.ours, Refused)
    assert (seen.ours.error_type, seen.ours.message) == (error_type, "Some reason.")
    assert isinstance(seen.theirs, KiteException)
    assert (type(seen.theirs).__name__, str(seen.theirs), seen.theirs.code) == (
        error_type,
        "Some reason.",
        status,
    )


# Where the package errs


def place(broker: KiteBroker) -> Awaitable[Any]:
    """An order of ours."""
    return broker.place(PlaceOrder(**BASE, order_type="LIMIT", price=1.0), TAG)


def place_theirs(client: Any) -> Any:  # noqa: ANN401
    """The same order of the package."""
    return client.place_order(**BASE, order_type="LIMIT", price=1.0, tag=TAG)


@pytest.mark.parametrize("error_type", ["MarginException", "HoldingException", "UserException"])
async def test_the_package_loses_types_and_ours_does_not(error_type: str) -> None:
    """These become GeneralException there, which the protocol would have to call unknown."""
    seen = await both(place, place_theirs, json(error(error_type, "x"), 400))
    assert type(seen.theirs) is GeneralException
    assert seen.ours == Refused(error_type, "x")


async def test_the_package_believes_a_500_and_ours_does_not() -> None:
    """A 500 that says success is a placed order there; here only the book can tell."""
    seen = await both(place, place_theirs, json(kite_texts.PLACED, 500))
    assert seen.theirs == "1953341975595868160"
    assert isinstance(seen.ours, Unknown)


async def test_the_package_follows_redirects_and_ours_does_not() -> None:
    """It turns a redirected POST into a GET, and takes that answer for the order's."""
    elsewhere = answer(302, "Location: /elsewhere", "Connection: close")
    receiver = Receiver([elsewhere, elsewhere, json(kite_texts.PLACED)])
    async with listening(receiver) as port:
        url = f"http://127.0.0.1:{port}"
        with closing(HttpClient(Root.parse(url), deadline=1.0)) as http:
            ours = await place(KiteBroker(Root.parse(url), http, Session("key", "token"), NoFeed()))
        theirs = await trio.to_thread.run_sync(_official, url, place_theirs)
    assert theirs == "1953341975595868160"
    assert isinstance(ours, Unknown)
    assert [request.line.split()[0] for request in receiver.requests] == ["POST", "POST", "GET"]


ODD_ANSWERS = {
    "no content type": answer(200, body=kite_texts.PLACED),
    "a list": json(b"[]"),
    "no data": json(b'{"status": "success"}'),
    "no order id": json(b'{"status": "success", "data": {}}'),
    "an error without type": json(b'{"status": "error", "message": "x"}', 400),
    "a page": answer(502, "Content-Type: text/html", body=b"<html></html>"),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
async def test_the_package_breaks_and_ours_answers(name: str) -> None:
    """On odd answers it raises whatever comes first; ours judges what was proved."""
    seen = await both(place, place_theirs, ODD_ANSWERS[name])
    assert isinstance(seen.theirs, Exception)
    assert isinstance(seen.ours, Placed if name == "no content type" else Unknown)


async def test_the_package_drops_the_path_of_a_root_and_ours_does_not() -> None:
    """Under a prefix it asks elsewhere."""
    seen = await both(place, place_theirs, json(kite_texts.PLACED), root="/oms")
    ours, theirs = seen.on_the_wire()
    assert (ours["path"], theirs["path"]) == ("/oms/orders/regular", "/orders/regular")


async def test_small_prices_have_no_exponent() -> None:
    """The package would write a price below 0.0001 as `1e-05`, which is no decimal number."""
    seen = await both(
        lambda broker: broker.modify("1", "regular", OrderChanges(price=0.00001)),
        lambda client: client.modify_order("regular", "1", price=0.00001),
        json(kite_texts.PLACED),
    )
    ours, theirs = seen.on_the_wire()
    assert ("price", "0.00001") in ours["form"]
    assert ("price", "1e-05") in theirs["form"]


async def test_an_unknown_429_is_the_packages_network_exception() -> None:
    """Over the limit, the package cannot be told from a broken network; ours is tried again."""
    seen = await both(place, place_theirs, json(error("NetworkException", "Too many"), 429))
    assert type(seen.theirs) is NetworkException
    assert isinstance(seen.ours, Refused)
    assert seen.ours.retryable
