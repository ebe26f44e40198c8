"""Asyncio's loop as a guest of Trio: what runs, when, and how it ends."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator

import pytest
import trio

from tests.turns import counted_turns
from ticker_actors.store import guest_loop
from ticker_actors.store.guest_loop import GuestLoop

SOON = 5.0
"""Seconds: for what must happen at once, on a machine that is busy."""


@pytest.fixture
async def loop() -> AsyncGenerator[GuestLoop]:
    """A loop that is hosted."""
    loop = GuestLoop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.host)
        with trio.fail_after(SOON):
            yield loop
        nursery.cancel_scope.cancel()
    loop.end()


async def test_a_coroutine_runs(loop: GuestLoop) -> None:
    """What it awaits is asyncio's, and what it returns or raises is the caller's."""

    async def twice(number: int) -> int:
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is loop
        if number < 0:
            raise ValueError("too small")
        return 2 * number

    assert await loop.run(twice(2)) == 4
    with pytest.raises(ValueError, match="too small"):
        await loop.run(twice(-1))


async def test_timers_are_kept(loop: GuestLoop) -> None:
    """A timer wakes the loop though no file does, also one that is set while it sleeps."""
    done = trio.Event()

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run, nap(0.05))
        loop.call_later(0.01, done.set)
        await done.wait()
        await loop.run(nap(0.02))


async def test_a_timer_of_a_new_coroutine_wakes_a_sleeping_loop(loop: GuestLoop) -> None:
    """Though the loop sleeps without end, or until a later timer, the earlier one is kept."""
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked()
        await loop.run(asyncio.sleep(0.02))
        loop.call_later(60, print)


async def test_no_callback_of_a_thread_is_left(loop: GuestLoop) -> None:
    """Of thousands that several threads hand over at any moment, each is run."""
    run, all_run = 0, trio.Event()

    def count() -> None:
        nonlocal run
        run += 1
        if run == 2000:
            all_run.set()

    def hand_over() -> None:
        for _ in range(500):
            loop.call_soon_threadsafe(count)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.to_thread.run_sync, hand_over)
    await all_run.wait()


async def test_files_are_waited_for(loop: GuestLoop) -> None:
    """What comes over a socket reaches its reader."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, writer = await loop.run(asyncio.open_connection(sock=ours))

        async def answer() -> None:
            await trio.sleep(0.01)
            theirs.send(b"hello\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await loop.run(reader.readline()) == b"hello\n"
        writer.close()
        await loop.run(writer.wait_closed())


async def test_threads_wake_it(loop: GuestLoop) -> None:
    """A result from a thread, such as a look-up's, does not wait for something else to happen."""
    assert await loop.run(asyncio.to_thread(threading.get_ident)) != threading.get_ident()


async def test_a_callback_from_outside_is_run(loop: GuestLoop) -> None:
    """What Trio's tasks schedule, as closing a transport does, wakes the sleeping loop."""
    done = trio.Event()
    await trio.testing.wait_all_tasks_blocked()
    loop.call_soon(done.set)
    await done.wait()


async def test_what_was_scheduled_before_the_host_is_run() -> None:
    """A loop that nobody has hosted yet keeps it."""
    loop, done = GuestLoop(), trio.Event()
    loop.call_soon(done.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.host)
        with trio.fail_after(SOON):
            await done.wait()
        nursery.cancel_scope.cancel()
    loop.end()


async def test_cancelling_cancels_the_coroutine(loop: GuestLoop) -> None:
    """It sees asyncio's cancellation, and its caller waits until it has ended."""
    ended = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    with trio.move_on_after(0.01) as scope:
        await loop.run(stubborn())
    assert scope.cancelled_caught
    assert ended


async def test_a_coroutine_that_ends_in_spite_of_it_has_its_say(loop: GuestLoop) -> None:
    """A result that is there is not thrown away."""

    async def deaf() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done"

    with trio.move_on_after(0.01):
        assert await loop.run(deaf()) == "done"


async def test_a_coroutine_that_does_not_end_is_left(
    loop: GuestLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller's deadline is kept nearly to the second, as on a link that is cut off."""
    monkeypatch.setattr(guest_loop, "END_SECONDS", 0.01)
    released = asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await released.wait()
            message = "it has ended after all"
            raise ConnectionError(message)

    with trio.fail_after(1):
        with trio.move_on_after(0.01) as scope:
            await loop.run(stuck())
    assert scope.cancelled_caught
    released.set()  # what it raises now concerns nobody
    await trio.sleep(0.01)


async def test_a_busy_loop_lets_others_run(
    loop: GuestLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asyncio's work without end is done in pieces, and still goes on by itself."""
    monkeypatch.setattr(guest_loop, "MOST_ROUNDS", 2)

    async def busy() -> int:
        for _ in range(100):
            await asyncio.sleep(0)
        return 100

    async with counted_turns() as turns:
        assert await loop.run(busy()) == 100
        assert turns() >= 40


async def test_the_end_ends_what_is_running() -> None:
    """Whoever waits for a loop that is closed hears of it, and so does who comes later."""
    loop = GuestLoop()
    heard = []

    async def wait() -> None:
        try:
            await loop.run(asyncio.sleep(60))
        except RuntimeError as error:
            heard.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        loop.end()
    assert heard == ["The event loop was closed."]
    with pytest.raises(RuntimeError):
        await loop.run(asyncio.sleep(0))


async def test_the_end_waits_for_nobody() -> None:
    """A coroutine that does not end at its cancellation keeps its caller no longer."""
    loop = GuestLoop()
    loop.set_exception_handler(lambda *_: None)  # it would say that a task was left

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    heard = []

    async def wait() -> None:
        with pytest.raises(RuntimeError) as error:
            await loop.run(stubborn())
        heard.append(str(error.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        loop.end()
    assert heard == ["The event loop was closed."]
