"""The ticker: binary ticks once a second, and order updates as text, over one WebSocket a client.

Source: https://kite.trade/docs/connect/v3/websocket/. Ticks wait for their client, so they are
never old. Order updates do not: a client that falls behind by more than `WAITING` of them is cut,
as one is whose network died; it must read the book anyhow.
"""

import json
from collections.abc import Iterable
from typing import get_args

import trio
from quart import Blueprint, websocket

from ticker_actors.exchange import packets, wire_out
from ticker_actors.exchange.packets import HEARTBEAT, Mode
from ticker_actors.exchange.wire_out import Json
from ticker_actors.sandbox.answers import bad_token, too_many
from ticker_actors.sandbox.desk import Desk
from ticker_actors.sandbox.faults import TICKER, Faults
from ticker_actors.sandbox.options import ACCESS_TOKEN, API_KEY
from ticker_actors.web.connection import connection_of

BEAT_SECONDS = 1.0
"""Between two frames of ticks, or two heartbeats where nothing is subscribed."""
WAITING = 1_000
"""Order updates that may wait for a client."""
MOST_TOKENS = 3_000
"""Instruments of one connection."""
MOST_CONNECTIONS = 100
"""Kite takes three of an app, but does not say what becomes of the fourth."""


class Client:
    """One connection: what it subscribed to, and what waits for it."""

    def __init__(self, desk: Desk, faults: Faults) -> None:
        self._desk = desk
        self._faults = faults
        self._modes: dict[int, Mode] = {}
        self._in, self._out = trio.open_memory_channel[str](WAITING)
        self._turn = trio.Lock()
        self._silent = False
        self.cut = trio.Event()
        """The connection must end, without a word."""

    def offer(self, text: str) -> None:
        """Let a text wait its turn, or cut the client that has no room for it."""
        try:
            self._in.send_nowait(text)
        except trio.WouldBlock:
            self.cut.set()

    async def tell(self) -> None:
        """Send the texts that wait, without end."""
        async for text in self._out:
            await self._send(text)

    async def beat(self) -> None:
        """Make ticks or a heartbeat once a second, without end."""
        while True:
            match self._faults.draw(TICKER):
                case "drop_ticker":
                    self.cut.set()
                case "silent_ticker":
                    self._silent = True
            await self._send(self._frame(self._modes))
            await trio.sleep(BEAT_SECONDS)

    async def listen(self) -> None:
        """Do what the client asks, without end. What is no request is passed over."""
        while True:
            text = await websocket.receive()
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                continue
            match content:
                case {"a": "subscribe", "v": list() as tokens}:
                    await self._subscribe(tokens)
                case {"a": "unsubscribe", "v": list() as tokens}:
                    for token in _tokens(tokens):
                        self._modes.pop(token, None)
                case {"a": "mode", "v": [str() as mode, list() as tokens]} if mode in get_args(
                    Mode
                ):
                    await self._subscribe(tokens, mode)  # type: ignore[arg-type]  # it is one of them

    async def _send(self, message: str | bytes) -> None:
        async with self._turn:
            if not self._silent:
                await websocket.send(message)

    async def _subscribe(self, tokens: list[object], mode: Mode | None = None) -> None:
        """Show these at once and from now on; without a mode, in their own or in quote."""
        wanted = {token: mode or self._modes.get(token, "quote") for token in _tokens(tokens)}
        if len(self._modes | wanted) > MOST_TOKENS:
            text = f"Too many tokens requested. Max permitted is {MOST_TOKENS}."
            self.offer(wire_out.error_message(text))
            return
        self._modes |= wanted
        await self._send(self._frame(wanted))

    def _frame(self, modes: dict[int, Mode]) -> bytes:
        """The ticks of these tokens. Tokens of nothing are left out, and what no frame can hold."""
        now, market = self._desk.now(), self._desk.market
        ticks = [
            packets.in_mode(market.tick(instrument, now), mode)
            for token, mode in modes.items()
            if (instrument := market.by_token(token)) is not None
        ]
        try:
            frame = packets.build(ticks)
        except ValueError:
            ticks = [tick for tick in ticks if packets.fits(tick)]
            frame = packets.build(ticks)
        return frame if ticks else HEARTBEAT


def _tokens(values: Iterable[object]) -> list[int]:
    return [value for value in values if isinstance(value, int) and 0 < value < 2**32]


def blueprint(desk: Desk, faults: Faults) -> Blueprint:
    """The route of the ticker."""
    routes = Blueprint("ticker", __name__)
    clients: set[Client] = set()

    def tell(update: Json) -> None:
        message = wire_out.order_message(update)
        for client in clients:
            client.offer(message)

    desk.listeners.append(tell)

    @routes.websocket("/")
    async def ticker() -> None:
        given = websocket.args.get("api_key"), websocket.args.get("access_token")
        if given != (API_KEY, ACCESS_TOKEN):
            raise bad_token()
        if len(clients) >= MOST_CONNECTIONS:
            raise too_many()
        await websocket.accept()
        client = Client(desk, faults)
        clients.add(client)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.listen)
                nursery.start_soon(client.beat)
                nursery.start_soon(client.tell)
                await client.cut.wait()
                connection_of(websocket).kill()
        finally:
            clients.discard(client)

    return routes
