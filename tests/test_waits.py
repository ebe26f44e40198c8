"""Waits end with their owner; alarms ring when they were told to."""

import math

import pytest
import trio
from trio.testing import MockClock

from ticker_actors.waits import Alarm, Waits


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


async def test_an_alarm_rings_at_the_earliest_time_it_was_given(autojump_clock: MockClock) -> None:
    """By the sleeper or by others, before or during its sleep; once."""
    waits, woken = Waits(), list[float]()
    alarm = Alarm(waits)

    async def sleep() -> None:
        for at in (5, 20, 30, 40, 100):
            await alarm.sleep_until(began + at)
            woken.append(trio.current_time() - began)
        alarm.ring(began + 60)
        await alarm.sleep_until(began + 61)
        woken.append(trio.current_time() - began)
        alarm.ring()
        await alarm.sleep_until(math.inf)
        woken.append(trio.current_time() - began)
        await alarm.sleep_until(math.inf)
        woken.append(trio.current_time() - began)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await trio.sleep(6)
        alarm.ring(began + 25)  # later than it wakes by itself
        alarm.ring(began + 10)
        alarm.ring(began + 15)
        await trio.sleep(12)
        alarm.ring()
        await trio.sleep(32)
        alarm.ring()
        await trio.sleep(20)
        waits.end(within=2)
    assert woken == [5, 10, 18, 40, 50, 60, 60, 72]


@pytest.mark.parametrize("within", [0, 2])
async def test_an_alarm_does_not_put_off_the_end(within: float, autojump_clock: MockClock) -> None:
    """Whoever rings after the waits were ended, in the same turn or before they are over."""
    waits, woken = Waits(), list[float]()
    alarm = Alarm(waits)

    async def sleep() -> None:
        await alarm.sleep_until(math.inf)
        woken.append(trio.current_time() - began)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await trio.sleep(1)
        waits.end(within)
        alarm.ring(began + 20)
    assert woken == [1 + within]
