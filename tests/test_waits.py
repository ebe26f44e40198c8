"""Waits end with their owner."""

import trio
from trio.testing import MockClock

from ticker_actors.waits import Waits


async def waited(waits: Waits, seconds: float) -> float:
    """For how long a wait for nothing lasts."""
    began = trio.current_time()
    with waits.wait(seconds):
        await trio.sleep(1000)
    return trio.current_time() - began


async def test_a_wait_ends_when_its_time_is_up(autojump_clock: MockClock) -> None:
    """As long as nobody ends it sooner."""
    assert await waited(Waits(), 5) == 5


async def test_the_end_cuts_all_of_them_short(autojump_clock: MockClock) -> None:
    """Those under way and those to come; none lasts longer for it."""
    waits, lasted = Waits(), list[float]()

    async def wait(seconds: float) -> None:
        lasted.append(await waited(waits, seconds))

    async with trio.open_nursery() as nursery:
        for seconds in (2, 2.5, 60):
            nursery.start_soon(wait, seconds)
        await trio.sleep(1)
        waits.end(within=1.25)
        await wait(60)
    assert sorted(lasted) == [1.25, 2, 2.25, 2.25]
    assert await waited(waits, 60) == 0
