"""The official Python client on the sandbox, with only its root changed: it reads every reply."""

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
