"""The official Python client on the sandbox, with only its root changed: it reads every reply."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import httpx
import pytest

from tests.sandboxes import MARKET, RESTING, sandbox

# What one order gives to read


async def test_order_is_placed_and_read_back() -> None:
    """A MARKET order fills; its row has a long id, its tag, and naive Indian times."""
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**MARKET))
        (row,) = await kite.call(lambda client: client.orders())
    assert len(order_id) == 19
    assert row["order_id"] == order_id
    assert (row["status"], row["filled_quantity"], row["average_price"]) == ("COMPLETE", 1, 1500.0)
    assert (row["tag"], row["tags"], row["instrument_token"]) == ("TAG1", ["TAG1"], 408065)
    assert isinstance(row["order_timestamp"], datetime)
    assert row["order_timestamp"].tzinfo is None


async def test_untagged_order_has_no_tags() -> None:
    """Kite leaves `tags` out where there are none, and has `tag` null."""
    async with sandbox() as kite:
        untagged = {name: value for name, value in MARKET.items() if name != "tag"}
        await kite.call(lambda client: client.place_order(**untagged))
        (row,) = await kite.call(lambda client: client.orders())
    assert row["tag"] is None
    assert "tags" not in row


async def test_history_tells_every_state() -> None:
    """From its registering to its end, an order shows the states that Kite documents."""
    async with sandbox() as kite:

        def life(client: Any) -> list[dict[str, Any]]:  # noqa: ANN401
            order_id = client.place_order(**RESTING)
            client.modify_order("regular", order_id, price=2.0, quantity=3)
            client.cancel_order("regular", order_id)
            history: list[dict[str, Any]] = client.order_history(order_id)
            return history

        states = await kite.call(life)
    assert [state["status"] for state in states] == [
        *("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN"),
        *("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED", "OPEN"),
        *("CANCEL PENDING", "CANCELLED"),
    ]
    assert states[0]["exchange_order_id"] is None
    assert [states[3]["price"], states[-1]["price"]] == [1.0, 2.0]
    assert states[-1]["cancelled_quantity"] == 3


async def test_trades_of_an_order() -> None:
    """Each fill is a trade, in the day's list and in that of its order."""
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**MARKET))
        (trade,) = await kite.call(lambda client: client.trades())
        assert [trade] == await kite.call(lambda client: client.order_trades(order_id))
    assert (trade["order_id"], trade["quantity"], trade["average_price"]) == (order_id, 1, 1500.0)
    assert isinstance(trade["fill_timestamp"], datetime)
    assert len(trade["order_timestamp"]) == len("09:15:00")


async def test_positions_and_margins_follow_the_trades() -> None:
    """What was bought is a position, and its money is no more available."""
    async with sandbox(funds=100_000) as kite:
        await kite.call(lambda client: client.place_order(**{**MARKET, "quantity": 10}))
        positions = await kite.call(lambda client: client.positions())
        margins = await kite.call(lambda client: client.margins())
        equity = await kite.call(lambda client: client.margins("equity"))
        assert await kite.call(lambda client: client.holdings()) == []
    (net,), (day,) = positions["net"], positions["day"]
    assert (net["quantity"], net["average_price"], net["buy_quantity"]) == (10, 1500.0, 10)
    assert net["overnight_quantity"] == 0
    assert day["quantity"] == 10
    assert margins["equity"] == equity
    assert equity["net"] == 85_000
    assert not margins["commodity"]["enabled"]


@pytest.mark.parametrize(
    "changes,status",
    [
        ({"order_type": "SL", "price": 1600, "trigger_price": 1590.0}, "TRIGGER PENDING"),
        ({"order_type": "SL-M", "trigger_price": 1590.0}, "TRIGGER PENDING"),
        ({"order_type": "LIMIT", "price": 1400.05, "validity": "IOC"}, "CANCELLED"),
        (
            {"order_type": "LIMIT", "price": 1400.0, "validity": "TTL", "validity_ttl": 2},
            "OPEN",
        ),
        ({"variety": "amo"}, "COMPLETE"),
        ({"quantity": 900_000}, "REJECTED"),
    ],
)
async def test_orders_of_every_kind(changes: dict[str, Any], status: str) -> None:
    """All varieties that the book knows, all order types and validities are taken."""
    async with sandbox(funds=1_000_000) as kite:
        await kite.call(lambda client: client.place_order(**{**MARKET, **changes}))
        (row,) = await kite.call(lambda client: client.orders())
    assert row["status"] == status
    assert row["variety"] == changes.get("variety", "regular")
    assert (row["status"] == "REJECTED") == ("Insufficient funds" in str(row["status_message"]))


async def test_iceberg_is_a_row_a_leg() -> None:
    """A leg comes when the one before has filled, under the same tag; the last one has the rest."""
    iceberg = {"variety": "iceberg", "quantity": 12, "iceberg_legs": 3, "iceberg_quantity": 5}
    async with sandbox() as kite:
        first = await kite.call(lambda client: client.place_order(**{**MARKET, **iceberg}))
        rows = await kite.call(lambda client: client.orders())
    assert rows[0]["order_id"] == first
    assert [(row["quantity"], row["status"]) for row in rows] == [
        *((5, "COMPLETE"), (5, "COMPLETE"), (2, "COMPLETE")),
    ]
    assert {row["tag"] for row in rows} == {"TAG1"}
    assert [row["meta"]["iceberg"]["leg"] for row in rows] == [1, 2, 3]
    assert [row["meta"]["iceberg"]["remaining_quantity"] for row in rows] == [7, 2, 0]


async def test_cancelled_leg_is_the_last() -> None:
    """While a leg rests no other is there, and none follows it when it is cancelled."""
    iceberg = {"variety": "iceberg", "quantity": 10, "iceberg_legs": 2, "iceberg_quantity": 5}
    async with sandbox() as kite:
        order_id = await kite.call(lambda client: client.place_order(**{**RESTING, **iceberg}))
        assert len(await kite.call(lambda client: client.orders())) == 1
        await kite.call(lambda client: client.cancel_order("iceberg", order_id))
        (row,) = await kite.call(lambda client: client.orders())
    assert (row["status"], row["cancelled_quantity"]) == ("CANCELLED", 5)


async def test_triggers_wait_and_go_off() -> None:
    """A GTT is made, changed, deleted; another goes off when its price comes, with its order."""
    leg = {
        "transaction_type": "BUY",
        "quantity": 1,
        "order_type": "LIMIT",
        "product": "CNC",
        "price": 1600.0,
    }
    far = ("single", "INFY", "NSE", [1400.0], 1500.0, [leg])
    nearer = ("two-leg", "INFY", "NSE", [1400.0, 1600.0], 1500.0, [leg, leg])
    due = ("single", "INFY", "NSE", [1700.0], 1800.0, [leg])
    async with sandbox() as kite:
        waiting = (await kite.call(lambda client: client.place_gtt(*far)))["trigger_id"]
        await kite.call(lambda client: client.modify_gtt(waiting, *nearer))
        gone_off = (await kite.call(lambda client: client.place_gtt(*due)))["trigger_id"]
        first, second = await kite.call(lambda client: client.get_gtts())
        assert (first["id"], first["type"], first["status"]) == (waiting, "two-leg", "active")
        assert first["orders"][0]["result"] is None
        assert (second["id"], second["status"]) == (gone_off, "triggered")
        assert second == await kite.call(lambda client: client.get_gtt(gone_off))
        (order,) = await kite.call(lambda client: client.orders())
        result = second["orders"][0]["result"]["order_result"]
        assert (result["status"], result["order_id"]) == ("success", order["order_id"])
        assert order["status"] == "COMPLETE"
        await kite.call(lambda client: client.delete_gtt(waiting))
        errors = [
            await kite.failing(lambda client: client.delete_gtt(waiting)),
            await kite.failing(lambda client: client.get_gtt(1)),
        ]
    assert [str(error) for error in errors] == ["Trigger is not active.", "Trigger not found."]


# The market


async def test_quotes_of_all_three_kinds() -> None:
    """Known instruments and any other symbol have a price; what is no instrument is left out."""
    names = ["NSE:INFY", "NSE:NIFTY 50", "NSE:ANYTHING", "XXX:INFY"]
    async with sandbox() as kite:
        quote = await kite.call(lambda client: client.quote(names))
        ohlc = await kite.call(lambda client: client.ohlc(names))
        ltp = await kite.call(lambda client: client.ltp(names))
    assert set(quote) == set(ohlc) == set(ltp) == set(names[:-1])
    infy = quote["NSE:INFY"]
    assert infy["instrument_token"] == ltp["NSE:INFY"]["instrument_token"] == 408065
    assert [len(infy["depth"][side]) for side in ("buy", "sell")] == [5, 5]
    assert isinstance(infy["timestamp"], datetime)
    assert ohlc["NSE:INFY"]["ohlc"]["close"] == 1500.0
    assert "depth" not in quote["NSE:NIFTY 50"]


async def test_instruments_as_the_client_parses_them() -> None:
    """The list is CSV with every column, whole or of one exchange, and grows with new symbols."""
    async with sandbox() as kite:
        await kite.call(lambda client: client.ltp("NFO:ACME25NOVFUT"))
        listed = await kite.call(lambda client: client.instruments())
        futures = await kite.call(lambda client: client.instruments("NFO"))
    assert {row["exchange"] for row in listed} == {"NSE", "BSE", "NFO"}
    nifty, _, acme = futures
    assert (nifty["tradingsymbol"], nifty["expiry"]) == ("NIFTY25NOVFUT", date(2025, 11, 25))
    assert (nifty["lot_size"], nifty["tick_size"]) == (75, 0.05)
    assert acme["tradingsymbol"] == "ACME25NOVFUT"


# The session


async def test_login_from_page_to_logout() -> None:
    """The login page sends back a request token, which buys a session once."""
    async with sandbox(redirect_url="http://127.0.0.1:1/back?x=1") as kite:
        async with httpx.AsyncClient(trust_env=False) as browser:
            url = f"{kite.address.rest}/connect/login?v=3&api_key=sandbox&redirect_params=a%3D2"
            sent_back = httpx.URL((await browser.get(url)).headers["location"])
        token = sent_back.params["request_token"]
        assert (sent_back.params["x"], sent_back.params["a"]) == ("1", "2")
        assert sent_back.params["status"] == "success"

        session = await kite.call(lambda client: client.generate_session(token, "sandbox"), "")
        assert session["access_token"] == "sandbox"
        assert isinstance(session["login_time"], datetime)
        again = await kite.failing(lambda client: client.generate_session(token, "sandbox"), "")
        assert str(again) == "Token is invalid or has expired."
        wrong = await kite.failing(lambda client: client.generate_session(token, "wrong"), "")
        assert str(wrong) == "Invalid `checksum`."
        profile = await kite.call(lambda client: client.profile())
        assert profile["user_id"] == session["user_id"]
        assert await kite.call(lambda client: client.invalidate_access_token())


async def test_login_without_an_address_shows_the_token() -> None:
    """Where there is nothing to send the browser to, the request token is to be read."""
    async with sandbox() as kite, httpx.AsyncClient(trust_env=False) as browser:
        page = await browser.get(f"{kite.address.rest}/connect/login?v=3&api_key=sandbox")
        assert page.status_code == 200
        assert "request_token: <code>" in page.text


# What is refused


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


async def test_kinds_of_limits() -> None:
    """Orders, quotes and other calls have budgets of their own."""
    async with sandbox(limits=True) as kite:

        def hasty(client: Any) -> list[str]:  # noqa: ANN401
            found = []
            for _ in range(11):
                try:
                    client.place_order(**MARKET)
                except Exception as error:  # noqa: BLE001  # whatever it throws
                    found.append(f"{type(error).__name__} {error.code}: {error}")  # type: ignore[attr-defined]  # Kite's have it
            return found

        assert await kite.call(hasty) == ["NetworkException 429: Too many requests"]
        assert len(await kite.call(lambda client: client.orders())) == 10
        await kite.call(lambda client: client.ltp("NSE:INFY"))
        error = await kite.failing(lambda client: client.ltp("NSE:INFY"))
        assert getattr(error, "code", None) == 429


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
