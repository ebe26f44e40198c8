"""The official JavaScript client on the sandbox, with only its root changed."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.receiver import Receiver, listening
from tests.sandboxes import MARKET, Sandbox, sandbox

FOLDER = Path(__file__).with_name("js")
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
INSTALL_SECONDS = 240

pytestmark = pytest.mark.timeout(INSTALL_SECONDS + 60)


@pytest.fixture(scope="module")
def script() -> str:
    """The program, once the client is installed beside it."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules" / "kiteconnect").is_dir():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed, nor the official JavaScript client")
        installed = subprocess.run(
            INSTALL, cwd=FOLDER, check=False, capture_output=True, timeout=INSTALL_SECONDS
        )
        if installed.returncode:
            pytest.skip("npm could not install the official JavaScript client")
    return str(FOLDER / "official.mjs")


async def node(*command: str, stdin: bytes = b"") -> Any:  # noqa: ANN401
    """What a program prints, as JSON."""
    with trio.fail_after(45):
        done = await trio.run_process(["node", *command], stdin=stdin, capture_stdout=True)
    return json.loads(done.stdout)


@asynccontextmanager
async def logged_in(**options: Any) -> AsyncIterator[tuple[Sandbox, str]]:  # noqa: ANN401
    """A sandbox and a request token of it."""
    async with sandbox(redirect_url="http://127.0.0.1:1/", **options) as kite:
        async with httpx.AsyncClient(trust_env=False) as browser:
            page = await browser.get(f"{kite.address.rest}/connect/login?v=3&api_key=sandbox")
        yield kite, httpx.URL(page.headers["location"]).params["request_token"]


@pytest.mark.parametrize("prefix", ["", "/oms"])
async def test_every_call_of_the_official_client(script: str, prefix: str) -> None:
    """Session, orders, account, market, instruments, errors and ticker are read as Kite's are."""
    async with logged_in(prefix=prefix) as (kite, token):
        listed = kite.address.rest if not prefix else kite.address.rest.removesuffix(prefix)
        found = await node(script, kite.address.rest, f"{kite.address.ticker}/", token, listed)
    placed = found["placed"]["order_id"]
    assert found["session"]["access_token"] == "sandbox"
    assert found["modes"] == {"408065": "full", "2953217": "quote", "256265": "ltp"}
    assert [len(found["tick"]["depth"][side]) for side in ("buy", "sell")] == [5, 5]
    assert (found["update"]["order_id"], found["update"]["status"]) == (placed, "COMPLETE")

    filled, cancelled = found["orders"]
    assert (filled["order_id"], filled["status"], filled["tag"]) == (placed, "COMPLETE", "TAG1")
    assert cancelled["order_id"] == found["modified"]["order_id"] == found["cancelled"]["order_id"]
    assert (cancelled["status"], cancelled["price"], cancelled["quantity"]) == ("CANCELLED", 2, 3)
    assert [state["status"] for state in found["history"]][-2:] == ["CANCEL PENDING", "CANCELLED"]
    assert found["trades"] == found["orderTrades"]
    assert [trade["order_id"] for trade in found["trades"]] == [placed]

    assert [row["quantity"] for row in found["positions"]["net"]] == [1]
    assert found["holdings"] == []
    assert found["profile"]["user_id"] == "SB0001"
    assert found["margins"]["equity"] == found["equity"]
    assert set(found["quote"]) == {"NSE:INFY", "NSE:NIFTY 50"}
    assert found["ohlc"]["NSE:INFY"]["ohlc"]["close"] == 1500
    assert set(found["ltp"]["NSE:INFY"]) == {"instrument_token", "last_price"}
    tokens = {row["instrument_token"]: row["tick_size"] for row in found["instruments"][:-1]}
    assert tokens["408065"] == 0.05
    assert found["futures"][0]["tradingsymbol"] == "NIFTY25NOVFUT"
    assert found["gtts"] == [found["gtt"]]
    assert (found["gtt"]["id"], found["gtt"]["status"]) == (
        found["trigger"]["trigger_id"],
        "active",
    )
    assert found["left"] is True

    errors = {
        name: (error["error_type"], error["message"]) for name, error in found["errors"].items()
    }
    assert errors["no protection"][0] == "InputException"
    assert errors["ended"] == (
        "InputException",
        "Order cannot be cancelled as it is being processed. Try later.",
    )
    assert errors["unknown"] == ("GeneralException", "Route not found")
    assert errors["token"][0] == "TokenException"


async def test_postback_is_valid_to_the_official_client(script: str) -> None:
    """The client's own check of the checksum passes, and fails for another order."""
    receiver = Receiver()
    async with (
        listening(receiver) as port,
        sandbox(postback_url=f"http://127.0.0.1:{port}/") as kite,
    ):
        await kite.call(lambda client: client.place_order(**MARKET))
        (posted,) = await receiver.received(1)
    assert await node(script, "postback", stdin=posted.body) is True
    other = {**json.loads(posted.body), "order_id": "1"}
    assert await node(script, "postback", stdin=json.dumps(other).encode()) is False
