"""How a server is asked to end."""

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

_log = structlog.get_logger(__name__)


class Interrupted(Exception):
    """It was asked to end before it had started."""


async def stop_on_signal(
    stopping: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGTERM and SIGINT ask for a clean end; a second one ends at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stopping.is_set():
                os._exit(1)
            _log.info("stopping", signal=signal.Signals(number).name)
            stopping.set()


@asynccontextmanager
async def interruptible(stopping: trio.Event) -> AsyncGenerator[Callable[[], None], None]:
    """A start that a signal cancels, and then raises `Interrupted`; yields how to say it is over.

    Without this Python would raise KeyboardInterrupt at any line: also at one that has just opened
    something and not yet said so to who would close it.
    """
    over = interrupted = False

    def started() -> None:
        nonlocal over
        over = True

    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            nonlocal interrupted
            await stopping.wait()
            if not over:
                interrupted = True
                nursery.cancel_scope.cancel()

        await nursery.start(stop_on_signal, stopping)
        nursery.start_soon(interrupt)
        yield started
        nursery.cancel_scope.cancel()
    if interrupted:
        raise Interrupted
