"""How a signal ends a start, and how it ends what has started."""

import signal

import pytest
import trio
import trio.testing

from ticker_actors.web.signals import Interrupted, interruptible

SECONDS = 5.0
"""More than enough; the waits below end at once."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_start_is_cancelled(number: signal.Signals) -> None:
    """What was opened is closed, wherever the start was, and its end says why."""
    done = []

    async def start() -> None:
        async with interruptible(trio.Event()):
            try:
                signal.raise_signal(number)
                done.append("goes on to where it waits")
                await trio.sleep_forever()
            finally:
                done.append("closed")

    with trio.fail_after(SECONDS), pytest.raises(Interrupted):
        await start()
    assert done == ["goes on to where it waits", "closed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_has_started_is_asked(number: signal.Signals) -> None:
    """It ends in its own time, and as it likes."""
    stopping = trio.Event()
    with trio.fail_after(SECONDS):
        async with interruptible(stopping) as started:
            started()
            signal.raise_signal(number)
            await stopping.wait()
            await trio.testing.wait_all_tasks_blocked()


async def test_start_that_fails_says_why() -> None:
    """No signal, no `Interrupted`."""
    with pytest.RaisesGroup(OSError):
        async with interruptible(trio.Event()):
            raise OSError
