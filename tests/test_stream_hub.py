"""The StreamHub and the sockets of its clients: nothing lost, nothing twice, nobody waits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.sockets import NarrowSocket, OpenSocket, live
from tests.stores import order
from ticker_actors.actors import stream_hub, subscription
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.actors.stream_requests import Full, Publish
from ticker_actors.actors.subscription import Subscription
from ticker_actors.metrics import Metrics
from ticker_actors.model.calendar import trading_day
from ticker_actors.model.events import Event, EventName
from ticker_actors.model.limits import StreamLimits

SOON = 5.0
"""Seconds within which what must happen does."""
ACCOUNT = "primary"
NOW = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
TODAY = trading_day(NOW)
STREAM = "str_1"


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


def event(sequence: int, size: int = 10, name: EventName = "order_placed", **fields: Any) -> Event:  # noqa: ANN401  # fields
    """An event whose message has at least so many bytes."""
    known: dict[str, Any] = {
        "event_id": f"evt_{sequence}",
        "account_id": ACCOUNT,
        "event": name,
        "order_id": "1",
        "order_key": None,
        "order_version": 1,
        "data": msgspec.Raw(msgspec.json.encode({"order_id": "x" * size})),
        "created_at": NOW,
        "sequence": sequence,
    }
    return Event(**{**known, **fields})


def measured(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample of the metrics."""
    return metrics.registry.get_sample_value(f"ticker_stream_{name}", labels)


# The hub alone


async def test_each_client_is_told_what_follows_its_cursor(metrics: Metrics) -> None:
    """A client is live once it has all that was published; what it has already does not come."""
    hub = StreamHub(STREAM, metrics)
    early, late, ahead, other = (OpenSocket() for _ in range(4))
    async with running(hub):
        await hub.start_from(ACCOUNT, 3)
        await hub.start_from("second", 0)
        assert await live(hub, Subscription(ACCOUNT, early)) == 3
        assert await live(hub, Subscription("second", other)) == 0
        client = Subscription(ACCOUNT, late)
        assert await hub.join(client) == 3
        await hub.publish((event(4), event(5)))
        client.cursor = 4
        assert await hub.go_live(client) == 5  # it must read the log first
        client.cursor = 5
        assert await hub.go_live(client) is None
        reader = Subscription(ACCOUNT, ahead)
        assert await hub.join(reader) == 5
        reader.cursor = 7  # it has read what is committed and not yet published
        assert await hub.go_live(reader) is None
        await hub.publish((event(6), event(7), event(8)))
        await hub.statistics()
    assert [socket.sequences for socket in (early, late, ahead, other)] == [
        [4, 5, 6, 7, 8],
        [6, 7, 8],
        [8],
        [],
    ]


async def test_events_that_have_come_together_go_out_together(metrics: Metrics) -> None:
    """In one piece for each client, however many commits they are of; but not in a large one."""
    hub, socket = StreamHub(STREAM, metrics), OpenSocket()
    (mailbox,) = hub.mailboxes
    async with running(hub):
        await live(hub, Subscription(ACCOUNT, socket))
        for number in range(1, 8):
            mailbox.tell_nowait(Publish((event(number),)))
        mailbox.tell_nowait(Publish((event(8), event(9))))
        assert (await hub.watch(ACCOUNT)).head == 9
        assert (socket.pushes, socket.sequences) == (1, list(range(1, 10)))
        await hub.publish((event(10), event(11, stream_hub.PIECE_BYTES), event(12)))
        assert (await hub.watch(ACCOUNT)).head == 12
    assert (socket.pushes, socket.sequences) == (4, list(range(1, 13)))


async def test_a_slow_client_is_dropped_and_no_other(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose queue is full is dropped once; the others get everything."""
    monkeypatch.setattr(subscription, "MOST_FRAMES", 2)
    monkeypatch.setattr(stream_hub, "PIECE_BYTES", 1)
    hub, socket = StreamHub(STREAM, metrics), OpenSocket()
    slow = Subscription(ACCOUNT, NarrowSocket())
    async with running(hub):
        await live(hub, slow)
        await live(hub, Subscription(ACCOUNT, socket))
        await hub.publish(tuple(event(number) for number in range(1, 200)))
        assert (await hub.statistics()).total_connections == 2  # until its handler has closed it
        for _ in range(2):
            await hub.leave(slow)
        found = await hub.statistics()
    assert (found.total_connections, found.dropped, found.messages) == (1, 1, 199 + 3)
    assert measured(metrics, "clients_dropped_total") == 1
    assert measured(metrics, "connections", account_id=ACCOUNT) == 1
    assert socket.sequences == list(range(1, 200))


async def test_places_are_limited(metrics: Metrics) -> None:
    """By account and by address; a place is free when its client has left."""
    hub = StreamHub(STREAM, metrics, StreamLimits(per_account=2, per_address=3))
    here = [Subscription(ACCOUNT, OpenSocket(), address="10.0.0.1") for _ in range(3)]
    async with running(hub):
        assert [await hub.join(client) for client in here] == [0, 0, Full.ACCOUNT]
        assert await hub.join(Subscription("second", OpenSocket(), address="10.0.0.1")) == 0
        third = Subscription("third", OpenSocket(), address="10.0.0.1")
        assert await hub.join(third) is Full.ADDRESS
        assert await hub.join(Subscription("third", OpenSocket(), address="10.0.0.2")) == 0
        await hub.leave(here[2])  # it has no place
        await hub.leave(here[0])
        assert await hub.join(third) == 0
        assert await hub.join(here[2]) is Full.ADDRESS


async def test_handshakes_are_spread(metrics: Metrics, autojump_clock: MockClock) -> None:
    """Twice the rate at once, then as many a second as are allowed."""
    hub = StreamHub(STREAM, metrics, StreamLimits(handshakes_per_second=5))

    async def opened() -> int:
        answers = [await hub.join(Subscription(ACCOUNT, OpenSocket())) for _ in range(20)]
        return sum(answer is not Full.RATE for answer in answers)

    async with running(hub):
        assert await opened() == 10
        await trio.sleep(1)
        assert await opened() == 5


async def test_open_orders_are_folded(metrics: Metrics) -> None:
    """From what the store had and every event since; of today, as of the head."""
    hub = StreamHub(STREAM, metrics)
    yesterday = order(3, trading_day=TODAY - timedelta(days=1))
    async with running(hub):
        await hub.start_from(ACCOUNT, 7, (order(1), order(2, "COMPLETE"), yesterday))
        await hub.publish(
            (
                event(8, order_id="o4", data=msgspec.Raw(b'{"n":4}')),
                event(9, order_id="o5", data=msgspec.Raw(b'{"n":5}')),
                event(10, name="order_updated", order_id="o4", data=msgspec.Raw(b'{"n":44}')),
                event(11, name="order_cancelled", order_id="o5"),
                event(12, name="task_status", order_id="o6"),
                event(13, name="order_placed", order_id="o1", data=msgspec.Raw(b'{"n":1}')),
            )
        )
        found = await hub.snapshot(ACCOUNT, TODAY)
        assert found.head == 13
        assert [bytes(each) for each in found.orders] == [b'{"n":1}', b'{"n":44}']
        tomorrow = await hub.snapshot(ACCOUNT, TODAY + timedelta(days=1))
        assert tomorrow.orders == ()


async def test_a_correction_of_an_ended_order_does_not_open_it(metrics: Metrics) -> None:
    """The book may know a price better than the feed did: an update, and yet it is over."""
    hub = StreamHub(STREAM, metrics)
    complete = order(1, "COMPLETE").data()
    corrected = msgspec.Raw(msgspec.json.encode({**complete, "average_price": 100.05}))
    async with running(hub):
        await hub.start_from(ACCOUNT, 0, (order(1),))
        ended = msgspec.Raw(msgspec.json.encode(complete))
        await hub.publish((event(1, name="order_completed", order_id="o1", data=ended),))
        await hub.publish((event(2, name="order_updated", order_id="o1", data=corrected),))
        assert (await hub.snapshot(ACCOUNT, TODAY)).orders == ()


async def test_who_is_refused_takes_no_handshake_from_others(metrics: Metrics) -> None:
    """A client that keeps on knocking at a full account shuts out nobody else."""
    limits = StreamLimits(per_account=1, per_address=50, handshakes_per_second=10)
    hub = StreamHub(STREAM, metrics, limits)
    async with running(hub):
        assert not isinstance(await hub.join(Subscription("a", OpenSocket())), Full)
        for _ in range(50):
            assert await hub.join(Subscription("a", OpenSocket())) is Full.ACCOUNT
        assert not isinstance(await hub.join(Subscription("b", OpenSocket())), Full)
