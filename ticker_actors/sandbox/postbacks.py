"""Postbacks: every order update to the application's own URL, once, and never again.

Source: https://kite.trade/docs/connect/v3/postbacks/. Kite does not repeat a postback either.
"""

import httpx
import msgspec
import structlog
import trio

from ticker_actors.exchange import wire_out
from ticker_actors.exchange.wire_out import Json
from ticker_actors.sandbox.options import API_SECRET

CALL_SECONDS = 5.0
WAITING = 1_000
"""Updates that wait while the receiver is slow. More are dropped."""

_log = structlog.get_logger(__name__)


class Postbacks:
    """The sender. `offer` is told of updates, `run` posts them in order."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._in, self._out = trio.open_memory_channel[Json](WAITING)

    def offer(self, update: Json) -> None:
        """Let an update wait its turn, or drop it."""
        try:
            self._in.send_nowait(update)
        except trio.WouldBlock:
            _log.warning("postback dropped", order_id=update["order_id"])

    async def run(self) -> None:
        """Post without end."""
        async with httpx.AsyncClient(trust_env=False, timeout=CALL_SECONDS) as client:
            async for update in self._out:
                await self._post(client, update)

    async def _post(self, client: httpx.AsyncClient, update: Json) -> None:
        signed = {
            **update,
            "checksum": wire_out.checksum(
                update["order_id"], update["order_timestamp"], API_SECRET
            ),
        }
        headers = {"Content-Type": "application/json"}
        try:
            with trio.fail_after(CALL_SECONDS):
                await client.post(self._url, content=msgspec.json.encode(signed), headers=headers)
        except (httpx.HTTPError, trio.TooSlowError) as error:
            _log.warning("postback lost", order_id=update["order_id"], error=type(error).__name__)
