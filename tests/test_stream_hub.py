"""The StreamHub and the sockets of its clients: who does not keep up is dropped, and counted."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import trio
from quart_trio import QuartTrio

from ticker_actors.actors import stream_hub
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.metrics import Metrics
from ticker_actors.model.events import Event
from ticker_actors.web.parts import Parts
from ticker_actors.web.server import ServerConfig, open_listeners, serve_app
from ticker_actors.web.stream import blueprint

SOON = 5.0
"""Seconds within which what must happen does."""
ACCOUNT = "primary"
NOW = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
HANDSHAKE = (
    b"GET /advanced/ws/orders/primary HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING = b"\x81\x84" + bytes(4) + b"ping"


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of their own."""
    return Metrics()


@asynccontextmanager
async def running(hub: StreamHub) -> AsyncGenerator[None]:
    """Run the hub while the test does."""
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(hub: StreamHub) -> AsyncGenerator[int]:
    """Serve the hub's streams on the yielded port; a client may read nothing for 0.2 s."""
    parts = SimpleNamespace(
        hub=hub,
        executor=SimpleNamespace(accounts={ACCOUNT: None}),
        clock=SimpleNamespace(now=lambda: NOW),
    )
    app = QuartTrio(__name__)
    app.register_blueprint(blueprint(cast("Parts", parts)))
    config = ServerConfig()
    config.send_timeout = 0.2
    listeners = await open_listeners("127.0.0.1", 0, config)
    async with running(hub), trio.open_nursery() as nursery:
        stopping = trio.Event()
        await nursery.start(partial(serve_app, app, listeners, stopping=stopping, config=config))
        yield listeners[0].socket.getsockname()[1]
        stopping.set()


def event(sequence: int, size: int = 10) -> Event:
    """An event whose message has at least so many bytes."""
    return Event(
        event_id=f"evt_{sequence}",
        account_id=ACCOUNT,
        event="order_placed",
        order_id="1",
        order_key=None,
        order_version=1,
        data=msgspec.Raw(msgspec.json.encode({"order_id": "x" * size})),
        created_at=NOW,
        sequence=sequence,
    )


async def joined(port: int) -> trio.SocketStream:
    """Open a stream and read its welcome."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(HANDSHAKE)
    data = b""
    with trio.fail_after(SOON):
        while b'"connected"' not in data:
            data += await stream.receive_some()
    return stream


async def until(hub: StreamHub, *, dropped: int, connections: int) -> None:
    """Wait for these statistics."""
    with trio.fail_after(SOON):
        while True:
            found = await hub.statistics()
            if (found.dropped, found.total_connections) == (dropped, connections):
                return
            await trio.sleep(0.01)


def measured(metrics: Metrics) -> float | None:
    """What the metrics say of dropped clients."""
    return metrics.registry.get_sample_value("ticker_stream_clients_dropped_total")


async def test_client_cut_by_the_server_is_counted(metrics: Metrics) -> None:
    """A client that reads nothing is cut long before its queue is full, and counts as dropped."""
    hub = StreamHub("str_1", metrics, 0)
    async with serving(hub) as port, await joined(port), await joined(port):
        await hub.publish(tuple(event(number, 100_000) for number in range(1, 101)))
        await until(hub, dropped=2, connections=0)
        assert measured(metrics) == 2


async def test_client_that_leaves_is_not_counted(metrics: Metrics) -> None:
    """Hanging up is no slowness."""
    hub = StreamHub("str_1", metrics, 0)
    async with serving(hub) as port:
        async with await joined(port):
            assert (await hub.statistics()).total_connections == 1
        await until(hub, dropped=0, connections=0)
        assert measured(metrics) == 0


async def test_client_without_room_for_a_pong_is_counted(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings whose answers are not read drop their sender, and the hub goes on."""
    monkeypatch.setattr(stream_hub, "CLIENT_QUEUE", 1)
    hub = StreamHub("str_1", metrics, 0)
    async with serving(hub) as port, await joined(port) as stream:
        await hub.publish((event(1, 10_000_000),))
        with trio.move_on_after(SOON):
            await stream.send_all(PING * 3)
        await until(hub, dropped=1, connections=0)
        assert measured(metrics) == 1


async def test_full_queue_drops_the_client_and_no_other(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose queue is full is dropped once, and what comes later is no error."""
    monkeypatch.setattr(stream_hub, "CLIENT_QUEUE", 2)
    hub = StreamHub("str_1", metrics, 0)
    async with running(hub):
        slow = await hub.join(ACCOUNT)
        await hub.publish((event(1),))
        lively = await hub.join(ACCOUNT)
        assert slow is not None
        assert lively is not None
        await hub.publish((event(2), event(3)))
        await until(hub, dropped=1, connections=1)
        await hub.leave(slow)
        sequences = [msgspec.json.decode(await lively.texts.receive())["sequence"] for _ in "23"]
        assert sequences == [2, 3]
        await until(hub, dropped=1, connections=1)
        assert (slow.dropped, lively.dropped) == (True, False)
        assert measured(metrics) == 1


async def test_a_client_already_dropped_does_not_end_the_hub(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event for a client that a pong has just dropped counts it, and nothing fails."""
    monkeypatch.setattr(stream_hub, "CLIENT_QUEUE", 1)
    hub = StreamHub("str_1", metrics, 0)
    async with running(hub):
        client = await hub.join(ACCOUNT)
        assert client is not None
        assert [client.offer(b"pong"), client.offer(b"pong"), client.offer(b"pong")] == [
            True,
            False,
            False,
        ]
        await hub.publish((event(1),))
        await hub.leave(client)
        await until(hub, dropped=1, connections=0)
        assert measured(metrics) == 1
