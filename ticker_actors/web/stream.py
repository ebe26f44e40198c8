"""`/advanced/ws/…`: the order stream. A handler only carries texts from the hub to its socket."""

from http import HTTPStatus

import msgspec
import trio
from quart import Blueprint, Response, websocket

from ticker_actors.actors.stream_hub import Subscription
from ticker_actors.model.calendar import iso
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem, not_found
from ticker_actors.web.server import did_not_read
from ticker_actors.web.tasks import as_json

SLOW = 4001
"""The client did not keep up with its orders: it must connect again."""
PROTOCOL = 1
"""Of the messages: the mission document's, with more keys."""


def blueprint(parts: Parts) -> Blueprint:
    """The routes of the stream."""
    routes = Blueprint("stream", __name__)

    @routes.websocket("/advanced/ws/orders/<account_id>")
    async def orders(account_id: str) -> None:
        if account_id not in parts.executor.accounts:
            raise not_found(f"account {account_id!r}")
        subscription = await parts.hub.join(account_id)
        if subscription is None:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Account {account_id!r} has as many streams as it may have "
                f"(STREAM_CONNECTIONS_PER_ACCOUNT={parts.settings.stream_connections_per_account}).",
                retry_after=30,
            )
        try:
            await websocket.accept()
            await serve(subscription)
        finally:
            if did_not_read(websocket):
                subscription.dropped = True
            with trio.CancelScope(shield=True):  # one message to an actor that never waits
                await parts.hub.leave(subscription)

    async def serve(subscription: Subscription) -> None:
        await websocket.send(welcome(subscription).decode())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, subscription, nursery.cancel_scope)
            async for text in subscription.texts:
                await websocket.send(text.decode())
            nursery.cancel_scope.cancel()
        if subscription.dropped:
            await websocket.close(SLOW, "Too slow: connect again.")

    async def listen(subscription: Subscription, scope: trio.CancelScope) -> None:
        """Answer `ping`; whatever else a client says is of no meaning here."""
        while True:
            if await websocket.receive() == "ping":
                pong = {"type": "pong", "timestamp": iso(parts.clock.now())}
                if not subscription.offer(msgspec.json.encode(pong)):
                    scope.cancel()

    def welcome(subscription: Subscription) -> bytes:
        return msgspec.json.encode(
            {
                "type": "connected",
                "account_id": subscription.account_id,
                "timestamp": iso(parts.clock.now()),
                "sequence": subscription.sequence,
                "stream": parts.hub.stream,
                "protocol": PROTOCOL,
            }
        )

    @routes.get("/advanced/ws/stats")
    async def statistics() -> Response:
        found = await parts.hub.statistics()
        return as_json(
            {
                "total_connections": found.total_connections,
                "accounts": dict(found.accounts),
                "messages": found.messages,
                "dropped": found.dropped,
            }
        )

    return routes
