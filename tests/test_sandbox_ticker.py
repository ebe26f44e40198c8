"""The sandbox's ticker: what it sends is read by the official parser and the official client."""

import json
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from tests.receiver import Receiver, listening
from tests.sandboxes import KEYS, MARKET, RESTING, sandbox
from ticker_actors.exchange import wire_out

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its pinned autobahn and Twisted are full of them
    from kiteconnect import KiteTicker

INFY, TCS, NIFTY = 408065, 2953217, 256265
PARSER = object.__new__(KiteTicker)
OFFICIAL = Path(__file__).with_name("official_ticker.py")


async def ask(socket: WebSocketConnection, action: str, value: object) -> None:
    """Send what the official client sends."""
    await socket.send_message(json.dumps({"a": action, "v": value}))


async def next_ticks(socket: WebSocketConnection) -> list[dict[str, Any]]:
    """The ticks of the next frame that holds some, by the official parser."""
    with trio.fail_after(5):
        while True:
            message = await socket.get_message()
            if isinstance(message, bytes) and len(message) > 1:
                ticks: list[dict[str, Any]] = PARSER._parse_binary(message)
                return ticks


async def next_text(socket: WebSocketConnection) -> dict[str, Any]:
    """The next text message."""
    with trio.fail_after(5):
        while True:
            message = await socket.get_message()
            if isinstance(message, str):
                content: dict[str, Any] = json.loads(message)
                return content


async def test_ticks_in_three_modes() -> None:
    """A subscription is answered at once in mode quote, and in its mode after it has one."""
    async with sandbox() as kite, kite.ticker() as socket:
        await ask(socket, "subscribe", [INFY, NIFTY, 1])
        infy, nifty = await next_ticks(socket)
        assert (infy["mode"], nifty["mode"]) == ("quote", "quote")
        assert (infy["tradable"], nifty["tradable"]) == (True, False)
        assert infy["ohlc"]["close"] == 1500.0
        await ask(socket, "mode", ["full", [INFY, NIFTY]])
        infy, nifty = await next_ticks(socket)
        assert len(infy["depth"]["buy"]) == len(infy["depth"]["sell"]) == 5
        assert infy["depth"]["buy"][0]["price"] < infy["last_price"]
        assert nifty["exchange_timestamp"] is not None
        await ask(socket, "mode", ["ltp", [INFY]])
        (infy,) = await next_ticks(socket)
        assert set(infy) == {"tradable", "mode", "instrument_token", "last_price"}


async def test_heartbeats_where_nothing_is_subscribed() -> None:
    """A byte a second, at first and again after the last subscription has gone."""
    async with sandbox() as kite, kite.ticker() as socket:
        assert await socket.get_message() == b"\x00"
        await ask(socket, "subscribe", [INFY])
        await next_ticks(socket)
        await ask(socket, "unsubscribe", [INFY])
        with trio.fail_after(5):
            while await socket.get_message() != b"\x00":
                pass


async def test_ticker_shows_the_price_of_the_quote() -> None:
    """REST and ticker show one market: the walk stays near where it was."""
    async with sandbox() as kite, kite.ticker() as socket:
        token = (await kite.call(lambda client: client.ltp("BSE:ACME")))["BSE:ACME"]
        await ask(socket, "subscribe", [token["instrument_token"]])
        (tick,) = await next_ticks(socket)
    assert tick["last_price"] == pytest.approx(token["last_price"], abs=2)


async def test_orders_are_told_to_every_connection() -> None:
    """A fill, and nothing for an order that begins to rest; its end, to all who are there."""
    async with sandbox() as kite, kite.ticker() as one, kite.ticker() as two:
        await one.get_message()
        await two.get_message()
        resting = await kite.call(lambda client: client.place_order(**RESTING))
        filled = await kite.call(lambda client: client.place_order(**MARKET))
        await kite.call(lambda client: client.cancel_order("regular", resting))
        for socket in (one, two):
            told = [await next_text(socket), await next_text(socket)]
            assert [message["type"] for message in told] == ["order", "order"]
            data = [message["data"] for message in told]
            assert [(row["order_id"], row["status"]) for row in data] == [
                (filled, "COMPLETE"),
                (resting, "CANCELLED"),
            ]
            assert data[1]["unfilled_quantity"] == 1
            assert data[0]["checksum"] == ""


@pytest.mark.parametrize(
    "query", ["", "api_key=sandbox&access_token=wrong", "api_key=other&access_token=sandbox"]
)
async def test_wrong_token_is_refused_at_the_upgrade(query: str) -> None:
    """403, which is where a client must stop."""
    async with sandbox() as kite:
        assert await kite.refusal(query) == 403


async def test_nonsense_is_passed_over() -> None:
    """Whatever a client says, the connection lives, and too many tokens are told."""
    nonsense = ["{", "[]", '{"a":"mode","v":["deep",[1]]}', '{"a":"subscribe","v":["x",true,-1]}']
    async with sandbox() as kite, kite.ticker() as socket:
        for text in nonsense:
            await socket.send_message(text)
        await ask(socket, "subscribe", [*range(1, 3_002)])
        told = await next_text(socket)
        assert told == {
            "type": "error",
            "data": "Too many tokens requested. Max permitted is 3000.",
        }
        await ask(socket, "subscribe", [INFY])
        (tick,) = await next_ticks(socket)
    assert tick["instrument_token"] == INFY


async def test_currency_that_no_tick_can_hold_is_left_out() -> None:
    """A price above 429 rupees does not fit into a currency's packet; the rest is shown."""
    async with sandbox() as kite, kite.ticker() as socket:
        names = [f"CDS:PAIR{number}" for number in range(10)]
        found = await kite.call(lambda client: client.ltp(names))
        dear = [
            row["instrument_token"] for row in found.values() if row["last_price"] > 2**32 / 1e7
        ]
        assert dear
        await ask(socket, "subscribe", [*dear, INFY])
        assert [tick["instrument_token"] for tick in await next_ticks(socket)] == [INFY]


async def until_it_ends(socket: WebSocketConnection) -> None:
    """Read a connection that ends soon."""
    with trio.fail_after(5):
        while True:
            await socket.get_message()


async def test_dropped_and_silent_tickers() -> None:
    """One fault cuts the connection, the other leaves it open and says nothing any more."""
    async with sandbox() as kite:
        kite.faults.reset("drop_ticker=1")
        async with kite.ticker() as socket:
            with pytest.raises(ConnectionClosed):
                await until_it_ends(socket)
        kite.faults.reset("silent_ticker=1")
        async with kite.ticker() as socket:
            with trio.move_on_after(1.5) as waited:
                await socket.get_message()
        assert waited.cancelled_caught
        assert kite.faults.counts["silent_ticker"] >= 1


async def test_official_ticker_reads_all_of_it() -> None:
    """The official client, with only its root changed, shows ticks of three modes and an order."""
    async with sandbox() as kite:
        program = await trio.lowlevel.open_process(
            [sys.executable, "-W", "ignore", str(OFFICIAL), kite.address.ticker],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert program.stdout is not None
        try:
            async with aclosing(lines(program.stdout)) as told:
                modes: dict[int, str] = {}
                while modes != {INFY: "full", TCS: "quote", NIFTY: "ltp"}:
                    said = await anext(told)
                    if said["kind"] == "tick":
                        tick = said["content"]
                        modes[tick["instrument_token"]] = tick["mode"]
                order_id = await kite.call(lambda client: client.place_order(**MARKET))
                while (said := await anext(told))["kind"] != "order":
                    assert said["kind"] == "tick"
        finally:
            program.kill()
            await program.wait()
            await program.stdout.aclose()
    assert (said["content"]["order_id"], said["content"]["status"]) == (order_id, "COMPLETE")


async def lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[dict[str, Any]]:
    """The lines of JSON that a program prints."""
    rest = b""
    async for data in stream:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield json.loads(line)


async def test_postback_carries_its_checksum() -> None:
    """An update is posted as raw JSON, signed as Kite documents."""
    receiver = Receiver()
    async with (
        listening(receiver) as port,
        sandbox(postback_url=f"http://127.0.0.1:{port}/postback?a=1") as kite,
    ):
        order_id = await kite.call(lambda client: client.place_order(**MARKET))
        with trio.fail_after(5):
            (posted,) = await receiver.received(1)
    assert posted.line == "POST /postback?a=1 HTTP/1.1"
    update = json.loads(posted.body)
    assert (update["order_id"], update["status"], update["user_id"]) == (
        order_id,
        "COMPLETE",
        "SB0001",
    )
    signed = wire_out.checksum(order_id, update["order_timestamp"], "sandbox")
    assert update["checksum"] == signed
    assert KEYS not in posted.body.decode()


async def test_lost_postback_disturbs_nobody() -> None:
    """Kite does not repeat a postback; orders go on where nobody takes them."""
    async with sandbox(postback_url="http://127.0.0.1:1/") as kite:
        await kite.call(lambda client: client.place_order(**MARKET))
        await kite.call(lambda client: client.place_order(**MARKET))
        rows = await kite.call(lambda client: client.orders())
    assert [row["status"] for row in rows] == ["COMPLETE", "COMPLETE"]
