"""How a server is asked to end."""

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

_log = structlog.get_logger(__name__)


class EndedBeforeStart(Exception):
    """It was asked to end before it had started, and has."""


async def stop_on_signal(
    stopping: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGTERM and SIGINT ask for a clean end; a second one ends at once."""
    asked = False  # `stopping` may be set without a signal, in a crash
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if asked:
                os._exit(1)
            asked = True
            _log.info("stopping", signal=signal.Signals(number).name)
            stopping.set()


@asynccontextmanager
async def interruptible(stopping: trio.Event) -> AsyncGenerator[Callable[[], None], None]:
    """Stop on a signal; yields how to say that the start is over.

    A start that is not over is cancelled, and `EndedBeforeStart` raised once it has come to its
    end. Without this Python would raise KeyboardInterrupt at any line: also at one that has just
    opened something and not yet said so to who would close it.
    """
    start, over = trio.CancelScope(), False

    def started() -> None:
        nonlocal over
        over = True

    async def interrupt() -> None:
        await stopping.wait()
        if not over:
            start.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, stopping)
        nursery.start_soon(interrupt)
        with start:
            yield started
        nursery.cancel_scope.cancel()
    if start.cancel_called:
        raise EndedBeforeStart
