"""How a signal ends a start, and how it ends what has started."""

import os
import signal
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from ticker_actors.web.signals import EndedBeforeStart, interruptible

SECONDS = 5.0
"""More than enough; the waits below end at once."""
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _harmless() -> Iterator[None]:
    """A signal that nobody receives fails a test, and does not end them all."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


async def until_all_rest() -> None:
    """Let a signal have its effect."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("number", SIGNALS)
async def test_start_is_cancelled(number: signal.Signals, exits: list[int]) -> None:
    """It comes to its end where it waits, closes what it has opened, and says why it ended."""
    done = []

    async def start() -> None:
        async with interruptible(trio.Event()):
            try:
                signal.raise_signal(number)
                done.append("goes on to where it waits")
                await trio.sleep_forever()
            finally:
                done.append("closed")

    with trio.fail_after(SECONDS), pytest.raises(EndedBeforeStart):
        await start()
    assert done == ["goes on to where it waits", "closed"]
    assert exits == []


@pytest.mark.parametrize("number", SIGNALS)
async def test_what_has_started_is_asked(number: signal.Signals, exits: list[int]) -> None:
    """It ends in its own time, and as it likes."""
    stopping = trio.Event()
    with trio.fail_after(SECONDS):
        async with interruptible(stopping) as started:
            started()
            signal.raise_signal(number)
            await stopping.wait()
            await until_all_rest()
    assert exits == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("over", [False, True])
async def test_second_signal_ends_at_once(
    number: signal.Signals,
    exits: list[int],
    over: bool,  # noqa: FBT001  # drawn
) -> None:
    """Also while a start that was cancelled comes to its end."""

    async def end() -> None:
        with trio.CancelScope(shield=True):
            signal.raise_signal(number)
            await until_all_rest()

    async def run() -> None:
        stopping = trio.Event()
        async with interruptible(stopping) as started:
            if over:
                started()
            try:
                signal.raise_signal(number)
                await stopping.wait()
                await trio.lowlevel.checkpoint()
            finally:
                await end()

    with trio.fail_after(SECONDS):
        if over:
            await run()
        else:
            with pytest.raises(EndedBeforeStart):
                await run()
    assert exits == [1]


async def test_signal_in_a_crash_is_the_first(exits: list[int]) -> None:
    """That it stops already is no signal: the crash is still told."""
    stopping = trio.Event()
    with trio.fail_after(SECONDS):
        async with interruptible(stopping) as started:
            started()
            stopping.set()
            signal.raise_signal(signal.SIGTERM)
            await until_all_rest()
    assert exits == []


@pytest.mark.parametrize("interrupted", [False, True])
async def test_start_that_fails_says_why(
    interrupted: bool,  # noqa: FBT001  # drawn
) -> None:
    """Also when it was asked to end, and fails while it does."""

    async def start() -> None:
        async with interruptible(trio.Event()):
            try:
                if interrupted:
                    signal.raise_signal(signal.SIGINT)
                    await trio.sleep_forever()
            finally:
                raise OSError

    with trio.fail_after(SECONDS), pytest.RaisesGroup(OSError):
        await start()


async def test_start_that_is_cancelled_was_not_interrupted() -> None:
    """Who runs it may cancel it, and is not told of a signal that there was not."""
    with trio.move_on_after(0) as scope:
        async with interruptible(trio.Event()):
            await trio.sleep_forever()
    assert scope.cancelled_caught
