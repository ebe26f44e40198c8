"""One stream client's queue: first the socket, a bound behind it, and nobody else's matter."""

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.sockets import NarrowSocket, OpenSocket
from ticker_actors.actors import subscription
from ticker_actors.actors.subscription import STALL_SECONDS, News, Subscription, Told
from ticker_actors.model.frames import text_frame
from ticker_actors.model.stream_messages import CloseCode

PLENTY = 1_000_000


def frame(sequence: int, size: int = 0) -> bytes:
    """The frame of an event, with so many bytes more."""
    return text_frame(msgspec.json.encode({"sequence": sequence, "more": "x" * size}))


def told(client: Subscription, *sequences: int, order_id: str | None = None) -> list[bool]:
    """Tell events, and whether the client took them."""
    return [client.tell(News([Told(n, frame(n), order_id)])) for n in sequences]


async def test_a_frame_goes_straight_to_the_socket() -> None:
    """Without a task in between; and nothing that the client already has goes twice."""
    socket = OpenSocket()
    client = Subscription("primary", socket)
    client.cursor = 3
    assert told(client, 2, 3, 4, 5) == [True] * 4
    assert socket.sequences == [4, 5]
    assert (client.cursor, client.sent) == (5, 5)


async def test_what_the_socket_does_not_take_follows_in_order(autojump_clock: MockClock) -> None:
    """However little it takes at a time, all frames come whole and in sequence."""
    socket = NarrowSocket(room=30)
    client = Subscription("primary", socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.pump)
        told(client, *range(1, 50))
        assert client.sent < 3
        while len(socket.data) < sum(len(frame(n)) for n in range(1, 50)):
            socket.read(7)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert socket.sequences == list(range(1, 50))
    assert (client.code, client.sent) == (None, 49)


@pytest.mark.parametrize(
    "bound, most", [("MOST_FRAMES", 10), ("MOST_BYTES", 10 * len(frame(10)))], ids=lambda each: each
)
async def test_overflow_ends_the_client(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """It is closed as too slow, naming the last event that its socket took; no memory is left."""
    monkeypatch.setattr(subscription, bound, most)
    socket = NarrowSocket()
    client = Subscription("primary", socket)
    assert told(client, *range(10, 23)) == [True] * 11 + [False] * 2
    assert (client.code, client.reason) == (CloseCode.SLOW, "Too slow: resume from 10.")
    assert client.ended.is_set()
    assert repr(client) == "<Subscription primary SLOW at 22, 0 wait>"
    assert not client.say(b"")
    socket.read(PLENTY)
    assert socket.sequences == [10]  # the frame that was half sent, whole


async def test_a_client_that_takes_nothing_is_ended(autojump_clock: MockClock) -> None:
    """After `STALL_SECONDS` without a byte; as long as it takes some, however slow, it goes on."""
    socket = NarrowSocket()
    client = Subscription("primary", socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.pump)
        told(client, 1, 2)
        for _ in range(5):
            await trio.sleep(STALL_SECONDS - 1)
            socket.read(1)
        assert client.code is None
        await client.ended.wait()
        assert trio.current_time() >= 6 * (STALL_SECONDS - 1)
        nursery.cancel_scope.cancel()
    assert repr(client) == "<Subscription primary SLOW at 2, 0 wait>"
    assert client.sent == 1


async def test_a_lone_frame_that_is_not_taken_ends_too(autojump_clock: MockClock) -> None:
    """Also when nothing waits behind it."""
    client = Subscription("primary", NarrowSocket())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.pump)
        told(client, 1)
        await client.ended.wait()
        nursery.cancel_scope.cancel()
    assert client.code is CloseCode.SLOW


async def test_conflating_keeps_the_newest_of_an_order(autojump_clock: MockClock) -> None:
    """Of what waits; sequences still rise, and what is of no order is all kept."""
    socket = NarrowSocket()
    client = Subscription("primary", socket, conflating=True)
    told(client, 1, 2, order_id="a")
    told(client, 3)
    told(client, 4, order_id="b")
    told(client, 5, order_id="a")
    told(client, 6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.pump)
        await wait_all_tasks_blocked()
        socket.read(PLENTY)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert socket.sequences == [1, 3, 4, 5, 6]


async def test_a_conflating_queue_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one order changes, it takes the room of one."""
    monkeypatch.setattr(subscription, "MOST_FRAMES", 2)
    monkeypatch.setattr(subscription, "MOST_BYTES", 100)
    client = Subscription("primary", NarrowSocket(), conflating=True)
    assert all(told(client, *range(1, 100), order_id="a"))


async def test_replay_waits_for_the_client(autojump_clock: MockClock) -> None:
    """What is sent from the log waits for room, and ends a client that makes none."""
    socket = NarrowSocket()
    client = Subscription("primary", socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, frame(1) + frame(2), 2)
        await wait_all_tasks_blocked()
        socket.read(PLENTY)
    assert (socket.sequences, client.cursor, client.code) == ([1, 2], 2, None)
    socket.read(-PLENTY + len(socket.data))
    await client.send(frame(3), 3)
    await client.send(frame(4), 4)
    assert (client.code, client.cursor) == (CloseCode.SLOW, 3)
