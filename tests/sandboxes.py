"""Sandboxes for tests: in this process, on a port of loopback, and the official client on them."""

import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from ticker_actors.sandbox.faults import Faults
from ticker_actors.sandbox.options import SandboxOptions
from ticker_actors.sandbox.serve import SandboxAddress, serve_sandbox

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its pinned autobahn and Twisted are full of them
    import kiteconnect

T = TypeVar("T")

MARKET: dict[str, Any] = {
    "variety": "regular",
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 1,
    "product": "CNC",
    "order_type": "MARKET",
    "market_protection": -1,
    "tag": "TAG1",
}
"""An order that fills at once, as the official client wants it."""
RESTING: dict[str, Any] = {
    **{name: value for name, value in MARKET.items() if name != "market_protection"},
    "order_type": "LIMIT",
    "price": 1.0,
}
"""An order that rests: nobody sells so low."""
KEYS = "api_key=sandbox&access_token=sandbox"


@dataclass(frozen=True)
class Sandbox:
    """A running one."""

    address: SandboxAddress
    faults: Faults

    async def call(self, do: Callable[[Any], T], token: str = "sandbox") -> T:
        """What the official client makes of a call, in a thread. It raises what it raises."""

        def called() -> T:
            client = kiteconnect.KiteConnect("sandbox", token, root=self.address.rest, timeout=5)
            client.reqsession.trust_env = False
            with closing(client.reqsession):
                return do(client)

        return await trio.to_thread.run_sync(called)

    async def failing(self, do: Callable[[Any], object], token: str = "sandbox") -> Exception:
        """The exception that the official client throws."""
        try:
            answer = await self.call(do, token)
        except Exception as error:  # noqa: BLE001  # whatever it throws at its users
            return error
        raise AssertionError(f"It did not fail: {answer}")

    @asynccontextmanager
    async def ticker(self, query: str = KEYS) -> AsyncGenerator[WebSocketConnection]:
        """A connection to the ticker, on a stream of our own: refused ones must be closed too."""
        url = urlsplit(self.address.ticker)
        stream = await trio.open_tcp_stream(str(url.hostname), int(url.port or 0))
        async with stream, trio.open_nursery() as nursery:
            yield await wrap_client_stream(nursery, stream, url.netloc, f"{url.path}/?{query}")
            nursery.cancel_scope.cancel()

    async def refusal(self, query: str) -> int:
        """The status with which the ticker refuses an upgrade; 101 if it does not."""
        status = 101
        try:
            async with self.ticker(query):
                pass
        except* ConnectionRejected as group:
            (error,) = group.exceptions
            assert isinstance(error, ConnectionRejected)
            status = error.status_code
        return status


@asynccontextmanager
async def sandbox(**options: Any) -> AsyncGenerator[Sandbox]:  # noqa: ANN401
    """A sandbox without limits, unless they are asked for."""
    chosen = SandboxOptions(**{"port": 0, "limits": False, **options})
    async with trio.open_nursery() as nursery:
        address: SandboxAddress = await nursery.start(partial(serve_sandbox, chosen))
        yield Sandbox(address, chosen.faults)
        nursery.cancel_scope.cancel()
