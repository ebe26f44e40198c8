"""How a WebSocket's handler comes to its end: Quart-Trio's connection, hardened, see `server`."""

from http import HTTPStatus
from inspect import isawaitable
from typing import Any

import trio
from hypercorn.typing import ASGISendCallable
from quart import Websocket
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIWebsocketConnection
from wsproto.frame_protocol import CloseReason

from ticker_actors.web.connection import Connection


class WebSocketConnection(TrioASGIWebsocketConnection):
    """Close codes that tell the truth: 1011 after our error (Quart says 1000), 1012 at a stop.

    And every send is a checkpoint: in Hypercorn a send after the end returns at once, so that a
    handler which only sends would never hear of the end, nor let any other task run.
    """

    async def handle_websocket(  # type: ignore[override]  # as Quart-Trio does
        self, nursery: trio.Nursery, websocket: Websocket, send: ASGISendCallable
    ) -> None:
        """Run the handler; then close, or answer the handshake if that is still open."""
        response: ResponseTypes | None = None
        with trio.CancelScope() as handler:
            nursery.start_soon(self._cancel_at_stop, handler)
            response = await self.app.handle_websocket(websocket)
        if self._accepted and not self._closed:
            code = CloseReason.NORMAL_CLOSURE if response is None else CloseReason.INTERNAL_ERROR
            if handler.cancelled_caught:
                code = CloseReason.SERVICE_RESTART
            await self.close_connection(send, code, "")
        elif not self._accepted and handler.cancelled_caught:
            await self._refuse(self.app.response_class(status=HTTPStatus.SERVICE_UNAVAILABLE), send)
        elif not self._accepted and response is not None:
            await self._refuse(response, send)
        nursery.cancel_scope.cancel()

    async def send_data(self, send: ASGISendCallable, data: str | bytes) -> None:
        """Send one message."""
        await trio.lowlevel.checkpoint()
        await super().send_data(send, data)

    async def _cancel_at_stop(self, handler: trio.CancelScope) -> None:
        connection = self.scope.get("state", {}).get("connection")
        if isinstance(connection, Connection):  # else the application is in a test client
            await connection.context.terminated.wait()
            connection.end_within(connection.config.farewell_timeout)
            handler.cancel()

    async def _refuse(self, response: ResponseTypes, send: ASGISendCallable) -> None:
        body: Any = response.get_data(as_text=False)
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        await send(
            {
                "type": "websocket.http.response.body",
                "body": await body if isawaitable(body) else body,
                "more_body": False,
            }
        )
