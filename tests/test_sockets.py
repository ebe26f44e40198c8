"""What a plain socket receives, as Trio's own streams would tell it."""

import socket
import struct
from collections.abc import AsyncGenerator

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from ticker_actors.sockets import READ_BYTES, receive

Pair = tuple[trio.SocketStream, trio.SocketStream]


@pytest.fixture
async def pair() -> AsyncGenerator[Pair]:
    """Both ends of a connection."""
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with near, await listener.accept() as far:
            yield near, far


async def test_bytes_come_as_they_were_sent(pair: Pair) -> None:
    """At most as many as asked for; the rest stays for the next time; the end is nothing."""
    near, far = pair
    await far.send_all(b"abcde")
    assert await receive(near, 2) == b"ab"
    assert await receive(near) == b"cde"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, b"x" * 3 * READ_BYTES)
        found = 0
        while found < 3 * READ_BYTES:
            part = await receive(near)
            assert 0 < len(part) <= READ_BYTES
            found += len(part)
    await far.send_eof()
    assert await receive(near) == b""


async def test_a_connection_that_is_reset_is_broken(pair: Pair) -> None:
    """With the system's own words for it."""
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await receive(near)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_stream_closed_by_its_owner_is_closed(pair: Pair) -> None:
    """Before, and while somebody waits for bytes of it: nobody waits at another's descriptor."""
    near, far = pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def waiting() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(near)

        await wait_all_tasks_blocked()
        near.socket.close()
    with pytest.raises(trio.ClosedResourceError):
        await receive(near)
    del far


async def test_two_do_not_receive_from_one_stream(pair: Pair) -> None:
    """It is a mistake, and is told to the second."""
    near, far = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await receive(near)
        await far.send_all(b"x")


async def test_whoever_is_cancelled_took_nothing(pair: Pair) -> None:
    """What comes later is there for the next."""
    near, far = pair
    with trio.move_on_after(0.01):
        await receive(near)
    await far.send_all(b"x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(near)
    assert scope.cancelled_caught
    assert await receive(near) == b"x"


async def test_any_other_stream_is_asked_itself() -> None:
    """TLS has bytes that its socket knows nothing of."""
    near, far = memory_stream_pair()
    await far.send_all(b"abc")
    assert await receive(near, 2) == b"ab"
