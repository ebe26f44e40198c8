"""`/advanced/ws/…`: the order stream. A handler brings its client up to date; the hub goes on.

The welcome, a snapshot and what is replayed from the log go out before the client is live: a long
replay uses no queue, and other clients do not know of it.
"""

import math
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response, websocket

from ticker_actors.actors import subscription as queue
from ticker_actors.actors.stream_requests import Full
from ticker_actors.actors.subscription import Subscription
from ticker_actors.model import ids, stream_messages
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.events import Event, stream_message
from ticker_actors.model.frames import text_frame
from ticker_actors.model.stream_messages import HEARTBEAT_SECONDS, CloseCode, Resume
from ticker_actors.web import clients, decoding, tickets
from ticker_actors.web.connection import connection_of, did_not_read
from ticker_actors.web.events import Sequence, events_after
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem, bad_fields, database_away, not_found
from ticker_actors.web.tasks import as_json
from ticker_actors.web.tickets import Tickets

MOST_REPLAYED = 10_000
"""Events that are told again; who lacks more reads the orders as they are."""
PAGE = 500
"""Events read at a time: about 250 KB, once a client."""
CHUNK_BYTES = 64 * 1024
"""Sent at a time: what a socket's buffer holds."""
ORDERS_A_PAGE = 100
"""Of a snapshot: about 60 KB."""
READ_SECONDS = 10.0
"""A page of the log that takes longer: the database is away."""
TEXTS_A_SECOND = 10.0
"""That a client may send, and at once; a `ping` now and then is all there is to say."""


class StreamQuery(msgspec.Struct, frozen=True):
    """The query of the stream. A client of the mission document has none."""

    v: Annotated[int, Meta(ge=1, le=2)] = 1
    """2: heartbeats and snapshots are understood."""
    since: Sequence | None = None
    """The last sequence that the client has."""
    stream: str | None = None
    """The log that `since` is of. None: this one."""
    snapshot: Literal["orders"] | None = None
    conflate: Literal["order"] | None = None
    token: str | None = None
    """Judged at the door, as the next one."""
    ticket: str | None = None


def blueprint(parts: Parts, issued: Tickets) -> Blueprint:
    """The routes of the stream."""
    routes = Blueprint("stream", __name__)
    hub, trusted = parts.hub, parts.settings.proxies

    @routes.websocket("/advanced/ws/orders/<account_id>")
    async def orders(account_id: str) -> None:
        wish = decoding.query(StreamQuery, websocket)
        if wish.snapshot and wish.v == 1:
            raise bad_fields([("snapshot", "needs v=2")])
        if account_id not in parts.executor.accounts:
            raise not_found(f"account {account_id!r}")
        connection = connection_of(websocket)
        client = Subscription(
            account_id,
            connection,
            address=clients.address(websocket, trusted),
            conflating=wish.conflate is not None,
        )
        try:
            head = await hub.join(client)
            if isinstance(head, Full):
                raise full(head, account_id)
            missed = await first_page(client, wish, head)
            if wish.ticket is not None and issued.redeem(wish.ticket) != account_id:
                raise tickets.refused()  # another handshake was faster with it
            await websocket.accept()
            connection.patience = queue.STALL_SECONDS + connection.config.send_timeout
            await serve(client, wish, head, missed)
        finally:
            if did_not_read(websocket):
                client.end(CloseCode.SLOW, "")
            with trio.CancelScope(shield=True):  # one message to an actor that never waits
                await hub.leave(client)

    async def first_page(client: Subscription, wish: StreamQuery, head: int) -> list[Event]:
        """What the client has missed, at most a page; and whether it can be told all of it."""
        if wish.since is None:
            return []
        client.status = "gap"
        if wish.stream not in {None, hub.stream} or head - wish.since > MOST_REPLAYED:
            return []
        with trio.move_on_after(READ_SECONDS):
            found = await events_after(parts.tables, client.account_id, wish.since, head, PAGE)
            if found is not None:
                client.status = "resumed"
            return found or []
        raise database_away()

    async def serve(
        client: Subscription, wish: StreamQuery, head: int, missed: list[Event]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, client)
            nursery.start_soon(client.pump)
            await begin(client, wish, head, missed)
            if wish.v > 1:
                nursery.start_soon(beat, client)
            await client.ended.wait()
            nursery.cancel_scope.cancel()
        if client.code is not None:
            await websocket.close(client.code, client.reason)

    async def begin(
        client: Subscription, wish: StreamQuery, head: int, missed: list[Event]
    ) -> None:
        """Bring the client to where the hub is, and make it live."""
        orders: tuple[msgspec.Raw, ...] | None = None
        if wish.v > 1 and (client.status == "gap" or (wish.snapshot and client.status == "fresh")):
            taken = await hub.snapshot(client.account_id, trading_day(parts.clock.now()))
            head, orders = taken.head, taken.orders
        await client.send(welcome(client, wish, head), head)
        if orders is not None:
            await send_snapshot(client, head, orders)
        if client.status == "resumed" and wish.since is not None:
            client.cursor = client.sent = wish.since
            await replay(client, missed)
        while client.code is None and await hub.go_live(client) is not None:
            await replay(client, await next_page(client))

    async def next_page(client: Subscription) -> list[Event]:
        with trio.move_on_after(READ_SECONDS):
            found = await parts.tables.events(client.account_id, client.cursor, PAGE)
            if found and found[0].sequence == client.cursor + 1:
                return found
            client.end(CloseCode.RESET, "The log is no longer kept from there: connect again.")
            return []
        client.end(CloseCode.OVERLOADED, f"Busy: resume from {client.sent}.")
        return []

    async def replay(client: Subscription, events: list[Event]) -> None:
        frames = bytearray()
        for event in events:
            frames += text_frame(stream_message(event, hub.stream, replayed=True))
            if len(frames) >= CHUNK_BYTES or event is events[-1]:
                await client.send(bytes(frames), event.sequence)
                frames.clear()
        client.replayed += len(events)

    async def send_snapshot(
        client: Subscription, head: int, orders: tuple[msgspec.Raw, ...]
    ) -> None:
        pages = max(1, math.ceil(len(orders) / ORDERS_A_PAGE))
        for page in range(pages):
            text = stream_messages.snapshot(
                client.account_id,
                parts.clock.now(),
                sequence=head,
                stream=hub.stream,
                orders=orders[page * ORDERS_A_PAGE : (page + 1) * ORDERS_A_PAGE],
                page=page + 1,
                pages=pages,
            )
            await client.send(text_frame(text), head)

    def welcome(client: Subscription, wish: StreamQuery, head: int) -> bytes:
        replayed = max(0, head - (wish.since or 0)) if client.status == "resumed" else 0
        return text_frame(
            stream_messages.welcome(
                client.account_id,
                parts.clock.now(),
                sequence=head,
                stream=hub.stream,
                protocol=wish.v,
                connection_id=ids.connection(parts.chance),
                resume=Resume(status=client.status, from_=wish.since, replayed=replayed),
                limits={
                    "queue_bytes": queue.MOST_BYTES,
                    "queue_messages": queue.MOST_FRAMES,
                    "stall_seconds": queue.STALL_SECONDS,
                    "replay_events": MOST_REPLAYED,
                    "texts_per_second": TEXTS_A_SECOND,
                    "text_bytes": connection_of(websocket).config.websocket_max_message_size,
                },
            )
        )

    async def listen(client: Subscription) -> None:
        """Answer `ping`; no other text has a meaning. Bytes, and too many texts, end the stream."""
        allowed, last = TEXTS_A_SECOND, trio.current_time()
        while True:
            text = await websocket.receive()
            now = trio.current_time()
            allowed = min(TEXTS_A_SECOND, allowed + (now - last) * TEXTS_A_SECOND) - 1
            last = now
            if not isinstance(text, str):
                client.end(CloseCode.BAD_REQUEST, "Send text.")
            elif allowed < 0:
                client.end(CloseCode.TOO_MANY, f"{TEXTS_A_SECOND:.0f} texts a second at most.")
            elif text == "ping":
                client.say(text_frame(stream_messages.pong(parts.clock.now())))

    async def beat(client: Subscription) -> None:
        """Say where the log stands, so that a client sees what it lacks."""
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            log = await hub.watch(client.account_id)  # up to there it has been told
            text = stream_messages.heartbeat(
                client.account_id, parts.clock.now(), sequence=log.head, stream=hub.stream
            )
            client.say(text_frame(text))

    def full(why: Full, account_id: str) -> Problem:
        settings = parts.settings
        words = {
            Full.ACCOUNT: f"Account {account_id!r} has as many streams as it may have "
            f"(STREAM_CONNECTIONS_PER_ACCOUNT={settings.stream_connections_per_account}).",
            Full.ADDRESS: "Your address has as many streams as it may have "
            f"(STREAM_CONNECTIONS_PER_ADDRESS={settings.stream_connections_per_address}).",
            Full.RATE: "Too many streams are being opened "
            f"(STREAM_HANDSHAKES_PER_SECOND={settings.stream_handshakes_per_second}).",
        }
        wait = 1 if why is Full.RATE else 30
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, words[why], retry_after=wait)

    @routes.get("/advanced/ws/stats")
    async def statistics() -> Response:
        found = await hub.statistics()
        return as_json(
            {
                "total_connections": found.total_connections,
                "accounts": dict(found.accounts),
                "messages": found.messages,
                "dropped": found.dropped,
                "resumed": found.resumed,
                "gaps": found.gaps,
                "replayed": found.replayed,
            }
        )

    return routes
