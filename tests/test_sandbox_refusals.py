"""What the sandbox refuses, as the official Python client throws it: types, codes and words."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

from tests.sandboxes import MARKET, RESTING, sandbox
from ticker_actors.sandbox.answers import KiteError
from ticker_actors.sandbox.limits import RateLimits

NO_PROTECTION = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)
BAD_ORDERS: dict[str, tuple[dict[str, Any], str]] = {
    "exchange": ({"exchange": "NYSE"}, "Invalid `exchange`."),
    "no symbol": ({"tradingsymbol": ""}, "Missing or empty field `tradingsymbol`"),
    "symbol": ({"tradingsymbol": "<b>"}, "Invalid `tradingsymbol`."),
    "side": ({"transaction_type": "HOLD"}, "Invalid `transaction_type`."),
    "product": ({"product": "BO"}, "Invalid `product`."),
    "order type": ({"order_type": "STOP"}, "Invalid `order_type`."),
    "validity": ({"validity": "GTC"}, "Invalid `validity`."),
    "no minutes": ({"validity": "TTL"}, "Missing or empty field `validity_ttl`"),
    "minutes": ({"validity": "TTL", "validity_ttl": 9999}, "Invalid `validity_ttl`."),
    "no quantity": ({"quantity": 0}, "Missing or empty field `quantity`"),
    "half a unit": ({"quantity": 1.5}, "Invalid `quantity`."),
    "too many units": ({"quantity": 1_000_001}, "Invalid `quantity`."),
    "negative quantity": ({"quantity": -1}, "Invalid `quantity`."),
    "disclosed": ({"disclosed_quantity": 2}, "Invalid `disclosed_quantity`."),
    "no price": ({"order_type": "LIMIT"}, "Missing or empty field `price`"),
    "price of 0": ({"order_type": "LIMIT", "price": 0}, "Missing or empty field `price`"),
    "negative price": ({"order_type": "LIMIT", "price": -1}, "Invalid `price`."),
    "price": ({"order_type": "LIMIT", "price": "nan"}, "Invalid `price`."),
    "tick": ({"order_type": "LIMIT", "price": 1500.01}, "Tick size for this script is 0.05. "),
    "no trigger": ({"order_type": "SL-M"}, "Missing or empty field `trigger_price`"),
    "no protection": ({"market_protection": None}, NO_PROTECTION),
    "protection of 0": ({"market_protection": 0}, NO_PROTECTION),
    "protection": ({"market_protection": 101}, "Invalid `market_protection`."),
    "no legs": ({"variety": "iceberg"}, "Missing or empty field `iceberg_legs`"),
    "legs": (
        {"variety": "iceberg", "iceberg_legs": 11, "iceberg_quantity": 1},
        "Invalid `iceberg_legs`.",
    ),
    "leg's quantity": (
        {"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 1},
        "Invalid `iceberg_quantity`.",
    ),
    "long tag": ({"tag": "A" * 21}, "Invalid `tag`. "),
    "tag with a space": ({"tag": "A B"}, "Invalid `tag`. "),
    "variety": ({"variety": "bo"}, "Invalid `variety`."),
    "co": ({"variety": "co"}, "The paper exchange does not simulate orders of variety co."),
    "index": ({"tradingsymbol": "NIFTY 50"}, "An index cannot be traded."),
}


def placing(order: dict[str, Any]) -> Callable[[Any], object]:
    """The call that places it."""
    return lambda client: client.place_order(**order)


async def test_bad_orders_are_refused_in_kites_way() -> None:
    """Each is an InputException of status 400 that names the field, and no order comes of it."""
    async with sandbox() as kite:
        for name, (changes, message) in BAD_ORDERS.items():
            error = await kite.failing(placing({**MARKET, **changes}))
            assert type(error).__name__ == "InputException", name
            assert getattr(error, "code", None) == 400, name
            assert str(error).startswith(message), name
        assert await kite.call(lambda client: client.orders()) == []


BAD_CALLS: dict[str, tuple[Callable[[Any], object], str, int, str]] = {
    "no such order": (
        lambda client: client.cancel_order("regular", "1926112200000000009"),
        *("OrderException", 400, "Couldn't find that `order_id`."),
    ),
    "history of no order": (
        lambda client: client.order_history("1"),
        *("OrderException", 400, "Couldn't find that `order_id`."),
    ),
    "trades of no order": (
        lambda client: client.order_trades("1"),
        *("OrderException", 400, "Couldn't find that `order_id`."),
    ),
    "no such segment": (
        lambda client: client.margins("gold"),
        *("InputException", 400, "Invalid segment."),
    ),
    "no instruments": (
        lambda client: client.quote(),
        *("InputException", 400, "Missing or empty field `i`"),
    ),
    "too many instruments": (
        lambda client: client.quote([f"NSE:S{number}" for number in range(501)]),
        *("InputException", 400, "Too many instruments requested. Max permitted is 500."),
    ),
    "not simulated": (
        lambda client: client.mf_holdings(),
        *("GeneralException", 404, "Route not found"),
    ),
    "wrong method": (
        lambda client: client.convert_position("NSE", "INFY", "BUY", "day", 1, "CNC", "MIS"),
        *("GeneralException", 405, "Method not allowed"),
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_bad_calls_are_errors_of_kites(name: str) -> None:
    """Whatever is asked for, the client finds an envelope with type, status and message."""
    call, kind, status, message = BAD_CALLS[name]
    async with sandbox() as kite:
        error = await kite.failing(call)
    assert (type(error).__name__, getattr(error, "code", None)) == (kind, status)
    assert str(error) == message


async def test_ended_order_can_neither_change_nor_be_cancelled() -> None:
    """The words are those that Kite has for it."""
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**MARKET))
        modified = await kite.failing(lambda client: client.modify_order("regular", order_id))
        cancelled = await kite.failing(lambda client: client.cancel_order("regular", order_id))
    text = "Order cannot be {} as it is being processed. Try later."
    assert [str(modified), str(cancelled)] == [text.format("modified"), text.format("cancelled")]


async def test_wrong_variety_finds_no_order() -> None:
    """An order is known under the variety that it was placed with."""
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**RESTING))
        error = await kite.failing(lambda client: client.cancel_order("amo", order_id))
    assert str(error) == "Couldn't find that `order_id`."


async def test_becoming_a_market_order_needs_protection() -> None:
    """A modification to MARKET must say its protection again."""
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**RESTING))
        error = await kite.failing(
            lambda client: client.modify_order("regular", order_id, order_type="MARKET")
        )
        assert str(error) == NO_PROTECTION
        await kite.call(
            lambda client: client.modify_order(
                "regular", order_id, order_type="MARKET", market_protection=-1
            )
        )
        (row,) = await kite.call(lambda client: client.orders())
    assert (row["status"], row["modified"]) == ("COMPLETE", True)


async def test_26th_modification_is_refused() -> None:
    """Kite takes 25 of an order."""
    async with sandbox() as kite:

        def often(client: Any) -> None:  # noqa: ANN401
            order_id = client.place_order(**RESTING)
            for number in range(26):
                client.modify_order("regular", order_id, price=1 + number)

        error = await kite.failing(often)
        (row,) = await kite.call(lambda client: client.orders())
    assert str(error) == "Maximum allowed order modifications exceeded."
    assert row["price"] == 25


async def test_dearer_modification_without_funds_is_a_margin_error() -> None:
    """The client loses the type of a MarginException, but not its status and words."""
    async with sandbox(funds=1_000) as kite:
        order_id = await kite.call(lambda client: client.place_order(**RESTING))
        error = await kite.failing(
            lambda client: client.modify_order("regular", order_id, quantity=10_000)
        )
    assert getattr(error, "code", None) == 400
    assert str(error).startswith("Insufficient funds. Required margin is 10000.00")


@pytest.mark.parametrize("token", ["wrong", ""])
async def test_any_other_token_is_dead(token: str) -> None:
    """Status 403 and a TokenException, which is what runs the client's session hook."""
    async with sandbox() as kite:
        error = await kite.failing(lambda client: client.place_order(**MARKET), token)
    assert (type(error).__name__, getattr(error, "code", None)) == ("TokenException", 403)


def refused_at(call: Callable[[Any], object]) -> Callable[[Any], tuple[int, str]]:
    """How often a call is made in a row until it fails, and with what."""

    def calls(client: Any) -> tuple[int, str]:  # noqa: ANN401
        for number in range(1, 200):
            try:
                call(client)
            except Exception as error:  # noqa: BLE001  # whatever it throws at its users
                return number, f"{type(error).__name__} {getattr(error, 'code', None)}: {error}"
        raise AssertionError("It never failed.")

    return calls


async def test_too_fast_a_client_is_refused() -> None:
    """More than ten orders a second is 429, as a NetworkException; what was refused is not done."""
    async with sandbox(limits=True) as kite:
        number, error = await kite.call(refused_at(placing(MARKET)))
        assert number > 10
        assert error == "NetworkException 429: Too many requests"
        assert len(await kite.call(lambda client: client.orders())) == number - 1
        _, error = await kite.call(refused_at(lambda client: client.ltp("NSE:INFY")))
        assert error == "NetworkException 429: Too many requests"


async def test_limits_are_kites(autojump_clock: object) -> None:
    """Ten order calls, one for quotes and ten others a second; 400 a minute, 5 000 orders a day."""
    limits = RateLimits(enforced=True)

    def fit(call: Callable[[], None]) -> int:
        for number in range(10_000):
            try:
                call()
            except KiteError:
                return number
        raise AssertionError("There is no limit.")

    assert fit(limits.quote) == 1
    assert fit(limits.other) == 10
    assert fit(lambda: limits.order_call(places=False)) == 10
    await trio.sleep(1)
    assert fit(limits.quote) == 1
    placed = taken = 0
    while taken < 390:
        taken += fit(lambda: limits.order_call(places=False))
        await trio.sleep(1)
    assert fit(lambda: limits.order_call(places=True)) == 0
    await trio.sleep(60)
    while number := fit(lambda: limits.order_call(places=True)):
        placed += number
        await trio.sleep(10)
    assert placed == 5_000
    assert fit(lambda: limits.order_call(places=False)) == 10


async def test_what_is_no_form_is_refused() -> None:
    """Bodies of another kind, too large ones and other versions are errors, and never a crash."""
    async with sandbox() as kite, httpx.AsyncClient(trust_env=False) as raw:
        url = f"{kite.address.rest}/orders/regular"
        key = {"Authorization": "token sandbox:sandbox"}
        bad = [
            await raw.post(url, headers=key, content=b"\xff=\xfe"),
            await raw.post(url, headers=key, content="&".join(f"f{n}=1" for n in range(100))),
            await raw.post(url, headers=key, json=MARKET),
            await raw.post(url, headers=key, content=b"x" * 20_000),
            await raw.post(url, headers={**key, "X-Kite-Version": "2"}, data=MARKET),
            await raw.get(kite.address.rest, headers=key),
        ]
    assert [answer.status_code for answer in bad] == [400, 400, 400, 413, 400, 400]
    assert all(answer.json()["status"] == "error" for answer in bad)


async def test_refused_call_does_not_cost_its_connection() -> None:
    """A body that nobody looked at is read to its end: the next order is not sent into a grave."""
    async with sandbox() as kite, httpx.AsyncClient(trust_env=False) as raw:
        order = {name: str(value) for name, value in MARKET.items()}
        for number in range(20):
            refused = await raw.post(f"{kite.address.rest}/orders/regular", data=order)
            nowhere = await raw.post(f"{kite.address.rest}/nowhere/{number}", data=order)
            assert [refused.status_code, nowhere.status_code] == [403, 404]
            assert "connection" not in {*refused.headers, *nowhere.headers}
        large = await raw.post(f"{kite.address.rest}/nowhere", content=b"x" * 1_000_000)
        assert large.headers["connection"] == "close"
